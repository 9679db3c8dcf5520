"""Boxes made worse on purpose: properties of every kind, and the stage that does it."""

import json
from pathlib import Path

import numpy as np
import pytest
from engine_fixtures import directories, toy_config, toy_host, toy_run, write_config
from hypothesis import given
from hypothesis import strategies as st

from srum_plugins.corruption import DROPPED, KINDS, LARGEST, corrupted
from srum_plugins.errors import ConfigError
from srum_plugins.records import Box, Grounding, Mask, Region
from srum_plugins.stages import ground
from srum_plugins.stages.session import Session

sizes = st.tuples(st.integers(1, 2000), st.integers(1, 2000))
levels = st.floats(0.0, 1.0)
kinds = st.sampled_from(sorted(KINDS))


@st.composite
def grounded(draw: st.DrawFn) -> tuple[Grounding, tuple[int, int]]:
    """A grounding with boxes anywhere in its image, down to slivers."""
    width, height = draw(sizes)
    sides = st.floats(0.0, 1.0)
    regions = []
    for number in range(draw(st.integers(0, 6))):
        x, y = sorted((draw(sides) * width, draw(sides) * width)), sorted((draw(sides) * height, draw(sides) * height))
        if x[0] < x[1] and y[0] < y[1]:
            regions.append(Region(Box(x[0], y[0], x[1], y[1]), f"thing {number}", score=0.5))
    return Grounding(draw(st.text(max_size=5)), tuple(regions), {"small": 1}), (width, height)


@given(grounded(), kinds, levels, st.integers(0, 2**62))
def test_boxes_stay_inside_and_regions_keep_order_phrase_and_confidence(
    found: tuple[Grounding, tuple[int, int]], kind: str, level: float, seed: int
) -> None:
    grounding, size = found
    after = corrupted(grounding, size, kind, level, seed)
    assert all(region.box.inside(*size) for region in after.regions)
    phrases = [region.phrase for region in after.regions]
    assert phrases == [region.phrase for region in grounding.regions if region.phrase in phrases]
    assert all(region.score == 0.5 for region in after.regions)
    assert len(after.regions) + after.dropped.get(DROPPED, 0) == len(grounding.regions)
    assert after.dropped["small"] == 1
    before = {region.phrase: region.box for region in grounding.regions}
    for region in after.regions:
        assert (region.mended == (kind,)) == (region.box != before[region.phrase])


@given(grounded(), kinds, levels, st.integers(0, 2**62))
def test_level_zero_changes_nothing_and_the_same_seed_does_the_same(
    found: tuple[Grounding, tuple[int, int]], kind: str, level: float, seed: int
) -> None:
    assert corrupted(*found, kind, 0.0, seed) is found[0]
    assert corrupted(*found, kind, level, seed) == corrupted(*found, kind, level, seed)


@given(grounded(), st.sampled_from(["drop", "random", "swap"]), levels, levels, st.integers(0, 2**62))
def test_what_suffers_at_a_level_suffers_the_same_at_a_higher_one(
    found: tuple[Grounding, tuple[int, int]], kind: str, one: float, two: float, seed: int
) -> None:
    low, high = sorted((one, two))
    kept = {region.phrase: region for region in corrupted(*found, kind, low, seed).regions}
    left = {region.phrase: region for region in corrupted(*found, kind, high, seed).regions}
    if kind == "drop":
        assert left.keys() <= kept.keys()
    else:
        assert all(left[phrase] == region for phrase, region in kept.items() if region.mended)


@given(grounded(), levels, st.integers(0, 2**62))
def test_jitter_and_random_keep_sizes_and_scale_keeps_to_its_factors(
    found: tuple[Grounding, tuple[int, int]], level: float, seed: int
) -> None:
    grounding, size = found
    slack = 1e-9 * max(size)
    for kind in ("jitter", "random"):
        for old, new in zip(grounding.regions, corrupted(*found, kind, level, seed).regions, strict=True):
            width, height = old.box.x1 - old.box.x0, old.box.y1 - old.box.y0
            assert new.box.x1 - new.box.x0 == pytest.approx(width, abs=slack)
            assert new.box.y1 - new.box.y0 == pytest.approx(height, abs=slack)
            if kind == "jitter":
                assert abs(new.box.x0 - old.box.x0) <= level * width + slack
                assert abs(new.box.y0 - old.box.y0) <= level * height + slack
    for old, new in zip(grounding.regions, corrupted(*found, "scale", level, seed).regions, strict=True):
        assert new.box.x1 - new.box.x0 <= (old.box.x1 - old.box.x0) * LARGEST**level + slack
        assert new.box.area >= old.box.area * LARGEST ** (-2 * level) / 4 - slack  # cut off, at most to its half


