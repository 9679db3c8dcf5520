"""Regions that cover an image as a grid."""

from __future__ import annotations

from collections.abc import Sequence

from srum_fixed.options import GridOptions
from srum_plugins.contracts import Grounder, Located, ModelAdapter
from srum_plugins.records import Box, Grounding, Region


class GridGrounder(Grounder):
    """Regions without phrases, from left to right and then from top to bottom."""

    def __init__(self, options: GridOptions) -> None:
        self._options = options

    def ground(self, items: Sequence[Located], model: ModelAdapter | None) -> list[Grounding]:
        """One grounding per item; the model is not asked."""
        return [
            Grounding(item.candidate.id, tuple(Region(box) for box in self._boxes(*item.image.size))) for item in items
        ]

    def _boxes(self, width: int, height: int) -> list[Box]:
        """Boxes of one size, up to rounding, that cover the image once: neighbours share their sides to the bit."""
        across = [width * column / self._options.columns for column in range(self._options.columns + 1)]
        down = [height * row / self._options.rows for row in range(self._options.rows + 1)]
        return [
            Box(across[column], down[row], across[column + 1], down[row + 1])
            for row in range(self._options.rows)
            for column in range(self._options.columns)
        ]
