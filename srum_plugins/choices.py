"""Questions that are answered by choosing, and what the model's probabilities of the choices say."""

from __future__ import annotations

import math
from collections.abc import Sequence

from PIL import Image

from srum_plugins.contracts import ModelAdapter, Question
from srum_plugins.errors import ContractError
from srum_plugins.phrase_words import DETERMINERS, QUANTITIES
from srum_plugins.records import Box, Failure

YES_NO = ("yes", "no")
REGION_TEMPLATE = "is this {phrase} ?"
"""Asks by yes or no whether a box shows a phrase; ``{phrase}`` becomes the phrase with its article."""


def region_question(template: str, image: Image.Image, box: Box, phrase: str) -> Question:
    """Whether a box of an image shows a phrase, by yes or no."""
    return Question(image, template.replace("{phrase}", with_article(phrase)), YES_NO, box)


def with_article(phrase: str) -> str:
    """The phrase with ``a`` or ``an`` before it, unless it has an article or a number."""
    first = phrase.split(" ")[0].lower()
    if first in DETERMINERS or first in QUANTITIES or first.isnumeric():
        return phrase
    return f"{'an' if phrase[:1].lower() in tuple('aeiou') else 'a'} {phrase}"


def ask(model: ModelAdapter, questions: Sequence[Question]) -> list[tuple[float, ...] | Failure]:
    """The probabilities of each question's choices, all asked in one call; see :func:`probabilities`.

    Raises:
        ContractError: the model gives another number of answers.
    """
    answers = model.choice_logprobs(questions) if questions else []
    if len(answers) != len(questions):
        raise ContractError(f"{type(model).__name__} answered {len(answers)} of {len(questions)} questions")
    return [probabilities(question, row) for question, row in zip(questions, answers, strict=True)]


def probabilities(question: Question, logprobs: Sequence[float]) -> tuple[float, ...] | Failure:
    """The choices' probabilities, in [0, 1], from their logarithms, which must sum to one up to rounding."""
    if len(logprobs) != len(question.choices):
        return Failure("wrong number of answers", f"{len(logprobs)} for {question.choices} of {question.text!r}")
    weights = [math.exp(value) if value < 1 else math.inf for value in logprobs]
    total = math.fsum(weights) if all(math.isfinite(weight) for weight in weights) else math.nan
    if not abs(total - 1) < 1e-2:
        return Failure("no probabilities", f"{tuple(logprobs)} for {question.choices} of {question.text!r}")
    return tuple(weight / total for weight in weights)  # float32 rounding would lead outside [0, 1]
