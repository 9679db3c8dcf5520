"""Aggregators against the paper's definition, the release's golden maps, and one another."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from srum_plugins.contracts import Aggregator, Judged, Reward
from srum_plugins.errors import ConfigError, ContractError, RewardError
from srum_plugins.records import (
    Box,
    Candidate,
    Failure,
    Grounding,
    Judgement,
    Mask,
    Prompt,
    Region,
    Score,
    from_json,
    to_json,
)
from srum_plugins.rewards.aggregators import release_map
from srum_plugins.rewards.plugin import srum_objectives, srum_reward_aggregators

GOLDEN = Path(__file__).parent / "golden" / "release-reward-maps"
CASES = json.loads(GOLDEN.with_suffix(".json").read_text())
PROVIDERS = {provider.name: provider for provider in srum_reward_aggregators()}
FAILED = Failure("no number in the answer")

alphas, scores = st.floats(0, 1), st.floats(-1, 1)


def aggregator(name: str, **options: object) -> Aggregator:
    made = PROVIDERS[name].factory(PROVIDERS[name].options(**options))
    assert isinstance(made, Aggregator)
    return made


def judged(
    name: str,
    alpha: float | Failure,
    local: Sequence[tuple[Box, float | Failure]],
    size: tuple[int, int] = (32, 32),
    mask: Mask | None = None,
) -> Judged:
    def score(value: float | Failure) -> Score | Failure:
        return value if isinstance(value, Failure) else Score(value)

    return Judged(
        Prompt(f"prompt of {name}", "a red circle"),
        Candidate(name, f"prompt of {name}", 0, 0, f"{name}.png", *size),
        Grounding(name, tuple(Region(box, mask=mask) for box, _ in local)),
        Judgement(name, score(alpha), tuple(score(value) for _, value in local)),
    )


def one(name: str, item: Judged, **options: object) -> Reward:
    (reward,) = aggregator(name, **options).aggregate([item], seed=0)
    assert reward is not None
    return reward


@st.composite
def items(draw: st.DrawFn, name: str = "a") -> Judged:
    width, height = draw(st.integers(4, 40)), draw(st.integers(4, 40))
    local = []
    for score in draw(st.lists(scores, max_size=4)):
        x0, y0 = draw(st.floats(0, width - 2)), draw(st.floats(0, height - 2))
        x1, y1 = draw(st.floats(x0 + 0.5, width)), draw(st.floats(y0 + 0.5, height))
        local.append((Box(x0, y0, x1, y1), score))
    return judged(name, draw(alphas), local, (width, height))


# --- the release ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("index", range(len(CASES)))
def test_release_maps_bit_for_bit(index: int) -> None:
    case = CASES[index]
    with np.load(GOLDEN.with_suffix(".npz")) as maps:
        expected = maps[f"map_{index}"]
    regions = [(region["bbox"], region["score"]) for region in case["regions"]]
    pixels = release_map(case["width"], case["height"], regions, case["global_score"]).pixels().numpy()
    assert pixels.dtype == expected.dtype == np.float32
    assert np.array_equal(pixels, expected)


def test_all_release_cases_are_there() -> None:
    assert len(CASES) == 60


@pytest.mark.parametrize("index", range(len(CASES)))
def test_release_maps_bit_for_bit_through_the_aggregator(index: int) -> None:
    case = CASES[index]
    with np.load(GOLDEN.with_suffix(".npz")) as maps:
        expected = maps[f"map_{index}"]
    local = []
    for region in case["regions"]:
        x0, y0, x1, y1 = region["bbox"]
        if x0 < x1 and y0 < y1:  # a box of ours is never reversed; the release skips those too
            local.append((Box(x0, y0, x1, y1), region["score"]))
    item = judged("a", (case["global_score"] + 1) / 2, local, (case["width"], case["height"]))
    assert np.array_equal(one("srum-release", item).map.pixels().numpy(), expected)


def test_release_tokens_are_the_mean_of_the_four_centre_pixels() -> None:
    painted = release_map(32, 16, [((7, 7, 8, 8), 1.0), ((16, 0, 23, 16), 0.5)], 0.0)
    # left: one of the four pixels is 1, three are the floor 0.5; right: columns 23 and 24 lie beside the box
    assert torch.equal(painted.tokens(1, 2), torch.tensor([[0.5 * (1 + 3 * 0.5) / 4, 0.5 * 0.5]]))


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), 1.5, -1.5])
def test_release_scores_out_of_range_are_refused(bad: float) -> None:
    with pytest.raises(RewardError, match="region"):
        release_map(8, 8, [((0, 0, 4, 4), bad)], 0.0)
    with pytest.raises(RewardError, match="global score"):
        release_map(8, 8, [], bad)


def test_release_box_without_end_is_refused() -> None:
    with pytest.raises(RewardError, match="finite"):
        release_map(8, 8, [((0, 0, float("nan"), 4), 0.0)], 0.0)


@given(items())
def test_release_weights_lie_between_half_alpha_and_alpha(item: Judged) -> None:
    reward = one("srum-release", item)
    assert isinstance(item.judgement.alpha, Score)
    alpha = item.judgement.alpha.value
    pixels = reward.map.pixels()
    assert alpha / 2 - 1e-6 <= pixels.min() and pixels.max() <= alpha + 1e-6
    assert alpha / 2 - 1e-12 <= reward.score <= alpha + 1e-12


# --- srum -------------------------------------------------------------------------------------------------------


@given(items())
def test_srum_weight_is_alpha_times_signed_r(item: Judged) -> None:
    reward = one("srum", item)
    alpha, local = item.judgement.alpha, item.judgement.local
    assert isinstance(alpha, Score)
    values = [score.value for score in local if isinstance(score, Score)]
    mean = sum(values) / len(values) if values else 0.0
    assert reward.map.alpha == alpha.value
    assert [region.score for region in reward.map.regions] == values
    assert reward.score == pytest.approx(alpha.value * (1 + mean) / 2)
    assert 0 <= reward.score <= 1


@given(items(), st.integers(0, 3), st.floats(0, 1))
def test_srum_score_rises_with_alpha_and_with_every_local_score(item: Judged, index: int, up: float) -> None:
    alpha, local = item.judgement.alpha, list(item.judgement.local)
    assert isinstance(alpha, Score)
    before = one("srum", item).score
    raised = dataclasses.replace(item.judgement, alpha=Score(alpha.value + up * (1 - alpha.value)))
    assert one("srum", dataclasses.replace(item, judgement=raised)).score >= before - 1e-12
    if index < len(local):
        score = local[index]
        assert isinstance(score, Score)
        local[index] = Score(min(1.0, score.value + up))
        raised = dataclasses.replace(item.judgement, local=tuple(local))
        assert one("srum", dataclasses.replace(item, judgement=raised)).score >= before - 1e-12


def test_srum_options_reach_the_map() -> None:
    item = judged("a", 0.5, [(Box(0, 0, 4, 4), 1.0), (Box(0, 0, 4, 4), -1.0)], (8, 4))
    pixels = one("srum", item, background=0.5, overlap="min").map.pixels()
    assert pixels[0].tolist() == [-0.5] * 4 + [0.25] * 4
    with pytest.raises(ConfigError, match="background"):
        aggregator("srum", background=float("nan"))


def test_srum_paints_masks_unless_told_not_to() -> None:
    item = judged("a", 1.0, [(Box(0, 0, 4, 1), 1.0)], (4, 1), mask=Mask(4, 1, (1, 2, 1)))
    assert one("srum", item).map.pixels().tolist() == [[0, 1, 1, 0]]
    assert one("srum", item, masks=False).map.pixels().tolist() == [[1, 1, 1, 1]]


# --- controls ---------------------------------------------------------------------------------------------------


@given(items())
def test_controls(item: Judged) -> None:
    alpha = item.judgement.alpha
    assert isinstance(alpha, Score)
    srum, local = one("srum", item), one("local-only", item)
    assert local.map == dataclasses.replace(srum.map, alpha=1.0)
    assert srum.score == pytest.approx(alpha.value * local.score)
    uniform, everywhere = one("uniform", item), one("global-only", item)
    assert torch.equal(uniform.map.pixels(), torch.ones(item.candidate.height, item.candidate.width))
    assert uniform.map.extremes() == (1.0, 1.0) and uniform.score == 1.0
    assert torch.equal(everywhere.map.pixels(), torch.full_like(uniform.map.pixels(), alpha.value))
    assert everywhere.score == alpha.value


@given(st.integers(2, 12), st.integers(0, 2**31))
def test_shuffled_moves_every_reward_and_keeps_their_distribution(count: int, seed: int) -> None:
    run = [judged(f"c{i}", (i + 1) / count, [(Box(i, 0, i + 2, 4), i / count)]) for i in range(count)]
    run.insert(1, judged("failed", FAILED, []))
    own = aggregator("srum").aggregate(run, seed)
    moved = aggregator("shuffled").aggregate(run, seed)
    assert own[1] is None and moved[1] is None
    before = [reward for reward in own if reward is not None]
    after = [reward for reward in moved if reward is not None]
    assert [reward.candidate_id for reward in after] == [reward.candidate_id for reward in before]
    assert all(a.map != b.map and a.score != b.score for a, b in zip(after, before, strict=True))
    assert sorted(r.score for r in after) == sorted(r.score for r in before)
    assert sorted(r.map.alpha for r in after) == sorted(r.map.alpha for r in before)
    assert moved == aggregator("shuffled").aggregate(run, seed)


def test_shuffled_differs_by_seed() -> None:
    run = [judged(f"c{i}", (i + 1) / 12, []) for i in range(12)]
    orders = {tuple(r.score for r in aggregator("shuffled").aggregate(run, seed) if r) for seed in range(4)}
    assert len(orders) > 1


def test_shuffled_stretches_maps_to_the_image_they_move_to() -> None:
    run = [judged("a", 1.0, [(Box(0, 0, 8, 8), 1.0)], (16, 8)), judged("b", 0.5, [], (32, 32))]
    first, second = aggregator("shuffled").aggregate(run, 0)
    assert first is not None and second is not None
    assert (first.map.width, first.map.height, first.map.alpha) == (16, 8, 0.5)
    assert (second.map.width, second.map.height) == (32, 32)
    assert torch.equal(second.map.tokens(1, 2), torch.tensor([[1.0, 0.0]]))


def test_a_single_reward_cannot_be_shuffled() -> None:
    with pytest.raises(RewardError, match="at least two"):
        aggregator("shuffled").aggregate([judged("a", 1.0, [])], 0)
    assert aggregator("shuffled").aggregate([judged("a", FAILED, [])], 0) == [None]


# --- every aggregator -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", sorted(PROVIDERS))
def test_failed_judgements_give_no_reward(name: str) -> None:
    box = Box(0, 0, 4, 4)
    run = [judged("a", 0.5, [(box, 0.5)]), judged("b", 0.4, []), judged("c", FAILED, [(box, 0.5)])]
    run.append(judged("d", 0.7, [(box, FAILED), (Box(8, 8, 9, 9), 1.0)]))
    dropped = aggregator(name, on_failed_region="drop_candidate").aggregate(run, 0)
    kept = aggregator(name, on_failed_region="drop_region").aggregate(run, 0)
    assert [reward is None for reward in dropped] == [False, False, True, True]
    assert [reward is None for reward in kept] == [False, False, True, False]


def test_a_region_left_out_leaves_the_others() -> None:
    item = judged("d", 0.8, [(Box(0, 0, 4, 4), FAILED), (Box(8, 8, 9, 9), 1.0)])
    reward = one("srum", item, on_failed_region="drop_region")
    assert [region.area for region in reward.map.regions] == [Box(8, 8, 9, 9)]
    assert reward.score == 0.8


@pytest.mark.parametrize("name", sorted(PROVIDERS))
def test_records_that_do_not_belong_together_are_refused(name: str) -> None:
    item = judged("a", 0.5, [(Box(0, 0, 4, 4), 0.5)])
    other = dataclasses.replace(item, judgement=dataclasses.replace(item.judgement, candidate_id="b"))
    with pytest.raises(ContractError, match="another"):
        aggregator(name).aggregate([other], 0)
    short = dataclasses.replace(item, judgement=dataclasses.replace(item.judgement, local=()))
    with pytest.raises(ContractError, match="1 regions but 0"):
        aggregator(name).aggregate([short], 0)


def test_a_box_outside_the_image_names_the_candidate() -> None:
    with pytest.raises(RewardError, match="candidate a: region 0"):
        one("srum", judged("a", 0.5, [(Box(0, 0, 40, 4), 0.5)]))


@pytest.mark.parametrize("name", sorted(PROVIDERS))
def test_rewards_round_trip_through_json(name: str) -> None:
    run = [judged("a", 0.5, [(Box(0, 0.5, 4, 4), 0.5)]), judged("b", 0.4, [])]
    for reward in aggregator(name).aggregate(run, 0):
        assert reward is not None
        assert from_json(Reward, json.loads(json.dumps(to_json(reward)))) == reward


def test_the_plugin_names_its_providers() -> None:
    assert list(PROVIDERS) == ["srum", "srum-release", "uniform", "shuffled", "global-only", "local-only"]
    assert [provider.name for provider in srum_objectives()] == ["srum", "paired"]
