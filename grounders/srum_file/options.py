"""What users can set of the grounder ``file``."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

Units = Literal["pixels", "relative"]
Missing = Literal["refuse", "empty"]


@dataclass(frozen=True)
class FileOptions:
    """``path`` is the file (:mod:`srum_file.lines`). Its boxes are in ``pixels`` of the candidate's image, or
    ``relative``: in shares of the image's sides, 0 to 1. A candidate without a line stops the run (``refuse``), or has
    no regions and is counted (``empty``)."""

    path: Path
    units: Units = "pixels"
    missing: Missing = "refuse"
