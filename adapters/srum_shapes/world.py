"""The drawn world: small RGB scenes of one to four coloured shapes on a light, slightly noisy background."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from srum_plugins.errors import ContractError
from srum_plugins.records import Box

if TYPE_CHECKING:
    from srum_shapes.prompts import Facts

SIDE = 32
SHAPES = ("circle", "square", "triangle", "cross")
PALETTE: dict[str, tuple[int, int, int]] = {
    "red": (220, 40, 40),
    "green": (40, 175, 60),
    "blue": (35, 85, 225),
    "yellow": (245, 205, 35),
    "purple": (190, 50, 190),
    "black": (30, 30, 30),
}
COLOURS = tuple(PALETTE)
BACKGROUND = (236, 236, 236)
NOISE = 3.0
"""Standard deviation of the pixel noise of a render, in levels of 255."""

MOST_OBJECTS = 4
SIZES = (8, 11)
CROWDED_SIZES = (8, 9)
"""Smallest and largest side of an object in pixels; the second pair holds in scenes of four."""
GAP = 2
MARGIN = 1

RELATIONS = ("left", "right", "above", "below")
OPPOSITE = {"left": "right", "right": "left", "above": "below", "below": "above"}

Pair = tuple[str, str]
"""(colour, shape)"""


@dataclass(frozen=True)
class SceneObject:
    """One drawn object; ``box`` is its tight box in pixels."""

    shape: str
    colour: str
    box: Box

    @property
    def pair(self) -> Pair:
        """(colour, shape)."""
        return (self.colour, self.shape)

    @property
    def phrase(self) -> str:
        """Such as ``red circle``."""
        return f"{self.colour} {self.shape}"


@dataclass(frozen=True)
class Scene:
    """What a picture shows: objects that neither overlap nor touch."""

    objects: tuple[SceneObject, ...]

    def counts(self) -> Counter[Pair]:
        """How many objects of each (colour, shape) there are."""
        return Counter(item.pair for item in self.objects)


def offset(a: Box, b: Box, word: str) -> tuple[float, float]:
    """How far the centre of ``a`` lies from that of ``b`` in the direction of a relation word, and, unsigned,
    across it; in pixels."""
    right = (a.x0 + a.x1 - b.x0 - b.x1) / 2
    down = (a.y0 + a.y1 - b.y0 - b.y1) / 2
    along = {"left": -right, "right": right, "above": -down, "below": down}[word]
    return along, abs(down) if word in ("left", "right") else abs(right)


def holds(a: Box, word: str, b: Box, *, least: float = 4.0, ratio: float = 1.0) -> bool:
    """Whether ``a`` is ``word`` (``left``, ``right``, ``above``, ``below``) of ``b``: the centres differ by at
    least ``least`` pixels in that direction, and by at least ``ratio`` times as much as across it."""
    along, across = offset(a, b, word)
    return along >= least and along >= ratio * across


def relation(a: Box, b: Box, *, least: float = 4.0, ratio: float = 1.2) -> str | None:
    """The relation word of ``a`` from ``b``, or None where it is not clear."""
    return next((word for word in RELATIONS if holds(a, word, b, least=least, ratio=ratio)), None)


def _arm(size: int) -> int:
    """Thickness of a cross's arm: about a third of its side, in the middle to the pixel."""
    third = size // 3
    return third if third % 2 == size % 2 else third + 1


@cache
def template(shape: str, width: int, height: int) -> NDArray[np.bool_]:
    """The pixels (height, width) of a shape whose tight box is the whole rectangle."""
    fine = 8  # points per pixel and axis; a pixel belongs to the shape if half of its points do
    x, y = np.meshgrid(
        (np.arange(width * fine) + 0.5) / (width * fine), (np.arange(height * fine) + 0.5) / (height * fine)
    )
    if shape == "circle":
        inside = (x - 0.5) ** 2 + (y - 0.5) ** 2 <= 0.25
    elif shape == "square":
        inside = np.ones_like(x, dtype=bool)
    elif shape == "triangle":
        # A little wider than the exact triangle, so that the tip and the two corners keep their pixels.
        inside = np.abs(x - 0.5) <= 0.5 * y + 0.5 / width
    elif shape == "cross":
        inside = (np.abs(x - 0.5) <= _arm(width) / width / 2) | (np.abs(y - 0.5) <= _arm(height) / height / 2)
    else:
        raise ContractError(f"unknown shape {shape!r}; known: {', '.join(SHAPES)}")
    pixels: NDArray[np.bool_] = inside.reshape(height, fine, width, fine).mean(axis=(1, 3)) >= 0.5
    pixels.setflags(write=False)
    return pixels


