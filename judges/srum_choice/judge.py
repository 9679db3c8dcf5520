"""Turns the model's answers to multiple-choice questions into the two scores of SRUM."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from itertools import islice

from PIL import Image

from srum_choice.options import ChoiceOptions, Combine
from srum_plugins.contracts import Judge, Located, ModelAdapter, Question
from srum_plugins.errors import ContractError
from srum_plugins.records import Box, Check, Failure, Grounding, Judgement, Prompt, Region, Score

YES_NO = ("yes", "no")
ARTICLES = ("a", "an", "the")


class ChoiceJudge(Judge):
    """alpha: the probabilities of the answers that the prompt's checks demand, combined into one number in [0, 1].
    local: 2 p(yes) - 1 of the question whether the region shows its phrase."""

    def __init__(self, options: ChoiceOptions) -> None:
        self._options = options

    def judge(
        self, items: Sequence[Located], groundings: Sequence[Grounding], model: ModelAdapter | None
    ) -> list[Judgement]:
        """All questions of all items go to the model in one call. A region without phrase is asked about each phrase
        of the prompt and scored by the best; without any phrase its score is a Failure, as are answers that are no
        probabilities."""
        if model is None:
            raise ContractError("the judge 'choice' needs a model")
        questions: list[Question] = []
        for item, grounding in zip(items, groundings, strict=True):
            checks = self._checks(item.prompt)
            questions += [Question(item.image, check.question, check.choices) for check in checks]
            for region in grounding.regions:
                questions += self._region_questions(item.image, region, item.prompt)
        answers = model.choice_logprobs(questions)
        if len(answers) != len(questions):
            raise ContractError(f"{type(model).__name__} answered {len(answers)} of {len(questions)} questions")
        found = iter([_probabilities(q, row) for q, row in zip(questions, answers, strict=True)])
        return [
            Judgement(
                grounding.candidate_id,
                self._alpha(item.prompt, found),
                tuple(_local(_phrases(region, item.prompt), found) for region in grounding.regions),
            )
            for item, grounding in zip(items, groundings, strict=True)
        ]

    def _checks(self, prompt: Prompt) -> tuple[Check, ...]:
        whole = self._options.global_template.replace("{text}", prompt.text)
        return prompt.checks or (Check("whole", whole, YES_NO, "yes"),)

    def _region_questions(self, image: Image.Image, region: Region, prompt: Prompt) -> list[Question]:
        return [self._region_question(image, with_article(phrase), region.box) for phrase in _phrases(region, prompt)]

    def _region_question(self, image: Image.Image, phrase: str, box: Box) -> Question:
        return Question(image, self._options.region_template.replace("{phrase}", phrase), YES_NO, box)

    def _alpha(self, prompt: Prompt, found: Iterator[tuple[float, ...] | Failure]) -> Score | Failure:
        """The global score from the answers to the checks, which are next in ``found``."""
        checks = self._checks(prompt)
        facts: list[tuple[float, str]] = []
        for check, row in zip(checks, list(islice(found, len(checks))), strict=True):
            if isinstance(row, Failure):
                return row
            facts.append((row[check.choices.index(check.answer)], f"{check.question} {check.answer}"))
        weakest, fact = min(facts)
        return Score(combined([p for p, _ in facts], self._options.combine), f"p = {weakest:.3f}: {fact}")


def combined(probabilities: Sequence[float], how: Combine) -> float:
    """One number in [0, 1] from at least one probability."""
    if how == "product":
        return math.prod(probabilities)
    if how == "geometric":
        return math.prod(probabilities) ** (1 / len(probabilities))
    if how == "mean":
        return math.fsum(probabilities) / len(probabilities)
    return min(probabilities)


def with_article(phrase: str) -> str:
    """The phrase with ``a`` or ``an`` before it, unless it has an article."""
    if phrase.split(" ")[0].lower() in ARTICLES:
        return phrase
    return f"{'an' if phrase[:1].lower() in tuple('aeiou') else 'a'} {phrase}"


def _phrases(region: Region, prompt: Prompt) -> tuple[str, ...]:
    return (region.phrase,) if region.phrase else prompt.phrases


def _local(phrases: Sequence[str], found: Iterator[tuple[float, ...] | Failure]) -> Score | Failure:
    """The score of one region from the answers about its phrases, which are next in ``found``."""
    scores: list[Score] = []
    for phrase, row in zip(phrases, list(islice(found, len(phrases))), strict=True):
        if isinstance(row, Failure):
            return row
        scores.append(Score(2 * row[0] - 1, phrase))
    if not scores:
        return Failure("no phrase", "neither the region nor its prompt names one")
    return max(scores, key=lambda score: score.value)


def _probabilities(question: Question, logprobs: Sequence[float]) -> tuple[float, ...] | Failure:
    """The choices' probabilities, which sum to one up to rounding."""
    if len(logprobs) != len(question.choices):
        return Failure("wrong number of answers", f"{len(logprobs)} for {question.choices} of {question.text!r}")
    weights = [math.exp(value) if value < 1 else math.inf for value in logprobs]
    total = math.fsum(weights) if all(math.isfinite(weight) for weight in weights) else math.nan
    if not abs(total - 1) < 1e-2:
        return Failure("no probabilities", f"{tuple(logprobs)} for {question.choices} of {question.text!r}")
    return tuple(weight / total for weight in weights)  # float32 rounding would lead outside [0, 1]
