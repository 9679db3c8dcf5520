"""Corners that someone wrote down: a box inside its image, with what was mended, or a typed failure."""

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from srum_plugins.boxes import EMPTY, MALFORMED, UNKNOWN, Fitted, fitted, labelled, shown
from srum_plugins.records import Box, Failure, Region

SIZE = (60, 40)
sizes = st.tuples(st.integers(1, 4000), st.integers(1, 4000))
frames = st.none() | st.tuples(st.floats(1e-3, 1e4), st.floats(1e-3, 1e4)) | st.just((1.0, 1.0))
numbers = st.floats() | st.integers() | st.just(10**400) | st.sampled_from([0, 1, 0.5, 60, 40, 5e-324, 1.7e308])
anything = st.recursive(
    st.none() | st.booleans() | numbers | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=5) | st.dictionaries(st.text(max_size=3), inner, max_size=3),
)


@given(
    anything | st.lists(numbers, min_size=4, max_size=4) | st.tuples(numbers, numbers, numbers, numbers), sizes, frames
)
def test_whatever_it_is_it_becomes_a_box_inside_or_a_typed_failure(corners: object, size, told_in) -> None:
    found = fitted(corners, size, told_in)
    if isinstance(found, Failure):
        assert found.cause in (MALFORMED, EMPTY) and found.detail
    else:
        assert found.box.inside(*size) and set(found.mended) <= {"sorted", "clamped"}


@given(sizes, st.data())
def test_a_box_inside_is_left_as_it_is(size: tuple[int, int], data: st.DataObject) -> None:
    x0, y0 = data.draw(st.floats(0, size[0] * 0.9)), data.draw(st.floats(0, size[1] * 0.9))
    x1, y1 = data.draw(st.floats(x0 + 0.01, size[0])), data.draw(st.floats(y0 + 0.01, size[1]))
    assert fitted([x0, y0, x1, y1], size) == Fitted(Box(x0, y0, x1, y1))
    # Opposite corners in any order are the same box, and it is said that they were sorted.
    for swapped in ([x1, y0, x0, y1], [x0, y1, x1, y0], (x1, y1, x0, y0)):
        assert fitted(swapped, size) == Fitted(Box(x0, y0, x1, y1), ("sorted",))


@given(sizes, st.tuples(*[st.floats(-1e6, 1e6)] * 4))
def test_sides_are_clamped_and_never_moved_otherwise(size: tuple[int, int], corners: tuple[float, ...]) -> None:
    found = fitted(corners, size)
    x0, x1 = sorted((corners[0], corners[2]))
    y0, y1 = sorted((corners[1], corners[3]))
    width = min(x1, size[0]) - max(x0, 0)
    height = min(y1, size[1]) - max(y0, 0)
    if isinstance(found, Failure):
        assert found.cause == EMPTY and (width <= 0 or height <= 0)
    else:
        assert found.box == Box(max(x0, 0), max(y0, 0), min(x1, size[0]), min(y1, size[1]))


@pytest.mark.parametrize(
    ("corners", "expected"),
    [
        ([50, 30, 10, 5], Fitted(Box(10, 5, 50, 30), ("sorted",))),
        ([-5, -5, 10, 5], Fitted(Box(0, 0, 10, 5), ("clamped",))),
        ([70, 30, 10, -5], Fitted(Box(10, 0, 60, 30), ("sorted", "clamped"))),
        ([0, 0, 1e300, 10**300], Fitted(Box(0, 0, 60, 40), ("clamped",))),
        ([0, 0, 60 + 1e-9, 40], Fitted(Box(0, 0, 60, 40))),
        ([5, 5, 5, 9], EMPTY),
        ([70, 5, 90, 9], EMPTY),
        ([-9, -9, -1, -1], EMPTY),
        ([1, 2, 3], MALFORMED),
        ([1, 2, 3, 4, 5], MALFORMED),
        ([], MALFORMED),
        (None, MALFORMED),
        ("1234", MALFORMED),
        ({"x0": 1}, MALFORMED),
        ([1, 2, 3, "4"], MALFORMED),
        ([1, 2, 3, True], MALFORMED),
        ([1, 2, 3, math.nan], MALFORMED),
        ([1, 2, 3, -math.inf], MALFORMED),
        ([1, 2, 3, 10**5000], MALFORMED),
    ],
)
def test_every_way_to_be_wrong(corners: object, expected: Fitted | str) -> None:
    found = fitted(corners, SIZE)
    assert (found.cause if isinstance(found, Failure) else found) == expected


def test_shares_of_the_sides_and_pixels_of_another_size() -> None:
    assert fitted([0.25, 0.5, 1, 1], SIZE, (1, 1)) == Fitted(Box(15, 20, 60, 40))
    assert fitted([30, 40, 120, 80], SIZE, (120, 80)) == Fitted(Box(15, 20, 60, 40))
    assert fitted([0.5, 0, 1.5, 1], SIZE, (1, 1)) == Fitted(Box(30, 0, 60, 40), ("clamped",))


def test_a_label_says_which_phrase_or_nobody_asked() -> None:
    box = Box(1, 2, 3, 4)
    assert labelled("A red dog", ("cat", "red dog"), box, ("clamped",)) == Region(box, "red dog", mended=("clamped",))
    found = labelled("bird", ("cat", "red dog"), box)
    assert isinstance(found, Failure) and found.cause == UNKNOWN and "'bird'" in found.detail


def test_what_is_shown_is_short() -> None:
    assert shown(" x" * 100) == repr(("x" + " x" * 99)[:80]) and "too long" in shown(10**5000)
