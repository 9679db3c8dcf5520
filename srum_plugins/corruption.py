"""Groundings made worse on purpose, to measure how much a run depends on its boxes (``srum stress grounding``).

What becomes of a candidate follows from the seed, the kind and the candidate's id, and not from the level: at a higher
level the same regions suffer, more of them, or further. Level 0 changes nothing.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import TypeAlias

import numpy as np

from srum_plugins.records import Box, Grounding, Region
from srum_plugins.runs.fingerprint import stable_seed

LARGEST = 4.0
"""``scale`` at level 1: a side becomes at most so many times as long, or as short."""
DROPPED = "corrupted"
"""The cause under which ``drop`` counts the regions that it leaves out."""

Size: TypeAlias = tuple[int, int]
Draws: TypeAlias = np.random.Generator


def corrupted(grounding: Grounding, size: Size, kind: str, level: float, seed: int) -> Grounding:
    """The grounding of an image of (width, height) ``size`` in pixels, corrupted in one way.

    ``kind`` is a key of :data:`KINDS`, ``level`` lies in [0, 1]. Boxes stay inside the image. A region whose box is
    another one has the kind among what was ``mended``, and no mask, which would show the old place. Regions keep their
    order, phrases and confidences.
    """
    if level == 0.0 or not grounding.regions:
        return grounding
    draws = np.random.default_rng(stable_seed(seed, "corrupt", kind, grounding.candidate_id))
    regions = KINDS[kind](grounding.regions, size, level, draws)
    dropped = len(grounding.regions) - len(regions)
    counts = {**grounding.dropped, **({DROPPED: dropped} if dropped else {})}
    return replace(grounding, regions=tuple(regions), dropped=counts)


def jitter(regions: tuple[Region, ...], size: Size, level: float, draws: Draws) -> list[Region]:
    """Every box is moved by up to ``level`` times its own width and height, evenly drawn, and stopped by the edge."""
    moves = draws.uniform(-1.0, 1.0, (len(regions), 2)) * level
    return [
        _at(region, _moved(region.box, size, x * _width(region.box), y * _height(region.box)), "jitter")
        for region, (x, y) in zip(regions, moves, strict=True)
    ]


def scale(regions: tuple[Region, ...], size: Size, level: float, draws: Draws) -> list[Region]:
    """Every box keeps its centre and gets other sides, each by a factor of its own between ``LARGEST ** -level`` and
    ``LARGEST ** level``, evenly drawn in its logarithm; what leaves the image is cut off."""
    factors = LARGEST ** (draws.uniform(-1.0, 1.0, (len(regions), 2)) * level)
    return [
        _at(region, _scaled(region.box, size, x, y), "scale") for region, (x, y) in zip(regions, factors, strict=True)
    ]


def drop(regions: tuple[Region, ...], size: Size, level: float, draws: Draws) -> list[Region]:
    """Every region is left out with the probability ``level``."""
    return [region for region, draw in zip(regions, draws.random(len(regions)), strict=True) if draw >= level]


def swap(regions: tuple[Region, ...], size: Size, level: float, draws: Draws) -> list[Region]:
    """The regions are paired at random, and each pair exchanges its boxes and masks with the probability ``level``. Of
    an odd number one stays. Without phrases that tell regions apart nothing is wrong afterwards."""
    order = draws.permutation(len(regions))
    found = list(regions)
    for first, second, draw in zip(order[::2], order[1::2], draws.random(len(regions) // 2), strict=False):
        if draw < level:
            found[first], found[second] = (
                _like(regions[first], regions[second]),
                _like(regions[second], regions[first]),
            )
    return found


def random(regions: tuple[Region, ...], size: Size, level: float, draws: Draws) -> list[Region]:
    """Every box goes to a place evenly drawn within the image with the probability ``level``, and keeps its size."""
    found = []
    for region, (draw, x, y) in zip(regions, draws.random((len(regions), 3)), strict=True):
        box = region.box
        left, top = x * (size[0] - _width(box)), y * (size[1] - _height(box))
        there = _moved(box, size, left - box.x0, top - box.y0)
        found.append(_at(region, there, "random") if draw < level else region)
    return found


KINDS: dict[str, Callable[[tuple[Region, ...], Size, float, Draws], list[Region]]] = {
    "jitter": jitter,
    "scale": scale,
    "drop": drop,
    "swap": swap,
    "random": random,
}
"""The ways in which boxes are corrupted, by name."""


def _width(box: Box) -> float:
    return box.x1 - box.x0


def _height(box: Box) -> float:
    return box.y1 - box.y0


def _moved(box: Box, size: Size, x: float, y: float) -> Box:
    """The box moved as far as the image lets it."""
    x = min(max(x, -box.x0), size[0] - box.x1)
    y = min(max(y, -box.y0), size[1] - box.y1)
    return _within(box, size, box.x0 + x, box.y0 + y, box.x1 + x, box.y1 + y)


def _scaled(box: Box, size: Size, x: float, y: float) -> Box:
    middle, half = (box.x0 + box.x1) / 2, x * _width(box) / 2
    centre, tall = (box.y0 + box.y1) / 2, y * _height(box) / 2
    return _within(box, size, middle - half, centre - tall, middle + half, centre + tall)


def _within(old: Box, size: Size, x0: float, y0: float, x1: float, y1: float) -> Box:
    """These sides cut to the image; the old box where rounding leaves no area of one that is thinner than that."""
    x0, x1 = max(x0, 0.0), min(x1, float(size[0]))
    y0, y1 = max(y0, 0.0), min(y1, float(size[1]))
    return Box(x0, y0, x1, y1) if x0 < x1 and y0 < y1 else old


def _at(region: Region, box: Box, kind: str) -> Region:
    """The region in another place."""
    if box == region.box:
        return region
    return replace(region, box=box, mask=None, mended=(*region.mended, kind))


def _like(region: Region, other: Region) -> Region:
    """The region with the place of another."""
    return replace(region, box=other.box, mask=other.mask, mended=(*region.mended, "swap"))
