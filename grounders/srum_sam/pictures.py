"""Pictures with the true mask of everything in them, which the tiny SAM is trained and measured on."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage
from srum_shapes.world import BACKGROUND, PALETTE, SHAPES, SIDE, Scene, sample_scene, template

LOOSE_SIDES = (5, 14)
"""Smallest and largest side in pixels of an object of a loose picture."""
MOST_LOOSE = 5
VISIBLE = 0.6
"""The share of an object's pixels that later ones must leave visible."""


@dataclass(frozen=True)
class Picture:
    """``pixels`` (32, 32, 3) uint8, RGB. ``masks`` (1 + objects, 32, 32) bool: the background's pixels, then each
    object's; every pixel belongs to exactly one."""

    pixels: NDArray[np.uint8]
    masks: NDArray[np.bool_]


def object_masks(scene: Scene) -> NDArray[np.bool_]:
    """The pixels of each object, (objects, 32, 32)."""
    masks = np.zeros((len(scene.objects), SIDE, SIDE), dtype=bool)
    for mask, item in zip(masks, scene.objects, strict=True):
        x0, y0, x1, y1 = (int(side) for side in (item.box.x0, item.box.y0, item.box.x1, item.box.y1))
        mask[y0:y1, x0:x1] = template(item.shape, x1 - x0, y1 - y0)
    return masks


def training_picture(rng: np.random.Generator) -> Picture:
    """A picture to train on. Half of them are scenes of the drawn world; in the others objects are wrong in the ways
    in which generated ones are: of any proportions and colour, touching, covering one another, or none at all. Both are
    blurred and noisy by a random amount."""
    if rng.random() < 0.5:
        scene = sample_scene(rng)
        masks = object_masks(scene)
        colours = np.array([PALETTE[item.colour] for item in scene.objects], dtype=np.float64)
        ground = np.array(BACKGROUND, dtype=np.float64)
    else:
        masks = _loose_masks(rng)
        palette = np.array([*PALETTE.values()], dtype=np.float64)
        colours = palette[rng.integers(len(palette), size=len(masks))] + rng.normal(0.0, 12.0, (len(masks), 3))
        ground = BACKGROUND + rng.normal(0.0, 5.0, 3)
    masks = np.concatenate([~masks.any(axis=0, keepdims=True), masks])
    flat = np.einsum("nhw,nc->hwc", masks.astype(np.float64), np.concatenate([ground[None], colours]))
    blur = rng.uniform(0.0, 0.7) if rng.random() < 0.5 else 0.0
    soft = ndimage.gaussian_filter(flat, (blur, blur, 0)) + rng.normal(0.0, rng.uniform(0.0, 8.0), flat.shape)
    return Picture(np.clip(np.rint(soft), 0, 255).astype(np.uint8), masks)


def _loose_masks(rng: np.random.Generator) -> NDArray[np.bool_]:
    """The visible pixels of up to five objects, (objects, 32, 32). Those that would hide too much are left out."""
    low, high = LOOSE_SIDES
    found = np.zeros((0, SIDE, SIDE), dtype=bool)
    drawn: list[int] = []
    for _ in range(rng.integers(MOST_LOOSE + 1)):
        width, height = rng.integers(low, high + 1, 2)
        x, y = rng.integers(0, SIDE - width + 1), rng.integers(0, SIDE - height + 1)
        mask = np.zeros((SIDE, SIDE), dtype=bool)
        mask[y : y + height, x : x + width] = template(SHAPES[rng.integers(len(SHAPES))], int(width), int(height))
        left = found & ~mask
        if all(rest.sum() >= VISIBLE * area for rest, area in zip(left, drawn, strict=True)):
            found = np.concatenate([left, mask[None]])
            drawn.append(int(mask.sum()))
    return found
