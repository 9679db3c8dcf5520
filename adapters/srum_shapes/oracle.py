"""The oracle: reads a generated picture by program, and says which facts of its prompt hold.

It shares nothing with any model: pixels are named by the nearest palette colour, connected pixels of one colour are
objects, and their shape is that of the best matching template.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import product

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from srum_plugins.errors import ContractError
from srum_plugins.records import Box
from srum_shapes.prompts import Facts
from srum_shapes.world import BACKGROUND, COLOURS, PALETTE, SHAPES, SIDE, SceneObject, holds, template

LEAST_AREA = 12
"""Fewer connected pixels of one colour are noise; the smallest drawn object has 28."""
SIDES = (6, 13)
"""Smallest and largest side of a readable object in pixels."""
MOST_SKEW = 2
"""Largest difference of the two sides of a readable object in pixels."""
LEAST_IOU = 0.91
LEAST_LEAD = 0.08
"""What the best template's IoU must reach, and by how much it must beat the second best shape."""

# Each colour stands for its mixtures with the background too: an object's soft edge belongs to the object where its
# colour prevails and to the background elsewhere. By the pure colours alone, a soft edge of red would read as purple.
_GROUND = np.array(BACKGROUND, dtype=np.float32)
_TOWARDS = np.array(list(PALETTE.values()), dtype=np.float32) - _GROUND
_FAINT = np.concatenate([0.0 * _TOWARDS[:1], 0.25 * _TOWARDS])
_FULL = np.concatenate([share * _TOWARDS for share in (0.6, 0.8, 1.0)])
_AROUND = np.ones((1, 3, 3), dtype=np.float32)
# Pixels of different colours (first axis) never connect; within a colour, the four neighbours do.
_WITHIN_COLOUR = np.zeros((3, 3, 3), dtype=int)
_WITHIN_COLOUR[1] = ndimage.generate_binary_structure(2, 1)


@dataclass(frozen=True)
class Reading:
    """What the oracle sees: readable objects from left to right, and the number of objects of no known shape."""

    objects: tuple[SceneObject, ...]
    unreadable: int


def inspect(image: NDArray[np.uint8]) -> Reading:
    """Read a picture (32, 32, 3) uint8.

    Raises:
        ContractError: the picture has another size or type.
    """
    if image.shape != (SIDE, SIDE, 3) or image.dtype != np.uint8:
        raise ContractError(f"the oracle reads uint8 pictures of ({SIDE}, {SIDE}, 3), not {image.dtype} {image.shape}")
    named = _name_pixels(image)
    labels, _ = ndimage.label(named == np.arange(len(COLOURS))[:, None, None], _WITHIN_COLOUR)
    objects: list[SceneObject] = []
    unreadable = 0
    for index, (colour, rows, columns) in enumerate(ndimage.find_objects(labels), start=1):
        mask = labels[colour.start, rows, columns] == index
        if np.count_nonzero(mask) < LEAST_AREA:
            continue
        found = _match(mask)
        if found is None:
            unreadable += 1
        else:
            shape, (x0, y0, x1, y1) = found
            x, y = columns.start, rows.start
            objects.append(SceneObject(shape, COLOURS[colour.start], Box(x + x0, y + y0, x + x1, y + y1)))
    return Reading(tuple(sorted(objects, key=lambda item: (item.box.x0, item.box.y0))), unreadable)


def _name_pixels(image: NDArray[np.uint8]) -> NDArray[np.int64]:
    """The index in COLOURS of each pixel (32, 32), -1 for background."""
    pixels = image.reshape(-1, 3).astype(np.float32) - _GROUND
    faint = _distances(pixels, _FAINT).min(1)
    full = _distances(pixels, _FULL).reshape(-1, 3, len(COLOURS)).min(1)
    drawn = full.min(1) < faint
    # Drawn pixels go by their surroundings of 3 x 3 drawn pixels, so that a noisy one does not stand out.
    votes = np.where(drawn[:, None], full, 0.0).T.reshape(-1, SIDE, SIDE)
    named = ndimage.convolve(votes, _AROUND, mode="constant").argmin(0)
    return np.where(drawn.reshape(SIDE, SIDE), named, -1)


def _distances(pixels: NDArray[np.float32], points: NDArray[np.float32]) -> NDArray[np.float32]:
    """Squared distances (n, m) of n pixels to m points."""
    distances: NDArray[np.float32] = (pixels**2).sum(1)[:, None] - 2 * pixels @ points.T + (points**2).sum(1)
    return distances


def read(image: NDArray[np.uint8]) -> list[SceneObject]:
    """The readable objects of a picture (32, 32, 3) uint8, from left to right."""
    return list(inspect(image).objects)


def _match(mask: NDArray[np.bool_]) -> tuple[str, tuple[int, int, int, int]] | None:
    """The shape that fills its box like this mask, and the box within the mask; None if no shape does, or two do
    almost equally. The box is the tight one, or leaves out border lines of a single pixel, which may be noise."""
    area = np.count_nonzero(mask)
    best: dict[str, tuple[float, tuple[int, int, int, int]]] = {}
    for x0, y0, x1, y1 in _boxes(mask):
        width, height = x1 - x0, y1 - y0
        if min(width, height) < SIDES[0] or max(width, height) > SIDES[1] or abs(width - height) > MOST_SKEW:
            continue
        for shape in SHAPES:
            drawn = template(shape, width, height)
            shared = np.count_nonzero(mask[y0:y1, x0:x1] & drawn)
            iou = shared / (area + np.count_nonzero(drawn) - shared)
            if shape not in best or iou > best[shape][0]:
                best[shape] = (iou, (x0, y0, x1, y1))
    if not best:
        return None
    (second, _), (first, shape) = sorted((iou, shape) for shape, (iou, _) in best.items())[-2:]
    return (shape, best[shape][1]) if first >= LEAST_IOU and first - second >= LEAST_LEAD else None


def _boxes(mask: NDArray[np.bool_]) -> Iterator[tuple[int, int, int, int]]:
    height, width = mask.shape
    left, top, right, bottom = (
        (0, 1) if np.count_nonzero(line) == 1 else (0,) for line in (mask[:, 0], mask[0], mask[:, -1], mask[-1])
    )
    for x0, y0, x1, y1 in product(left, top, right, bottom):
        yield x0, y0, width - x1, height - y1


def score(facts: Facts, image: NDArray[np.uint8]) -> dict[str, float]:
    """How well a picture (32, 32, 3) uint8 shows the facts.

    The facts are the exact count of each group, the exact number of objects, and the relation if there is one (true
    if it holds between any two objects of the named kinds). ``graded`` is the share that holds, ``full`` is 1 if all
    do, else 0.
    """
    reading = inspect(image)
    found = [sum(item.pair == group.pair for item in reading.objects) == group.count for group in facts.groups]
    found.append(len(reading.objects) + reading.unreadable == facts.total)
    if facts.relation is not None:
        first, second = ([i.box for i in reading.objects if i.pair == g.pair] for g in facts.groups[:2])
        found.append(any(holds(a, facts.relation, b) for a in first for b in second))
    return {"full": float(all(found)), "graded": sum(found) / len(found)}
