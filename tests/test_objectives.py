"""Objectives on a model small enough to know every gradient."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from srum_plugins.contracts import Draws, Judged, ModelAdapter, Prediction, Reward, TrainBatch
from srum_plugins.errors import ConfigError, ContractError, RewardError
from srum_plugins.flow import FlowPrediction
from srum_plugins.records import Box, Candidate, Grounding, Judgement, Prompt, Score
from srum_plugins.rewards.maps import MapRegion, RewardMap
from srum_plugins.rewards.objectives import Paired, PairedOptions, Weighted, WeightedOptions

SHAPE = (3, 2, 4, 5)  # (B, C, h, w): tokens are latent pixels
TOKENS = 3 * 4 * 5


def stacked(parts: Sequence[Tensor]) -> Tensor:
    return torch.stack(tuple(parts))


@dataclass
class Velocity(Prediction):
    velocity: Tensor
    noise: Tensor

    def token_losses(self, latents: Sequence[Tensor]) -> Tensor:
        return (self.velocity - (self.noise - stacked(latents))).square().mean(dim=1).flatten()

    def token_distance(self, other: Prediction) -> Tensor:
        assert isinstance(other, Velocity)
        return (self.velocity - other.velocity).square().mean(dim=1).flatten()


class Table(ModelAdapter):
    """The velocity is scale * x_t + table, both trainable; the base has scale 0 and table 0."""

    def __init__(self, table: Tensor, scale: float = 0.0) -> None:
        self.table = table.clone().requires_grad_()
        self.scale = torch.tensor(scale, requires_grad=True)
        self.calls: list[tuple[int, bool]] = []

    def predict(
        self, prompts: Sequence[Prompt], latents: Sequence[Tensor], draws: Draws, *, base: bool = False
    ) -> Prediction:
        assert len(prompts) == len(latents) == len(draws.timestep) == len(draws.noise) == len(draws.drop)
        self.calls.append((len(prompts), base))
        t = draws.timestep[:, None, None, None]
        noised = (1 - t) * stacked(latents) + t * stacked(draws.noise)
        velocity = torch.zeros_like(noised) if base else self.scale * noised + self.table
        return Velocity(velocity, stacked(draws.noise))


class Perfect(ModelAdapter):
    """Knows the latents of the first role."""

    def predict(
        self, prompts: Sequence[Prompt], latents: Sequence[Tensor], draws: Draws, *, base: bool = False
    ) -> Prediction:
        return Velocity(stacked(draws.noise) - stacked(latents), stacked(draws.noise))


def random_batch(seed: int, weights: Tensor | None = None, roles: int = 1) -> tuple[TrainBatch, Draws]:
    generator = torch.Generator().manual_seed(seed)
    latents = tuple(torch.randn(SHAPE, generator=generator) for _ in range(roles))
    if weights is None:
        weights = torch.rand(TOKENS, generator=generator) * 2 - 1
    draws = Draws(
        torch.rand(SHAPE[0], generator=generator),
        torch.randn(SHAPE, generator=generator),
        torch.zeros(SHAPE[0], dtype=torch.bool),
    )
    prompts = tuple(Prompt(str(i), "a red circle") for i in range(SHAPE[0]))
    return TrainBatch(prompts, latents, (weights,) * roles, (SHAPE[2:],) * SHAPE[0]), draws


def table(seed: int) -> Tensor:
    return torch.randn(SHAPE[1:], generator=torch.Generator().manual_seed(seed + 1))


def candidate(prompt: str, name: str, size: int = 8) -> Judged:
    return Judged(
        Prompt(prompt, "a red circle"),
        Candidate(name, prompt, 0, 0, f"{name}.png", size, size),
        Grounding(name, ()),
        Judgement(name, Score(1.0), ()),
    )


def reward(name: str, score: float, low: float = 1.0, size: int = 8) -> Reward:
    """A reward whose lowest weight is ``low``, in one region on a background of 1."""
    return Reward(name, RewardMap(size, size, (MapRegion(Box(0, 0, 4, 4), low),), 1.0, 1.0), score)


seeds = st.integers(0, 10_000)

# --- weighted ---------------------------------------------------------------------------------------------------


@given(seeds, st.floats(0, 2))
def test_at_r_1_it_is_plain_fine_tuning_times_one_plus_lambda(seed: int, lambda_c: float) -> None:
    batch, draws = random_batch(seed, torch.ones(TOKENS))
    model, plain = Table(table(seed)), Table(table(seed))
    loss, metrics = Weighted(WeightedOptions(lambda_c)).loss(model, batch, draws)
    expected = (1 + lambda_c) * plain.predict(batch.prompts, batch.latents[0], draws).token_losses(
        batch.latents[0]
    ).mean()
    torch.testing.assert_close(loss, expected)
    loss.backward()
    expected.backward()
    torch.testing.assert_close(model.table.grad, plain.table.grad)
    assert metrics["loss"] == loss and not any(value.requires_grad for value in metrics.values())
    assert model.calls == [(SHAPE[0], False)]


@given(seeds)
def test_no_gradient_where_the_weight_is_zero(seed: int) -> None:
    keep = torch.rand(SHAPE[2:], generator=torch.Generator().manual_seed(seed)) < 0.5
    batch, draws = random_batch(seed, keep.float().flatten().repeat(SHAPE[0]))
    model = Table(table(seed))
    Weighted(WeightedOptions(reference="none")).loss(model, batch, draws)[0].backward()
    assert model.table.grad is not None
    assert torch.equal((model.table.grad != 0).all(dim=0), keep)
    assert torch.equal((model.table.grad == 0).all(dim=0), ~keep)


@given(seeds, st.sampled_from(["self", "none"]))
def test_the_loss_is_linear_in_the_weights(seed: int, reference: str) -> None:
    batch, draws = random_batch(seed)
    objective = Weighted(WeightedOptions(reference=reference))
    zero = replace(batch, weights=(torch.zeros_like(batch.weights[0]),))
    double = replace(batch, weights=(2 * batch.weights[0],))
    model = Table(table(seed))
    none, once, twice = (objective.loss(model, b, draws)[0] for b in (zero, batch, double))
    torch.testing.assert_close(twice - once, once - none, rtol=1e-4, atol=1e-4)


@given(seeds)
def test_by_hand_with_the_best_candidate_as_reference_and_an_anchor(seed: int) -> None:
    batch, draws = random_batch(seed, roles=2)
    model = Table(table(seed), scale=0.5)
    loss, metrics = Weighted(WeightedOptions(0.3, "best", 0.7)).loss(model, batch, draws)
    sample, best = batch.latents
    t = draws.timestep[:, None, None, None]
    velocity = 0.5 * ((1 - t) * sample + t * draws.noise) + model.table
    to_sample, to_best = velocity - (draws.noise - sample), velocity - (draws.noise - best)
    expected = (batch.weights[0].reshape(SHAPE[0], 1, *SHAPE[2:]) * to_sample.square()).mean()
    expected = expected + 0.3 * to_best.square().mean() + 0.7 * velocity.square().mean()
    torch.testing.assert_close(loss, expected)
    torch.testing.assert_close(metrics["anchor"], velocity.square().mean().detach())
    assert model.calls == [(SHAPE[0], False), (SHAPE[0], True)]


@given(seeds)
def test_a_perfect_predictor_has_no_loss(seed: int) -> None:
    batch, draws = random_batch(seed)
    for rule in ("refuse", "saturate", "zero"):
        loss, _ = Weighted(WeightedOptions(negative_weights=rule, anchor=0.5)).loss(Perfect(), batch, draws)
        assert loss == 0


@given(seeds, st.floats(0.1, 3))
def test_saturated_negative_weights_are_bounded_and_start_with_the_plain_slope(seed: int, tau: float) -> None:
    batch, draws = random_batch(seed, -torch.ones(TOKENS))
    objective = Weighted(WeightedOptions(reference="none", negative_weights="saturate", tau=tau))
    far = Table(table(seed) + 1e3)
    loss, _ = objective.loss(far, batch, draws)
    torch.testing.assert_close(loss, torch.tensor(-tau))
    loss.backward()
    assert far.table.grad is not None and far.table.grad.abs().max() < 1e-6
    losses = torch.tensor([1e-4], requires_grad=True)
    objective._weigh(torch.tensor([-1.0]), losses).backward()
    assert losses.grad is not None
    assert losses.grad.item() == pytest.approx(-math.exp(-1e-4 / tau))


@given(seeds)
def test_rules_for_negative_weights_leave_the_others_alone(seed: int) -> None:
    batch, draws = random_batch(seed)
    positive = replace(batch, weights=(batch.weights[0].clamp(min=0),))
    model = Table(table(seed))
    plain, _ = Weighted(WeightedOptions()).loss(model, positive, draws)
    for rule in ("saturate", "zero"):
        objective = Weighted(WeightedOptions(negative_weights=rule))
        torch.testing.assert_close(objective.loss(model, positive, draws)[0], plain)
    zero, _ = Weighted(WeightedOptions(negative_weights="zero")).loss(model, batch, draws)
    torch.testing.assert_close(zero, plain)


@pytest.mark.parametrize(
    ("options", "low", "refused"),
    [
        (WeightedOptions(), 0.0, False),
        (WeightedOptions(), -0.5, False),
        (WeightedOptions(), -0.51, True),
        (WeightedOptions(lambda_c=1.0), -1.0, False),
        (WeightedOptions(reference="none"), -0.01, True),
        (WeightedOptions(reference="none"), 0.0, False),
        (WeightedOptions(reference="best"), -0.5, True),
        (WeightedOptions(reference="best"), -0.49, False),
        (WeightedOptions(anchor=0.6), -1.0, False),
        (WeightedOptions(anchor=0.5), -1.0, True),
        (WeightedOptions(negative_weights="saturate"), -1.0, False),
        (WeightedOptions(negative_weights="zero"), -1.0, False),
    ],
)
def test_an_unbounded_objective_is_refused_before_training(options: WeightedOptions, low: float, refused: bool) -> None:
    items, rewards = [candidate("p", "fine"), candidate("p", "culprit")], [reward("fine", 1), reward("culprit", 0, low)]
    if not refused:
        assert len(Weighted(options).examples(items, rewards)) == 2
        return
    with pytest.raises(RewardError, match=rf"1 of 2 .* {low:.4g}, of candidate culprit.*negative_weights to saturate"):
        Weighted(options).examples(items, rewards)


@pytest.mark.parametrize(
    ("options", "low"),
    [(WeightedOptions(), -0.51), (WeightedOptions(reference="best"), -0.5), (WeightedOptions(anchor=0.5), -1.0)],
)
def test_what_is_refused_is_unbounded(options: WeightedOptions, low: float) -> None:
    batch, draws = random_batch(0, torch.full((TOKENS,), low), roles=2)
    direction = (
        table(0)
        if options.reference == "self" and options.anchor == 0
        else (draws.noise - batch.latents[0] if options.anchor else batch.latents[0] - batch.latents[1]).mean(0)
    )
    sign = min((1, -1), key=lambda s: Weighted(options).loss(Table(s * 1e3 * direction), batch, draws)[0].item())
    near, far = (Weighted(options).loss(Table(sign * k * direction), batch, draws)[0].item() for k in (1e3, 1e4))
    assert far < 5 * near < 0


def test_weighted_examples() -> None:
    items = [candidate("p", "a"), candidate("q", "b"), candidate("p", "c"), candidate("q", "d")]
    rewards = [reward("a", 0.2), None, reward("c", 0.9), reward("d", 0.1)]
    own = Weighted(WeightedOptions()).examples(items, rewards)
    assert [example.candidates for example in own] == [("a",), ("c",), ("d",)]
    best = Weighted(WeightedOptions(reference="best")).examples(items, rewards)
    assert [example.candidates for example in best] == [("a", "c"), ("c", "c"), ("d", "d")]
    assert best[0].maps == (rewards[0].map, rewards[2].map)
    assert [example.prompt.id for example in best] == ["p", "p", "q"]


class Still(ModelAdapter):
    """The velocity is a number times the noised latents, of images of any size."""

    def __init__(self, scale: float) -> None:
        self.scale = scale

    def predict(
        self, prompts: Sequence[Prompt], latents: Sequence[Tensor], draws: Draws, *, base: bool = False
    ) -> Prediction:
        scale = 0.0 if base else self.scale
        steps = zip(draws.timestep, latents, draws.noise, strict=True)
        return FlowPrediction([scale * ((1 - t) * x + t * noise) for t, x, noise in steps], draws.noise)


@given(seeds, st.lists(st.tuples(st.integers(1, 4), st.integers(1, 4)), min_size=1, max_size=4))
def test_images_of_several_sizes_count_by_their_tokens_and_pairs_alike(seed: int, grids: list[tuple[int, int]]) -> None:
    generator = torch.Generator().manual_seed(seed)
    shapes = [(2, *grid) for grid in grids]
    sample, other, noise = ([torch.randn(shape, generator=generator) for shape in shapes] for _ in range(3))
    weights = [torch.rand(shape[1] * shape[2], generator=generator) for shape in shapes]
    prompts = tuple(Prompt(str(number), "a red circle") for number in range(len(grids)))
    draws = Draws(torch.rand(len(grids), generator=generator), noise, torch.zeros(len(grids), dtype=torch.bool))
    batch = TrainBatch(prompts, (sample, other), (torch.cat(weights),) * 2, tuple(grids))

    def alone(objective: Weighted | Paired, index: int) -> float:
        one = TrainBatch(
            prompts[index : index + 1],
            (sample[index : index + 1], other[index : index + 1]),
            (weights[index],) * 2,
            (grids[index],),
        )
        own = Draws(draws.timestep[index : index + 1], noise[index : index + 1], draws.drop[index : index + 1])
        return objective.loss(Still(0.5), one, own)[0].item()

    counts = [height * width for height, width in grids]
    weighted, paired = Weighted(WeightedOptions(0.3, "best")), Paired(PairedOptions(beta=2.0, anchor=0.4))
    by_tokens = sum(count * alone(weighted, index) for index, count in enumerate(counts)) / sum(counts)
    assert weighted.loss(Still(0.5), batch, draws)[0].item() == pytest.approx(by_tokens, rel=1e-4)
    by_pairs = sum(alone(paired, index) for index in range(len(grids))) / len(grids)
    assert paired.loss(Still(0.5), batch, draws)[0].item() == pytest.approx(by_pairs, rel=1e-4)


def test_losses_that_are_not_on_the_token_grid_are_refused() -> None:
    batch, draws = random_batch(0)
    broad = replace(batch, weights=(batch.weights[0][:, None],))
    with pytest.raises(ContractError, match="token losses of shape"):
        Weighted(WeightedOptions()).loss(Table(table(0)), broad, draws)


def test_only_what_compares_with_the_base_asks_for_it() -> None:
    assert not Weighted(WeightedOptions()).uses_base
    assert Weighted(WeightedOptions(anchor=0.1)).uses_base
    assert Paired(PairedOptions()).uses_base


def test_weighted_needs_rewards() -> None:
    with pytest.raises(RewardError, match="nothing to train on"):
        Weighted(WeightedOptions()).examples([candidate("p", "a")], [None])
    with pytest.raises(ContractError, match="reward of b"):
        Weighted(WeightedOptions()).examples([candidate("p", "a")], [reward("b", 1.0)])


# --- paired -----------------------------------------------------------------------------------------------------


def swapped(batch: TrainBatch) -> TrainBatch:
    return replace(batch, latents=batch.latents[::-1])


@given(seeds, st.floats(0.1, 1000))
def test_at_the_base_the_margin_is_zero_and_the_loss_log_2(seed: int, beta: float) -> None:
    batch, draws = random_batch(seed, roles=2)
    model = Table(torch.zeros(SHAPE[1:]))
    loss, metrics = Paired(PairedOptions(beta=beta)).loss(model, batch, draws)
    torch.testing.assert_close(loss, torch.tensor(math.log(2)))
    assert metrics["margin"] == metrics["accuracy"] == metrics["anchor"] == 0
    assert model.calls == [(2 * SHAPE[0], False), (2 * SHAPE[0], True)]
    assert not any(value.requires_grad for value in metrics.values())


@given(seeds)
def test_antisymmetric_under_swap(seed: int) -> None:
    batch, draws = random_batch(seed, roles=2)
    objective, model = Paired(PairedOptions(beta=2.0)), Table(0.1 * table(seed), scale=0.1)
    _, forward = objective.loss(model, batch, draws)
    _, backward = objective.loss(model, swapped(batch), draws)
    torch.testing.assert_close(forward["margin"], -backward["margin"])
    torch.testing.assert_close(forward["anchor"], backward["anchor"])
    assert forward["accuracy"] + backward["accuracy"] == pytest.approx(1.0)


@given(seeds)
def test_a_step_down_the_gradient_favours_the_winner(seed: int) -> None:
    batch, draws = random_batch(seed, roles=2)
    objective, model = Paired(PairedOptions(beta=1.0, anchor=0.0)), Table(torch.zeros(SHAPE[1:]))
    before, _ = objective.loss(model, batch, draws)
    before.backward()
    assert model.table.grad is not None
    # at the base the slope is beta / 2 times that of l_winner - l_loser: towards the winner's latents
    winner, loser = batch.latents
    torch.testing.assert_close(model.table.grad, (winner - loser).mean(0) / winner[0].numel(), rtol=1e-4, atol=1e-6)
    after, metrics = objective.loss(Table(-1e-2 * model.table.grad), batch, draws)
    assert after < before and metrics["margin"] > 0


@given(seeds)
def test_paired_by_hand(seed: int) -> None:
    batch, draws = random_batch(seed, roles=2)
    model = Table(0.1 * table(seed))
    loss, metrics = Paired(PairedOptions(beta=3.0, anchor=0.4)).loss(model, batch, draws)
    gains = []
    for latents in batch.latents:
        target = draws.noise - latents
        gains.append(((model.table - target).square() - target.square()).mean(dim=(1, 2, 3)))
    margin = 3.0 * (gains[1] - gains[0])
    torch.testing.assert_close(loss, -margin.sigmoid().log().mean() + 0.4 * model.table.square().mean())
    torch.testing.assert_close(metrics["accuracy"], (margin > 0).float().mean())


@given(seeds, st.floats(2.01, 10))
def test_linear_by_hand_and_bounded_below(seed: int, anchor: float) -> None:
    batch, draws = random_batch(seed, roles=2)
    objective = Paired(PairedOptions(preference="linear", anchor=anchor, beta=7.0))  # beta plays no part
    model = Table(0.1 * table(seed))
    loss, metrics = objective.loss(model, batch, draws)
    winner, loser = ((model.table - (draws.noise - latents)).square() for latents in batch.latents)
    base_winner, base_loser = ((draws.noise - latents).square() for latents in batch.latents)
    gain = (loser - base_loser).mean() - (winner - base_winner).mean()
    torch.testing.assert_close(loss, -gain + anchor * model.table.square().mean())
    torch.testing.assert_close(metrics["margin"], gain.detach())
    # Along any direction the loss is a quadratic that opens upwards.
    far = [objective.loss(Table(k * table(seed), scale=k), batch, draws)[0].item() for k in (-1e3, 0.0, 1e3)]
    assert far[0] > far[1] == 0 < far[2]


def test_linear_is_bounded_below_with_images_of_several_sizes() -> None:
    """A small loser is pushed away no harder than its own distance to the base holds it."""
    generator = torch.Generator().manual_seed(0)
    small, large = (torch.randn(shape, generator=generator) for shape in ((2, 2, 2), (2, 8, 8)))
    none = [torch.zeros_like(small), torch.zeros_like(large)]
    draws = Draws(torch.full((2,), 0.5), none, torch.zeros(2, dtype=torch.bool))
    objective, prompts = Paired(PairedOptions(preference="linear", anchor=2.5)), (Prompt("p", "a"), Prompt("q", "b"))
    losses = []
    for scale in (1.0, 10.0, 100.0):
        latents = ([none[0], large], [scale * small, large])
        batch = TrainBatch(prompts, latents, (torch.ones(68),) * 2, ((2, 2), (8, 8)))
        losses.append(objective.loss(Still(1e3), batch, draws)[0].item())
    assert losses[2] > losses[1] > losses[0] > 0


def test_linear_without_an_anchor_that_holds_is_unbounded_and_refused() -> None:
    with pytest.raises(ConfigError, match=r"anchor above 2, got 1\.9"):
        PairedOptions(preference="linear", anchor=1.9)
    # A velocity that is wrong about losers alone: no options make this, so the objective is built past the check.
    options = PairedOptions(preference="linear", anchor=3.0)
    object.__setattr__(options, "anchor", 1.9)
    batch, draws = random_batch(0, roles=2)
    batch = replace(batch, latents=(torch.zeros(SHAPE), torch.full(SHAPE, 1e3)))
    draws = replace(draws, timestep=torch.full((SHAPE[0],), 0.5), noise=torch.zeros(SHAPE))
    near, far = (Paired(options).loss(Table(torch.zeros(SHAPE[1:]), k), batch, draws)[0].item() for k in (1e2, 1e3))
    assert far < 50 * near < 0


def test_every_two_candidates_of_a_prompt() -> None:
    items = [candidate("p", "a"), candidate("q", "b"), candidate("p", "c"), candidate("p", "d"), candidate("q", "e")]
    rewards = [reward("a", 0.5), reward("b", 0.3), reward("c", 0.9), reward("d", 0.5), reward("e", 0.1)]
    pairs = Paired(PairedOptions(pairs="all")).examples(items, rewards)
    assert [pair.candidates for pair in pairs] == [("c", "a"), ("c", "d"), ("b", "e")]
    pairs = Paired(PairedOptions(pairs="all", min_gap=0.3)).examples(items, rewards)
    assert [pair.candidates for pair in pairs] == [("c", "a"), ("c", "d")]


@given(st.lists(st.floats(0, 1), min_size=2, max_size=6), st.floats(0, 1))
def test_all_pairs_hold_the_extremes_and_only_what_differs(scores: list[float], gap: float) -> None:
    items = [candidate("p", str(number)) for number in range(len(scores))]
    rewards = [reward(str(number), score) for number, score in enumerate(scores)]

    def pairs(which: Literal["extremes", "all"]) -> list[tuple[str, ...]]:
        try:
            found = Paired(PairedOptions(pairs=which, min_gap=gap)).examples(items, rewards)
        except RewardError:
            return []
        return [pair.candidates for pair in found]

    every = pairs("all")
    assert set(pairs("extremes")) <= set(every)
    expected = {
        (str(winner), str(loser))
        for winner, better in enumerate(scores)
        for loser, worse in enumerate(scores)
        if better - worse > 0 and better - worse >= gap
    }
    assert set(every) == expected and len(every) == len(expected)


def test_pairs_are_best_and_worst_of_a_prompt_and_ties_give_none() -> None:
    items = [candidate("p", "a"), candidate("q", "b"), candidate("p", "c"), candidate("p", "d"), candidate("q", "e")]
    rewards = [reward("a", 0.5), reward("b", 0.3), reward("c", 0.9), reward("d", 0.1), reward("e", 0.3)]
    (pair,) = Paired(PairedOptions()).examples(items, rewards)
    assert pair.candidates == ("c", "d") and pair.prompt.id == "p"
    (pair,) = Paired(PairedOptions()).examples(items, [*rewards[:3], None, *rewards[4:]])
    assert pair.candidates == ("c", "a")
    with pytest.raises(RewardError, match="min_gap"):
        Paired(PairedOptions(min_gap=0.81)).examples(items, rewards)
    with pytest.raises(RewardError, match="no prompt has two candidates"):
        Paired(PairedOptions()).examples(items, [reward(item.candidate.id, 1.0) for item in items])


def test_a_pair_of_two_sizes_is_refused() -> None:
    items, rewards = [candidate("p", "a"), candidate("p", "b", 16)], [reward("a", 0.5), reward("b", 0.3, size=16)]
    with pytest.raises(RewardError, match=r"a and b.*one size"):
        Paired(PairedOptions()).examples(items, rewards)


@pytest.mark.parametrize("bad", [math.nan, math.inf, -1.0])
def test_settings_out_of_range_are_refused(bad: float) -> None:
    for name in ("lambda_c", "anchor", "tau"):
        with pytest.raises(ConfigError, match=name):
            WeightedOptions(**{name: bad})
    for name in ("beta", "anchor", "min_gap"):
        with pytest.raises(ConfigError, match=name):
            PairedOptions(**{name: bad})
