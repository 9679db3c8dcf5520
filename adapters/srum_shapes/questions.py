"""Questions about scenes with their true answers, for pretraining, for the benchmark and for the model adapter.

A question about a part of the picture starts with the box: ``in <4> <5> <12> <13> is this a red circle ?``.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TypeVar

import numpy as np

from srum_plugins.errors import ContractError
from srum_plugins.records import Box, Failure
from srum_shapes.prompts import (
    NUMBERS,
    PAIRS,
    TOTAL_QUESTION,
    count_question,
    existence_question,
    relation_question,
)
from srum_shapes.world import COLOURS, SHAPES, SIDE, Pair, Scene, SceneObject, relation

T = TypeVar("T")

WEIGHTS = {
    "region": 0.26,
    "existence": 0.20,
    "relation": 0.40,
    "colour": 0.07,
    "shape": 0.09,
    "count": 0.07,
    "grounding": 0.08,
    "total": 0.03,
}
"""How often each kind is drawn, in proportion. Only every third random scene or so has objects whose relation is
clear, and other kinds take its place in the rest, so that about every eighth question is of relations."""

JITTER = 0.3
"""Share of region boxes whose sides are moved by up to one pixel."""
ASTRAY = 0.25
"""Share of the regions with answer no that lie on background or partly off an object, not on one."""

COLOUR_QUESTION = "what colour ?"
SHAPE_QUESTION = "what shape ?"
NONE = "none"
SEPARATOR = ";"


@dataclass(frozen=True)
class Item:
    """A question with its one true answer. ``kind`` is a key of WEIGHTS."""

    question: str
    answer: str
    kind: str


def region_question(phrase: str) -> str:
    """Asked of a box: is it this object, yes or no."""
    return f"is this a {phrase} ?"


def grounding_question(phrase: str) -> str:
    """Answered by boxes."""
    return f"find {phrase}"


def grounded_phrase(question: str) -> str:
    """The phrase of a grounding question."""
    return question.removeprefix("find ")


def format_box(box: Box) -> str:
    """Four location words, sides rounded to whole pixels.

    Raises:
        ContractError: the box leaves the picture.
    """
    if not box.inside(SIDE, SIDE):
        raise ContractError(f"{box} leaves the picture of {SIDE} x {SIDE} pixels")
    return " ".join(f"<{round(side)}>" for side in (box.x0, box.y0, box.x1, box.y1))


def in_box(question: str, box: Box) -> str:
    """The question asked of one box of the picture."""
    return f"in {format_box(box)} {question}"


_IN_BOX = re.compile(r"in <(\d+)> <(\d+)> <(\d+)> <(\d+)> (.*)")


def split_box(question: str) -> tuple[str, Box | None]:
    """The question and the box that it is asked of: the inverse of :func:`in_box`."""
    match = _IN_BOX.fullmatch(question)
    if match is None:
        return question, None
    *sides, text = match.groups()
    return text, Box(*(float(side) for side in sides))


def format_boxes(boxes: Sequence[Box]) -> str:
    """The answer to a grounding question: boxes from left to right, then from top to bottom, or ``none``."""
    ordered = sorted(boxes, key=lambda box: (box.x0, box.y0))
    return f" {SEPARATOR} ".join(format_box(box) for box in ordered) if ordered else NONE


_BOX = re.compile(r"<(\d+)> <(\d+)> <(\d+)> <(\d+)>")


def parse_boxes(answer: str) -> list[Box] | Failure:
    """The boxes of a grounding answer, none for ``none``; a Failure if the answer is anything else."""
    if answer == NONE:
        return []
    boxes = []
    for part in answer.split(f" {SEPARATOR} "):
        match = _BOX.fullmatch(part)
        if match is None:
            return Failure("malformed boxes", f"{part!r} in {answer!r}")
        try:
            boxes.append(Box(*(float(side) for side in match.groups())))
        except ContractError as error:
            return Failure("empty box", f"{answer!r}: {error}")
    return boxes


def inventory(scene: Scene) -> Item:
    """The question for everything in the picture, each object with its box, from left to right. Asked in pretraining
    only: it says more of a picture than any other question, and so teaches to see."""
    objects = sorted(scene.objects, key=lambda item: (item.box.x0, item.box.y0))
    listed = f" {SEPARATOR} ".join(f"{item.phrase} {format_box(item.box)}" for item in objects)
    return Item("what is there ?", listed, "inventory")


def sample_items(scene: Scene, rng: np.random.Generator, n: int) -> list[Item]:
    """``n`` random questions about a scene, kinds drawn with WEIGHTS."""
    items: list[Item] = []
    while len(items) < n:
        kind = _KINDS[int(np.searchsorted(_EDGES, rng.random(), side="right"))]
        item = sample_item(scene, rng, kind)
        if item is not None:
            items.append(item)
    return items


def sample_item(scene: Scene, rng: np.random.Generator, kind: str) -> Item | None:
    """A random question of this kind, or None where the scene allows none (relations only)."""
    drawn = _SAMPLERS[kind](scene, rng)
    return None if drawn is None else Item(*drawn, kind)


def _pick(options: Sequence[T], rng: np.random.Generator) -> T:
    return options[int(rng.integers(len(options)))]


def wrong_pair(target: SceneObject, scene: Scene, rng: np.random.Generator) -> Pair:
    """A pair that the target is not: hard ones (right colour, right shape, or another object's) three times in four."""
    way = rng.integers(4)
    if way == 0:
        return (target.colour, _pick([shape for shape in SHAPES if shape != target.shape], rng))
    if way == 1:
        return (_pick([colour for colour in COLOURS if colour != target.colour], rng), target.shape)
    others = [item.pair for item in scene.objects if item.pair != target.pair]
    if way == 2 and others:
        return _pick(others, rng)
    return _pick([pair for pair in PAIRS if pair != target.pair], rng)


def _absent_pair(scene: Scene, rng: np.random.Generator) -> Pair:
    """A pair that the scene lacks: hard ones three times in four, among them the colour of one object with the shape
    of another."""
    target = _pick(scene.objects, rng)
    present = scene.counts()
    way = rng.integers(4)
    if way == 0:
        pairs: Sequence[Pair] = [(target.colour, shape) for shape in SHAPES]
    elif way == 1:
        pairs = [(colour, target.shape) for colour in COLOURS]
    elif way == 2:
        pairs = [(target.colour, item.shape) for item in scene.objects]
    else:
        pairs = PAIRS
    absent = [pair for pair in pairs if pair not in present]
    return _pick(absent or [pair for pair in PAIRS if pair not in present], rng)


def _existence(scene: Scene, rng: np.random.Generator) -> tuple[str, str]:
    there = rng.random() < 0.5
    pair = _pick(scene.objects, rng).pair if there else _absent_pair(scene, rng)
    return existence_question(" ".join(pair)), "yes" if there else "no"


def _jittered(box: Box, rng: np.random.Generator) -> Box:
    if rng.random() >= JITTER:
        return box
    moved = Box(*(np.array([box.x0, box.y0, box.x1, box.y1]) + rng.integers(-1, 2, 4)).tolist())
    return moved if moved.inside(SIDE, SIDE) else box


def _astray(scene: Scene, rng: np.random.Generator) -> Box:
    """A box of an object's size that covers no object by more than an IoU of 0.3."""
    while True:  # ends: an object covers at most an eighth of the picture
        width, height = rng.integers(7, 13, 2).tolist()
        x0, y0 = int(rng.integers(0, SIDE - width + 1)), int(rng.integers(0, SIDE - height + 1))
        box = Box(x0, y0, x0 + width, y0 + height)
        if all(box.iou(item.box) <= 0.3 for item in scene.objects):
            return box


def some_region(scene: Scene, rng: np.random.Generator) -> tuple[Box, SceneObject | None]:
    """A random box and the object that it shows: nearly an object's own, or now and then one that lies on none."""
    if rng.random() < ASTRAY:
        return _astray(scene, rng), None
    target = _pick(scene.objects, rng)
    return _jittered(target.box, rng), target


def _region(scene: Scene, rng: np.random.Generator) -> tuple[str, str]:
    target = _pick(scene.objects, rng)
    box, pair, answer = target.box, target.pair, "yes"
    if rng.random() < 0.5:
        answer = "no"
        if rng.random() < ASTRAY:
            box = _astray(scene, rng)
        else:
            pair = wrong_pair(target, scene, rng)
    return in_box(region_question(" ".join(pair)), _jittered(box, rng) if box is target.box else box), answer


def _colour(scene: Scene, rng: np.random.Generator) -> tuple[str, str]:
    target = _pick(scene.objects, rng)
    return in_box(COLOUR_QUESTION, _jittered(target.box, rng)), target.colour


def _shape(scene: Scene, rng: np.random.Generator) -> tuple[str, str]:
    target = _pick(scene.objects, rng)
    return in_box(SHAPE_QUESTION, _jittered(target.box, rng)), target.shape


def _relation(scene: Scene, rng: np.random.Generator) -> tuple[str, str] | None:
    counts = scene.counts()
    unique = [item for item in scene.objects if counts[item.pair] == 1]
    pairs = [
        (a, b, word) for a in unique for b in unique if a is not b and (word := relation(a.box, b.box)) is not None
    ]
    if not pairs:
        return None
    a, b, word = _pick(pairs, rng)
    return relation_question(a.phrase, b.phrase), word


def _count(scene: Scene, rng: np.random.Generator) -> tuple[str, str]:
    counts = scene.counts()
    pair = _absent_pair(scene, rng) if rng.random() < 0.2 else _pick(scene.objects, rng).pair
    return count_question(*pair), NUMBERS[counts[pair]]


def _total(scene: Scene, rng: np.random.Generator) -> tuple[str, str]:
    return TOTAL_QUESTION, NUMBERS[len(scene.objects)]


def _grounding(scene: Scene, rng: np.random.Generator) -> tuple[str, str]:
    pair = _absent_pair(scene, rng) if rng.random() < 0.2 else _pick(scene.objects, rng).pair
    return grounding_question(" ".join(pair)), format_boxes([item.box for item in scene.objects if item.pair == pair])


_SAMPLERS: dict[str, Callable[[Scene, np.random.Generator], tuple[str, str] | None]] = {
    "region": _region,
    "existence": _existence,
    "relation": _relation,
    "colour": _colour,
    "shape": _shape,
    "count": _count,
    "grounding": _grounding,
    "total": _total,
}
_KINDS = tuple(WEIGHTS)
_EDGES = np.cumsum(list(WEIGHTS.values()))[:-1] / sum(WEIGHTS.values())
