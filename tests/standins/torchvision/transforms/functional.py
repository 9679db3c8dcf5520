from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image


def to_pil_image(pixels: NDArray[np.uint8]) -> Image.Image:
    return Image.fromarray(pixels)


def resize(image: Image.Image, size: Sequence[int]) -> Image.Image:
    height, width = size
    return image.resize((width, height), Image.Resampling.BILINEAR)


def pil_to_tensor(image: Any) -> Any:
    """Named by transformers when it is imported."""
    raise NotImplementedError("the stand-in for torchvision is for SAM only")
