"""Our aggregators and objectives keep their contracts, and the suites see those that do not."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from srum_plugins import hookimpl
from srum_plugins.contracts import Aggregator, Draws, Example, Judged, ModelAdapter, Objective, Reward, TrainBatch
from srum_plugins.providers import Provider
from srum_plugins.records import Box, Prompt
from srum_plugins.rewards.aggregators import Srum, SrumOptions
from srum_plugins.rewards.maps import MapRegion, RewardMap
from srum_plugins.rewards.objectives import Weighted, WeightedOptions
from srum_plugins.testing.aggregators import AggregatorConformance
from srum_plugins.testing.objectives import ObjectiveConformance


class TestSrum(AggregatorConformance):
    name = "srum"
    regional = True


class TestSrumWithoutFailedRegions(AggregatorConformance):
    name = "srum"
    options = {"on_failed_region": "drop_region", "background": 0.5, "overlap": "mean", "masks": False}
    regional = True


class TestSrumRelease(AggregatorConformance):
    name = "srum-release"
    regional = True


class TestLocalOnly(AggregatorConformance):
    name = "local-only"
    regional = True


class TestGlobalOnly(AggregatorConformance):
    name = "global-only"


class TestUniform(AggregatorConformance):
    name = "uniform"


class TestShuffled(AggregatorConformance):
    name = "shuffled"


class TestWeighted(ObjectiveConformance):
    name = "srum"
    weighted = True


class TestWeightedWithReferenceAndAnchor(ObjectiveConformance):
    name = "srum"
    options = {"reference": "best", "anchor": 0.3, "negative_weights": "saturate"}
    weighted = True


class TestWeightedAlone(ObjectiveConformance):
    name = "srum"
    options = {"reference": "none", "negative_weights": "zero"}
    weighted = True


class TestPaired(ObjectiveConformance):
    name = "paired"


class TestPairedLinear(ObjectiveConformance):
    name = "paired"
    options = {"pairs": "all", "preference": "linear", "anchor": 2.5}


# --- what the aggregators' suite sees -----------------------------------------------------------------------------
Move = Callable[[Sequence[Judged], list[Reward | None]], list[Reward | None]]


def aggregator(move: Move) -> Any:
    """The paper's aggregator, with one thing broken."""

    class One(Srum):
        def aggregate(self, items: Sequence[Judged], seed: int) -> list[Reward | None]:
            return move(items, super().aggregate(items, seed))

    class Plugin:
        @hookimpl
        def srum_reward_aggregators(self) -> list[Provider]:
            return [Provider("broken", "breaks", lambda options: One(SrumOptions()))]

    return Plugin()


def each(change: Callable[[Reward], Reward]) -> Move:
    return lambda items, found: [None if one is None else change(one) for one in found]


def transposed(reward: Reward) -> Reward:
    """x and y of every box exchanged, as far as they fit."""

    def turned(region: MapRegion) -> MapRegion | None:
        box, width, height = region.area, reward.map.width, reward.map.height
        assert isinstance(box, Box)
        sides = (min(box.y0, width), min(box.x0, height), min(box.y1, width), min(box.x1, height))
        return replace(region, area=Box(*sides)) if sides[0] < sides[2] and sides[1] < sides[3] else None

    kept = tuple(one for one in map(turned, reward.map.regions) if one is not None)
    return replace(reward, map=replace(reward.map, regions=kept))


def unseeded(items: Sequence[Judged], found: list[Reward | None]) -> list[Reward | None]:
    noise = float(np.random.default_rng().random())
    return [None if one is None else replace(one, score=one.score + noise) for one in found]


def careless(items: Sequence[Judged], found: list[Reward | None]) -> list[Reward | None]:
    if isinstance(items, list):
        items.reverse()
    return found


def strict(items: Sequence[Judged], found: list[Reward | None]) -> list[Reward | None]:
    """Leaves out what scores below a half."""
    return [None if one is None or one.score < 0.5 else one for one in found]


def flipped(reward: Reward) -> Reward:
    regions = tuple(replace(one, score=-one.score) for one in reward.map.regions)
    return replace(reward, map=replace(reward.map, regions=regions))


def centred(items: Sequence[Judged], found: list[Reward | None]) -> list[Reward | None]:
    """Regional scores less their mean over the run."""
    scores = [one.score for reward in found if reward for one in reward.map.regions]

    def moved(reward: Reward) -> Reward:
        less = (replace(one, score=(one.score - float(np.mean(scores))) / 2) for one in reward.map.regions)
        return replace(reward, map=replace(reward.map, regions=tuple(less)))

    return each(moved)(items, found)


def by_place(items: Sequence[Judged], found: list[Reward | None]) -> list[Reward | None]:
    """Less for each candidate of the run."""
    return each(lambda one: replace(one, map=replace(one.map, alpha=one.map.alpha / len(items))))(items, found)


