"""What every reward map must obey, whatever its regions."""

from __future__ import annotations

import dataclasses
import json
import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from torch import Tensor

from srum_plugins.errors import ContractError, RewardError
from srum_plugins.records import Box, Mask, from_json, to_json
from srum_plugins.rewards.maps import MapRegion, RewardMap, Transform, array_mask, mask_array
from srum_plugins.testing.strategies import OVERLAPS, boxes, local_scores, masks, reward_maps

grids = st.tuples(st.integers(1, 9), st.integers(1, 9))


def same(a: Tensor, b: Tensor) -> None:
    torch.testing.assert_close(a, b, rtol=0, atol=2e-6)


def box_map(*regions: tuple[Box | Mask, float], size: tuple[int, int] = (8, 6), **settings: object) -> RewardMap:
    values: dict[str, object] = {"alpha": 1.0, "background": 0.0, **settings}
    return RewardMap(*size, tuple(MapRegion(area, score) for area, score in regions), **values)


# --- values -----------------------------------------------------------------------------------------------------


@given(reward_maps(), grids)
def test_weights_lie_between_the_extremes_which_lie_in_bounds(reward: RewardMap, grid: tuple[int, int]) -> None:
    low, high = reward.extremes()
    assert -reward.alpha <= low <= high <= reward.alpha
    for weights in (reward.pixels(), reward.tokens(*grid)):
        assert weights.dtype == torch.float32
        assert low - 1e-6 <= weights.min() and weights.max() <= high + 1e-6
    assert reward.pixels().shape == (reward.height, reward.width)
    assert reward.tokens(*grid).shape == grid


@given(reward_maps(), st.data())
def test_the_order_of_regions_does_not_matter(reward: RewardMap, data: st.DataObject) -> None:
    regions = data.draw(st.permutations(reward.regions))
    same(dataclasses.replace(reward, regions=tuple(regions)).pixels(), reward.pixels())


@given(reward_maps(least=1), grids, st.data())
def test_monotone_in_every_score(reward: RewardMap, grid: tuple[int, int], data: st.DataObject) -> None:
    index = data.draw(st.integers(0, len(reward.regions) - 1))
    region = reward.regions[index]
    higher = dataclasses.replace(region, score=data.draw(st.floats(region.score, 1)))
    raised = dataclasses.replace(reward, regions=(*reward.regions[:index], higher, *reward.regions[index + 1 :]))
    assert (raised.tokens(*grid) >= reward.tokens(*grid) - 2e-6).all()


@given(reward_maps(), st.floats(0, 1))
def test_alpha_scales_and_so_is_monotone_with_the_sign_of_r(reward: RewardMap, alpha: float) -> None:
    plain = dataclasses.replace(reward, alpha=1.0).pixels()
    same(dataclasses.replace(reward, alpha=alpha).pixels(), alpha * plain)
    low, high = sorted((alpha, reward.alpha))
    change = dataclasses.replace(reward, alpha=high).pixels() - dataclasses.replace(reward, alpha=low).pixels()
    assert (change * plain.sign() >= -2e-6).all()


@given(reward_maps(), st.integers(1, 9), st.integers(1, 9), local_scores, st.data())
def test_a_region_changes_only_the_tokens_it_touches(
    reward: RewardMap, h: int, w: int, score: float, data: st.DataObject
) -> None:
    box = data.draw(boxes(reward.width, reward.height))
    added = dataclasses.replace(reward, regions=(*reward.regions, MapRegion(box, score)))
    y, x = np.arange(h) * reward.height / h, np.arange(w) * reward.width / w
    touched = np.outer((y < box.y1) & (y + reward.height / h > box.y0), (x < box.x1) & (x + reward.width / w > box.x0))
    untouched = torch.from_numpy(~touched)
    same(added.tokens(h, w)[untouched], reward.tokens(h, w)[untouched])


@given(reward_maps(), grids)
def test_background_where_nothing_covers(reward: RewardMap, grid: tuple[int, int]) -> None:
    covered = dataclasses.replace(
        reward, alpha=1.0, background=0.0, regions=tuple(MapRegion(r.area, 1.0) for r in reward.regions)
    ).tokens(*grid)
    empty = reward.tokens(*grid)[covered == 0]
    same(empty, torch.full_like(empty, reward.alpha * reward.background))


