"""One box around all that stands out from the border of an image."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from PIL import Image
from srum_plugins.contracts import Grounder, Located, ModelAdapter
from srum_plugins.records import Box, Grounding, Region

from srum_example_name.plugin import Options


class ExampleNameGrounder(Grounder):
    """Needs no model: it looks at the pixels."""

    def __init__(self, options: Options) -> None:
        self._contrast = options.contrast

    def ground(self, items: Sequence[Located], model: ModelAdapter | None) -> list[Grounding]:
        """One grounding per item: a region without a phrase, which a judge asks about all phrases of the prompt; none
        in an image where nothing stands out."""
        boxes = [self._box(item.image) for item in items]
        return [
            Grounding(item.candidate.id, () if box is None else (Region(box),))
            for item, box in zip(items, boxes, strict=True)
        ]

    def _box(self, image: Image.Image) -> Box | None:
        pixels = np.asarray(image.convert("RGB"), dtype=np.int16)
        border = np.concatenate([pixels[0], pixels[-1], pixels[:, 0], pixels[:, -1]])
        apart = np.abs(pixels - np.median(border, axis=0)).max(axis=2)
        y, x = np.nonzero(apart >= self._contrast)
        if len(x) == 0:
            return None
        return Box(float(x.min()), float(y.min()), float(x.max() + 1), float(y.max() + 1))
