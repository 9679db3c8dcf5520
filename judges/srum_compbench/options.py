"""What users can set of ``t2i-compbench``, the benchmark and the set of training prompts."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from srum_compbench.hundred import HundredOptions
from srum_plugins.errors import did_you_mean

CATEGORIES = (
    "3d_spatial",
    "color",
    "complex",
    "complex_action",
    "complex_spatial",
    "non-spatial",
    "numeracy",
    "shape",
    "spatial",
    "texture",
)


@dataclass(frozen=True, kw_only=True)
class PromptOptions:
    """``path`` is the JSON file of SRUM's release, or the folder of T2I-CompBench's text files
    (:mod:`srum_compbench.data`). ``categories`` are those that are asked for (empty: all that are there); of each the
    first ``per_category`` prompts are (null: all)."""

    path: Path
    categories: tuple[str, ...] = ()
    per_category: int | None = None

    def __post_init__(self) -> None:
        for name in self.categories:
            if name not in CATEGORIES:
                raise ValueError(f"categories: there is no {name!r}.{did_you_mean(name, CATEGORIES)}")
        if self.per_category is not None and self.per_category < 1:
            raise ValueError(f"per_category must be at least 1, or null for all, got {self.per_category}")


@dataclass(frozen=True, kw_only=True)
class CompBenchOptions(PromptOptions, HundredOptions):
    """Those of :class:`PromptOptions` and of :class:`srum_compbench.hundred.HundredOptions`."""

    def __post_init__(self) -> None:
        PromptOptions.__post_init__(self)
        HundredOptions.__post_init__(self)
