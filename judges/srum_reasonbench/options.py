"""What users can set of the benchmark ``t2i-reasonbench``."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from srum_compbench.asking import AskingOptions

from srum_plugins.errors import did_you_mean
from srum_reasonbench.wording import DESCRIBE, EVALUATE

DIMENSIONS = ("entity", "idiom", "scientific", "textual_image")


@dataclass(frozen=True, kw_only=True)
class ReasonBenchOptions(AskingOptions):
    """Those of :class:`srum_compbench.asking.AskingOptions`; ``path`` is the folder of your copy of T2I-ReasonBench,
    with ``prompts`` and ``deepseek_evaluation_qs`` in it. ``dimensions`` are those that are asked for (empty: all); of
    each the first ``per_dimension`` prompts are (null: all).

    ``describe`` asks for the description that comes first. ``template`` asks a group of questions: ``{description}``
    becomes that description and ``{questions}`` the questions with their criteria. Answers must keep the form that the
    given wording asks for.
    """

    path: Path
    dimensions: tuple[str, ...] = ()
    per_dimension: int | None = None
    describe: str = DESCRIBE
    template: str = EVALUATE
    max_tokens: int = 1000

    def __post_init__(self) -> None:
        super().__post_init__()
        for name in self.dimensions:
            if name not in DIMENSIONS:
                raise ValueError(f"dimensions: there is no {name!r}.{did_you_mean(name, DIMENSIONS)}")
        if self.per_dimension is not None and self.per_dimension < 1:
            raise ValueError(f"per_dimension must be at least 1, or null for all, got {self.per_dimension}")
        if not self.describe:
            raise ValueError("describe must be a question, got ''")
        for placeholder in ("{description}", "{questions}"):
            if placeholder not in self.template:
                raise ValueError(f"template must contain {placeholder}, got {self.template!r}")
