"""Asks the model for the prompt's phrases, and keeps the regions that can be used."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

from srum_native.options import NativeOptions
from srum_plugins.contracts import Grounder, Located, ModelAdapter
from srum_plugins.errors import ContractError
from srum_plugins.records import Failure, Grounding, Region


class NativeGrounder(Grounder):
    """Regions by the model's own ``locate``. A prompt without phrases is looked for as a whole."""

    def __init__(self, options: NativeOptions) -> None:
        self._options = options

    def ground(self, items: Sequence[Located], model: ModelAdapter | None) -> list[Grounding]:
        """One grounding per item. What is dropped is counted as ``unreadable`` answer, ``outside`` the image,
        ``small``, ``duplicate``, or ``surplus`` beyond ``max_regions``; no box is moved or cut."""
        if model is None:
            raise ContractError("the grounder 'native' needs a model")
        phrases = [item.prompt.phrases or (item.prompt.text,) for item in items]
        found = model.locate([item.image for item in items], phrases)
        if len(found) != len(items):
            raise ContractError(f"{type(model).__name__}.locate gave {len(found)} lists for {len(items)} images")
        return [self._grounding(item, regions) for item, regions in zip(items, found, strict=True)]

    def _grounding(self, item: Located, found: Sequence[Region | Failure]) -> Grounding:
        width, height = item.image.size
        kept: list[Region] = []
        dropped: Counter[str] = Counter()
        regions = [region for region in found if isinstance(region, Region)]
        if len(regions) < len(found):
            dropped["unreadable"] = len(found) - len(regions)
        for region in sorted(regions, key=_confidence, reverse=True):
            if not region.box.inside(width, height):
                dropped["outside"] += 1
            elif region.box.area < self._options.min_area * width * height:
                dropped["small"] += 1
            elif any(self._duplicate(region, other) for other in kept):
                dropped["duplicate"] += 1
            elif len(kept) == self._options.max_regions:
                dropped["surplus"] += 1
            else:
                kept.append(region)
        return Grounding(item.candidate.id, tuple(kept), dict(dropped))

    def _duplicate(self, region: Region, other: Region) -> bool:
        return region.phrase == other.phrase and region.box.iou(other.box) > self._options.duplicate_iou


def _confidence(region: Region) -> float:
    """Regions without a score come last; the sort keeps the model's order among equals."""
    return -1.0 if region.score is None else region.score
