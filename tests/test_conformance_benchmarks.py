"""Our benchmarks and prompt sets keep their contracts, and the suites see those that do not."""

from __future__ import annotations

import itertools
import json
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import toy_backend
from PIL import Image
from srum_compbench.options import CATEGORIES
from test_judged_benchmarks import reason_folder

from srum_plugins import hookimpl
from srum_plugins.contracts import (
    Benchmark,
    Capability,
    Composite,
    ModelAdapter,
    PromptSet,
    Question,
    UnderstandingReport,
    Verdict,
)
from srum_plugins.providers import Provider
from srum_plugins.records import Failure, Prompt
from srum_plugins.testing.benchmarks import BenchmarkConformance
from srum_plugins.testing.prompt_sets import PromptSetConformance


class TestShapesPrompts(PromptSetConformance):
    name = "shapes"
    options = {"count": 10}


class TestToyPrompts(PromptSetConformance):
    name = "toy"
    plugin = toy_backend


class TestShapes(BenchmarkConformance):
    name = "shapes"
    options = {"prompts_per_split": 5, "questions": 7}
    examples = 2  # the oracle reads every image three times


class TestToyBenchmark(BenchmarkConformance):
    name = "toy"
    plugin = toy_backend

    def test_understanding_is_a_share_of_right_answers(self) -> None:  # type: ignore[override]
        pytest.skip("its model reads four words alone")


class _Hundred(BenchmarkConformance):
    @staticmethod
    def talk(question: Question, share: float) -> str:
        return json.dumps({"score": round(100 * share), "explanation": "as it is"})


class TestFile(_Hundred):
    name = "file"

    @classmethod
    def configure(cls, folder: Path) -> Mapping[str, Any]:
        (folder / "own.txt").write_text("a red cube\na blue ball\ntwo dogs\n")
        return {"path": str(folder / "own.txt")}


class TestCompBench(_Hundred):
    name = "t2i-compbench"

    @classmethod
    def configure(cls, folder: Path) -> Mapping[str, Any]:
        items = [
            {"Question": f"a thing of {name}", "Category": name, "Question_id": number}
            for number, name in enumerate(CATEGORIES)
        ]
        (folder / "val.json").write_text(json.dumps(items))
        return {"path": str(folder / "val.json")}


class TestReasonBench(BenchmarkConformance):
    name = "t2i-reasonbench"

    @staticmethod
    def talk(question: Question, share: float) -> str:
        """A description, or as many scores as there are questions."""
        asked = len(re.findall(r"^\d+\. Is it", question.text, re.MULTILINE))
        if not asked:
            return f"a picture, bright by {share:.2f}"
        return json.dumps({"reason": "seen", "score": [round(2 * share) / 2] * asked})

    @classmethod
    def configure(cls, folder: Path) -> Mapping[str, Any]:
        return {"path": str(reason_folder(folder))}


# --- what the suites see ------------------------------------------------------------------------------------------
PROMPTS = [Prompt(f"p{index}", f"a red {word}", "things", "mine") for index, word in enumerate(("cube", "ball"))]
COUNT = itertools.count()


class Right(Benchmark):
    """Reads a number from the judge's answer."""

    asks_model = True

    def prompts(self) -> list[Prompt]:
        return list(PROMPTS)

    def score(
        self, prompts: Sequence[Prompt], images: Sequence[Image.Image], model: ModelAdapter | None
    ) -> list[Verdict]:
        assert model is not None
        answers = model.answer([Question(image, prompt.text) for prompt, image in zip(prompts, images, strict=True)])
        return [
            self.unread(prompt) if answer.truncated else self.verdict(prompt, answer.text)
            for prompt, answer in zip(prompts, answers, strict=True)
        ]

    def verdict(self, prompt: Prompt, text: str) -> Verdict:
        try:
            value = float(text)
        except ValueError:
            return self.unread(prompt)
        return Verdict(prompt.id, {"full": value}) if 0 <= value <= 1 else self.unread(prompt)

    def unread(self, prompt: Prompt) -> Verdict:
        return Verdict(prompt.id, {}, {"full": Failure("no score")})

    def composites(self) -> Sequence[Composite]:
        return [Composite("all", {"things": 1.0})]

    def understanding(self, model: ModelAdapter) -> UnderstandingReport | None:
        return UnderstandingReport({"sight": 0.5}, {"sight": 2})


class Sentinel(Right):
    def unread(self, prompt: Prompt) -> Verdict:
        return Verdict(prompt.id, {"full": 0.0})


class Growing(Right):
    def prompts(self) -> list[Prompt]:
        return [*PROMPTS, Prompt(f"new{next(COUNT)}", "a cat")]


class Twice(Right):
    def prompts(self) -> list[Prompt]:
        return [*PROMPTS, PROMPTS[0]]


class Reserved(Right):
    def prompts(self) -> list[Prompt]:
        return [replace(one, split="seconds") for one in PROMPTS]


class Sorted(Right):
    def score(
        self, prompts: Sequence[Prompt], images: Sequence[Image.Image], model: ModelAdapter | None
    ) -> list[Verdict]:
        return sorted(super().score(prompts, images, model), key=lambda one: one.prompt_id)


class Ranked(Right):
    def score(
        self, prompts: Sequence[Prompt], images: Sequence[Image.Image], model: ModelAdapter | None
    ) -> list[Verdict]:
        found = super().score(prompts, images, model)
        best = max((one.values["full"] for one in found if one.values), default=1.0)
        return [replace(one, values={name: value / best for name, value in one.values.items()}) for one in found]


