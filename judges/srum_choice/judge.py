"""Turns the model's answers to multiple-choice questions into the two scores of SRUM."""

from __future__ import annotations

import math
from collections.abc import Sequence

from srum_choice.options import ChoiceOptions, Combine
from srum_plugins.choices import YES_NO
from srum_plugins.contracts import Judge, Located, ModelAdapter, Question
from srum_plugins.errors import ContractError
from srum_plugins.records import Check, Failure, Grounding, Judgement, Prompt, Score
from srum_plugins.region_questions import Answered, ask_images
from srum_plugins.runs.fingerprint import fingerprint


class ChoiceJudge(Judge):
    """alpha: the probabilities of the answers that the prompt's checks demand, combined into one number in [0, 1].
    local: 2 p(yes) - 1 of the question whether the region shows its phrase. No word is written."""

    def __init__(self, options: ChoiceOptions) -> None:
        self._options = options
        self._wording = fingerprint([options.global_template, options.region_template, YES_NO])

    def judge(
        self, items: Sequence[Located], groundings: Sequence[Grounding], model: ModelAdapter | None
    ) -> list[Judgement]:
        """All questions of all items go to the model in one call. A region without phrase is asked about each phrase
        of the prompt and scored by the best; without any phrase its score is a Failure, as are answers that are no
        probabilities. Background has 0 and is not asked about."""
        if model is None:
            raise ContractError("the judge 'choice' needs a model")
        checks = [self._checks(item.prompt) for item in items]
        facts = [
            [Question(item.image, check.question, check.choices) for check in own]
            for item, own in zip(items, checks, strict=True)
        ]
        heard = ask_images(model, items, groundings, facts, self._options.region_template)
        return [
            Judgement(
                grounding.candidate_id, self._alpha(own, one.facts), one.local, one.lines, 0, wording=self._wording
            )
            for grounding, own, one in zip(groundings, checks, heard, strict=True)
        ]

    def _checks(self, prompt: Prompt) -> tuple[Check, ...]:
        whole = self._options.global_template.replace("{text}", prompt.text)
        return prompt.checks or (Check("whole", whole, YES_NO, "yes"),)

    def _alpha(self, checks: Sequence[Check], answers: Sequence[Answered]) -> Score | Failure:
        facts: list[tuple[float, str]] = []
        for check, answered in zip(checks, answers, strict=True):
            if isinstance(answered, Failure):
                return answered
            facts.append((answered[check.choices.index(check.answer)], f"{check.question} {check.answer}"))
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
