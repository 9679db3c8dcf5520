"""Connected components of the pixels that differ from the background."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from scipy import ndimage

from srum_components.options import ComponentsOptions
from srum_plugins.contracts import Grounder, Located, ModelAdapter
from srum_plugins.records import Box, Grounding, Region
from srum_plugins.rewards.maps import array_mask


class ComponentsGrounder(Grounder):
    """Regions without phrases, in the order of their size. For images of separate things on a plain background."""

    def __init__(self, options: ComponentsOptions) -> None:
        self._options = options

    def ground(self, items: Sequence[Located], model: ModelAdapter | None) -> list[Grounding]:
        """One grounding per item; the model is not asked. Dropped regions are counted as ``small``, or
        ``surplus`` beyond ``max_regions``."""
        return [self._grounding(item) for item in items]

    def _grounding(self, item: Located) -> Grounding:
        options = self._options
        labels, count = ndimage.label(foreground(item.image, options.threshold))
        areas = np.bincount(labels.ravel(), minlength=count + 1)[1:]
        large = [i for i in range(count) if areas[i] >= options.min_area * labels.size]
        largest = sorted(large, key=lambda i: -areas[i])[: options.max_regions]
        places = ndimage.find_objects(labels)
        regions = []
        for i in largest:
            rows, columns = places[i]
            box = Box(columns.start, rows.start, columns.stop, rows.stop)
            regions.append(Region(box, mask=array_mask(labels == i + 1) if options.masks else None))
        dropped = {"small": count - len(large), "surplus": len(large) - len(largest)}
        return Grounding(item.candidate.id, tuple(regions), {cause: n for cause, n in dropped.items() if n})


def foreground(image: Image.Image, threshold: float) -> NDArray[np.bool_]:
    """The pixels (height, width) further than ``threshold`` from the background, whose colour is the median of the
    image's border."""
    pixels = np.asarray(image.convert("RGB"), dtype=np.float32)
    border = np.concatenate([pixels[0], pixels[-1], pixels[:, 0], pixels[:, -1]])
    distant: NDArray[np.bool_] = np.linalg.norm(pixels - np.median(border, axis=0), axis=2) > threshold
    return distant
