"""What the shipped checkpoint makes of its own images, by the judges that ask it, against the drawn world's oracle."""

from __future__ import annotations

import numpy as np
import pytest
from srum_bagel.adapter import BagelAdapter
from srum_choice.judge import ChoiceJudge
from srum_choice.options import ChoiceOptions
from srum_questions.judge import QuestionsJudge
from srum_questions.options import QuestionsOptions
from srum_shapes import oracle
from srum_shapes.adapter import build
from srum_shapes.options import AdapterOptions, PromptSetOptions, SamplingOptions
from srum_shapes.prompt_set import ShapesPromptSet
from srum_shapes.prompts import parse

from srum_plugins.contracts import GenerationRequest, Judge, Located
from srum_plugins.records import Candidate, Grounding, Score

PROMPTS = 64


@pytest.fixture(scope="module")
def model() -> BagelAdapter:
    return build(AdapterOptions(), "cpu")


@pytest.fixture(scope="module")
def drawn(model: BagelAdapter) -> list[Located]:
    """One candidate a prompt."""
    prompts = ShapesPromptSet(PromptSetOptions(count=PROMPTS)).prompts()
    requests = [GenerationRequest(prompt, seed) for seed, prompt in enumerate(prompts)]
    images = [one.image for one in model.generate(requests, SamplingOptions())]
    return [
        Located(prompt, Candidate(prompt.id, prompt.id, 0, seed, f"{seed}.png", *image.size), image)
        for seed, (prompt, image) in enumerate(zip(prompts, images, strict=True))
    ]


def auc(judge: Judge, model: BagelAdapter, drawn: list[Located]) -> float:
    """The share of pairs of a satisfied and an unsatisfied candidate in which the satisfied one has the higher alpha;
    equal ones count half."""
    found = judge.judge(drawn, [Grounding(item.candidate.id, ()) for item in drawn], model)
    right = np.array([oracle.score(parse(item.prompt.text), np.asarray(item.image))["full"] == 1 for item in drawn])
    assert 8 <= right.sum() <= len(right) - 8, "too few of one kind to compare"
    alphas = np.array([one.alpha.value if isinstance(one.alpha, Score) else np.nan for one in found])
    assert not np.isnan(alphas).any(), [one.alpha for one in found]
    satisfied, unsatisfied = alphas[right][:, None], alphas[~right][None]
    return float(np.mean((satisfied > unsatisfied) + 0.5 * (satisfied == unsatisfied)))


def test_choice_tells_satisfied_from_unsatisfied_candidates(model: BagelAdapter, drawn: list[Located]) -> None:
    assert auc(ChoiceJudge(ChoiceOptions()), model, drawn) >= 0.9


def test_so_do_questions_that_the_model_writes_itself(model: BagelAdapter, drawn: list[Located]) -> None:
    assert auc(QuestionsJudge(QuestionsOptions()), model, drawn) >= 0.85
