"""One region, the whole image."""

from __future__ import annotations

from collections.abc import Sequence

from srum_plugins.contracts import Grounder, Located, ModelAdapter
from srum_plugins.records import Box, Grounding, Region


class WholeImageGrounder(Grounder):
    """The whole image should show the whole prompt, which is the region's phrase."""

    def ground(self, items: Sequence[Located], model: ModelAdapter | None) -> list[Grounding]:
        """One grounding per item; the model is not asked."""
        return [
            Grounding(item.candidate.id, (Region(Box(0, 0, *item.image.size), item.prompt.text),)) for item in items
        ]