@given(st.floats(0, 1), local_scores, grids)
def test_without_regions_the_background_is_everywhere_exactly(
    alpha: float, background: float, grid: tuple[int, int]
) -> None:
    weights = RewardMap(7, 5, (), alpha, background).tokens(*grid)
    assert torch.equal(weights, torch.full(grid, np.float32(alpha) * np.float32(background)))


@given(reward_maps(overlaps=("max", "min"), least=1))
def test_duplicates_change_nothing_under_max_and_min(reward: RewardMap) -> None:
    assert torch.equal(
        dataclasses.replace(reward, regions=(*reward.regions, reward.regions[0])).pixels(), reward.pixels()
    )


def test_overlap_rules() -> None:
    regions = [(Box(0, 0, 4, 4), 0.75), (Box(2, 0, 6, 4), -0.25)]
    shared = {name: box_map(*regions, size=(6, 4), overlap=name).pixels()[0].tolist() for name in OVERLAPS}
    assert shared == {
        "max": [0.75, 0.75, 0.75, 0.75, -0.25, -0.25],
        "min": [0.75, 0.75, -0.25, -0.25, -0.25, -0.25],
        "mean": [0.75, 0.75, 0.25, 0.25, -0.25, -0.25],
    }


def test_a_partly_covered_pixel_is_weighted_by_its_covered_area() -> None:
    reward = box_map((Box(0.5, 0, 2.25, 0.5), 1.0), size=(4, 1), background=-1.0)
    same(reward.pixels(), torch.tensor([[-0.5, 0.0, -0.75, -1.0]]))


def test_overlap_within_a_pixel_follows_the_rule_on_the_part_that_is_shared() -> None:
    left, right = (Box(0, 0, 0.75, 1), 1.0), (Box(0.5, 0, 1, 1), -1.0)
    values = {name: float(box_map(left, right, size=(1, 1), overlap=name).pixels()) for name in OVERLAPS}
    assert values == {"max": 0.5, "min": 0.0, "mean": 0.25}


# --- reduction --------------------------------------------------------------------------------------------------


@given(reward_maps(), grids)
def test_mass_is_conserved_from_pixels_to_tokens(reward: RewardMap, grid: tuple[int, int]) -> None:
    same(reward.tokens(*grid).mean(), reward.pixels().mean())
    assert reward.mean() == pytest.approx(float(reward.pixels().mean()), abs=2e-6)


@given(reward_maps(), st.integers(1, 4), st.integers(1, 4), st.integers(1, 4))
def test_tokens_average_pixels(reward: RewardMap, scale: int, h: int, w: int) -> None:
    large = dataclasses.replace(reward, width=w * scale, height=h * scale, regions=())
    box = Box(0.25, 0.5, large.width - 0.3, large.height - 0.1)
    large = dataclasses.replace(large, regions=(MapRegion(box, 0.5),))
    same(large.tokens(h, w), large.pixels().view(h, scale, w, scale).mean(dim=(1, 3)))


@given(reward_maps(whole=True), grids)
def test_tokens_average_pixels_at_any_ratio(reward: RewardMap, grid: tuple[int, int]) -> None:
    h, w = grid
    fine = reward.pixels().repeat_interleave(h, 0).repeat_interleave(w, 1)  # every token is a whole number of these
    same(reward.tokens(h, w), fine.view(h, reward.height, w, reward.width).mean(dim=(1, 3)))


def test_bilinear_reads_token_centres_only() -> None:
    sliver = (Box(0, 0, 4, 16), 1.0)
    assert box_map(sliver, size=(16, 16), reduction="bilinear").tokens(1, 1).item() == 0.0
    assert box_map(sliver, size=(16, 16)).tokens(1, 1).item() == 0.25


# --- masks ------------------------------------------------------------------------------------------------------


@given(st.data())
def test_mask_arrays_round_trip(data: st.DataObject) -> None:
    mask = data.draw(masks(data.draw(st.integers(1, 7)), data.draw(st.integers(1, 7))))
    assert array_mask(mask_array(mask)) == mask


