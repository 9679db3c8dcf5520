"""What users can set of the grounder ``native``."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

Phrases = Literal["given", "rule", "ask"]


@dataclass(frozen=True)
class NativeOptions:
    """``phrases`` says what is looked for: those ``given`` with the prompt, or where there are none those of the rule;
    those of the ``rule`` (:func:`srum_plugins.phrases.noun_phrases`); or those that the model names when it is asked
    for them (``ask``). With ``at_once`` one question asks for all phrases of an image, else each has its own.

    ``max_regions`` of an image are kept, the most confident first. ``min_area`` is the smallest box, as a share of
    the image. Of two boxes of one phrase whose IoU exceeds ``duplicate_iou``, the first is kept."""

    phrases: Phrases = "given"
    at_once: bool = False
    max_regions: int = 8
    min_area: float = 0.005
    duplicate_iou: float = 0.7

    def __post_init__(self) -> None:
        if self.max_regions < 1:
            raise ValueError(f"max_regions must be at least 1, got {self.max_regions}")
        if not 0.0 <= self.min_area < 1.0:
            raise ValueError(f"min_area must lie in [0, 1), got {self.min_area}")
        if not 0.0 <= self.duplicate_iou <= 1.0:
            raise ValueError(f"duplicate_iou must lie in [0, 1], got {self.duplicate_iou}")
