"""Reward maps: a weight for every point of an image, and the geometry that moves them with the pixels.

A map is a function on the plane of the image. At each point

    R = overlap rule (max, min or mean) of the scores of the regions that cover it, or ``background`` if none does,

and the weight is alpha * R. Since R is piecewise constant on rectangles, its mean over a pixel or over a token is
computed exactly, for boxes with fractional sides and for any ratio of image to token grid; nothing is sampled.
"""

from __future__ import annotations

import dataclasses
import math
from bisect import bisect_left, bisect_right
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, get_args

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from srum_plugins.errors import RewardError
from srum_plugins.records import Box, Mask

if TYPE_CHECKING:  # maps are records: reading and writing them does not wait for torch
    from torch import Tensor

Floats = NDArray[np.float64]
Overlap = Literal["max", "min", "mean"]
Reduction = Literal["area", "bilinear"]
OVERLAPS, REDUCTIONS = get_args(Overlap), get_args(Reduction)


def mask_array(mask: Mask) -> NDArray[np.bool_]:
    """The mask as a bool array (height, width)."""
    return np.repeat(np.arange(len(mask.runs)) % 2 == 1, mask.runs).reshape(mask.height, mask.width)


def array_mask(pixels: NDArray[np.bool_]) -> Mask:
    """The mask of a bool array (height, width)."""
    height, width = pixels.shape
    flat = pixels.ravel()
    changes = np.flatnonzero(np.diff(flat, prepend=False))  # the first run counts zeros
    runs = np.diff(changes, prepend=0, append=flat.size)
    return Mask(width, height, tuple(runs.tolist()))


@dataclass(frozen=True)
class Transform:
    """A chain of crops, resizes and horizontal flips: a window of the source image, shown at a new size.

    Start from :meth:`identity` and chain :meth:`crop`, :meth:`resize`, :meth:`flip`. The same object moves the image
    (:meth:`image`), boxes (:meth:`box`), regions (:meth:`region`) and whole maps (:meth:`RewardMap.transform`).

    ``window`` is in pixels of the source, inside it; ``width`` and ``height`` are the size of the result;
    ``mirrored`` says whether left and right are exchanged.
    """

    source_width: int
    source_height: int
    window: Box
    width: int
    height: int
    mirrored: bool = False

    def __post_init__(self) -> None:
        if min(self.width, self.height) < 1:
            raise RewardError(f"a transform needs a positive size, got {self.width} x {self.height}")
        if not self.window.inside(self.source_width, self.source_height):
            raise RewardError(f"the crop {self.window} leaves the image of {self.source_width} x {self.source_height}")

    @classmethod
    def identity(cls, width: int, height: int) -> Transform:
        """The transform that leaves images of this size as they are."""
        return cls(width, height, Box(0, 0, width, height), width, height)

    def crop(self, left: int, top: int, right: int, bottom: int) -> Transform:
        """Then keep these pixels only."""
        return self.then(Transform(self.width, self.height, Box(left, top, right, bottom), right - left, bottom - top))

    def resize(self, width: int, height: int) -> Transform:
        """Then stretch to this size."""
        return self.then(Transform(self.width, self.height, Box(0, 0, self.width, self.height), width, height))

    def flip(self) -> Transform:
        """Then exchange left and right."""
        return dataclasses.replace(self, mirrored=not self.mirrored)

    def then(self, after: Transform) -> Transform:
        """This transform followed by another, whose source size is this one's result."""
        if (after.source_width, after.source_height) != (self.width, self.height):
            raise RewardError(
                f"a transform to {self.width} x {self.height} cannot be followed by one of images of "
                f"{after.source_width} x {after.source_height}"
            )
        seen = _mirror(after.window, self.width) if self.mirrored else after.window
        window = _scale(seen, Box(0, 0, self.width, self.height), self.window)
        return Transform(
            self.source_width,
            self.source_height,
            _clip(window, self.window) or window,  # inside but for rounding, which must not leave the source
            after.width,
            after.height,
            self.mirrored != after.mirrored,
        )

    def box(self, box: Box) -> Box | None:
        """Where a box of the source lies in the result, cut at its border; None if nothing of it is left."""
        return _clip(self._place(box), Box(0, 0, self.width, self.height))

    def region(self, region: MapRegion) -> MapRegion | None:
        """The region in the result, or None if nothing of it is left. Masks keep their own pixels; only the extent over
        which they are spread moves, so that no resize rounds them."""
        if isinstance(region.area, Box):
            box = self.box(region.area)
            return None if box is None else dataclasses.replace(region, area=box)
        extent = region.extent or Box(0, 0, self.source_width, self.source_height)
        if self.box(extent) is None:
            return None
        mask = array_mask(mask_array(region.area)[:, ::-1]) if self.mirrored else region.area
        return MapRegion(mask, region.score, self._place(extent))

    def image(self, image: Image.Image, resample: Image.Resampling = Image.Resampling.BICUBIC) -> Image.Image:
        """The transformed image."""
        if image.size != (self.source_width, self.source_height):
            raise RewardError(
                f"this transform is for images of {self.source_width} x {self.source_height}, got {image.size}"
            )
        window = (self.window.x0, self.window.y0, self.window.x1, self.window.y1)
        shown = image.resize((self.width, self.height), resample, box=window)
        return shown.transpose(Image.Transpose.FLIP_LEFT_RIGHT) if self.mirrored else shown

    def _place(self, box: Box) -> Box:
        """Where a box of the source lies in the result, which it may leave."""
        placed = _scale(box, self.window, Box(0, 0, self.width, self.height))
        return _mirror(placed, self.width) if self.mirrored else placed


