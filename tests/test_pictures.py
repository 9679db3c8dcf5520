"""Pictures: sizes, colours at known places, and no crash at the edges. What they look like was judged by eye."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from srum_plugins import pictures
from srum_plugins.errors import ContractError
from srum_plugins.pictures import (
    PAPER,
    SheetItem,
    before_after,
    diverging,
    overlay,
    reward_sheet,
    sample_grid,
    training_curve,
)
from srum_plugins.records import Box
from srum_plugins.rewards.maps import MapRegion, RewardMap, array_mask

GREY = (200, 200, 200)


def image(colour: tuple[int, int, int] = GREY, size: int = 32) -> Image.Image:
    return Image.new("RGB", (size, size), colour)


def reward_map(*regions: MapRegion, background: float = 0.0, size: int = 32) -> RewardMap:
    return RewardMap(size, size, regions, alpha=1.0, background=background)


def colours(picture: Image.Image) -> set[tuple[int, int, int]]:
    return {tuple(pixel) for pixel in np.asarray(picture).reshape(-1, 3).tolist()}


def panels(picture: Image.Image, side: int = 256) -> tuple[Image.Image, Image.Image]:
    """The two panels of an overlay without a caption: below the header, left and right of the gap."""
    top = picture.height - pictures._GAP - side
    left, right = pictures._GAP, pictures._GAP + side + pictures._GAP
    return picture.crop((left, top, left + side, top + side)), picture.crop((right, top, right + side, top + side))


def test_diverging_colours() -> None:
    low, middle, high = diverging(np.array([-1.0, 0.0, 1.0])).tolist()
    assert middle == [255, 255, 255]
    assert low[0] > 150 > low[2]
    assert high[2] > 150 > high[0]


@given(st.floats(-1, 1), st.floats(-1, 1))
def test_colours_are_monotone_in_how_red_or_blue_they_are(a: float, b: float) -> None:
    low, high = diverging(np.array(sorted((a, b)))).astype(int)
    assert high[2] - high[0] >= low[2] - low[0] - 1


def test_overlay_shows_negative_red_positive_blue_and_nothing_white() -> None:
    rewards = reward_map(MapRegion(Box(0, 0, 8, 8), -1.0), MapRegion(Box(16, 16, 32, 32), 1.0))
    candidate, tokens = panels(overlay(image(), rewards, (8, 8)))
    assert tokens.getpixel((48, 16)) == (178, 24, 43)
    assert tokens.getpixel((208, 208)) == (33, 102, 172)
    assert tokens.getpixel((208, 16)) == (255, 255, 255)
    assert candidate.getpixel((1, 60)) == (178, 24, 43)  # the left side of the red box, inside its white rim
    assert candidate.getpixel((254, 200)) == (33, 102, 172)
    assert candidate.getpixel((200, 20)) == GREY


def test_overlay_of_a_mask_outlines_it() -> None:
    pixels = np.zeros((32, 32), dtype=bool)
    pixels[8:24, 8:24] = True
    candidate, tokens = panels(overlay(image(), reward_map(MapRegion(array_mask(pixels), 1.0)), (8, 8)))
    assert candidate.getpixel((65, 150)) == (33, 102, 172)
    assert candidate.getpixel((128, 150)) == GREY
    assert candidate.getpixel((20, 150)) == GREY
    assert tokens.getpixel((144, 144)) == (33, 102, 172)


@pytest.mark.parametrize("empty", [(), (MapRegion(array_mask(np.zeros((32, 32), dtype=bool)), 0.5),)])
def test_overlay_without_regions_shows_the_background(empty: tuple[MapRegion, ...]) -> None:
    _, tokens = panels(overlay(image(), reward_map(*empty, background=-1.0), (4, 4)))
    assert tokens.getpixel((144, 144)) == (178, 24, 43)


@settings(deadline=None, max_examples=40)
@given(
    corner=st.tuples(st.floats(0, 31), st.floats(0, 31)),
    side=st.floats(0.01, 32),
    score=st.floats(-1, 1),
    grid=st.sampled_from([(1, 1), (8, 8), (3, 5), (64, 64)]),
    scale=st.sampled_from([None, 1, 8]),
)
def test_overlay_draws_any_box(
    corner: tuple[float, float], side: float, score: float, grid: tuple[int, int], scale: float | None
) -> None:
    x, y = corner
    regions = [MapRegion(Box(x, y, min(x + side, 32), min(y + side, 32)), score)] * 2
    picture = overlay(image(), reward_map(*regions), grid, scale)
    assert picture.width > 2 * 32 * (scale or 8)


def test_overlay_refuses_a_map_of_another_image() -> None:
    with pytest.raises(ContractError, match="image of 64 x 64, got one of 32 x 32"):
        overlay(image(), reward_map(size=64), (8, 8))


def test_labels_of_equal_boxes_do_not_cover_each_other() -> None:
    box = Box(8, 8, 24, 24)
    candidate, _ = panels(overlay(image(), reward_map(MapRegion(box, -0.5), MapRegion(box, 0.5)), (8, 8)))
    array = np.asarray(candidate)
    above = array[48:63]  # the strip above both boxes, where the labels stand
    assert (above == (178, 24, 43)).all(axis=-1).sum() > 200
    assert (above == (33, 102, 172)).all(axis=-1).sum() > 200


def test_reward_sheet_holds_all_items() -> None:
    item = SheetItem(image(), reward_map(), (8, 8), "a caption")
    one, five = reward_sheet([item]), reward_sheet([item] * 5, columns=2)
    assert five.width > 2 * one.width
    assert five.height > 3 * one.height


def test_sample_grid_is_filled_in_reading_order() -> None:
    tints = [(250, 0, 0), (0, 250, 0), (0, 0, 250)]
    picture = sample_grid([image(tint) for tint in tints], ["a", "b", "c"], columns=2, scale=4)
    gap = pictures._GAP
    assert picture.getpixel((gap, gap)) == tints[0]
    assert picture.getpixel((gap + 128 + gap, gap)) == tints[1]
    assert picture.crop((gap, picture.height // 2, gap + 128, picture.height)).getpixel((64, 40)) == tints[2]
    assert picture.width == 2 * 128 + 3 * gap


@pytest.mark.parametrize(("size", "tile"), [(32, 128), (100, 100), (1024, 128)])
def test_without_a_scale_tiles_have_a_readable_size(size: int, tile: int) -> None:
    assert sample_grid([image(size=size)], [""]).width == tile + 2 * pictures._GAP


@given(st.text(alphabet="abc dé-漢", max_size=200), st.integers(12, 300), st.integers(1, 5))
def test_captions_stay_within_their_width_and_lines(text: str, width: int, most: int) -> None:
    whole = pictures._wrap(text, width, 12, None)
    assert "".join(whole).replace(" ", "") == "".join(text.split())
    lines = pictures._wrap(text, width, 12, most)
    assert len(lines) <= most
    font = pictures._font(12)
    assert all(len(line) <= 1 or line == "..." or font.getlength(line) <= width for line in lines)


def test_before_after_marks_and_rows() -> None:
    before, after = [image((250, 0, 0))] * 3, [image((0, 0, 250))] * 3
    plain = before_after(["a", "b", "c"], before, after, scale=4)
    marked = before_after(["a", "b", "c"], before, after, [(False, True)] * 3, scale=4)
    assert pictures.GOOD not in colours(plain)
    assert {pictures.GOOD, pictures.BAD} <= colours(marked)
    column = np.asarray(plain)[:, 70]
    reds, blues = (np.flatnonzero((column == tint).all(axis=-1)) for tint in ((250, 0, 0), (0, 0, 250)))
    assert len(reds) == len(blues) == 128
    assert reds.max() < blues.min()
    wrapped = before_after(["a", "b", "c"], before, after, columns=2, scale=4)
    assert wrapped.width < plain.width
    assert wrapped.height > 1.8 * plain.height


def test_before_after_leaves_its_inputs_alone() -> None:
    picture = image(size=128)
    before_after(["a"], [picture], [picture], [(True, False)])
    assert colours(picture) == {GREY}


def test_training_curve_takes_gaps_and_single_rows() -> None:
    rows = [{"step": step, "loss": 1.0 / (step + 1)} | ({"lr": 0.1} if step % 2 else {}) for step in range(60)]
    wide, narrow = training_curve(rows), training_curve([{"step": 0, "loss": 1.0}])
    assert wide.width == 2 * narrow.width
    assert len(colours(narrow) - {PAPER}) > 1


@pytest.mark.parametrize(
    "draw",
    [
        lambda: sample_grid([], []),
        lambda: sample_grid([image()], []),
        lambda: reward_sheet([]),
        lambda: before_after(["a"], [image()], []),
        lambda: before_after(["a"], [image()], [image()], []),
        lambda: training_curve([]),
        lambda: training_curve([{"step": 1}]),
    ],
)
def test_unequal_or_empty_inputs_are_refused(draw) -> None:
    with pytest.raises(ContractError, match="as many of each"):
        draw()
