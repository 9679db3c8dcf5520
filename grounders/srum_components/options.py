"""What users can set of the grounder ``components``."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class ComponentsOptions:
    """Pixels further than ``threshold`` (Euclidean, RGB levels of 255) from the background colour are foreground.
    ``min_area`` is the fewest pixels of a region, as a share of the image; the ``max_regions`` largest are kept.
    ``masks`` adds the region's pixels to its box."""

    threshold: float = 80.0
    min_area: float = 0.01
    max_regions: int = 8
    masks: bool = False

    def __post_init__(self) -> None:
        if self.threshold <= 0.0:
            raise ValueError(f"threshold must be positive, got {self.threshold}")
        if not 0.0 <= self.min_area < 1.0:
            raise ValueError(f"min_area must lie in [0, 1), got {self.min_area}")
        if self.max_regions < 1:
            raise ValueError(f"max_regions must be at least 1, got {self.max_regions}")