@dataclass(frozen=True)
class MapRegion:
    """A part of an image with a score in [-1, 1].

    A box is in pixels of the image. A mask's pixels are spread evenly over ``extent``, a box in pixels of the image
    that may leave it; without an extent the mask covers the image, and must have its size.
    """

    area: Box | Mask
    score: float
    extent: Box | None = None

    def __post_init__(self) -> None:
        _check_range("the score of a region", self.score, -1.0, 1.0)
        if self.extent is not None and isinstance(self.area, Box):
            raise RewardError("only a mask has an extent; a box is its own")


@dataclass(frozen=True)
class RewardMap:
    """The weight alpha * R of every point of an image of ``width`` x ``height`` pixels.

    ``alpha`` lies in [0, 1]; scores and ``background``, the value of R where no region is, lie in [-1, 1]. Boxes lie
    inside the image. ``overlap`` says what R is where several regions are: the highest, the lowest or the mean of
    their scores. ``reduction`` says how the map becomes token weights: ``area``, the exact mean over each token, or
    ``bilinear``, the release's interpolation of the pixel map, which reads pixels at token centres only.

    Raises:
        RewardError: a number is not finite or out of its range, a box leaves the image, or a mask does not fit it.
    """

    width: int
    height: int
    regions: tuple[MapRegion, ...]
    alpha: float
    background: float
    overlap: Overlap = "max"
    reduction: Reduction = "area"

    def __post_init__(self) -> None:
        if min(self.width, self.height) < 1:
            raise RewardError(f"a reward map needs a positive size, got {self.width} x {self.height}")
        _check_range("alpha", self.alpha, 0.0, 1.0)
        _check_range("background", self.background, -1.0, 1.0)
        if self.overlap not in OVERLAPS:
            raise RewardError(f"overlap must be one of {', '.join(OVERLAPS)}, got {self.overlap!r}")
        if self.reduction not in REDUCTIONS:
            raise RewardError(f"reduction must be one of {', '.join(REDUCTIONS)}, got {self.reduction!r}")
        for index, region in enumerate(self.regions):
            area, size = region.area, f"the image of {self.width} x {self.height}"
            if isinstance(area, Box):
                if not area.inside(self.width, self.height):
                    raise RewardError(f"region {index}: {area} leaves {size}; crop it first")
            elif region.extent is None and (area.width, area.height) != (self.width, self.height):
                raise RewardError(f"region {index}: a mask of {area.width} x {area.height} does not fit {size}")

    def pixels(self) -> Tensor:
        """The mean weight of each pixel, (height, width) float32."""
        return self._weights(self.height, self.width)

    def tokens(self, h: int, w: int) -> Tensor:
        """The weight of each token of an (h, w) grid laid evenly over the image, (h, w) float32."""
        if self.reduction == "bilinear":
            from torch.nn.functional import interpolate

            return interpolate(self.pixels()[None, None], (h, w), mode="bilinear", align_corners=False)[0, 0]
        return self._weights(h, w)

    def mean(self) -> float:
        """The mean weight over the image."""
        return self.alpha * self._averages(1, 1).item()

    def extremes(self) -> tuple[float, float]:
        """The lowest and the highest weight anywhere in the image; no token weight lies outside."""
        _, _, values = self._cells()
        return self.alpha * float(values.min()), self.alpha * float(values.max())

    def transform(self, transform: Transform) -> RewardMap:
        """The map of the transformed image."""
        if (transform.source_width, transform.source_height) != (self.width, self.height):
            raise RewardError(
                f"a map of {self.width} x {self.height} cannot take a transform of images of "
                f"{transform.source_width} x {transform.source_height}"
            )
        moved = (transform.region(region) for region in self.regions)
        kept = tuple(region for region in moved if region is not None)
        return dataclasses.replace(self, width=transform.width, height=transform.height, regions=kept)

    def _weights(self, h: int, w: int) -> Tensor:
        import torch

        # The product is taken in float32, as the release does: its maps are met bit for bit.
        return torch.from_numpy(np.float32(self.alpha) * self._averages(h, w).astype(np.float32))

    def _averages(self, h: int, w: int) -> Floats:
        """The mean of R over each cell of an even (h, w) grid."""
        xs, ys, values = self._cells()
        # Averaging the difference from the background leaves untouched tokens at exactly the background.
        return self.background + _shares(ys, h) @ (values - self.background) @ _shares(xs, w).T

    def _cells(self) -> tuple[Floats, Floats, Floats]:
        """The lines (X + 1) and (Y + 1) between which R is constant, and its value (Y, X) in each cell."""
        whole = Box(0, 0, self.width, self.height)
        xs: set[float] = {0, self.width}
        ys: set[float] = {0, self.height}
        for region in self.regions:
            area, extent = region.area, region.extent or whole
            if isinstance(area, Box):
                xs.update((area.x0, area.x1))
                ys.update((area.y0, area.y1))
            else:
                xs.update(_ticks(extent.x0, extent.x1, area.width).clip(0, self.width).tolist())
                ys.update(_ticks(extent.y0, extent.y1, area.height).clip(0, self.height).tolist())
        lines_x, lines_y = np.array(sorted(xs), np.float64), np.array(sorted(ys), np.float64)
        x, y = (lines_x[1:] + lines_x[:-1]) / 2, (lines_y[1:] + lines_y[:-1]) / 2
        along_x, along_y = x.tolist(), y.tolist()

        start = {"max": -np.inf, "min": np.inf, "mean": 0.0}[self.overlap]
        values = np.full((len(y), len(x)), start)
        count = np.zeros(values.shape)
        for region in self.regions:
            area = region.area
            if isinstance(area, Box):  # a block of cells: indices of a mask would take several times as long
                cells: Any = _between(along_y, area.y0, area.y1), _between(along_x, area.x0, area.x1)
            else:
                cells = _cover(area, region.extent or whole, x, y)
            count[cells] += 1
            found = values[cells]
            if self.overlap == "mean":
                values[cells] = found + region.score
            else:
                better = found < region.score if self.overlap == "max" else found > region.score
                values[cells] = np.where(better, region.score, found)
        if self.overlap == "mean":
            values /= np.maximum(count, 1)
        return lines_x, lines_y, np.where(count == 0, self.background, values)


