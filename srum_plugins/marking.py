"""Images in which regions are marked, for models that are asked about regions by name."""

from __future__ import annotations

import math
from collections.abc import Sequence

from PIL import Image, ImageDraw, ImageFont

from srum_plugins.records import Box

COLOURS = ("#ff3030", "#30a0ff", "#ffd000", "#30d060", "#ff60ff", "#40e0e0", "#ff9020", "#ffffff")
"""Of the first regions; then they come again."""
LABELLED = 128
"""Pixels of an image's shorter side from which names are written beside the boxes; on smaller ones they would hide more
than they say."""
SHEET = (256, 1024)
"""Least and most pixels of the width of a sheet of crops; in between it is the longer side of the image."""
PAPER = "#808080"
"""Between the crops of a sheet."""
MARGIN = 0.1
"""Of the image around a box that its crop shows, as a share of the box's longer side: what a region is cut from says
what it is."""

Place = tuple[int, int, int, int]
"""First and last columns and rows of pixels, all of them inside: (left, top, right, bottom)."""


def region_name(index: int) -> str:
    """What the region of this index, from 0, is called: R1, R2 ..."""
    return f"R{index + 1}"


def boxes_marked(image: Image.Image, boxes: Sequence[Box], indices: Sequence[int] | None = None) -> Image.Image:
    """A copy with a frame around each box, and its name where the image has room. Frames lie outside the boxes, as far
    as the image goes, so that they hide nothing of what they mark. ``indices`` give the boxes their names and colours;
    left out, they count from 0."""
    marked = image.convert("RGB")
    canvas = ImageDraw.Draw(marked)
    shorter = min(image.size)
    labelled, line = shorter >= LABELLED, max(1, shorter // 160)
    named = range(len(boxes)) if indices is None else indices
    frames = [_frame(box, line, image.size) for box in boxes]
    for index, frame in zip(named, frames, strict=True):
        if labelled:  # seen against its own colour too
            rim = max(1, line // 3)
            canvas.rectangle(_grown(frame, rim), outline="#000000", width=rim)
        canvas.rectangle(frame, outline=_colour(index), width=line)
    plates: list[Place] = []
    for index, frame in zip(named, frames if labelled else (), strict=False):
        text = max(10, shorter // 32)
        place = _free_place(_plate_size(index, text), frame, frames, plates, image.size)
        _draw_plate(canvas, index, text, place)
        plates.append(place)
    return marked


def crops_marked(image: Image.Image, boxes: Sequence[Box], indices: Sequence[int] | None = None) -> Image.Image:
    """A sheet of crops of the boxes, row by row, all brought to one size, each with its box framed and below its name.
    ``indices`` give the boxes, at least one, their names and colours; left out, they count from 0."""
    named = range(len(boxes)) if indices is None else indices
    columns = math.ceil(math.sqrt(len(boxes)))
    side = min(max(*image.size, SHEET[0]), SHEET[1]) // columns
    tiles = [_tile(image, box, index, side) for index, box in zip(named, boxes, strict=True)]
    rows = [tiles[start : start + columns] for start in range(0, len(tiles), columns)]
    heights = [max(tile.height for tile in row) for row in rows]
    sheet = Image.new("RGB", (columns * side, sum(heights)), PAPER)
    for number, row in enumerate(rows):
        for column, tile in enumerate(row):
            sheet.paste(tile, (column * side, sum(heights[:number])))
    return sheet


def _colour(index: int) -> str:
    return COLOURS[index % len(COLOURS)]


def _frame(box: Box, line: int, size: tuple[int, int]) -> Place:
    """The outer pixels of a frame of this line around a box, inside an image of this size."""
    left, top = max(0, round(box.x0) - line), max(0, round(box.y0) - line)
    right, bottom = min(size[0], round(box.x1) + line) - 1, min(size[1], round(box.y1) + line) - 1
    return left, top, max(left, right), max(top, bottom)


def _tile(image: Image.Image, box: Box, index: int, side: int) -> Image.Image:
    """One part of a sheet, this many pixels wide: the region's name, and below it its crop with the box framed."""
    gap, text = max(1, side // 64), max(10, side // 14)
    margin = MARGIN * max(box.x1 - box.x0, box.y1 - box.y0)
    left, top = max(0, math.floor(box.x0 - margin)), max(0, math.floor(box.y0 - margin))
    right, bottom = min(image.width, math.ceil(box.x1 + margin)), min(image.height, math.ceil(box.y1 + margin))
    scale = (side - 2 * gap) / max(right - left, bottom - top)
    size = max(1, round((right - left) * scale)), max(1, round((bottom - top) * scale))
    crop = image.convert("RGB").crop((left, top, right, bottom)).resize(size, Image.Resampling.LANCZOS)
    inner = Box((box.x0 - left) * scale, (box.y0 - top) * scale, (box.x1 - left) * scale, (box.y1 - top) * scale)
    line = max(1, side // 128)
    ImageDraw.Draw(crop).rectangle(_frame(inner, line, size), outline=_colour(index), width=line)
    wide, high = _plate_size(index, text)
    tile = Image.new("RGB", (side, high + size[1] + 2 * gap), PAPER)
    _draw_plate(ImageDraw.Draw(tile), index, text, (gap, gap, gap + wide - 1, gap + high - 1))
    tile.paste(crop, (gap, gap + high))
    return tile


def _font(size: int) -> ImageFont.FreeTypeFont | ImageFont.ImageFont:
    return ImageFont.load_default(size)


def _plate_size(index: int, text: int) -> tuple[int, int]:
    """Width and height of a plate with a region's name, in letters of this size."""
    x0, y0, x1, y1 = _font(text).getbbox(region_name(index))
    margin = max(2, text // 5)
    return math.ceil(x1 - x0) + 2 * margin, math.ceil(y1 - y0) + 2 * margin


def _draw_plate(canvas: ImageDraw.ImageDraw, index: int, text: int, place: Place) -> None:
    """A region's name on a plate of its colour."""
    canvas.rectangle(place, fill=_colour(index))
    middle = (place[0] + place[2] + 1) / 2, (place[1] + place[3] + 1) / 2
    canvas.text(middle, region_name(index), fill="#000000", font=_font(text), anchor="mm")


def _free_place(
    plate: tuple[int, int], frame: Place, frames: Sequence[Place], plates: Sequence[Place], size: tuple[int, int]
) -> Place:
    """Where a plate of this size hides least of other plates, then of the boxes: at a corner of its frame, outside it
    rather than inside, and within an image of this size."""
    wide, high = plate
    left, top, right, bottom = frame
    corners = [(x, y) for y in (top - high, bottom + 1) for x in (left, right + 1 - wide)]
    corners += [(x, y) for y in (top, bottom + 1 - high) for x in (left - wide, right + 1)]
    corners += [(x, y) for y in (top, bottom + 1 - high) for x in (left, right + 1 - wide)]
    inside = [(max(0, min(x, size[0] - wide)), max(0, min(y, size[1] - high))) for x, y in corners]
    places = [(x, y, x + wide - 1, y + high - 1) for x, y in inside]
    return min(
        places, key=lambda place: (sum(_shared(place, p) for p in plates), sum(_shared(place, f) for f in frames))
    )


def _grown(place: Place, by: int) -> Place:
    return place[0] - by, place[1] - by, place[2] + by, place[3] + by


def _shared(a: Place, b: Place) -> int:
    """The pixels that two places share."""
    return max(0, min(a[2], b[2]) - max(a[0], b[0]) + 1) * max(0, min(a[3], b[3]) - max(a[1], b[1]) + 1)