@given(reward_maps(whole=True, least=1), grids, st.data())
def test_a_mask_equals_the_box_of_the_same_pixels_under_any_transform(
    reward: RewardMap, grid: tuple[int, int], data: st.DataObject
) -> None:
    masked = []
    for region in reward.regions:
        if isinstance(region.area, Box):
            pixels = np.zeros((reward.height, reward.width), dtype=bool)
            pixels[int(region.area.y0) : int(region.area.y1), int(region.area.x0) : int(region.area.x1)] = True
            region = MapRegion(array_mask(pixels), region.score)
        masked.append(region)
    other = dataclasses.replace(reward, regions=tuple(masked))
    same(other.tokens(*grid), reward.tokens(*grid))
    transform = data.draw(transforms(reward.width, reward.height))
    same(other.transform(transform).pixels(), reward.transform(transform).pixels())


# --- geometry ---------------------------------------------------------------------------------------------------


@st.composite
def transforms(draw: st.DrawFn, width: int, height: int) -> Transform:
    chain = Transform.identity(width, height)
    for step in draw(st.lists(st.sampled_from(["crop", "resize", "flip"]), max_size=4)):
        if step == "crop":
            box = draw(boxes(chain.width, chain.height, whole=True))
            chain = chain.crop(int(box.x0), int(box.y0), int(box.x1), int(box.y1))
        elif step == "resize":
            chain = chain.resize(draw(st.integers(1, 12)), draw(st.integers(1, 12)))
        else:
            chain = chain.flip()
    return chain


@given(reward_maps())
def test_flip_equivariance(reward: RewardMap) -> None:
    flip = Transform.identity(reward.width, reward.height).flip()
    same(reward.transform(flip).pixels(), reward.pixels().flip(1))
    same(reward.transform(flip).transform(flip).pixels(), reward.pixels())


@given(reward_maps(least=1), st.booleans(), st.booleans(), st.data())
def test_crop_equivariance_before_and_after_flips(
    reward: RewardMap, before: bool, after: bool, data: st.DataObject
) -> None:
    box = data.draw(boxes(reward.width, reward.height, whole=True))
    x0, y0, x1, y1 = int(box.x0), int(box.y0), int(box.x1), int(box.y1)
    chain, expected = Transform.identity(reward.width, reward.height), reward.pixels()
    if before:
        chain, expected = chain.flip(), expected.flip(1)
    chain, expected = chain.crop(x0, y0, x1, y1), expected[y0:y1, x0:x1]
    if after:
        chain, expected = chain.flip(), expected.flip(1)
    same(reward.transform(chain).pixels(), expected)


def test_crop_after_flip_keeps_what_the_flip_moved_there() -> None:
    chain = Transform.identity(8, 6).flip().crop(0, 0, 3, 6)
    assert chain.window == Box(5, 0, 8, 6)
    assert box_map((Box(7, 0, 8, 6), 1.0)).transform(chain).pixels()[0].tolist() == [1, 0, 0]


@given(reward_maps(), st.integers(0, 5), st.integers(0, 5))
def test_translation_equivariance(reward: RewardMap, right: int, down: int) -> None:
    width, height = reward.width + right, reward.height + down
    moved = []
    for region in reward.regions:
        extent = region.area if isinstance(region.area, Box) else Box(0, 0, reward.width, reward.height)
        extent = Box(extent.x0 + right, extent.y0 + down, extent.x1 + right, extent.y1 + down)
        boxed = isinstance(region.area, Box)
        moved.append(MapRegion(extent, region.score) if boxed else MapRegion(region.area, region.score, extent))
    shifted = dataclasses.replace(reward, width=width, height=height, regions=tuple(moved)).pixels()
    expected = torch.full((height, width), reward.alpha * reward.background)
    expected[down:, right:] = reward.pixels()
    same(shifted, expected)


@given(reward_maps(), st.integers(1, 4), st.integers(1, 4), grids)
def test_scale_equivariance(reward: RewardMap, sx: int, sy: int, grid: tuple[int, int]) -> None:
    scaled = reward.transform(
        Transform.identity(reward.width, reward.height).resize(reward.width * sx, reward.height * sy)
    )
    same(scaled.pixels().view(reward.height, sy, reward.width, sx).mean(dim=(1, 3)), reward.pixels())
    same(scaled.tokens(*grid), reward.tokens(*grid))


