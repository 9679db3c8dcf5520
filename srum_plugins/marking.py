"""Images in which regions are marked, for models that are asked about regions by name."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import cycle

from PIL import Image, ImageDraw, ImageFont

from srum_plugins.records import Box

COLOURS = ("#ff3030", "#30a0ff", "#ffd000", "#30d060", "#ff60ff", "#40e0e0", "#ff9020", "#ffffff")
"""Of the first regions; then they come again."""
LABELLED = 128
"""Pixels of an image's shorter side from which names are written beside the boxes; on smaller ones they would hide more
than they say."""


def region_name(index: int) -> str:
    """What the region of this index, from 0, is called: R1, R2 ..."""
    return f"R{index + 1}"


def boxes_marked(image: Image.Image, boxes: Sequence[Box]) -> Image.Image:
    """A copy with a frame around each box, and its name where the image has room. Frames lie outside the boxes, as far
    as the image goes, so that they hide nothing of what they mark."""
    marked = image.convert("RGB")
    canvas = ImageDraw.Draw(marked)
    line = max(1, min(image.size) // 160)
    for index, (box, colour) in enumerate(zip(boxes, cycle(COLOURS), strict=False)):
        left, top = max(0, round(box.x0) - line), max(0, round(box.y0) - line)
        right, bottom = min(image.width, round(box.x1) + line) - 1, min(image.height, round(box.y1) + line) - 1
        canvas.rectangle((left, top, max(left, right), max(top, bottom)), outline=colour, width=line)
        if min(image.size) >= LABELLED:
            _label(canvas, region_name(index), (left, top), colour, max(10, min(image.size) // 32))
    return marked


def _label(canvas: ImageDraw.ImageDraw, name: str, corner: tuple[int, int], colour: str, size: int) -> None:
    """The name on a plate of its box's colour, inside the image, above the box if there is room."""
    font = ImageFont.load_default(size)
    x0, y0, x1, y1 = canvas.textbbox((0, 0), name, font=font)
    width, height = round(x1 - x0) + 4, round(y1 - y0) + 4
    left = min(corner[0], canvas.im.size[0] - width)
    top = corner[1] - height if corner[1] >= height else corner[1]
    canvas.rectangle((left, top, left + width, top + height), fill=colour)
    canvas.text((left + 2 - x0, top + 2 - y0), name, fill="#000000", font=font)
