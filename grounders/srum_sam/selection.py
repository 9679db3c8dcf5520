"""Which of the things that SAM finds become regions."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from srum_plugins.records import Box
from srum_sam.options import SamOptions


@dataclass(frozen=True, eq=False)
class Thing:
    """``mask`` (height, width) bool, with at least one pixel of the image; ``score`` in [0, 1]."""

    mask: NDArray[np.bool_]
    score: float

    @cached_property
    def box(self) -> Box:
        """The smallest box of whole pixels around the mask."""
        rows, columns = np.flatnonzero(self.mask.any(axis=1)), np.flatnonzero(self.mask.any(axis=0))
        return Box(float(columns[0]), float(rows[0]), float(columns[-1] + 1), float(rows[-1] + 1))

    @cached_property
    def pixels(self) -> int:
        """How many pixels the mask has."""
        return int(np.count_nonzero(self.mask))

    def area(self, masks: bool) -> float:
        """In pixels, of the mask or of the box."""
        return self.pixels if masks else self.box.area

    def iou(self, other: Thing, masks: bool) -> float:
        """With another thing of the same image, in [0, 1], of the masks or of the boxes."""
        of_boxes = self.box.iou(other.box)
        if not masks or of_boxes == 0.0:
            return of_boxes
        shared = int(np.count_nonzero(self.mask & other.mask))
        return shared / (self.pixels + other.pixels - shared)


def without_specks(mask: NDArray[np.bool_], least: int) -> NDArray[np.bool_]:
    """The mask without holes and then without islands of fewer than ``least`` pixels, as segment-anything does it by
    OpenCV: pixels connect to all eight neighbours, and the largest island always stays."""
    if least <= 1:
        return mask
    holes, sizes = _parts(~mask)
    islands, sizes = _parts(mask | (sizes < least)[holes])
    stays = sizes >= least
    stays[sizes.argmax()] = True
    kept: NDArray[np.bool_] = stays[islands]
    return kept


def _parts(mask: NDArray[np.bool_]) -> tuple[NDArray[np.int32], NDArray[np.int64]]:
    """The number of the connected part that each pixel belongs to, 0 outside the mask; and the pixels of each part."""
    labels, count = ndimage.label(mask, np.ones((3, 3)))
    sizes = np.bincount(labels.ravel(), minlength=count + 1)
    sizes[0] = 0
    return labels, sizes


def select(things: Sequence[Thing], options: SamOptions) -> tuple[list[Thing], Mapping[str, int]]:
    """The things to keep, in the wanted order, and how many were dropped by cause: ``small``, ``large``,
    ``duplicate``, or ``surplus`` beyond ``max_regions``. Equals stay in the order in which they came."""
    kept: list[Thing] = []
    dropped: Counter[str] = Counter()
    for thing in sorted(things, key=lambda thing: -thing.score):
        share = thing.area(options.masks) / thing.mask.size
        if share < options.min_area:
            dropped["small"] += 1
        elif share > options.max_area:
            dropped["large"] += 1
        elif any(thing.iou(other, options.masks) > options.duplicates for other in kept):
            dropped["duplicate"] += 1
        else:
            kept.append(thing)
    if options.order == "area":
        kept.sort(key=lambda thing: -thing.area(options.masks))
    if surplus := len(kept) - options.max_regions:
        dropped["surplus"] = max(0, surplus)
    return kept[: options.max_regions], dict(+dropped)
