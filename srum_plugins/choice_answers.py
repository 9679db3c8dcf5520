"""Answers to questions with choices, as probabilities."""

from __future__ import annotations

import math
from collections.abc import Sequence

from srum_plugins.contracts import ModelAdapter, Question
from srum_plugins.errors import ContractError
from srum_plugins.records import Failure

YES_NO = ("yes", "no")
"""The choices of a question of yes or no, yes first."""

Answered = tuple[float, ...] | Failure
"""The probabilities of a question's choices, in their order and with sum 1, or why there are none."""


def ask(model: ModelAdapter, questions: Sequence[Question]) -> list[Answered]:
    """What the model answers to questions with choices, all in one call.

    Raises:
        ContractError: the model answered another number of questions.
    """
    rows = model.choice_logprobs(questions)
    if len(rows) != len(questions):
        raise ContractError(f"{type(model).__name__} answered {len(rows)} of {len(questions)} questions")
    return [probabilities(question, row) for question, row in zip(questions, rows, strict=True)]


def probabilities(question: Question, logprobs: Sequence[float]) -> Answered:
    """The probabilities of log-probabilities, whose sum may be off by rounding. A Failure where they are none."""
    if len(logprobs) != len(question.choices):
        return Failure("wrong number of answers", f"{len(logprobs)} for {question.choices} of {question.text!r}")
    weights = [math.exp(value) if value < 1 else math.inf for value in logprobs]
    total = math.fsum(weights) if all(math.isfinite(weight) for weight in weights) else math.nan
    if not abs(total - 1) < 1e-2:
        return Failure("no probabilities", f"{tuple(logprobs)} for {question.choices} of {question.text!r}")
    return tuple(weight / total for weight in weights)  # float32 rounding would lead outside [0, 1]


def told(question: Question, answered: Answered) -> str:
    """One line for people, such as ``is it red ? -> p(yes)=0.93, p(no)=0.07``."""
    if isinstance(answered, Failure):
        return f"{question.text} -> {answered.cause}: {answered.detail}"
    shares = [f"p({choice})={value:.4g}" for choice, value in zip(question.choices, answered, strict=True)]
    return f"{question.text} -> {', '.join(shares)}"
