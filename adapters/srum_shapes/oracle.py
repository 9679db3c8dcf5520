"""The oracle: reads a generated picture by program, and says which facts of its prompt hold.

It shares nothing with any model: pixels are named by the nearest palette colour, connected pixels of one colour are
objects, and their shape is the one that matches what they cover (:mod:`srum_shapes.matching`).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from srum_plugins.errors import ContractError
from srum_plugins.records import Box
from srum_shapes.matching import matches
from srum_shapes.prompts import Facts
from srum_shapes.world import BACKGROUND, COLOURS, PALETTE, SIDE, SceneObject, holds

LEAST_AREA = 12
"""Fewer connected pixels of one colour are noise; the smallest drawn object has 28."""
LEAST_IOU = {"circle": 0.9, "square": 0.925, "triangle": 0.9, "cross": 0.86}
LEAST_LEAD = 0.05
"""What the best shape's soft IoU must reach, and by how much it must beat the second best: half of a shape grown into
half of another is refused. A shape with more border for its area loses more to the same soft border."""
SHARES = (0.1, 0.9)
"""Pixels covered by less than the first share count as bare, by more than the second as covered: noise is no share."""

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
    shares = _shares(image)
    drawn = np.pad((named >= 0), 1)
    for index, (colour, rows, columns) in enumerate(ndimage.find_objects(labels), start=1):
        mask = labels[colour.start, rows, columns] == index
        if np.count_nonzero(mask) < LEAST_AREA:
            continue
        # One pixel more on each side, where it is nobody else's: the soft sides of the object.
        window = slice(rows.start, rows.stop + 2), slice(columns.start, columns.stop + 2)
        own = np.pad(mask, 1)
        near = ndimage.binary_dilation(own, _AROUND[0] > 0) & ~(drawn[window] & ~own)
        best = matches(shares[colour.start][window] * near, mask)
        if not best or best[0].iou - best[1].iou < LEAST_LEAD or best[0].iou < LEAST_IOU[best[0].shape]:
            unreadable += 1
        else:
            x, y = columns.start, rows.start
            x0, y0, x1, y1 = best[0].corners
            objects.append(SceneObject(best[0].shape, COLOURS[colour.start], Box(x + x0, y + y0, x + x1, y + y1)))
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


def _shares(image: NDArray[np.uint8]) -> NDArray[np.float32]:
    """The share of each pixel that each colour covers if no other does, (colours, 34, 34), with a bare border."""
    towards = image.astype(np.float32) - _GROUND
    shares = np.einsum("yxc,kc->kyx", towards, _TOWARDS) / (_TOWARDS**2).sum(1)[:, None, None]
    bare, full = SHARES
    clipped: NDArray[np.float32] = np.clip((shares - bare) / (full - bare), 0.0, 1.0).astype(np.float32)
    return np.pad(clipped, ((0, 0), (1, 1), (1, 1)))


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
