"""Does an objective keep its contract (:class:`srum_plugins.contracts.Objective`)?"""

from __future__ import annotations

from collections.abc import Sequence
from copy import deepcopy
from dataclasses import dataclass, replace
from typing import ClassVar

import pytest
import torch
from hypothesis import strategies as st
from torch import Tensor

from srum_plugins.contracts import Draws, Example, Judged, Objective, Reward, TrainBatch
from srum_plugins.errors import RewardError, SrumError
from srum_plugins.providers import Kind
from srum_plugins.records import Candidate, Grounding, Judgement, Prompt, Score
from srum_plugins.rewards.maps import MapRegion, RewardMap
from srum_plugins.testing.linear_flow import LinearFlow
from srum_plugins.testing.strategies import OVERLAPS, boxes
from srum_plugins.testing.suite import Conformance, Subject, global_random
from srum_plugins.training.dataset import part

RELATIVE, ABSOLUTE = 1e-4, 1e-5
"""What sums of float32 in another order may differ by."""
ALONG = 0.99
"""The cosine from which two gradients have one direction."""


@dataclass(frozen=True)
class Run:
    """Candidates with their rewards; ``seed`` is that of their latents and of the noise."""

    items: list[Judged]
    rewards: list[Reward | None]
    seed: int


@st.composite
def _maps(draw: st.DrawFn, width: int, height: int, least: float) -> RewardMap:
    """Maps of one size, of regions and a background in [``least``, 1]."""
    values = st.floats(least, 1)
    painted = draw(st.lists(st.builds(MapRegion, boxes(width, height), values), max_size=3))
    overlap = draw(st.sampled_from(OVERLAPS))
    return RewardMap(width, height, tuple(painted), draw(st.floats(0, 1)), draw(values), overlap)


@st.composite
def runs(draw: st.DrawFn, least: float = 0.0) -> Run:
    """One to three prompts with two or three candidates each, all of a prompt of one size and with scores that differ.
    Weights lie in [``least``, 1]. A third candidate may be without a reward."""
    items: list[Judged] = []
    rewards: list[Reward | None] = []
    for number in range(draw(st.integers(1, 3))):
        prompt = Prompt(f"p{number}", "a red circle")
        width, height = draw(st.integers(1, 20)), draw(st.integers(1, 20))
        for index in range(draw(st.integers(2, 3))):
            candidate = Candidate(f"p{number}-{index}", prompt.id, index, index, f"{index}.png", width, height)
            score = (0.2, 0.9, 0.5)[index]
            judgement = Judgement(candidate.id, Score(score), ())
            items.append(Judged(prompt, candidate, Grounding(candidate.id, ()), judgement))
            found = Reward(candidate.id, draw(_maps(width, height, least)), score)
            rewards.append(None if index == 2 and draw(st.booleans()) else found)
    return Run(items, rewards, draw(st.integers(0, 2**16)))


