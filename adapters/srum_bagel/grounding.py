"""Boxes in words: how a released model is asked for them, and how its answer is read.

Coordinates are whole thousandths of the image's sides, so that neither the question nor the answer depends on how the
image was resized.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence

from srum_plugins.boxes import MALFORMED, fitted
from srum_plugins.records import Box, Failure

PARTS = 1000
"""Of a side of the image."""

_GROUP = re.compile(r"[\[(]([^\[\]()]*)[\])]")
_NUMBER = re.compile(r"-?\d+(?:\.\d+)?")
_NONE = re.compile(r"\b(?:none|no|not|nothing)\b", re.IGNORECASE)
_OPEN = re.compile(r"[\[(][^\[\]()]*$")
_AROUND_NAMES = " \t:;,.|*-–\"'"
_EDGES = f"where 0 is the left or upper edge of the image and {PARTS} the right or lower edge"


def where_question(phrase: str) -> str:
    """Asks for the boxes of a phrase."""
    return (
        f"Find every {phrase} in the image. For each one write a line with its box as [left, top, right, bottom], "
        f"{_EDGES}. If there is none, write: none."
    )


def where_all_question(phrases: Sequence[str]) -> str:
    """Asks for the boxes of several phrases at once."""
    return (
        f"Find all of these in the image: {'; '.join(phrases)}. For each one that you find write a line with its name "
        f"and its box as name: [left, top, right, bottom], {_EDGES}. If there is none of them, write: none."
    )


def read_boxes(answer: str, size: tuple[int, int]) -> list[Box] | Failure:
    """The boxes of an answer in pixels of an image of this (width, height); none where the answer says so.

    Nothing is guessed: a box of other than four numbers, outside the image, with swapped or equal sides, or cut off at
    the end makes the whole answer a failure that says why. A plan in ``<think>`` tags is passed over.
    """
    found = read_named_boxes(answer, size)
    return found if isinstance(found, Failure) else [box for _, box in found]


def read_named_boxes(answer: str, size: tuple[int, int]) -> list[tuple[str, Box]] | Failure:
    """As :func:`read_boxes`, with the name that stands before each box: what is written between it and the box or the
    end of the line before. A box without any goes by the name of the box before; the first one's is empty then."""
    said = answer.rpartition("</think>")[2]
    boxes: list[tuple[str, Box]] = []
    for name, group in _named(said):
        box = _box(group, size)
        if isinstance(box, Failure):
            return box
        boxes.append((name, box))
    if _OPEN.search(said):
        return Failure(MALFORMED, "the answer ends inside a box")
    if not boxes and not _NONE.search(said):
        return Failure(MALFORMED, f"neither a box nor the word none: {said.strip()[:80]!r}")
    return boxes


def _named(said: str) -> Iterator[tuple[str, str]]:
    """What stands in each pair of brackets, and the name before it."""
    name, end = "", 0
    for group in _GROUP.finditer(said):
        lines = [line.strip(_AROUND_NAMES) for line in said[end : group.start()].splitlines()]
        name = next((line for line in reversed(lines) if line), name)
        end = group.end()
        yield name, group[1]


def _box(group: str, size: tuple[int, int]) -> Box | Failure:
    numbers = [float(number) for number in _NUMBER.findall(group)]
    if len(numbers) != 4:
        return Failure(MALFORMED, f"not four numbers: [{group}]")
    x0, y0, x1, y1 = numbers
    if not (0 <= x0 < x1 <= PARTS and 0 <= y0 < y1 <= PARTS):
        return Failure(MALFORMED, f"no box within 0 to {PARTS}: [{group}]")
    found = fitted(numbers, size, (PARTS, PARTS))
    return found if isinstance(found, Failure) else found.box
