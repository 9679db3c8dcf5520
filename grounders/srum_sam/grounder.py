"""Segment Anything proposes regions: whatever it can tell from the rest, with no phrase."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from PIL import Image

from srum_plugins.contracts import Grounder, Located, ModelAdapter
from srum_plugins.records import Grounding, Region
from srum_plugins.rewards.maps import array_mask
from srum_sam.loading import load, mask_generator
from srum_sam.options import SamOptions
from srum_sam.selection import Thing, select, without_specks


class SamGrounder(Grounder):
    """Regions without phrases, each with SAM's predicted IoU as its score."""

    def __init__(self, options: SamOptions) -> None:
        self._options = options
        self._generator = mask_generator(load(options.model, options.file, options.device), options.generator)

    def ground(self, items: Sequence[Located], model: ModelAdapter | None) -> list[Grounding]:
        """One grounding per item; the model is not asked. What :func:`srum_sam.selection.select` drops is counted."""
        return [self._grounding(item) for item in items]

    def _grounding(self, item: Located) -> Grounding:
        kept, dropped = select(self._things(item.image), self._options)
        regions = [
            Region(thing.box, score=thing.score, mask=array_mask(thing.mask) if self._options.masks else None)
            for thing in kept
        ]
        return Grounding(item.candidate.id, tuple(regions), dropped)

    def _things(self, image: Image.Image) -> list[Thing]:
        """All that SAM finds in an image, which it is given in its own size."""
        least = self._options.chosen("min_mask_region_area")
        found = self._generator.generate(np.array(image.convert("RGB")))
        return [
            Thing(without_specks(one["segmentation"], least), min(1.0, max(0.0, one["predicted_iou"])))
            for one in found
            if one["segmentation"].any()
        ]
