"""Asks the model where the prompt's phrases are, and keeps the regions that can be used."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

from srum_native.options import NativeOptions
from srum_plugins.contracts import Grounder, Located, ModelAdapter
from srum_plugins.errors import ContractError
from srum_plugins.phrases import ask_phrases, noun_phrases, prompt_phrases
from srum_plugins.records import Failure, Grounding, Region


class NativeGrounder(Grounder):
    """Regions by the model's own ``locate`` or ``locate_all``. A prompt that names nothing is looked for as a whole."""

    def __init__(self, options: NativeOptions) -> None:
        self._options = options

    def ground(self, items: Sequence[Located], model: ModelAdapter | None) -> list[Grounding]:
        """One grounding per item. What is dropped is counted by the cause of the model's Failure, such as ``malformed
        boxes`` or ``truncated answer``, or as ``outside`` the image, ``small``, ``duplicate``, or ``surplus`` beyond
        ``max_regions``; no box is moved or cut. Where the model was asked for phrases and failed, nothing is looked
        for, and that failure is counted."""
        if model is None:
            raise ContractError("the grounder 'native' needs a model")
        wanted = self._phrases(items, model)
        known = [(item, own) for item, own in zip(items, wanted, strict=True) if not isinstance(own, Failure)]
        locate = model.locate_all if self._options.at_once else model.locate
        found = locate([item.image for item, _ in known], [own for _, own in known])
        if len(found) != len(known):
            raise ContractError(
                f"{type(model).__name__}.{locate.__name__} gave {len(found)} lists for {len(known)} images"
            )
        regions = iter(found)
        return [
            self._grounding(item, [own] if isinstance(own, Failure) else next(regions))
            for item, own in zip(items, wanted, strict=True)
        ]

    def _phrases(self, items: Sequence[Located], model: ModelAdapter) -> Sequence[tuple[str, ...] | Failure]:
        """What is looked for in each image. The model is asked for phrases anew in every call, once a text: what it
        says may depend on what is asked beside it, and must be the same when a killed run goes on."""
        texts = [item.prompt.text for item in items]
        if self._options.phrases == "ask":
            return ask_phrases(texts, model)
        if self._options.phrases == "rule":
            return [noun_phrases(text) or (text,) for text in texts]
        return [prompt_phrases(item.prompt) or (item.prompt.text,) for item in items]

    def _grounding(self, item: Located, found: Sequence[Region | Failure]) -> Grounding:
        width, height = item.image.size
        kept: list[Region] = []
        dropped: Counter[str] = Counter()
        regions = [region for region in found if isinstance(region, Region)]
        dropped.update(one.cause for one in found if isinstance(one, Failure))
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