@given(reward_maps(), st.data())
def test_transforms_compose(reward: RewardMap, data: st.DataObject) -> None:
    first = data.draw(transforms(reward.width, reward.height))
    second = data.draw(transforms(first.width, first.height))
    same(reward.transform(first).transform(second).pixels(), reward.transform(first.then(second)).pixels())


@given(st.data())
def test_the_image_moves_as_the_map_does(data: st.DataObject) -> None:
    bits = mask_array(data.draw(masks(6, 5)))
    scale, box = data.draw(st.integers(1, 3)), data.draw(boxes(6, 5, whole=True))
    x0, y0, x1, y1 = int(box.x0), int(box.y0), int(box.x1), int(box.y1)
    chain = Transform.identity(6, 5).crop(x0, y0, x1, y1).flip().resize((x1 - x0) * scale, (y1 - y0) * scale)
    image = chain.image(Image.fromarray(bits.astype(np.uint8) * 255), Image.Resampling.NEAREST)
    reward = RewardMap(6, 5, (MapRegion(array_mask(bits), 1.0),), 1.0, 0.0).transform(chain)
    same(reward.pixels(), torch.from_numpy(np.array(image)).float() / 255)


def test_a_box_is_cut_at_the_crop_and_lost_outside_it() -> None:
    crop = Transform.identity(10, 10).crop(2, 2, 6, 6)
    assert crop.box(Box(0, 3, 4, 9)) == Box(0, 1, 2, 4)
    assert crop.box(Box(7, 7, 9, 9)) is None
    assert box_map((Box(7, 7, 9, 9), 1.0), size=(10, 10)).transform(crop).regions == ()


# --- refusals ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf, 1.0000001, -1.0000001])
def test_nan_inf_and_out_of_range_are_refused(bad: float) -> None:
    with pytest.raises(RewardError, match="score"):
        MapRegion(Box(0, 0, 1, 1), bad)
    with pytest.raises(RewardError, match="alpha"):
        RewardMap(4, 4, (), bad, 0.0)
    with pytest.raises(RewardError, match="background"):
        RewardMap(4, 4, (), 1.0, bad)


def test_negative_alpha_is_refused() -> None:
    with pytest.raises(RewardError, match=r"alpha must lie in \[0, 1\]"):
        RewardMap(4, 4, (), -0.1, 0.0)


def test_what_does_not_fit_is_refused() -> None:
    with pytest.raises(RewardError, match=r"region 0.*leaves"):
        box_map((Box(0, 0, 9, 2), 1.0))
    with pytest.raises(RewardError, match="mask of 2 x 1"):
        box_map((Mask(2, 1, (0, 2)), 1.0))
    with pytest.raises(RewardError, match="overlap must be one of"):
        box_map(overlap="sum")
    with pytest.raises(RewardError, match="reduction"):
        box_map(reduction="nearest")
    with pytest.raises(RewardError, match="positive size"):
        RewardMap(0, 4, (), 1.0, 0.0)
    with pytest.raises(RewardError, match="extent"):
        MapRegion(Box(0, 0, 1, 1), 1.0, Box(0, 0, 1, 1))
    with pytest.raises(RewardError, match="leaves the image"):
        Transform.identity(4, 4).crop(0, 0, 5, 4)
    with pytest.raises(RewardError, match="cannot take"):
        box_map().transform(Transform.identity(4, 4))


# --- JSON -------------------------------------------------------------------------------------------------------


@given(reward_maps(), st.data())
def test_json_round_trip(reward: RewardMap, data: st.DataObject) -> None:
    reward = reward.transform(data.draw(transforms(reward.width, reward.height)))
    assert from_json(RewardMap, json.loads(json.dumps(to_json(reward)))) == reward


def test_json_is_checked_as_the_constructor_checks() -> None:
    data = to_json(box_map((Box(0, 0, 1, 1), 0.5)))
    with pytest.raises(ContractError, match="overlap: expected one of max, min, mean"):
        from_json(RewardMap, {**data, "overlap": "sum"})
    with pytest.raises(RewardError, match="alpha"):
        from_json(RewardMap, {**data, "alpha": 2.0})
