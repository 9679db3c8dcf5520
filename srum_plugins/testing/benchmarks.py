"""Does a benchmark keep its contract (:class:`srum_plugins.contracts.Benchmark`)?"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import ClassVar

import numpy as np
import pytest
from hypothesis import strategies as st
from PIL import Image

from srum_plugins.contracts import Benchmark, ModelAdapter, UnderstandingReport, Verdict
from srum_plugins.gate import is_size
from srum_plugins.providers import Kind
from srum_plugins.records import Prompt
from srum_plugins.stages.evaluate import RESERVED
from srum_plugins.testing.prompt_sets import checked_prompts, same_prompts
from srum_plugins.testing.scripted import NONSENSE, AskingConformance, ScriptedModel
from srum_plugins.testing.suite import Subject, same_length

NOT_ASKED = "set asks_model = False where score asks no model"
SOME = 3
"""Prompts of a category that are scored to see what figures its verdicts have."""


class BenchmarkConformance(AskingConformance):
    """The suite of benchmarks. Images are noise, of ``size`` (width, height) pixels where the benchmark does not say
    which size it reads.

    A benchmark with ``asks_model`` is given a :class:`srum_plugins.testing.scripted.ScriptedModel`, whose open answers
    have the form that ``talk`` gives them.
    """

    kind: ClassVar[Kind] = Kind.BENCHMARK
    size: ClassVar[tuple[int, int]] = (32, 32)

    @pytest.fixture(scope="class")
    @classmethod
    def benchmark(cls, subject: Subject) -> Benchmark:
        """What the factory makes."""
        made: Benchmark = subject.make(Benchmark)
        return made

    @classmethod
    def judge(
        cls, subject: Subject, benchmark: Benchmark, *, nonsense: str | None = None, seed: int = 0
    ) -> ModelAdapter | None:
        """What ``score`` is given: a model if the benchmark asks one."""
        silly = next((one for one in NONSENSE if one == nonsense), None)
        model = cls.model(subject.needed, nonsense=silly, seed=seed)
        return model if benchmark.asks_model else None

    @classmethod
    def noise(cls, benchmark: Benchmark, seed: int) -> Image.Image:
        """An image that the benchmark reads."""
        width, height = benchmark.size or cls.size
        rng = np.random.default_rng(seed)
        return Image.fromarray(rng.integers(0, 256, (height, width, 3), dtype=np.uint8))

    @staticmethod
    def scored(
        subject: Subject,
        benchmark: Benchmark,
        prompts: Sequence[Prompt],
        images: Sequence[Image.Image],
        model: ModelAdapter | None,
    ) -> list[Verdict]:
        """The verdicts of some images: one each, in order. The ranges are checked by the record."""
        found = subject.call("score", benchmark.score, prompts, images, model)
        same_length(subject, "score", "verdicts", prompts, found)
        for prompt, verdict in zip(prompts, found, strict=True):
            subject.require(
                isinstance(verdict, Verdict) and verdict.prompt_id == prompt.id,
                "score",
                f"gave {verdict!r:.200} for the prompt {prompt.id!r}",
                "give a Verdict with the prompt's id, in the order of the prompts",
            )
        return found

    def test_prompts_are_as_those_of_a_prompt_set(self, subject: Subject, benchmark: Benchmark) -> None:
        """And their splits are names that a summary can have."""
        for prompt in checked_prompts(subject, benchmark):
            subject.require(
                prompt.split not in RESERVED,
                "prompts",
                f"gave the split {prompt.split!r}, the name of another entry of a summary",
                f"name it otherwise; none may be {', '.join(RESERVED)}",
            )
        same_prompts(subject, benchmark, subject.make(Benchmark))

    def test_its_size_is_a_width_and_a_height(self, subject: Subject, benchmark: Benchmark) -> None:
        """In pixels, or None."""
        size = benchmark.size
        subject.require(
            size is None or is_size(size),
            "size",
            f"is {size!r}",
            "give (width, height) in pixels, or None for a benchmark that reads images of any size",
        )

    def test_every_image_has_a_verdict_that_does_not_depend_on_the_others(
        self, subject: Subject, benchmark: Benchmark
    ) -> None:
        """One an image, in order; the same in a second call, from a second object, in another order, and alone; images
        are left as they are."""
        prompts, second = checked_prompts(subject, benchmark), subject.make(Benchmark)
        model = self.judge(subject, benchmark)

        def check(seeds: list[int]) -> None:
            chosen = [prompts[seed % len(prompts)] for seed in seeds]
            images = [self.noise(benchmark, seed) for seed in seeds]
            before = [image.tobytes() for image in images]
            first = self.scored(subject, benchmark, chosen, images, model)
            for what, who in (("a second call", benchmark), ("a second object", second)):
                subject.require(
                    self.scored(subject, who, chosen, images, model) == first,
                    "score",
                    f"gave other verdicts in {what} for the same images",
                    "draw with a fixed seed, or not at all; keep nothing from one call to the next",
                )
            subject.require(
                self.scored(subject, benchmark, chosen[::-1], images[::-1], model)[::-1] == first,
                "score",
                "gave other verdicts for the same images in another order",
                "give the verdicts in the order of the images, and let nothing of one depend on the others",
            )
            alone = [
                self.scored(subject, benchmark, [prompt], [image], model)[0]
                for prompt, image in zip(chosen, images, strict=True)
            ]
            subject.require(
                alone == first,
                "score",
                "gave an image alone another verdict than beside others",
                "let nothing of one image depend on the others",
            )
            subject.require(
                [image.tobytes() for image in images] == before,
                "score",
                "changed an image that it was given",
                "draw on a copy (image.copy())",
            )

        self.for_all(st.lists(st.integers(0, 2**16), min_size=2, max_size=3, unique=True), check)

    def test_nothing_is_nothing(self, subject: Subject, benchmark: Benchmark) -> None:
        """No image, no verdict."""
        self.scored(subject, benchmark, [], [], self.judge(subject, benchmark))

    @pytest.mark.parametrize("nonsense", NONSENSE)
    def test_nonsense_is_a_failure_and_never_a_number(
        self, subject: Subject, benchmark: Benchmark, nonsense: str
    ) -> None:
        """Whatever figure comes of the model when it talks sense is a Failure when it does not."""
        if not benchmark.asks_model:
            pytest.skip("asks no model")
        prompts = checked_prompts(subject, benchmark)[:4]
        images = [self.noise(benchmark, seed) for seed in range(len(prompts))]

        def said(model: ModelAdapter | None) -> dict[str, set[float]]:
            found: dict[str, set[float]] = {}
            for verdict in self.scored(subject, subject.make(Benchmark), prompts, images, model):
                for name, value in verdict.values.items():
                    found.setdefault(name, set()).add(float(value))
            return found

        sense: dict[str, set[float]] = {}
        for seed in range(3):
            model = self.judge(subject, benchmark, seed=seed)
            found = said(model)
            self.is_asked(subject, "score", model, NOT_ASKED)
            for name, values in found.items():
                sense.setdefault(name, set()).update(values)
        subject.require(
            "full" in sense,
            "score",
            "gave no figure `full` for what the scripted model says",
            "give the test class a `talk` that writes answers in the form that the benchmark asks for",
        )
        silly = said(self.judge(subject, benchmark, nonsense=nonsense))
        for name, values in sense.items():
            subject.require(
                len(values) == 1 or name not in silly,
                "score",
                f"made {name}={min(silly.get(name, {0.0})):g} of a judge that talks nonsense ({nonsense})",
                "put a Failure into `failures` for a figure that could not be had",
            )

    def test_a_model_that_cannot_do_what_is_needed_is_refused(self, subject: Subject, benchmark: Benchmark) -> None:
        """By an error in words; the gate tells it before a run."""
        if not benchmark.asks_model:
            pytest.skip("asks no model")
        prompts, model = checked_prompts(subject, benchmark)[:1], self.judge(subject, benchmark)
        self.scored(subject, benchmark, prompts, [self.noise(benchmark, 0)], model)
        self.is_asked(subject, "score", model, NOT_ASKED)
        subject.refused("score", benchmark.score, prompts, [self.noise(benchmark, 0)], ScriptedModel(can=frozenset()))

    def test_composites_are_of_categories_that_there_are(self, subject: Subject, benchmark: Benchmark) -> None:
        """And of figures that verdicts have: else they never exist. No name is given twice."""
        prompts = checked_prompts(subject, benchmark)
        known = {prompt.category for prompt in prompts}
        composites = subject.call("composites", benchmark.composites)
        for composite in composites:
            absent = sorted(composite.weights.keys() - known)
            subject.require(
                not absent,
                "composites",
                f"the composite {composite.name!r} names the category {absent[:1]}, which no prompt has",
                f"name categories of the prompts: {', '.join(sorted(known))}",
            )
        model, shown = self.judge(subject, benchmark), self.noise(benchmark, 0)
        for composite in composites:
            for category in composite.weights:
                own = [prompt for prompt in prompts if prompt.category == category][:SOME]
                figures = {
                    name
                    for verdict in self.scored(subject, benchmark, own, [shown] * len(own), model)
                    for name in (*verdict.values, *verdict.failures)
                }
                subject.require(
                    composite.figure in figures,
                    "composites",
                    f"the composite {composite.name!r} is of the figure {composite.figure!r}, which verdicts of the "
                    f"category {category!r} lack",
                    f"name a figure of theirs: {', '.join(sorted(figures))}",
                )
        counts = Counter(composite.name for composite in composites)
        twice = [name for name, count in counts.items() if count > 1]
        subject.require(not twice, "composites", f"gave two composites named {twice[:1]}", "name each otherwise")

    def test_understanding_is_a_share_of_right_answers(self, subject: Subject, benchmark: Benchmark) -> None:
        """In [0, 1] by kind, with as many questions at every call; asked of a model that can do what is needed."""
        model = ScriptedModel(self.talk, can=subject.needed)
        report = subject.call("understanding", benchmark.understanding, model)
        if report is None:
            return
        subject.require(
            isinstance(report, UnderstandingReport)
            and all(0.0 <= value <= 1.0 for value in report.accuracy.values())
            and report.questions.keys() <= report.accuracy.keys()
            and all(count > 0 for count in report.questions.values()),
            "understanding",
            f"gave {report!r:.200}",
            "give an UnderstandingReport: accuracy in [0, 1] by kind, and how many questions each kind has",
        )
        second: Benchmark = subject.make(Benchmark)
        for what, who in (("a second call", benchmark), ("a second object", second)):
            subject.require(
                subject.call("understanding", who.understanding, model) == report,
                "understanding",
                f"gave another report in {what} for the same model",
                "ask the same questions at every call; draw them with a fixed seed",
            )
