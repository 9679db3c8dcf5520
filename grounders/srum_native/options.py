"""What users can set of the grounder ``native``."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class NativeOptions:
    """``max_regions`` of an image are kept, the most confident first. ``min_area`` is the smallest box, as a share of
    the image. Of two boxes of one phrase whose IoU exceeds ``duplicate_iou``, the first is kept."""

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