def render(scene: Scene, rng: np.random.Generator) -> NDArray[np.uint8]:
    """The picture of a scene, (32, 32, 3) uint8 RGB. The generator draws the pixel noise only."""
    picture = rng.standard_normal((SIDE, SIDE, 3), dtype=np.float32)
    picture *= NOISE
    flat = np.empty((SIDE, SIDE, 3), dtype=np.float32)
    flat[:] = BACKGROUND
    for item in scene.objects:
        x0, y0, x1, y1 = (int(side) for side in (item.box.x0, item.box.y0, item.box.x1, item.box.y1))
        flat[y0:y1, x0:x1][template(item.shape, x1 - x0, y1 - y0)] = PALETTE[item.colour]
    picture += flat
    return np.clip(np.rint(picture), 0, 255).astype(np.uint8)


def _place(count: int, rng: np.random.Generator) -> list[Box]:
    """Boxes of ``count`` objects at random places, at least GAP apart."""
    if not 1 <= count <= MOST_OBJECTS:
        raise ContractError(f"a scene has 1 to {MOST_OBJECTS} objects, not {count}")
    low, high = CROWDED_SIZES if count == MOST_OBJECTS else SIZES
    while True:  # ends: about every second arrangement fits, even with four objects
        sizes = rng.integers(low, high + 1, count).tolist()
        boxes: list[tuple[int, int, int, int]] = []
        for size in sizes:
            for x, y in rng.integers(MARGIN, SIDE - MARGIN - size + 1, (12, 2)).tolist():
                if all(
                    x >= b[2] + GAP or x + size + GAP <= b[0] or y >= b[3] + GAP or y + size + GAP <= b[1]
                    for b in boxes
                ):
                    boxes.append((x, y, x + size, y + size))
                    break
            else:
                break
        if len(boxes) == count:
            return [Box(*(float(side) for side in box)) for box in boxes]


def _scene(pairs: Sequence[Pair], boxes: Sequence[Box]) -> Scene:
    return Scene(tuple(SceneObject(shape, colour, box) for (colour, shape), box in zip(pairs, boxes, strict=True)))


def sample_scene(rng: np.random.Generator, count: int | None = None) -> Scene:
    """A random scene of ``count`` (default: 1 to 4) objects. About half of the objects take their colour, their shape
    or both from an earlier one, so that counting and telling apart matter."""
    count = int(rng.integers(1, MOST_OBJECTS + 1)) if count is None else count
    twin = 0.8 if rng.random() < 0.25 else 0.2  # some scenes are mostly of one kind, else larger counts are rare
    pairs: list[Pair] = []
    for _ in range(count):
        colour = COLOURS[rng.integers(len(COLOURS))]
        shape = SHAPES[rng.integers(len(SHAPES))]
        if pairs:
            other = pairs[rng.integers(len(pairs))]
            if rng.random() < twin:
                colour, shape = other
            elif rng.random() < 0.2:
                colour = other[0]
            elif rng.random() < 0.25:
                shape = other[1]
        pairs.append((colour, shape))
    return _scene(pairs, _place(count, rng))


def scene_for(facts: Facts, rng: np.random.Generator) -> Scene:
    """A random scene of which the facts are exactly true: these objects, no others, and the relation by a clear
    margin (at least 6 pixels, and 1.5 times as far along its axis as across)."""
    pairs = [(group.colour, group.shape) for group in facts.groups for _ in range(group.count)]
    while True:  # ends: each of the four relations holds clearly in about every sixth arrangement
        boxes = _place(len(pairs), rng)
        if facts.relation is None or holds(boxes[0], facts.relation, boxes[1], least=6.0, ratio=1.5):
            order = rng.permutation(len(pairs)).tolist()  # the order of objects in a scene says nothing
            return _scene([pairs[i] for i in order], [boxes[i] for i in order])
