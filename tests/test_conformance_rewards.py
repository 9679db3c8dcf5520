"""Our aggregators and objectives keep their contracts, and the suites see those that do not."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from torch import Tensor

from srum_plugins import hookimpl
from srum_plugins.contracts import Aggregator, Draws, Example, Judged, ModelAdapter, Objective, Reward, TrainBatch
from srum_plugins.providers import Provider
from srum_plugins.records import Box
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


ONE = ObjectiveConformance.test_the_loss_is_one_number_with_a_gradient
SHARES = ObjectiveConformance.test_the_shares_of_a_step_add_up
BASE = ObjectiveConformance.test_the_base_is_asked_for_where_it_is_kept_only
WEIGHTS = ObjectiveConformance.test_the_reward_term_is_proportional_to_the_weights
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
        (lambda found: [replace(found[0], maps=(RewardMap(99, 1, (), 1.0, 1.0),)), *found[1:]], "of several sizes"),
    ],
)
def test_broken_examples_are_told(tmp_path: Path, change: Callable[[list[Example]], list[Example]], words: str) -> None:
    broken = broken_objective(None, change)
    subject = broken.open(tmp_path)
    with pytest.raises(pytest.fail.Exception, match=words):
        NAMED(broken(), subject, subject.make(Objective))
