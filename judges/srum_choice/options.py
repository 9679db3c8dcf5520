"""What users can set of the judge ``choice``."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from srum_plugins.choices import REGION_TEMPLATE
from srum_plugins.region_questions import check_template

Combine = Literal["product", "geometric", "mean", "min"]


@dataclass(frozen=True)
class ChoiceOptions:
    """``combine`` makes alpha of the probabilities of the prompt's checks. ``region_template`` asks about a region;
    ``{phrase}`` becomes the phrase with its article. ``global_template`` is for prompts without checks; ``{text}``
    becomes the prompt. Both are answered by yes or no."""

    combine: Combine = "product"
    region_template: str = REGION_TEMPLATE
    global_template: str = "Does the image show: {text}?"

    def __post_init__(self) -> None:
        check_template(self.region_template)
        if "{text}" not in self.global_template:
            raise ValueError(f"global_template must contain {{text}}, got {self.global_template!r}")