class Absent(Right):
    def composites(self) -> Sequence[Composite]:
        return [Composite("all", {"things": 0.5, "people": 0.5})]


class Unmeasured(Right):
    def composites(self) -> Sequence[Composite]:
        return [Composite("all", {"things": 1.0}, figure="fidelity")]


class Fresh(Right):
    """Asks other questions in every process."""

    def __init__(self) -> None:
        self.count = 1 + next(COUNT)

    def understanding(self, model: ModelAdapter) -> UnderstandingReport | None:
        return UnderstandingReport({"sight": 0.5}, {"sight": self.count})


class Square(Right):
    size = [32, 32]  # type: ignore[assignment]


class Percent(Right):
    def understanding(self, model: ModelAdapter) -> UnderstandingReport | None:
        return UnderstandingReport({"sight": 50.0}, {"sight": 2})


def suite(made: type[Benchmark]) -> type[BenchmarkConformance]:
    class Plugin:
        @hookimpl
        def srum_benchmarks(self) -> list[Provider]:
            needs = frozenset({Capability.ANSWER})
            return [Provider("broken", "breaks", lambda options: made(), needs=lambda options: needs)]

    class Broken(BenchmarkConformance):
        name = "broken"
        plugin = Plugin()
        talk = staticmethod(lambda question, share: f"{(1 + share) / 2:.3f}")

    return Broken


SIZE = BenchmarkConformance.test_its_size_is_a_width_and_a_height
LISTED = BenchmarkConformance.test_prompts_are_as_those_of_a_prompt_set
VERDICT = BenchmarkConformance.test_every_image_has_a_verdict_that_does_not_depend_on_the_others
MADE_OF = BenchmarkConformance.test_composites_are_of_categories_that_there_are
SHARE = BenchmarkConformance.test_understanding_is_a_share_of_right_answers
NONSENSE = BenchmarkConformance.test_nonsense_is_a_failure_and_never_a_number

CANNOT = BenchmarkConformance.test_a_model_that_cannot_do_what_is_needed_is_refused


@pytest.mark.parametrize(
    ("made", "test", "words"),
    [
        (Growing, LISTED, "gave another list in a second call"),
        (Twice, LISTED, r"gave the id \['p0'\] twice"),
        (Reserved, LISTED, "gave the split 'seconds'"),
        (Sorted, VERDICT, "for the prompt 'p1'"),
        (Ranked, VERDICT, "alone another verdict"),
        (Absent, MADE_OF, r"names the category \['people'\]"),
        (Percent, SHARE, "gave UnderstandingReport"),
        (Square, SIZE, r"size: is \[32, 32\]"),
        (Unmeasured, MADE_OF, "of the figure 'fidelity', which verdicts of the category 'things' lack"),
        (Fresh, SHARE, "another report in a second object"),
        (Sentinel, lambda *given: NONSENSE(*given, nonsense="garbage"), r"made full=0 .*nonsense \(garbage\)"),
    ],
)
def test_a_broken_benchmark_is_told(
    tmp_path: Path, made: type[Benchmark], test: Callable[..., None], words: str
) -> None:
    broken = suite(made)
    subject = broken.open(tmp_path)
    with pytest.raises(pytest.fail.Exception, match=words) as told:
        test(broken(), subject, subject.make(Benchmark))
    assert "the benchmark 'broken' of" in str(told.value) and "mend: " in str(told.value)


class TestRight(suite(Right)):  # type: ignore[misc]
    """The same benchmark with nothing broken."""


class Deaf(Right):
    def score(
        self, prompts: Sequence[Prompt], images: Sequence[Image.Image], model: ModelAdapter | None
    ) -> list[Verdict]:
        return [Verdict(prompt.id, {"full": 1.0}) for prompt in prompts]


@pytest.mark.parametrize("ask", [partial(NONSENSE, nonsense="empty"), CANNOT])
def test_a_benchmark_that_asks_nothing_is_told_the_cause(tmp_path: Path, ask: Callable[..., None]) -> None:
    broken = suite(Deaf)
    subject = broken.open(tmp_path)
    with pytest.raises(pytest.fail.Exception, match="score: needs answer, and asked the model nothing") as told:
        ask(broken(), subject, subject.make(Benchmark))
    assert "mend: set asks_model = False" in str(told.value)
    with pytest.raises(pytest.skip.Exception, match="the first test"):  # once is enough
        ask(broken(), subject, subject.make(Benchmark))


class Lists(PromptSet):
    def __init__(self, given: Any) -> None:
        self.given = given

    def prompts(self) -> list[Prompt]:
        found: list[Prompt] = self.given
        return found


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ([], "at least one"),
        ([Prompt("", "a cat")], "an id and a text"),
        ([Prompt("a", " ")], "an id and a text"),
        ([Prompt("a", "a cat", phrases=["cat"])], "another when it is read again"),  # type: ignore[arg-type]
        ([Prompt("a", "a cat"), Prompt("b", "a dog")], "after its list was changed|in a second call"),
    ],
)
def test_a_broken_prompt_set_is_told(tmp_path: Path, given: list[Prompt], words: str) -> None:
    class Plugin:
        @hookimpl
        def srum_prompt_sets(self) -> list[Provider]:
            return [Provider("broken", "breaks", lambda options: Lists(given))]

    class Broken(PromptSetConformance):
        name = "broken"
        plugin = Plugin()

    subject = Broken.open(tmp_path)
    test = Broken.test_the_list_is_the_same_at_every_call
    with pytest.raises(pytest.fail.Exception, match=words) as told:
        test(Broken(), subject, subject.make(PromptSet))
    assert "the prompts 'broken' of" in str(told.value) and "mend: " in str(told.value)
