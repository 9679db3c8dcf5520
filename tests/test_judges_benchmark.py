"""The benchmark of judges: every token that it reports was written."""

from __future__ import annotations

import dataclasses
import json
import sys
from pathlib import Path
from types import ModuleType

import pytest
from benchmark_module import load_benchmark
from tiny_bagel import tiny_adapter

from srum_plugins.contracts import Decoding, Question


@pytest.fixture(scope="module")
def judges() -> ModuleType:
    return load_benchmark("judges")


def test_it_writes_what_it_measured(judges: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    config, _ = judges.SIZES["small"]
    llm = dataclasses.replace(config.llm, hidden_size=64, intermediate_size=64, num_hidden_layers=2)
    monkeypatch.setitem(judges.SIZES, "small", (dataclasses.replace(config, llm=llm), 64))
    file = tmp_path / "figures.json"
    given = "--images 5 --think-tokens 7 --answer-tokens 3 --list-tokens 12 --rounds 2"
    monkeypatch.setattr(sys, "argv", ["judges.py", *given.split(), "--output", str(file)])
    judges.main()
    report = json.loads(file.read_text())
    choice, questions, rubric = (report[name] for name in ("choice", "questions", "rubric"))
    for one in (choice, questions, rubric):
        assert one["images_per_second"] == pytest.approx(5 / one["seconds"]) and len(one["rounds"]) == 2
    assert report["choice_over_rubric"] == choice["images_per_second"] / rubric["images_per_second"]
    # Every answer of rubric, two an image, has all its tokens; a list is written for each of two prompts.
    assert rubric["answers_written"] == 10 and rubric["tokens_per_answer"] == [10, 10]
    assert questions["answers_written"] == 2 and questions["tokens_per_answer"] == [12, 12]
    assert choice["answers_written"] == 0 and choice["images_without_alpha"] == 0
    assert questions["images_without_alpha"] == 0
    assert questions["choice_questions_per_image"] == pytest.approx((5 * 2 + report["regions"]) / 5)


def test_no_answer_ends_while_its_end_is_barred(judges: ModuleType) -> None:
    model = tiny_adapter()
    questions = [Question(None, "how many objects ?", ("one", "two"), seed=seed) for seed in range(20)]
    warm, chosen = Decoding(temperature=1.0, max_tokens=40), model.choice_logprobs(questions[:1])
    assert any(not answer.truncated for answer in model.answer(questions, warm))
    with judges.endless(model):
        assert {answer.tokens for answer in model.answer(questions, warm)} == {40}
        assert model.choice_logprobs(questions[:1]) == [pytest.approx(chosen[0], abs=1e-4)]
    assert model.choice_logprobs(questions[:1]) == chosen
    assert any(not answer.truncated for answer in model.answer(questions, warm))