def _check_range(what: str, value: float, low: float, high: float) -> None:
    if not (math.isfinite(value) and low <= value <= high):
        raise RewardError(f"{what} must lie in [{low:g}, {high:g}], got {value}")


def _ticks(low: float, high: float, steps: int) -> Floats:
    """The steps + 1 lines that cut [low, high] evenly."""
    return low + (high - low) * np.arange(steps + 1) / steps


def _between(points: list[float], low: float, high: float) -> slice:
    """Which of the rising points lie between two sides."""
    return slice(bisect_right(points, low), bisect_left(points, high))


def _cover(mask: Mask, extent: Box, x: Floats, y: Floats) -> NDArray[np.bool_]:
    """Which of the points (y, x) lie in the mask, (Y, X)."""
    row = np.floor((y - extent.y0) / (extent.y1 - extent.y0) * mask.height).astype(int)
    column = np.floor((x - extent.x0) / (extent.x1 - extent.x0) * mask.width).astype(int)
    within = np.outer((row >= 0) & (row < mask.height), (column >= 0) & (column < mask.width))
    known: NDArray[np.bool_] = mask_array(mask)[np.ix_(row.clip(0, mask.height - 1), column.clip(0, mask.width - 1))]
    return np.logical_and(within, known)


def _shares(lines: Floats, bins: int) -> Floats:
    """What share of each of ``bins`` even bins lies in each cell between the lines, (bins, cells)."""
    edges = _ticks(0.0, float(lines[-1]), bins)
    low = np.maximum(edges[:-1, None], lines[:-1])
    high = np.minimum(edges[1:, None], lines[1:])
    shares: Floats = np.maximum(high - low, 0) * (bins / lines[-1])
    return shares


def _clip(box: Box, frame: Box) -> Box | None:
    """The part of a box inside a frame, or None."""
    x0, x1 = max(box.x0, frame.x0), min(box.x1, frame.x1)
    y0, y1 = max(box.y0, frame.y0), min(box.y1, frame.y1)
    return Box(x0, y0, x1, y1) if x0 < x1 and y0 < y1 else None


def _mirror(box: Box, width: float) -> Box:
    return Box(width - box.x1, box.y0, width - box.x0, box.y1)


def _scale(box: Box, before: Box, after: Box) -> Box:
    """A box moved by the map that takes one frame to another."""

    def along(value: float, low: float, high: float, new_low: float, new_high: float) -> float:
        return new_low + (value - low) * (new_high - new_low) / (high - low)

    x = [along(side, before.x0, before.x1, after.x0, after.x1) for side in (box.x0, box.x1)]
    y = [along(side, before.y0, before.y1, after.y0, after.y1) for side in (box.y0, box.y1)]
    return Box(x[0], y[0], x[1], y[1])
