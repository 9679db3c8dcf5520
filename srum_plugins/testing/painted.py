"""Images that conformance suites paint: coloured patches from a seed, alike for every size."""

from __future__ import annotations

import numpy as np
from PIL import Image

from srum_plugins.records import Box

PATCHES = 8
"""Patches along each side; each has a colour of its own."""


def painted(size: tuple[int, int], seed: int) -> Image.Image:
    """An RGB image of this (width, height) in pixels; each seed has other colours."""
    colours = np.random.default_rng(seed).integers(0, 256, (PATCHES, PATCHES, 3), dtype=np.uint8)
    return Image.fromarray(colours).resize(size, Image.Resampling.NEAREST)


def repainted(image: Image.Image, box: Box, seed: int) -> Image.Image:
    """The image with the part in the box, its sides cut to whole pixels, as :func:`painted` from another seed."""
    corners = (int(box.x0), int(box.y0), int(box.x1), int(box.y1))
    changed = image.copy()
    changed.paste(painted(image.size, seed).crop(corners), corners[:2])
    return changed
