"""Turns the model's answers to multiple-choice questions into the two scores of SRUM."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from itertools import islice

from PIL import Image

from srum_choice.options import ChoiceOptions, Combine
from srum_plugins.choices import YES_NO, ask, region_question
from srum_plugins.contracts import Judge, Located, ModelAdapter, Question
from srum_plugins.errors import ContractError
from srum_plugins.phrases import prompt_phrases
from srum_plugins.records import Check, Failure, Grounding, Judgement, Prompt, Region, Score


class ChoiceJudge(Judge):
    """alpha: the probabilities of the answers that the prompt's checks demand, combined into one number in [0, 1].
    local: 2 p(yes) - 1 of the question whether the region shows its phrase."""

    def __init__(self, options: ChoiceOptions) -> None:
        self._options = options

    def judge(
        self, items: Sequence[Located], groundings: Sequence[Grounding], model: ModelAdapter | None
    ) -> list[Judgement]:
        """All questions of all items go to the model in one call. A region without phrase is asked about each phrase
        of the prompt and scored by the best; where the prompt names no thing its score is a Failure, as are answers
        that are no probabilities."""
        if model is None:
            raise ContractError("the judge 'choice' needs a model")
        questions: list[Question] = []
        for item, grounding in zip(items, groundings, strict=True):
            checks = self._checks(item.prompt)
            questions += [Question(item.image, check.question, check.choices) for check in checks]
            for region in grounding.regions:
                questions += self._region_questions(item.image, region, item.prompt)
        found = iter(ask(model, questions))
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
        template = self._options.region_template
        return [region_question(template, image, region.box, phrase) for phrase in _phrases(region, prompt)]

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


def _phrases(region: Region, prompt: Prompt) -> tuple[str, ...]:
    return (region.phrase,) if region.phrase else prompt_phrases(prompt)


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
