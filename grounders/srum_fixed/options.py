"""What users can set of the grounder ``grid``."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class GridOptions:
    """The image is cut into ``rows`` times ``columns`` boxes of one size."""

    rows: int = 2
    columns: int = 2

    def __post_init__(self) -> None:
        if self.rows < 1:
            raise ValueError(f"rows must be at least 1, got {self.rows}")
        if self.columns < 1:
            raise ValueError(f"columns must be at least 1, got {self.columns}")
