"""Grounders that look at no image."""

import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from srum_fixed.grid import GridGrounder
from srum_fixed.options import GridOptions
from srum_fixed.plugin import srum_grounders
from srum_fixed.whole_image import WholeImageGrounder

from srum_plugins.contracts import Grounder, Located
from srum_plugins.options import build_options
from srum_plugins.records import Box, Candidate, Prompt, Region

sizes = st.tuples(st.integers(1, 300), st.integers(1, 300))
counts = st.integers(1, 9)


def located(size: tuple[int, int], name: str = "c") -> Located:
    return Located(
        Prompt("p", "a red apple", phrases=("red apple",)), Candidate(name, "p", 0, 0, "x", *size), Image.new("L", size)
    )


@given(sizes, counts, counts)
def test_a_grid_covers_every_pixel_once(size: tuple[int, int], rows: int, columns: int) -> None:
    (grounding,) = GridGrounder(GridOptions(rows, columns)).ground([located(size)], None)
    boxes = [region.box for region in grounding.regions]
    assert len(boxes) == rows * columns and all(box.inside(*size) for box in boxes)
    assert sum(box.area for box in boxes) == pytest.approx(size[0] * size[1])
    assert all(a is b or a.iou(b) == 0 for a in boxes for b in boxes)
    assert boxes == sorted(boxes, key=lambda box: (box.y0, box.x0))
    assert all(region == Region(region.box) for region in grounding.regions) and grounding.dropped == {}


def test_the_whole_image_should_show_the_whole_prompt() -> None:
    items = [located((30, 20), "a"), located((1, 9), "b")]
    found = WholeImageGrounder().ground(items, None)
    assert [grounding.candidate_id for grounding in found] == ["a", "b"]
    assert [grounding.regions for grounding in found] == [
        (Region(Box(0, 0, 30, 20), "a red apple"),),
        (Region(Box(0, 0, 1, 9), "a red apple"),),
    ]


@pytest.mark.parametrize("setting", ["rows", "columns"])
def test_a_grid_has_rows_and_columns(setting: str) -> None:
    with pytest.raises(ValueError, match=f"{setting} must be at least 1, got 0"):
        GridOptions(**{setting: 0})


def test_providers_ask_nothing_of_the_model() -> None:
    whole, grid = srum_grounders()
    for provider in (whole, grid):
        options = build_options(provider.options, {}, "grounder")
        assert provider.needs(options) == frozenset() and provider.capabilities == frozenset()
        assert isinstance(provider.factory(options), Grounder)
    assert (whole.name, grid.name) == ("whole-image", "grid")
