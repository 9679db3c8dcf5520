"""Asks the model itself, by questions of yes or no."""

from __future__ import annotations

from collections.abc import Sequence

from srum_plugins.choices import YES_NO
from srum_plugins.contracts import Judge, Located, ModelAdapter, Question
from srum_plugins.errors import ContractError
from srum_plugins.records import Failure, Grounding, Judgement, Score
from srum_plugins.region_questions import ask_images

from srum_example_name.plugin import Options


class ExampleNameJudge(Judge):
    """alpha is p(yes) of the whole image, a local score 2 p(yes) - 1 of the region."""

    def __init__(self, options: Options) -> None:
        self._template = options.template

    def judge(
        self, items: Sequence[Located], groundings: Sequence[Grounding], model: ModelAdapter | None
    ) -> list[Judgement]:
        """One judgement per item. An answer that is no probability is a Failure, never a number."""
        if model is None:
            raise ContractError("the judge 'example-name' needs a model")
        texts = [self._template.replace("{text}", item.prompt.text) for item in items]
        wholes = [[Question(item.image, text, YES_NO)] for item, text in zip(items, texts, strict=True)]
        heard = ask_images(model, items, groundings, wholes)  # and one question of each region, all in one call
        answers = [one.facts[0] for one in heard]
        alphas = [answer if isinstance(answer, Failure) else Score(answer[0]) for answer in answers]
        return [
            Judgement(item.candidate.id, alpha, one.local, one.lines, wording=self._template)
            for item, alpha, one in zip(items, alphas, heard, strict=True)
        ]
