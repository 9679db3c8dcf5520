"""Boxes in Qwen2.5-VL's words: how it is asked for them, and how its answer is read (blip3o.md 5.1).

It counts pixels of the image as it was resized for it, not of the image that it was given.
"""

from __future__ import annotations

import ast
import json
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from srum_plugins.boxes import EMPTY, MALFORMED, fitted, shown
from srum_plugins.records import Box, Failure

KEY = "bbox_2d"
LABEL = "label"

_FENCE = re.compile(r"```[a-zA-Z]*\s*\n?(.*?)(?:```|\Z)", re.DOTALL)


@dataclass(frozen=True)
class Read:
    """Boxes in pixels of the given image, and how much was mended to get them: ``sorted`` corners, ``clamped`` sides,
    ``dropped`` boxes that were empty or outside, answers ``cut off`` after their last whole box. ``notes`` say the same
    of each box, and ``labels`` what it is called, empty where that is not said."""

    boxes: tuple[Box, ...]
    mended: Mapping[str, int] = field(default_factory=dict)
    notes: tuple[tuple[str, ...], ...] = ()
    labels: tuple[str, ...] = ()


def where_question(phrase: str) -> str:
    """Asks for the boxes of a phrase: the vendor's published form, and our own words for a phrase that is absent."""
    return (
        f"Outline the position of each {phrase} and output all the coordinates in JSON format. "
        "If there is none, output an empty list: []."
    )


def where_all_question(phrases: Sequence[str]) -> str:
    """Asks for the boxes of several phrases at once, in our own words after the vendor's form."""
    return (
        f"Outline the position of each of these: {'; '.join(phrases)}. Output all the coordinates in JSON format, each "
        f'with one of these names as its "{LABEL}". If there is none of them, output an empty list: [].'
    )


def about(text: str, box: Box | None, seen: tuple[int, int], size: tuple[int, int]) -> str:
    """A question, about one box of the image if there is one. The box is told in words, in the form and the pixels in
    which the model tells boxes itself: of the image of (width, height) ``seen``, not of that of ``size``."""
    if box is None:
        return text
    across, down = seen[0] / size[0], seen[1] / size[1]
    corners = [round(box.x0 * across), round(box.y0 * down), round(box.x1 * across), round(box.y1 * down)]
    return f'Look only at the part of the image with "{KEY}": {corners}. {text}'


def read_boxes(answer: str, seen: tuple[int, int], size: tuple[int, int]) -> Read | Failure:
    """The boxes of an answer about an image of (width, height) ``size`` that the model saw as one of ``seen``.

    The answer is a JSON list of objects with ``bbox_2d``, or one such object, fenced or among prose; an empty list is a
    phrase that is absent. A list that ends early counts up to its last whole object. Corners are sorted, sides clamped
    to the image, and boxes that are then empty dropped, and all of it is counted. What is no JSON, has an object
    without four finite numbers, or no box left of those that it names, is a failure: nothing is guessed.
    """
    mended: Counter[str] = Counter()
    items = _items(answer, mended)
    if isinstance(items, Failure):
        return items
    boxes: list[Box] = []
    notes: list[tuple[str, ...]] = []
    labels: list[str] = []
    for item in items:
        found = fitted(item.get(KEY) if isinstance(item, dict) else None, size, seen)
        if isinstance(found, Failure):
            if found.cause != EMPTY:
                return Failure(MALFORMED, f"no {KEY} of four numbers: {shown(item)}")
            mended["dropped"] += 1
            continue
        label = item.get(LABEL)
        boxes.append(found.box)
        notes.append((*(("cut off",) if mended["cut off"] else ()), *found.mended))
        labels.append(label if isinstance(label, str) else "")
        mended.update(found.mended)
    if items and not boxes:
        return Failure(MALFORMED, f"none of the {len(items)} boxes has an area within the image: {shown(answer)}")
    return Read(tuple(boxes), {what: count for what, count in mended.items() if count}, tuple(notes), tuple(labels))


def _items(answer: str, mended: Counter[str]) -> list[Any] | Failure:
    """The objects of an answer, whatever they hold."""
    fenced = _FENCE.search(answer)
    said = fenced[1] if fenced else answer
    begin = min((place for place in (said.find("["), said.find("{")) if place >= 0), default=None)
    if begin is None:
        return Failure(MALFORMED, f"no JSON: {shown(answer)}")
    said = said[begin:].strip()
    end = max(said.rfind("]"), said.rfind("}")) + 1
    found = _parsed(said[:end])
    if found is None and said[0] == "[" and (last := said.rfind("}") + 1):
        found = _parsed(f"{said[:last]}]")
        mended["cut off"] += found is not None
    if isinstance(found, dict):
        return [found]
    if not isinstance(found, list):
        return Failure(MALFORMED, f"no JSON that can be read: {shown(answer)}")
    return found


def _parsed(text: str) -> Any:
    """What JSON, or a literal of Python, holds; None if it is neither."""
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        pass
    try:
        return ast.literal_eval(text)
    except (ValueError, SyntaxError, TypeError, MemoryError, RecursionError):
        return None
