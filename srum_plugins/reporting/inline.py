"""Images as data URIs, small enough that a page holds many."""

from __future__ import annotations

import base64
import io

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from srum_plugins.pictures import diverging

SIDE = 320  # pixels: sharp in a column of a phone with two pixels a point
LOSSLESS = 96  # up to here single pixels matter, and a PNG is small
_QUALITY = 80


def data_uri(image: Image.Image) -> str:
    """The image as a data URI: a small one as it is (PNG), a larger one with its longer side at most :data:`SIDE`
    pixels (WebP)."""
    if max(image.size) <= LOSSLESS:
        return _uri(image, "png", optimize=True)
    shown = image.convert("RGB")
    shown.thumbnail((SIDE, SIDE), Image.Resampling.LANCZOS)
    return _uri(shown, "webp", quality=_QUALITY)


def weights_uri(weights: NDArray[np.floating]) -> str:
    """Weights (h, w) in [-1, 1] as an image of a pixel each: red for -1, white for 0, blue for +1."""
    return _uri(Image.fromarray(diverging(weights)), "png", optimize=True)


def mask_uri(pixels: NDArray[np.bool_], score: float) -> str:
    """A mask (h, w) as an image in the strong colour of a score's sign, half transparent where the mask is set."""
    colour = diverging(np.array(np.sign(score)))
    painted = np.zeros((*pixels.shape, 4), np.uint8)
    painted[pixels] = (*colour, 128)
    return _uri(Image.fromarray(painted), "png", optimize=True)


def _uri(image: Image.Image, kind: str, **options: bool | int) -> str:
    buffer = io.BytesIO()
    image.save(buffer, format=kind, **options)
    return f"data:image/{kind};base64,{base64.b64encode(buffer.getvalue()).decode()}"
