"""The monitor ``understanding``: does the model still answer a fixed set of questions as it did before training?"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from srum_plugins.choices import YES_NO, ask
from srum_plugins.contracts import Decoding, ModelAdapter, Monitor, Question, Watched
from srum_plugins.errors import ContractError
from srum_plugins.monitors.options import UnderstandingOptions
from srum_plugins.monitors.question_files import digest, read_questions
from srum_plugins.records import Failure, Reading

LEAST = 1e-12
"""The least probability whose logarithm is taken."""


@dataclass(frozen=True)
class Answered:
    """What the model says to each question: its answer, or None where it is none of the choices; and the probabilities
    of the choices, if it was asked for them."""

    answers: tuple[str | None, ...]
    probabilities: tuple[Mapping[str, float], ...]


class Understanding(Monitor):
    """Asks the same questions at every reading."""

    def __init__(self, options: UnderstandingOptions) -> None:
        self._options = options
        self.every = options.every

    def before(self, run: Watched, model: ModelAdapter) -> list[Reading]:
        """``accuracy`` and ``yes`` (the share of yes), where the questions have an answer that is known."""
        self._questions, self._truth = self._asked(run)
        if not self._questions:
            why = Failure("no questions", "the prompts have no checks: give a path of questions")
            return [Reading("accuracy", None, failure=why)]
        self._before = self._answers(model)
        return self._figures(self._before)

    def during(self, step: int, rows: Sequence[Mapping[str, float]], model: ModelAdapter) -> list[Reading]:
        """See :meth:`after`."""
        return self.after(model)

    def after(self, model: ModelAdapter) -> list[Reading]:
        """``changed``, ``shift`` where probabilities are asked for, ``drop`` and ``accuracy`` where the answers are
        known, ``yes`` of questions of yes and no, and ``unreadable``: the share of answers that are none of the
        choices."""
        if not self._questions:
            return []
        o, old, now = self._options, self._before, self._answers(model)
        changed = sum(a != b for a, b in zip(old.answers, now.answers, strict=True)) / len(now.answers)
        readings = [Reading("changed", changed, o.changed.of(changed), f"of {len(now.answers)} questions")]
        if now.probabilities:
            moves = [
                abs(math.log(max(after[answer], LEAST)) - math.log(max(before[answer], LEAST)))
                for answer, before, after in zip(old.answers, old.probabilities, now.probabilities, strict=True)
                if answer is not None
            ]
            shift = math.fsum(moves) / len(moves)
            readings.append(Reading("shift", shift, o.shift.of(shift), "nats, of the answers before"))
        if self._truth:
            drop = self._accuracy(old) - self._accuracy(now)
            readings.append(Reading("drop", drop, o.drop.of(drop)))
        return readings + self._figures(now)

    def _asked(self, run: Watched) -> tuple[list[Question], list[str]]:
        """The questions, and the right answers, which are known of a file's alone."""
        o = self._options
        if o.path is not None:
            read = read_questions(Path(o.path), None if o.images is None else Path(o.images), o.questions)
            return [Question(one.open(), one.text, one.choices) for one in read], [one.answer for one in read]
        checks = {prompt.id: prompt.checks for prompt in run.prompts}
        known = [candidate for candidate, _ in run.candidates() if checks[candidate.prompt_id]]
        count = min(o.questions, len(known))
        chosen = run.located([known[index * len(known) // count] for index in range(count)])
        asked = [item.prompt.checks[index % len(item.prompt.checks)] for index, item in enumerate(chosen)]
        return [Question(item.image, one.question, one.choices) for item, one in zip(chosen, asked, strict=True)], []

    def _answers(self, model: ModelAdapter) -> Answered:
        if self._options.ask == "answer":
            written = model.answer(self._questions, Decoding(max_tokens=16))
            pairs = zip(self._questions, written, strict=True)
            return Answered(tuple(first_choice(one.text, question.choices) for question, one in pairs), ())
        found = ask(model, self._questions)
        if failures := [one for one in found if isinstance(one, Failure)]:
            raise ContractError(f"{type(model).__name__}.choice_logprobs: {failures[0].cause}: {failures[0].detail}")
        rows = [
            dict(zip(question.choices, one, strict=True))
            for question, one in zip(self._questions, found, strict=True)
            if not isinstance(one, Failure)
        ]
        return Answered(tuple(max(row, key=lambda choice: row[choice]) for row in rows), tuple(rows))

    def _accuracy(self, given: Answered) -> float:
        return sum(a == b for a, b in zip(given.answers, self._truth, strict=True)) / len(self._truth)

    def _figures(self, given: Answered) -> list[Reading]:
        readings = [Reading("accuracy", self._accuracy(given))] if self._truth else []
        if yes_no := [one for one, q in zip(given.answers, self._questions, strict=True) if q.choices == YES_NO]:
            readings.append(Reading("yes", yes_no.count("yes") / len(yes_no)))
        return [*readings, Reading("unreadable", given.answers.count(None) / len(given.answers))]


def first_choice(text: str, choices: Sequence[str]) -> str | None:
    """The choice that an open answer begins with, as a whole word and in any case; None if it begins with none."""
    for choice in sorted(choices, key=len, reverse=True):
        if re.match(rf"\W*{re.escape(choice)}(?!\w)", text, re.IGNORECASE):
            return choice
    return None


def check(options: UnderstandingOptions) -> None:
    """Raise ConfigError if the questions cannot be read."""
    identity(options)


def identity(options: UnderstandingOptions) -> str:
    """A hash of the questions that are asked, with their images; empty if they are the run's own."""
    if options.path is None:
        return ""
    images = None if options.images is None else Path(options.images)
    return digest(read_questions(Path(options.path), images, options.questions))
