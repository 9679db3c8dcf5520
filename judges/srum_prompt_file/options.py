"""What users can set of ``file``, the benchmark and the set of training prompts."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from srum_compbench.hundred import HundredOptions


@dataclass(frozen=True, kw_only=True)
class PathOptions:
    """``path`` is the file of prompts (:mod:`srum_prompt_file.lines`)."""

    path: Path


@dataclass(frozen=True, kw_only=True)
class PromptFileOptions(HundredOptions):
    """Those of :class:`srum_compbench.hundred.HundredOptions`; ``path`` is the file of prompts
    (:mod:`srum_prompt_file.lines`)."""

    path: Path