def best_alone(items: Sequence[Judged], found: list[Reward | None]) -> list[Reward | None]:
    """Leaves out what is not the best of its prompt."""
    best: dict[str, float] = {}
    for item, one in zip(items, found, strict=True):
        if one is not None:
            best[item.prompt.id] = max(one.score, best.get(item.prompt.id, one.score))
    pairs = zip(items, found, strict=True)
    return [None if one is None or one.score < best[item.prompt.id] else one for item, one in pairs]


SIZE = AggregatorConformance.test_every_candidate_has_a_reward_of_its_own_size
SEED = AggregatorConformance.test_the_same_run_with_the_same_seed_has_the_same_rewards
KEPT = AggregatorConformance.test_what_it_is_given_is_left_as_it_is
PIXELS = AggregatorConformance.test_a_regions_score_reaches_its_own_pixels


@pytest.mark.parametrize(
    ("move", "test", "words"),
    [
        (each(lambda one: replace(one, map=RewardMap(99, 1, (), 1.0, 1.0))), SIZE, r"map of \(99, 1\) for an image of"),
        (each(lambda one: replace(one, score=float("nan"))), SIZE, "gave the score nan"),
        (each(lambda one: replace(one, candidate_id="x")), SIZE, "for the candidate"),
        (strict, SIZE, "no reward, though nothing of its judgement failed"),
        (unseeded, SEED, "other rewards in a second call for the same items and seed"),
        (careless, KEPT, "changed the items"),
        (each(transposed), PIXELS, "reaches other pixels"),
        (each(flipped), PIXELS, "with the score 1 has a lower weight"),
        (centred, PIXELS, "reaches the maps of other candidates"),
        (by_place, PIXELS, "reaches the maps of other candidates"),
        (best_alone, SIZE, "no reward, though nothing of its judgement failed"),
    ],
)
def test_a_broken_aggregator_is_told(tmp_path: Path, move: Move, test: Callable[..., None], words: str) -> None:
    class Broken(AggregatorConformance):
        name = "broken"
        plugin = aggregator(move)
        regional = True
        examples = 40

    subject = Broken.open(tmp_path)
    with pytest.raises(pytest.fail.Exception, match=words) as told:
        test(Broken(), subject, subject.make(Aggregator))
    assert "the aggregator 'broken' of" in str(told.value) and "mend: " in str(told.value)


# --- what the objectives' suite sees ------------------------------------------------------------------------------
Parts = tuple[Tensor, dict[str, Tensor]]
Loss = Callable[[ModelAdapter, TrainBatch, Draws], Parts]


def weighted(model: ModelAdapter, batch: TrainBatch, draws: Draws) -> Tensor:
    latents = batch.latents[0]
    return batch.weights[0] * model.predict(batch.prompts, latents, draws).token_losses(latents)


def plain_mean(model: ModelAdapter, batch: TrainBatch, draws: Draws) -> Parts:
    loss = weighted(model, batch, draws).mean() + 0.1
    return loss, {"loss": loss.detach()}


def by_token(model: ModelAdapter, batch: TrainBatch, draws: Draws) -> Parts:
    return weighted(model, batch, draws), {}


def squared(model: ModelAdapter, batch: TrainBatch, draws: Draws) -> Parts:
    return batch.mean_of_tokens((1 + weighted(model, batch, draws)).square()), {}


def attached(model: ModelAdapter, batch: TrainBatch, draws: Draws) -> Parts:
    loss = batch.mean_of_tokens(weighted(model, batch, draws))
    return loss, {"loss": loss}


def dead(model: ModelAdapter, batch: TrainBatch, draws: Draws) -> Parts:
    return batch.mean_of_tokens(weighted(model, batch, draws)).detach(), {}


def based(model: ModelAdapter, batch: TrainBatch, draws: Draws) -> Parts:
    latents = batch.latents[0]
    base = model.predict(batch.prompts, latents, draws, base=True)
    return batch.mean_of_tokens(model.predict(batch.prompts, latents, draws).token_distance(base)), {}


def reweighted(model: ModelAdapter, batch: TrainBatch, draws: Draws, change: Callable[[Tensor], Tensor]) -> Parts:
    """The weighted loss, with the weights of each image changed."""
    losses = model.predict(batch.prompts, batch.latents[0], draws).token_losses(batch.latents[0])
    weights = torch.cat([change(one) for one in batch.by_image(batch.weights[0])])
    return batch.mean_of_tokens(weights * losses), {}


def unweighted(model: ModelAdapter, batch: TrainBatch, draws: Draws) -> Parts:
    return reweighted(model, batch, draws, torch.ones_like)


def blurred(model: ModelAdapter, batch: TrainBatch, draws: Draws) -> Parts:
    return reweighted(model, batch, draws, lambda one: one.mean().expand_as(one))


def rolled(model: ModelAdapter, batch: TrainBatch, draws: Draws) -> Parts:
    return reweighted(model, batch, draws, lambda one: one.roll(1))


def pushing(model: ModelAdapter, batch: TrainBatch, draws: Draws) -> Parts:
    return reweighted(model, batch, draws, lambda one: -one)