@given(st.integers(1, 4), kinds.filter(lambda kind: kind != "scale"))
def test_at_level_one_all_are_hit(pairs: int, kind: str) -> None:
    regions = tuple(Region(Box(9.0 * i, 2.0, 9.0 * i + 5.0, 8.0), str(i)) for i in range(2 * pairs))
    after = corrupted(Grounding("c", regions), (100, 50), kind, 1.0, 0).regions
    if kind == "drop":
        assert not after
    else:
        assert all(region.mended == (kind,) for region in after)
    if kind == "swap":
        assert sorted(region.box.x0 for region in after) == [region.box.x0 for region in regions]


@pytest.mark.parametrize("kind", ["drop", "random", "swap"])
def test_the_level_is_the_share_that_is_hit(kind: str) -> None:
    regions = tuple(Region(Box(i, i, i + 1, i + 1), str(i)) for i in range(10))
    shares = []
    for candidate in range(300):
        after = corrupted(Grounding(f"p-{candidate}", regions), (100, 100), kind, 0.3, 7)
        untouched = sum(not region.mended for region in after.regions)
        shares.append(1 - untouched / len(regions))
    # 1500 or 3000 draws of probability 0.3: a standard error of at most 0.012
    assert np.mean(shares) == pytest.approx(0.3, abs=0.05)


def test_a_mask_goes_with_its_box_in_a_swap_and_is_lost_elsewhere() -> None:
    mask = Mask(4, 1, (2, 2))
    regions = (Region(Box(0, 0, 2, 1), "left"), Region(Box(2, 0, 4, 1), "right", mask=mask))
    swapped = corrupted(Grounding("c", regions), (4, 1), "swap", 1.0, 0).regions
    assert [(region.phrase, region.mask) for region in swapped] == [("left", mask), ("right", None)]
    assert all(region.mask is None for region in corrupted(Grounding("c", regions), (4, 1), "jitter", 1.0, 0).regions)


def test_the_stage_corrupts_and_the_stages_after_it_are_redone(tmp_path: Path) -> None:
    write_config(tmp_path)
    toy_run(tmp_path)
    clean = directories(tmp_path / "run")
    toy_run(tmp_path, "ground.corrupt=jitter", "ground.corrupt_level=0.0")
    assert directories(tmp_path / "run") == clean
    toy_run(tmp_path, "ground.corrupt=jitter", "ground.corrupt_level=0.5")
    after = directories(tmp_path / "run")
    assert after["generate"] == clean["generate"]
    assert after["baseline"] == clean["baseline"]
    for stage in ("ground", "judge", "reward", "train", "evaluate"):
        assert len(after[stage]) == 2
    (new,) = after["ground"] - clean["ground"]
    facts = json.loads((tmp_path / "run/stages/ground" / new / "done.json").read_text())
    assert 0 < facts["mended_jitter"] < facts["regions"]  # a half that is pushed against its edge stays


def test_corruption_is_seeded_by_the_run_and_each_candidate_is_moved_its_own_way(tmp_path: Path) -> None:
    write_config(tmp_path)

    def boxes(*overrides: str) -> list[Box]:
        toy_run(tmp_path, "ground.corrupt=random", "ground.corrupt_level=1.0", *overrides)
        host = toy_host()
        config = toy_config(tmp_path, "ground.corrupt=random", "ground.corrupt_level=1.0", *overrides, host=host)
        return [region.box for one in ground.read_groundings(Session(config, host)) for region in one.regions]

    first = boxes("ground.chunk=4")
    assert len(set(first)) == len(first)
    assert boxes("ground.chunk=3") == first
    assert boxes("run.seed=4") != first


@pytest.mark.parametrize(
    ("override", "words"),
    [
        ("ground.corrupt=jiter", ["ground.corrupt", "jiter", "Did you mean 'jitter'"]),
        ("ground.corrupt_level=1.5", ["ground.corrupt_level", "[0, 1]", "1.5"]),
    ],
)
def test_mistakes_are_told(tmp_path: Path, override: str, words: list[str]) -> None:
    with pytest.raises(ConfigError) as caught:
        toy_config(tmp_path, override)
    assert all(word in str(caught.value) for word in words)
