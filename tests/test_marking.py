import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image, ImageColor

from srum_plugins.marking import COLOURS, LABELLED, SHEET, boxes_marked, crops_marked, region_name
from srum_plugins.records import Box

GREY = (90, 90, 90)


def blank(width: int, height: int) -> Image.Image:
    return Image.new("RGB", (width, height), GREY)


def colours(image: Image.Image) -> set[tuple[int, int, int]]:
    return {tuple(map(int, pixel)) for pixel in np.unique(np.asarray(image).reshape(-1, 3), axis=0)}


def rgb(index: int) -> tuple[int, int, int]:
    return ImageColor.getrgb(COLOURS[index % len(COLOURS)])


@st.composite
def boxes_in(draw: st.DrawFn, width: int, height: int) -> list[Box]:
    boxes = []
    for _ in range(draw(st.integers(1, 9))):
        x0 = draw(st.floats(0, width - 1))
        y0 = draw(st.floats(0, height - 1))
        boxes.append(Box(x0, y0, x0 + draw(st.floats(0.01, width - x0)), y0 + draw(st.floats(0.01, height - y0))))
    return boxes


def test_on_a_small_image_a_frame_of_one_pixel_lies_around_the_box():
    """The shipped small model learnt to read exactly these frames."""
    marked = np.asarray(boxes_marked(blank(32, 32), [Box(4, 6, 12, 20), Box(20.4, 20.6, 25.4, 25.6)]))
    expected = np.full((32, 32, 3), GREY, np.uint8)
    for index, (left, top, right, bottom) in enumerate([(3, 5, 12, 20), (19, 20, 25, 26)]):
        expected[top, left : right + 1] = expected[bottom, left : right + 1] = rgb(index)
        expected[top : bottom + 1, left] = expected[top : bottom + 1, right] = rgb(index)
    assert (marked == expected).all()


@pytest.mark.parametrize("side", [64, LABELLED, 400])
def test_what_a_box_holds_is_not_hidden_by_its_frame(side):
    image = Image.effect_noise((side, side), 80).convert("RGB")
    box = (side // 3, side // 4, 2 * side // 3, side // 2)
    marked = boxes_marked(image, [Box(*box)])
    assert marked.crop(box).tobytes() == image.crop(box).tobytes()
    assert marked.tobytes() != image.tobytes()


def test_regions_keep_the_colour_and_the_name_of_their_index():
    assert [region_name(index) for index in (0, 4)] == ["R1", "R5"]
    box = Box(10, 10, 20, 20)
    for index in (0, 4, 9):
        assert colours(boxes_marked(blank(32, 32), [box], [index])) == {GREY, rgb(index)}
    one, other = (boxes_marked(blank(200, 200), [Box(50, 50, 90, 90)], [index]) for index in (0, 8))
    assert colours(one) >= {rgb(0)} and colours(other) >= {rgb(0)}
    assert one.tobytes() != other.tobytes()  # of one colour, and of another name
    assert crops_marked(blank(200, 200), [box], [0]).tobytes() != crops_marked(blank(200, 200), [box], [8]).tobytes()
    both = [Box(50, 50, 90, 90), Box(100, 100, 140, 150)]
    assert boxes_marked(blank(200, 200), both).tobytes() == boxes_marked(blank(200, 200), both, [0, 1]).tobytes()


@given(st.data(), st.integers(1, 300), st.integers(1, 300))
def test_any_boxes_of_any_image_can_be_marked(data, width, height):
    image = blank(width, height)
    boxes = data.draw(boxes_in(width, height))
    marked = boxes_marked(image, boxes)
    assert marked.size == image.size and image.tobytes() == blank(width, height).tobytes()
    sheet = crops_marked(image, boxes)
    assert sheet.width <= SHEET[1] and sheet.width > max(SHEET[0], min(SHEET[1], max(image.size))) - 5


def test_names_of_crowded_boxes_do_not_hide_one_another():
    def shown(image: Image.Image, index: int) -> int:
        return int((np.asarray(image) == rgb(index)).all(axis=2).sum())

    boxes = [Box(150 + 8 * step, 150, 151 + 8 * step, 151) for step in range(4)]
    together = boxes_marked(blank(320, 320), boxes)
    for index, box in enumerate(boxes):
        alone = boxes_marked(blank(320, 320), [box], [index])
        assert shown(alone, index) > 150
        assert shown(together, index) >= shown(alone, index) - 24  # a frame may be hidden, a name is not


def test_a_sheet_shows_each_crop_with_its_surroundings_at_one_size():
    image = blank(400, 400)
    image.paste((10, 200, 30), (100, 100, 200, 200))
    image.paste((200, 10, 30), (300, 300, 310, 310))
    sheet = np.asarray(crops_marked(image, [Box(100, 100, 200, 200), Box(300, 300, 310, 310)]))
    areas = [(sheet[..., channel] > 145).sum() for channel in (1, 0)]
    assert areas[1] == pytest.approx(areas[0], rel=0.05)  # a small region is as large as a large one
    assert areas[0] > 150**2
    assert (np.abs(sheet.astype(int) - GREY).sum(axis=2) < 60).sum() > 2 * 4 * 8 * 150  # around each
