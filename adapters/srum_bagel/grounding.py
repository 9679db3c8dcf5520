"""Boxes in words: how a released model is asked for them, and how its answer is read.

Coordinates are whole thousandths of the image's sides, so that neither the question nor the answer depends on how the
image was resized.
"""

from __future__ import annotations

import re

from srum_plugins.records import Box, Failure

PARTS = 1000
"""Of a side of the image."""

_GROUP = re.compile(r"[\[(]([^\[\]()]*)[\])]")
_NUMBER = re.compile(r"-?\d+(?:\.\d+)?")
_NONE = re.compile(r"\b(?:none|no|not|nothing)\b", re.IGNORECASE)
_OPEN = re.compile(r"[\[(][^\[\]()]*$")


def where_question(phrase: str) -> str:
    """Asks for the boxes of a phrase."""
    return (
        f"Find every {phrase} in the image. For each one write a line with its box as [left, top, right, bottom], "
        f"where 0 is the left or upper edge of the image and {PARTS} the right or lower edge. If there is none, write: "
        "none."
    )


def read_boxes(answer: str, size: tuple[int, int]) -> list[Box] | Failure:
    """The boxes of an answer in pixels of an image of this (width, height); none where the answer says so.

    Nothing is guessed: a box of other than four numbers, outside the image, with swapped or equal sides, or cut off at
    the end makes the whole answer a failure that says why. A plan in ``<think>`` tags is passed over.
    """
    said = answer.rpartition("</think>")[2]
    boxes: list[Box] = []
    for group in _GROUP.findall(said):
        numbers = [float(number) for number in _NUMBER.findall(group)]
        if len(numbers) != 4:
            return Failure("malformed boxes", f"not four numbers: [{group}]")
        x0, y0, x1, y1 = numbers
        if not (0 <= x0 < x1 <= PARTS and 0 <= y0 < y1 <= PARTS):
            return Failure("malformed boxes", f"no box within 0 to {PARTS}: [{group}]")
        width, height = size
        boxes.append(Box(x0 * width / PARTS, y0 * height / PARTS, x1 * width / PARTS, y1 * height / PARTS))
    if _OPEN.search(said):
        return Failure("malformed boxes", "the answer ends inside a box")
    if not boxes and not _NONE.search(said):
        return Failure("malformed boxes", f"neither a box nor the word none: {said.strip()[:80]!r}")
    return boxes
