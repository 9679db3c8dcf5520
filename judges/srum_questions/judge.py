"""Turns the model's answers to its own questions into the two scores of SRUM."""

from __future__ import annotations

import math
from collections.abc import Sequence

from srum_plugins.choices import YES_NO
from srum_plugins.contracts import Judge, Located, ModelAdapter, Question
from srum_plugins.errors import ContractError
from srum_plugins.records import Failure, Grounding, Judgement, Score
from srum_plugins.region_questions import Answered, ask_images
from srum_plugins.runs.fingerprint import fingerprint
from srum_questions.lists import Lists, QuestionList
from srum_questions.options import QuestionsOptions


class QuestionsJudge(Judge):
    """alpha: the share of the prompt's questions that hold of the image (:func:`share_that_holds`); the model has
    written them itself. local: 2 p(yes) - 1 of the question whether the region shows its phrase."""

    def __init__(self, options: QuestionsOptions) -> None:
        self._options = options
        self._lists = Lists(options)
        self._wording = fingerprint([options.template, options.region_template, YES_NO])

    def judge(
        self, items: Sequence[Located], groundings: Sequence[Grounding], model: ModelAdapter | None
    ) -> list[Judgement]:
        """A prompt's questions are written when it is first met; then all questions about all images go to the model in
        one call. Where no question could be read alpha is a Failure, and regions have their scores all the same.
        ``tokens`` are those of the list, which the candidates of a prompt share."""
        if model is None:
            raise ContractError("the judge 'questions' needs a model")
        lists = [self._lists.of(item.prompt.text, model) for item in items]
        facts = [
            [] if isinstance(own.questions, Failure) else [Question(item.image, text, YES_NO) for text in own.questions]
            for item, own in zip(items, lists, strict=True)
        ]
        heard = ask_images(model, items, groundings, facts, self._options.region_template)
        return [
            Judgement(
                grounding.candidate_id,
                _alpha(own, one.facts),
                one.local,
                (*own.tries, *one.lines),
                own.tokens,
                wording=self._wording,
            )
            for grounding, own, one in zip(groundings, lists, heard, strict=True)
        ]


def _alpha(own: QuestionList, answers: Sequence[Answered]) -> Score | Failure:
    if isinstance(own.questions, Failure):
        return own.questions
    yes: list[float] = []
    for answered in answers:
        if isinstance(answered, Failure):
            return answered
        yes.append(answered[0])
    weakest, fact = min(zip(yes, own.questions, strict=True))
    held = sum(value >= 0.5 for value in yes)
    return Score(share_that_holds(yes), f"{held} of {len(yes)} hold; p(yes) = {weakest:.3f}: {fact}")


def share_that_holds(yes: Sequence[float]) -> float:
    """The share of questions that hold, weighted by confidence: the mean of p_i = p(yes) in [0, 1] of at least one
    question, which is the share that holds in expectation, in [0, 1]. A sure yes counts 1, a sure no 0, and what the
    model does not know a half. It does not fall where a p_i rises."""
    return math.fsum(yes) / len(yes)  # exactly rounded: the order does not matter
