"""What BAGEL does to an image before it reads or encodes it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from srum_bagel.autoencoder import to_pixels
from srum_plugins.errors import ContractError
from srum_plugins.pixels import on_white

MOST_PIXELS = 14 * 14 * 9 * 1024
"""The default bound on an image's area, in pixels."""


@dataclass(frozen=True)
class ResizeRule:
    """A size whose sides are multiples of ``stride``, at most ``longest`` and, unless that forbids it, at least
    ``shortest`` pixels, with an area of about ``most_pixels`` at most. Small images are enlarged. The aspect ratio is
    kept but for the rounding to the stride."""

    longest: int
    shortest: int
    stride: int
    most_pixels: int = MOST_PIXELS

    def size(self, width: int, height: int) -> tuple[int, int]:
        """(width, height) in pixels of an image of this size after the rule.

        An area above the bound is reduced by the quotient of the areas, not by its square root: the original does so.
        """
        scale = max(min(self.longest / max(width, height), 1.0), self.shortest / min(width, height))
        width, height = self._scaled(width, height, scale)
        if width * height > self.most_pixels:
            width, height = self._scaled(width, height, self.most_pixels / (width * height))
        if max(width, height) > self.longest:
            width, height = self._scaled(width, height, self.longest / max(width, height))
        return width, height

    def _scaled(self, width: int, height: int, scale: float) -> tuple[int, int]:
        def side(length: int) -> int:
            return max(self.stride, round(round(length * scale) / self.stride) * self.stride)

        return side(width), side(height)

    def resize(self, image: Image.Image) -> Image.Image:
        """The image at that size, bicubic."""
        size = self.size(*image.size)
        return image if image.size == size else image.resize(size, Image.Resampling.BICUBIC)


class Preparation(Protocol):
    """How images become pixels (1, 3, H, W) in [-1, 1] of the tower and of the autoencoder."""

    def seen(self, image: Image.Image) -> Tensor:
        """For the understanding tower."""

    def encoded(self, image: Image.Image) -> Tensor:
        """For the autoencoder."""


@dataclass(frozen=True)
class AsTheyAre:
    """Images of one size (width, height), and no others."""

    size: tuple[int, int]

    def seen(self, image: Image.Image) -> Tensor:
        """Raises ContractError for an image of another size."""
        if image.size != self.size:
            raise ContractError(f"this checkpoint reads images of {self.size} pixels, got {image.size}")
        return pixels([image])

    encoded = seen


@dataclass(frozen=True)
class Resized:
    """The released model's rules: every image is resized for the autoencoder first, also where only the tower reads
    it. But an image of a size that can be drawn is encoded as it is: a small candidate is trained on the tokens that it
    was drawn with, on which its reward map lies."""

    autoencoder: ResizeRule = ResizeRule(longest=1024, shortest=512, stride=16)
    tower: ResizeRule = ResizeRule(longest=980, shortest=224, stride=14)

    def seen(self, image: Image.Image) -> Tensor:
        """See :class:`Preparation`."""
        return pixels([self.tower.resize(self.autoencoder.resize(on_white(image)))])

    def encoded(self, image: Image.Image) -> Tensor:
        """See :class:`Preparation`."""
        image, rule = on_white(image), self.autoencoder
        drawable = all(side % rule.stride == 0 and side <= rule.longest for side in image.size)
        return pixels([image if drawable else rule.resize(image)])


def pixels(images: Sequence[Image.Image]) -> Tensor:
    """Equally sized images as float pixels (B, 3, H, W) in [-1, 1]."""
    return to_pixels(torch.from_numpy(np.stack([np.asarray(image.convert("RGB")) for image in images])))