def flat(model: ModelAdapter, batch: TrainBatch, draws: Draws) -> Parts:
    return reweighted(model, batch, draws, torch.zeros_like)


def seeding(model: ModelAdapter, batch: TrainBatch, draws: Draws) -> Parts:
    torch.manual_seed(0)
    return reweighted(model, batch, draws, lambda one: one)


ONE = ObjectiveConformance.test_the_loss_is_one_number_with_a_gradient
SHARES = ObjectiveConformance.test_the_shares_of_a_step_add_up
BASE = ObjectiveConformance.test_the_base_is_asked_for_where_it_is_kept_only
WEIGHTS = ObjectiveConformance.test_the_reward_term_is_proportional_to_the_weights
OWN = ObjectiveConformance.test_a_weight_is_the_factor_of_its_own_tokens_loss
NAMED = ObjectiveConformance.test_examples_name_candidates_that_there_are_each_with_its_map


def broken_objective(
    loss: Loss | None, change: Callable[[list[Example]], list[Example]] = lambda found: found
) -> type[ObjectiveConformance]:
    class One(Weighted):
        def examples(self, items: Sequence[Judged], rewards: Sequence[Reward | None]) -> list[Example]:
            return change(super().examples(items, rewards))

        def loss(self, model: ModelAdapter, batch: TrainBatch, draws: Draws) -> Parts:
            return loss(model, batch, draws) if loss else super().loss(model, batch, draws)

    class Plugin:
        @hookimpl
        def srum_objectives(self) -> list[Provider]:
            return [Provider("broken", "breaks", lambda options: One(WeightedOptions()))]

    class Broken(ObjectiveConformance):
        name = "broken"
        plugin = Plugin()
        weighted = True

    return Broken


@pytest.mark.parametrize(
    ("loss", "test", "words"),
    [
        (plain_mean, SHARES, "the loss of the parts of a step adds up to"),
        (by_token, ONE, "loss: is tensor"),
        (attached, ONE, "the metric 'loss' is tensor"),
        (dead, ONE, "has no gradient"),
        (based, BASE, "predictions of the base are asked for"),
        (squared, WEIGHTS, "half the weights do not give half the gradient"),
        (unweighted, OWN, "changes no gradient"),
        (blurred, OWN, "not its alone"),
        (rolled, OWN, "does not move the loss of that token"),
        (pushing, OWN, "does not move the loss of that token"),
        (flat, ONE, "a gradient of zero in every run"),
        (seeding, ONE, "moves global random numbers"),
    ],
)
def test_a_broken_loss_is_told(tmp_path: Path, loss: Loss, test: Callable[..., None], words: str) -> None:
    broken = broken_objective(loss)
    subject = broken.open(tmp_path)
    with pytest.raises(pytest.fail.Exception, match=words) as told:
        test(broken(), subject, subject.make(Objective))
    assert "the objective 'broken' of" in str(told.value) and "mend: " in str(told.value)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda found: [], "of prompts with several candidates"),
        (lambda found: [replace(one, candidates=("x",)) for one in found], r"named the candidate \['x'\]"),
        (lambda found: [replace(one, maps=()) for one in found], "with .* maps"),
        (lambda found: [replace(one, prompt=Prompt("x", "a cat")) for one in found], "which is not its"),
        (lambda found: [replace(found[0], maps=(RewardMap(99, 1, (), 1.0, 1.0),)), *found[1:]], "of several sizes"),
    ],
)
def test_broken_examples_are_told(tmp_path: Path, change: Callable[[list[Example]], list[Example]], words: str) -> None:
    broken = broken_objective(None, change)
    subject = broken.open(tmp_path)
    with pytest.raises(pytest.fail.Exception, match=words):
        NAMED(broken(), subject, subject.make(Objective))


class Unready(Weighted):
    """Keeps a base that it does not ask for, and looks for the best reward where there is none."""

    def __init__(self) -> None:
        super().__init__(WeightedOptions())
        self.uses_base = True

    def examples(self, items: Sequence[Judged], rewards: Sequence[Reward | None]) -> list[Example]:
        max(one.score for one in rewards if one is not None)
        return super().examples(items, rewards)


@pytest.mark.parametrize(
    ("test", "words"),
    [
        (BASE, "uses_base: is true, and no loss of any run asked"),
        (
            ObjectiveConformance.test_a_run_without_rewards_has_no_examples,
            "examples: raised ValueError where no candidate has a reward",
        ),
    ],
)
def test_an_unready_objective_is_told(tmp_path: Path, test: Callable[..., None], words: str) -> None:
    class Plugin:
        @hookimpl
        def srum_objectives(self) -> list[Provider]:
            return [Provider("broken", "breaks", lambda options: Unready())]

    class Broken(ObjectiveConformance):
        name = "broken"
        plugin = Plugin()

    subject = Broken.open(tmp_path)
    with pytest.raises(pytest.fail.Exception, match=words):
        test(Broken(), subject, subject.make(Objective))
