"""How well a drawn object matches the shapes of the world, at places between the pixels too.

A shape drawn half a pixel further is the same shape, with softer sides. So an object is compared as what share of each
pixel it covers, with every shape at every size, and at offsets of a quarter of a pixel.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from itertools import pairwise, product

import numpy as np
from numpy.typing import NDArray

from srum_shapes.world import SHAPES, template

SIDES = (6, 13)
"""Smallest and largest side of a readable object in pixels."""
MOST_SKEW = 2
"""Largest difference of the two sides of a readable object in pixels."""
OFFSETS = (-0.5, -0.25, 0.0, 0.25, 0.5)
"""Where a side may lie from the border of the pixels that are mostly covered, in pixels."""

ARMS = (2.0, 2.5, 3.0, 3.5, 4.0)
"""Thickness of a cross's arms in pixels: renders have 2, 3 or 4 by their size, and a cross with those of another size
is a cross."""
LEAST_ARM, MOST_ARM = 0.2, 0.42
"""Of the sides."""

Corners = tuple[float, float, float, float]
"""x0, y0, x1, y1 in pixels."""


@dataclass(frozen=True)
class Match:
    """A shape at its best place: the soft intersection over union of covered shares, and the corners."""

    iou: float
    shape: str
    corners: Corners


def matches(cover: NDArray[np.float32], mask: NDArray[np.bool_]) -> list[Match]:
    """Every shape at its best place, best first; none if the object is too small, too large or too oblong.

    ``mask`` (h, w) are the object's mostly covered pixels, and touch all four borders. ``cover`` (h + 2, w + 2) is the
    share of each pixel that it covers, with one pixel more on every side. Corners are in the mask's pixels.
    """
    found: dict[str, Match] = {}
    total = float(cover.sum())
    for x0, y0, x1, y1 in _borders(mask):
        part = cover[y0 : y1 + 2, x0 : x1 + 2].reshape(-1)
        for shape in SHAPES:
            corners, templates, areas = _bank(shape, x1 - x0, y1 - y0)
            if not len(corners):
                continue
            shared = np.minimum(templates, part).sum(1)
            iou = shared / (areas + total - shared)
            best = int(iou.argmax())
            if shape not in found or iou[best] > found[shape].iou:
                left, top, right, bottom = (float(side) for side in corners[best])
                found[shape] = Match(float(iou[best]), shape, (x0 + left, y0 + top, x0 + right, y0 + bottom))
    return sorted(found.values(), key=lambda match: match.iou, reverse=True)


def _borders(mask: NDArray[np.bool_]) -> Iterator[tuple[int, int, int, int]]:
    """The tight box (x0, y0, x1, y1), and those that leave out border lines of one pixel, which may be noise."""
    height, width = mask.shape
    left, top, right, bottom = (
        (0, 1) if np.count_nonzero(line) == 1 else (0,) for line in (mask[:, 0], mask[0], mask[:, -1], mask[-1])
    )
    for x0, y0, x1, y1 in product(left, top, right, bottom):
        if x0 + x1 < width and y0 + y1 < height:
            yield x0, y0, width - x1, height - y1


@cache
def _bank(shape: str, width: int, height: int) -> tuple[NDArray[np.float32], NDArray[np.float32], NDArray[np.float32]]:
    """Corners (K, 4) from those of a box of this size, the shares (K, (height + 2) * (width + 2)) that the shape covers
    there, and their sums (K,)."""
    arms = (None, *ARMS) if shape == "cross" else (None,)
    corners, templates = [], []
    for left, top, right, bottom in product(OFFSETS, repeat=4):
        wide, high = width + right - left, height + bottom - top
        if min(wide, high) < SIDES[0] or max(wide, high) > SIDES[1] or abs(wide - high) > MOST_SKEW:
            continue
        place = (left, top, width + right, height + bottom)
        for arm in arms:
            if arm is None:
                drawn = _mixed(shape, width, height, place)
            elif arm / max(wide, high) >= LEAST_ARM and arm / min(wide, high) <= MOST_ARM:
                drawn = _cross(width, height, place, arm)
            else:
                continue
            corners.append(place)
            templates.append(drawn.reshape(-1))
    stacked = np.array(templates, dtype=np.float32).reshape(len(templates), (height + 2) * (width + 2))
    return np.array(corners, dtype=np.float32).reshape(-1, 4), stacked, stacked.sum(1)


def _mixed(shape: str, width: int, height: int, place: Corners) -> NDArray[np.float32]:
    """Shares (height + 2, width + 2) of a shape at these corners: a mixture of those at whole corners."""
    drawn = np.zeros((height + 2, width + 2), dtype=np.float32)
    for share_x, x0, x1 in _between(place[0], place[2]):
        for share_y, y0, y1 in _between(place[1], place[3]):
            drawn[y0 + 1 : y1 + 1, x0 + 1 : x1 + 1] += share_x * share_y * template(shape, x1 - x0, y1 - y0)
    return drawn


def _cross(width: int, height: int, place: Corners, arm: float) -> NDArray[np.float32]:
    """Shares (height + 2, width + 2) of a cross at these corners with arms of this thickness."""

    def covered(pixels: int, low: float, high: float) -> NDArray[np.float32]:
        """The share of each pixel from -1 to ``pixels`` that lies in an interval."""
        first = np.arange(-1, pixels + 1, dtype=np.float32)
        shares: NDArray[np.float32] = np.clip(np.minimum(first + 1, high) - np.maximum(first, low), 0, 1)
        return shares

    x0, y0, x1, y1 = place
    x, y, half = (x0 + x1) / 2, (y0 + y1) / 2, arm / 2
    upright = np.outer(covered(height, y0, y1), covered(width, x - half, x + half))
    level = np.outer(covered(height, y - half, y + half), covered(width, x0, x1))
    drawn: NDArray[np.float32] = np.maximum(upright, level)
    return drawn


def _between(low: float, high: float) -> list[tuple[float, int, int]]:
    """Whole sides whose mean, weighted by the first number, is this interval. Both sides move together where they can,
    so that an interval of whole length is a mixture of such intervals, and keeps the shape as it is."""
    first, second = int(np.floor(low)), int(np.floor(high))
    cuts = sorted({0.0, low - first, high - second, 1.0})
    return [
        (upper - lower, first + (lower < low - first), second + (lower < high - second))
        for lower, upper in pairwise(cuts)
    ]
