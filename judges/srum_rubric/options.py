"""What users can set of the judge ``rubric``."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal

from srum_rubric.wording import GLOBAL

Show = Literal["boxes", "crops"]


@dataclass(frozen=True)
class RubricOptions:
    """``show`` is how regions are shown: as ``boxes`` drawn on the image, or as ``crops`` on a sheet.

    The first answer is the likeliest one. What it lacks is asked for again, ``retries`` times at most, with answers
    drawn at ``temperature``, above 0, among the likeliest tokens that have a probability of ``top_p`` in all; ``seed``
    changes these draws. An answer may take ``max_tokens`` (null: the adapter's own limit), and ``think_tokens`` more
    if the model is to ``think`` first.

    Templates left null are those of :mod:`srum_rubric.wording`. ``global_template`` asks about the whole image;
    ``{text}`` becomes the prompt. ``regions_template`` asks about all regions; ``{regions}`` becomes one
    ``region_template`` a line, with the region's ``{name}`` and ``{phrase}`` and, on the image with boxes, its sides
    ``{x0}``, ``{y0}``, ``{x1}``, ``{y1}`` in whole pixels. Answers must keep the form that the given wording asks for.
    """

    show: Show = "boxes"
    think: bool = False
    max_tokens: int | None = 256
    think_tokens: int = 512
    retries: int = 2
    temperature: float = 0.7
    top_p: float = 0.9
    seed: int = 0
    global_template: str = GLOBAL
    regions_template: str | None = None
    region_template: str | None = None

    def __post_init__(self) -> None:
        for name, least in (("max_tokens", 1), ("think_tokens", 1), ("retries", 0), ("seed", 0)):
            value = getattr(self, name)
            if value is not None and value < least:
                raise ValueError(f"{name} must be at least {least}, got {value}")
        if self.think and self.max_tokens is None:
            raise ValueError("max_tokens must be a number with think, which adds think_tokens to it")
        if not (self.temperature > 0.0 and math.isfinite(self.temperature)):
            raise ValueError(
                f"temperature must be above 0, so that an answer asked for again may differ, got {self.temperature}"
            )
        if not 0.0 < self.top_p <= 1.0:
            raise ValueError(f"top_p must lie in (0, 1], got {self.top_p}")
        _check("global_template", self.global_template, ["{text}"])
        _check("regions_template", self.regions_template, ["{regions}"])
        _check("region_template", self.region_template, ["{name}", "{phrase}"])
        if self.show == "crops" and any(
            f"{{{side}}}" in (self.region_template or "") for side in ("x0", "y0", "x1", "y1")
        ):
            raise ValueError("region_template must name no sides of boxes with show=crops: a crop is not in its place")


def _check(name: str, template: str | None, needed: Iterable[str]) -> None:
    for placeholder in needed:
        if template is not None and placeholder not in template:
            raise ValueError(f"{name} must contain {placeholder}, got {template!r}")
