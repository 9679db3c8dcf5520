"""What users can set of the judge ``questions``."""

from __future__ import annotations

from dataclasses import dataclass

from srum_plugins.choices import REGION_TEMPLATE
from srum_plugins.region_questions import check_template
from srum_questions.wording import WRITE


@dataclass(frozen=True)
class QuestionsOptions:
    """``template`` asks for the questions; ``{text}`` becomes the prompt. The first ``max_questions`` are asked.
    ``list_tokens`` is the most tokens of a list. A list without any question is written again, at most ``retries``
    times, and then drawn with ``temperature``. ``region_template`` asks about a region; ``{phrase}`` becomes the phrase
    with its article."""

    max_questions: int = 10
    list_tokens: int = 256
    retries: int = 2
    temperature: float = 0.7
    template: str = WRITE
    region_template: str = REGION_TEMPLATE

    def __post_init__(self) -> None:
        if self.max_questions < 1:
            raise ValueError(f"max_questions must be at least 1, got {self.max_questions}")
        if self.list_tokens < 1:
            raise ValueError(f"list_tokens must be at least 1, got {self.list_tokens}")
        if self.retries < 0:
            raise ValueError(f"retries must be 0 or more, got {self.retries}")
        if not 0.0 < self.temperature < float("inf"):
            raise ValueError(
                f"temperature must be above 0, so that a retry says something else; got {self.temperature}"
            )
        if "{text}" not in self.template:
            raise ValueError(f"template must contain {{text}}, got {self.template!r}")
        check_template(self.region_template)
