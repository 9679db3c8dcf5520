"""What users can set of the benchmark ``file``."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from srum_compbench.hundred import HundredOptions


@dataclass(frozen=True, kw_only=True)
class PromptFileOptions(HundredOptions):
    """Those of :class:`srum_compbench.hundred.HundredOptions`; ``path`` is the file of prompts
    (:mod:`srum_prompt_file.lines`)."""

    path: Path
