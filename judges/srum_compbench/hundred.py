"""One question about an image, answered by a number from 0 to 100: how far it fits its prompt.

The protocol is that of the evaluation in SRUM's release: one question for all kinds of prompts, five bands, a greedy
answer as JSON. The wording is our own. The number is no official metric of any benchmark.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from PIL import Image
from srum_rubric.parsing import NO_SCORE, OUT_OF_RANGE, quoted

from srum_compbench.asking import Asking, AskingOptions
from srum_compbench.reading import number, score_of
from srum_plugins.contracts import Answer, Benchmark, Composite, ModelAdapter, Question, Verdict
from srum_plugins.records import Failure, Prompt
from srum_plugins.runs.fingerprint import stable_seed

QUESTION = """\
An image was made for the text between the lines. Judge how well the two agree.
---
{text}
---
Compare the objects and their number, their colours, shapes and materials, where they are, and what they do.
Give a whole number from 0 to 100:
81 to 100: everything in the text is shown as it says
61 to 80: most of it is shown, with small errors
41 to 60: a part is shown, and important things are missing or wrong
21 to 40: little of it is shown
0 to 20: the image shows something else
Answer by JSON only: {"score": <your number>, "explanation": "<at most 20 words>"}"""
"""Asked about an image; ``{text}`` becomes the prompt."""


@dataclass(frozen=True, kw_only=True)
class HundredOptions(AskingOptions):
    """Those of :class:`srum_compbench.asking.AskingOptions`; ``template`` is the question, in which ``{text}`` becomes
    the prompt. Answers must keep the form that the given wording asks for."""

    template: str = QUESTION

    def __post_init__(self) -> None:
        super().__post_init__()
        if "{text}" not in self.template:
            raise ValueError(f"template must contain {{text}}, got {self.template!r}")


class HundredBenchmark(Benchmark):
    """``full`` is the judge's number divided by 100."""

    def __init__(
        self, prompts: Sequence[Prompt], options: HundredOptions, composites: Sequence[Composite] = ()
    ) -> None:
        self._prompts, self._options, self._composites = list(prompts), options, tuple(composites)
        self._asking = Asking(options)
        self.asks_model = options.endpoint is None

    def prompts(self) -> list[Prompt]:
        """The prompts as given."""
        return list(self._prompts)

    def composites(self) -> Sequence[Composite]:
        """Those given."""
        return self._composites

    def score(
        self, prompts: Sequence[Prompt], images: Sequence[Image.Image], model: ModelAdapter | None
    ) -> list[Verdict]:
        """All images are asked about in one call. The judge gets the prompt as it is, never a plan made of it."""
        questions = [
            Question(
                image, self._options.template.replace("{text}", prompt.text), seed=stable_seed("hundred", prompt.id)
            )
            for prompt, image in zip(prompts, images, strict=True)
        ]
        asked = self._asking.ask(questions, [read_hundred] * len(questions), model)
        return [
            Verdict(prompt.id, {}, {"full": one.result}, one.raw, one.tokens)
            if isinstance(one.result, Failure)
            else Verdict(prompt.id, {"full": one.result}, {}, one.raw, one.tokens)
            for prompt, one in zip(prompts, asked, strict=True)
        ]


def read_hundred(answer: Answer) -> float | Failure:
    """The score of an answer divided by 100, in [0, 1]. Decimals are kept; nothing is clamped."""
    value: Any = score_of(answer)
    if isinstance(value, Failure):
        return value
    score = number(value)
    if score is None:
        return Failure(NO_SCORE, f"{quoted(str(value))} is no number")
    if not 0.0 <= score <= 100.0:
        return Failure(OUT_OF_RANGE, f"{score:g} is not in [0, 100]")
    return score / 100.0 + 0.0  # zero has no sign
