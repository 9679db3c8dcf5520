from enum import Enum


class InterpolationMode(Enum):
    """Named by transformers when it is imported; nothing is resized by these."""

    NEAREST = "nearest"
    NEAREST_EXACT = "nearest-exact"
    BILINEAR = "bilinear"
    BICUBIC = "bicubic"
    BOX = "box"
    HAMMING = "hamming"
    LANCZOS = "lanczos"