class ObjectiveConformance(Conformance):
    """The suite of objectives, on the predictions of :class:`srum_plugins.testing.linear_flow.LinearFlow`.

    ``weighted`` says that the loss is a term that is proportional to the token weights, where none is negative, each
    the factor of its own token's loss, and others that do not depend on them; the suite then checks it.
    """

    kind: ClassVar[Kind] = Kind.OBJECTIVE
    weighted: ClassVar[bool] = False

    @pytest.fixture(scope="class")
    @classmethod
    def objective(cls, subject: Subject) -> Objective:
        """What the factory makes."""
        made: Objective = subject.make(Objective)
        return made

    def test_examples_name_candidates_that_there_are_each_with_its_map(
        self, subject: Subject, objective: Objective
    ) -> None:
        """All with the same roles, of images of one size, and the same at every call and from a second object."""
        second: Objective = subject.make(Objective)

        def check(run: Run) -> None:
            before = deepcopy((run.items, run.rewards))
            found = self._chosen(subject, objective, run)
            _check_examples(subject, run, found)
            for what, who in (("a second call", objective), ("a second object", second)):
                subject.require(
                    self._chosen(subject, who, run) == found,
                    "examples",
                    f"gave other examples in {what} for the same rewards",
                    "choose by the rewards alone, in the order of the items",
                )
            subject.require(
                (run.items, run.rewards) == before, "examples", "changed what it was given", "work on a copy"
            )

        self.for_all(runs(), check)

    def test_negative_weights_are_taken_or_refused(self, subject: Subject, objective: Objective) -> None:
        """By a RewardError, before training; taken ones give a finite loss."""

        def check(run: Run) -> None:
            try:
                examples = objective.examples(run.items, run.rewards)
            except RewardError:
                return
            _check_examples(subject, run, examples)
            model = _model(objective)
            self._loss(subject, objective, model, *_step(model, examples, run.seed))

        self.for_all(runs(-1.0), check)

    def test_the_loss_is_one_number_with_a_gradient(self, subject: Subject, objective: Objective) -> None:
        """float32, finite; the metrics are detached numbers; the same at every call, and nothing it is given
        changes."""

        steepest = 0.0

        def check(run: Run) -> None:
            nonlocal steepest
            model = _model(objective)
            batch, draws = _step(model, self._chosen(subject, objective, run), run.seed)
            kept = deepcopy((batch.latents, batch.weights, draws.noise, draws.timestep))
            with torch.random.fork_rng(devices=[]):
                torch.manual_seed(run.seed + 1)
                before = global_random()
                loss, metrics = self._loss(subject, objective, model, batch, draws)
                subject.require(
                    before == global_random(),
                    "loss",
                    "moves global random numbers, of which a training is made again",
                    "take all that is random from `draws`, and seed nothing",
                )
            subject.require(
                loss.requires_grad and all(bool(one.isfinite().all()) for one in _gradients(loss, model)),
                "loss",
                "has no gradient, or one that is not finite",
                "build it on predict(...).token_losses, without detach(), item() or no_grad",
            )
            ones = replace(batch, weights=tuple(torch.ones_like(one) for one in batch.weights))
            steepest = max(steepest, float(self._slope(subject, objective, model, ones, draws).abs().max()))
            again, others = self._loss(subject, objective, model, batch, draws)
            subject.require(
                torch.equal(again, loss) and all(torch.equal(others[name], one) for name, one in metrics.items()),
                "loss",
                "is another for the same weights, batch and draws",
                "take all that is random from `draws`",
            )
            now = (batch.latents, batch.weights, draws.noise, draws.timestep)
            subject.require(
                all(torch.equal(old, new) for old, new in zip(_tensors(kept), _tensors(now), strict=True)),
                "loss",
                "changed the latents, weights or draws that it was given",
                "use no operation in place",
            )

        self.for_all(runs(), check)
        subject.require(
            steepest > 0,
            "loss",
            "has a gradient of zero in every run, where all weights are 1",
            "build it on predict(...).token_losses",
        )

    def test_the_shares_of_a_step_add_up(self, subject: Subject, objective: Objective) -> None:
        """Loss, metrics and gradients of the parts of a step to those of the whole."""

        def check(run: Run) -> None:
            model = _model(objective)
            examples = self._chosen(subject, objective, run)
            batch, draws = _step(model, examples, run.seed)
            loss, metrics = self._loss(subject, objective, model, batch, draws)
            whole = [loss.detach(), *metrics.values(), *_gradients(loss, model)]
            sums = [torch.zeros_like(one) for one in whole]
            for index in range(len(examples)):
                share, own = self._loss(subject, objective, model, *_share(batch, draws, index))
                subject.require(
                    own.keys() == metrics.keys(),
                    "loss",
                    f"gave the metrics {', '.join(own)} for a part of a step and {', '.join(metrics)} for all of it",
                    "give the same metrics for every batch",
                )
                parts = [share.detach(), *(own[name] for name in metrics), *_gradients(share, model)]
                sums = [total + one for total, one in zip(sums, parts, strict=True)]
            names = ["the loss", *(f"the metric {name!r}" for name in metrics), "the gradient", "the gradient"]
            for name, total, right in zip(names, sums, whole, strict=True):
                subject.require(
                    torch.allclose(total, right, RELATIVE, ABSOLUTE),
                    "loss",
                    f"{name} of the parts of a step adds up to {total.tolist()}, that of the whole is {right.tolist()}",
                    "take batch.mean_of_tokens(values) or batch.mean_of_examples(values) in place of values.mean()",
                )

        self.for_all(runs(), check)

    def test_the_base_is_asked_for_where_it_is_kept_only(self, subject: Subject, objective: Objective) -> None:
        """``uses_base`` says if there is one."""
        subject.require(
            isinstance(objective.uses_base, bool), "uses_base", f"is {objective.uses_base!r}", "make it a bool"
        )
        calls = 0

        def check(run: Run) -> None:
            nonlocal calls
            model = _model(objective)
            batch, draws = _step(model, self._chosen(subject, objective, run), run.seed)
            self._loss(subject, objective, model, batch, draws)
            calls += model.base_calls
            subject.require(
                objective.uses_base or calls == 0,
                "loss",
                "asked for predictions of the base, which nobody keeps",
                "set uses_base = True",
            )

        self.for_all(runs(), check)
        subject.require(
            calls > 0 or not objective.uses_base,
            "uses_base",
            "is true, and no loss of any run asked for a prediction of the base",
            "set uses_base = False: the weights of the base take memory",
        )

    def test_a_run_without_rewards_has_no_examples(self, subject: Subject, objective: Objective) -> None:
        """An empty list, or a RewardError that says why there is none."""

        def check(run: Run) -> None:
            try:
                found = objective.examples(run.items, [None] * len(run.items))
            except SrumError:
                return
            except Exception as error:
                subject.breach(
                    "examples",
                    f"raised {type(error).__name__} where no candidate has a reward: {error}",
                    "raise a RewardError that says why there is none",
                )
            subject.require(
                not found, "examples", f"made {len(found)} of candidates without a reward", "leave them out"
            )

        self.for_all(runs(), check)

    def test_a_weight_is_the_factor_of_its_own_tokens_loss(self, subject: Subject, objective: Objective) -> None:
        """The gradient that one weight brings is that of its token's loss: so a reward reaches its own tokens, and a
        higher weight draws the model to them."""
        if not self.weighted:
            pytest.skip("says nothing of weights: set `weighted = True` if it should")

        def check(run: Run) -> None:
            model = _model(objective)
            batch, draws = _step(model, self._chosen(subject, objective, run), run.seed)
            token = run.seed % len(batch.weights[0])
            zeros = tuple(torch.zeros_like(one) for one in batch.weights)
            none = self._slope(subject, objective, model, replace(batch, weights=zeros), draws)
            tried = []
            for role, empty in enumerate(zeros):
                one = empty.clone()
                one[token] = 1.0
                alone = replace(batch, weights=(*zeros[:role], one, *zeros[role + 1 :]))
                brought = self._slope(subject, objective, model, alone, draws) - none
                if float(brought.abs().max()) > ABSOLUTE:
                    own = _token_slopes(model, batch, draws, token)
                    tried.append(max(float(torch.cosine_similarity(brought, slope, dim=0)) for slope in own))
            subject.require(
                bool(tried) and min(tried) > ALONG,
                "loss",
                f"the weight of token {token} of {len(zeros[0])} "
                + ("does not move the loss of that token, or not its alone" if tried else "changes no gradient"),
                "multiply each token's loss with its weight, batch.weights[role]; weights come in the order of a "
                "prediction's tokens",
            )

        self.for_all(runs(), check)

    def test_the_reward_term_is_proportional_to_the_weights(self, subject: Subject, objective: Objective) -> None:
        """So that weights of zero give no gradient but that of the other terms."""
        if not self.weighted:
            pytest.skip("says nothing of weights: set `weighted = True` if it should")

        def check(run: Run) -> None:
            model = _model(objective)
            batch, draws = _step(model, self._chosen(subject, objective, run), run.seed)

            def slopes(factor: float) -> list[Tensor]:
                scaled = replace(batch, weights=tuple(factor * one for one in batch.weights))
                return _gradients(self._loss(subject, objective, model, scaled, draws)[0], model)

            for none, half, full in zip(slopes(0.0), slopes(0.5), slopes(1.0), strict=True):
                subject.require(
                    torch.allclose(full - none, 2 * (half - none), RELATIVE, ABSOLUTE),
                    "loss",
                    "does not grow with the token weights: half the weights do not give half the gradient",
                    "multiply each token's loss with its weight, batch.weights[role]",
                )

        self.for_all(runs(), check)

    @classmethod
    def _slope(
        cls, subject: Subject, objective: Objective, model: LinearFlow, batch: TrainBatch, draws: Draws
    ) -> Tensor:
        """The gradient of the loss as one row of numbers."""
        return _flat(_gradients(cls._loss(subject, objective, model, batch, draws)[0], model))

    @staticmethod
    def _chosen(subject: Subject, objective: Objective, run: Run) -> list[Example]:
        """The examples of a run."""
        return subject.call("examples", objective.examples, run.items, run.rewards)

    @staticmethod
    def _loss(
        subject: Subject, objective: Objective, model: LinearFlow, batch: TrainBatch, draws: Draws
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """The loss and the metrics, each of their form."""
        loss, metrics = subject.call("loss", objective.loss, model, batch, draws)
        subject.require(
            isinstance(loss, Tensor) and loss.shape == () and loss.dtype == torch.float32 and bool(loss.isfinite()),
            "loss",
            f"is {loss!r:.200}",
            "give one finite number: a tensor without dimensions, float32",
        )
        for name, value in metrics.items():
            subject.require(
                isinstance(value, Tensor) and value.shape == () and not value.requires_grad and bool(value.isfinite()),
                "loss",
                f"the metric {name!r} is {value!r:.200}",
                "give detached tensors without dimensions, finite",
            )
        return loss, metrics


def _check_examples(subject: Subject, run: Run, found: Sequence[Example]) -> None:
    subject.require(
        bool(found) and all(isinstance(one, Example) for one in found),
        "examples",
        f"gave {found!r:.200} of prompts with several candidates whose scores differ",
        "give a list of Example, or raise a RewardError that says why there is none",
    )
    known = {
        item.candidate.id: item.candidate
        for item, reward in zip(run.items, run.rewards, strict=True)
        if reward is not None
    }
    roles = {len(one.candidates) for one in found}
    subject.require(
        len(roles) == 1 and 0 not in roles and all(len(one.candidates) == len(one.maps) for one in found),
        "examples",
        f"gave examples of {sorted(roles)} candidates, with {sorted({len(one.maps) for one in found})} maps",
        "give every example the same roles, each with its map",
    )
    for example in found:
        absent = [name for name in example.candidates if name not in known]
        subject.require(
            not absent,
            "examples",
            f"named the candidate {absent[:1]}, which has no reward or does not exist",
            "name candidates by their id, of those with a reward",
        )
        strangers = [name for name in example.candidates if known[name].prompt_id != example.prompt.id]
        subject.require(
            not strangers,
            "examples",
            f"put the candidate {strangers[:1]} into an example of the prompt {example.prompt.id!r}, which is not its",
            "let candidates train with their own prompt",
        )
        sizes = {(known[name].width, known[name].height) for name in example.candidates}
        sizes |= {(one.width, one.height) for one in example.maps}
        subject.require(
            len(sizes) == 1,
            "examples",
            f"put images and maps of several sizes into one example: {sorted(sizes)}",
            "let candidates of one size train together, with maps of that size",
        )


def _model(objective: Objective) -> LinearFlow:
    """A model in training: it has moved from its base, which is kept if the objective says so."""
    model = LinearFlow()
    model.start_training(None, base=objective.uses_base)
    with torch.no_grad():
        model.shift.add_(torch.tensor([0.05, -0.02, 0.1]))
        model.gain.mul_(0.9)
    return model


def _step(model: LinearFlow, examples: Sequence[Example], seed: int) -> tuple[TrainBatch, Draws]:
    """All examples as one step, with latents by candidate."""
    generator = torch.Generator().manual_seed(seed)
    sizes = [(one.maps[0].width, one.maps[0].height) for one in examples]
    grids = tuple(model.token_grid(*size) for size in sizes)
    latents: dict[str, Tensor] = {}
    for example, grid in zip(examples, grids, strict=True):
        for name in example.candidates:
            latents.setdefault(name, torch.randn(3, *grid, generator=generator))
    roles = range(len(examples[0].candidates))
    batch = TrainBatch(
        prompts=tuple(one.prompt for one in examples),
        latents=tuple([latents[one.candidates[role]] for one in examples] for role in roles),
        weights=tuple(
            torch.cat([one.maps[role].tokens(*grid).flatten() for one, grid in zip(examples, grids, strict=True)])
            for role in roles
        ),
        grids=grids,
    )
    return batch, model.draw(batch.latents[0], generator)


def _share(batch: TrainBatch, draws: Draws, index: int) -> tuple[TrainBatch, Draws]:
    """One example of a step, as a part of it."""
    one = TrainBatch(
        prompts=(batch.prompts[index],),
        latents=tuple([role[index]] for role in batch.latents),
        weights=tuple(batch.by_image(role)[index] for role in batch.weights),
        grids=(batch.grids[index],),
        step_tokens=len(batch.weights[0]),
        step_examples=len(batch.prompts),
    )
    return one, part(draws, [index])


def _gradients(loss: Tensor, model: LinearFlow) -> list[Tensor]:
    parameters = [model.gain, model.shift]
    found = torch.autograd.grad(loss, parameters, allow_unused=True, retain_graph=True)
    return [torch.zeros_like(own) if one is None else one for one, own in zip(found, parameters, strict=True)]


def _flat(gradients: Sequence[Tensor]) -> Tensor:
    return torch.cat([one.flatten() for one in gradients])


def _token_slopes(model: LinearFlow, batch: TrainBatch, draws: Draws, token: int) -> list[Tensor]:
    """The gradients of one token's loss, as a prediction from any role has it against the latents of any."""
    found = []
    for seen in batch.latents:
        prediction = model.predict(batch.prompts, seen, draws)
        found += [_flat(_gradients(prediction.token_losses(target)[token], model)) for target in batch.latents]
    return found


def _tensors(nested: object) -> list[Tensor]:
    """All tensors of nested lists and tuples."""
    if isinstance(nested, Tensor):
        return [nested]
    return [one for each in nested for one in _tensors(each)] if isinstance(nested, list | tuple) else []
