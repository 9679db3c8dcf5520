"""The stage evaluate: what is drawn and what is scored, failures in figures, composites, the base model as judge."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import toy_backend
from engine_fixtures import contents, toy_config, toy_host, toy_run, write_config
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from srum_plugins import hookimpl
from srum_plugins.contracts import (
    Answer,
    Capability,
    Composite,
    Decoding,
    GenerationRequest,
    ModelAdapter,
    Question,
    Verdict,
)
from srum_plugins.errors import ConfigError, ContractError, StageError
from srum_plugins.host import PluginHost
from srum_plugins.providers import Provider
from srum_plugins.records import Failure, Prompt
from srum_plugins.report import markdown, rows
from srum_plugins.stages.evaluate import Measured, summarise
from srum_plugins.stages.pipeline import run
from srum_plugins.stats import paired_bootstrap, stratified_bootstrap

shares = st.floats(0, 1)
GONE = Failure("no score", "it said nothing")


def side(figures: Sequence[float | None], category: str = "a", start: int = 0) -> list[Measured]:
    """A side of one split; None is a failure."""
    return [
        Measured(
            f"{category}{start + index}",
            "x",
            category,
            index,
            {} if value is None else {"full": value},
            {"full": GONE} if value is None else {},
        )
        for index, value in enumerate(figures)
    ]


# --- figures -----------------------------------------------------------------------------------------------------
@given(st.lists(st.tuples(shares | st.none(), shares | st.none()), min_size=1, max_size=12))
def test_figures_are_over_the_prompts_that_both_sides_have(pairs: list[tuple[float | None, float | None]]) -> None:
    found = summarise(side([old for old, _ in pairs]), side([new for _, new in pairs]), seed=0)["x"]
    held = [(old, new) for old, new in pairs if old is not None and new is not None]
    assert found["prompts"] == len(held)
    assert found["failed"] == {
        "before": sum(old is None for old, _ in pairs),
        "after": sum(new is None for _, new in pairs),
    }
    assert found.get("causes", {}) == ({"no score": n} if (n := sum(found["failed"].values())) else {})
    if not held:
        assert (found["before"], found["after"], found["delta"], found["ci95"]) == (None,) * 4
        return
    assert found["before"] == pytest.approx(np.mean([old for old, _ in held]))
    assert found["after"] == pytest.approx(np.mean([new for _, new in held]))
    assert found["delta"] == pytest.approx(found["after"] - found["before"])


@settings(max_examples=30, deadline=None)
@given(st.data())
def test_a_composite_is_the_weighted_mean_of_its_categories(data: st.DataObject) -> None:
    sizes = data.draw(st.lists(st.integers(1, 5), min_size=1, max_size=4))
    raw = data.draw(st.lists(st.floats(0.1, 1), min_size=len(sizes), max_size=len(sizes)))
    weights = {f"c{index}": value / sum(raw) for index, value in enumerate(raw)}
    sides = [[data.draw(st.lists(shares, min_size=n, max_size=n)) for n in sizes] for _ in range(2)]
    before, after = (
        [one for name, values in zip(weights, drawn, strict=True) for one in side(values, name)] for drawn in sides
    )
    found = summarise(before, after, 0, [Composite("all", weights)])["x"]["composites"]["all"]
    for which, drawn in zip(("before", "after"), sides, strict=True):
        means = [np.mean(values) for values in drawn]
        assert found[which] == pytest.approx(sum(w * m for w, m in zip(weights.values(), means, strict=True)))
    assert found["delta"] == pytest.approx(found["after"] - found["before"], abs=1e-12)
    assert found["ci95"][0] - 1e-12 <= found["delta"] <= found["ci95"][1] + 1e-12
    assert found["prompts"] == sum(sizes)


def test_a_composite_of_which_a_category_has_no_figure_has_none_and_names_it() -> None:
    both = [*side([1.0, 0.0]), *side([None], "b")]
    found = summarise(both, both, 0, [Composite("all", {"a": 0.5, "b": 0.25, "c": 0.25})])["x"]["composites"]["all"]
    assert (found["before"], found["prompts"], found["missing"]) == (None, 0, ["b", "c"])
    assert found["failed"] == {"before": 1, "after": 1}


def test_verdicts_and_composites_that_say_nonsense_are_refused() -> None:
    with pytest.raises(ContractError, match="needs `full`"):
        Verdict("p", {"other": 1.0})
    with pytest.raises(ContractError, match=r"\[0, 1\]"):
        Verdict("p", {"full": float("nan")})
    with pytest.raises(ContractError, match="as a value and as a failure"):
        Verdict("p", {"full": 1.0}, {"full": GONE})
    with pytest.raises(ContractError, match="add up to 1"):
        Composite("all", {"a": 0.5, "b": 0.4})
    with pytest.raises(ContractError, match="positive"):
        Composite("all", {"a": 1.5, "b": -0.5})


@given(st.lists(st.tuples(shares, shares), min_size=2, max_size=10))
def test_one_stratum_is_a_plain_paired_comparison(pairs: list[tuple[float, float]]) -> None:
    before, after = [old for old, _ in pairs], [new for _, new in pairs]
    plain = paired_bootstrap(before, after, resamples=200, seed=4)
    one = stratified_bootstrap([before], [after], [1.0], resamples=200, seed=4)
    assert (one.delta, one.low, one.high) == pytest.approx((plain.delta, plain.low, plain.high))
    assert one.n == plain.n


def test_strata_are_resampled_within_their_own() -> None:
    """Between strata the differences differ widely, within them they do not: the interval has no width."""
    found = stratified_bootstrap([[0.0, 0.0], [0.5] * 30], [[1.0, 1.0], [0.5] * 30], [0.5, 0.5])
    assert (found.delta, found.low, found.high, found.n) == (0.5, 0.5, 0.5, 32)
    wide = stratified_bootstrap([[0.0, 0.0, 0.0], [0.5]], [[1.0, 0.0, 1.0], [0.6]], [0.5, 0.5])
    assert wide.low < wide.delta < wide.high
    with pytest.raises(ContractError, match="every stratum"):
        stratified_bootstrap([[0.0], [1.0]], [[0.0], [1.0, 1.0]], [0.5, 0.5])
    with pytest.raises(ContractError, match="as many strata"):
        stratified_bootstrap([[0.0]], [[0.0]], [0.5, 0.5])


def test_tables_show_what_is_missing() -> None:
    both = [*side([1.0, None]), *side([None], "b|c")]
    summary = {**summarise(both, both, 0, [Composite("all", {"a": 0.5, "z": 0.5})]), "arm": "x"}
    found = {row["what"]: row for row in rows(summary)}
    assert found["x, all"]["after"] is None and found["x/b|c"]["n"] == 0
    text = markdown(summary)
    assert "x: 2 not scored before, 2 after (no score: 4)" in text
    assert "| x/b\\|c |  |  |  |  |  | 0 |" in text


# --- through the pipeline ----------------------------------------------------------------------------------------
class TalkingAdapter(toy_backend.ToyAdapter):
    """Says how red an image is from 0 to 100; ``events`` has what was asked of which weights."""

    events: list[tuple[str, float]] = []

    def _weights(self) -> float:
        return float(self.model.palette.detach().sum())

    def generate(self, requests: Sequence[GenerationRequest], sampling: Any) -> Any:
        self.events.append(("generate", self._weights()))
        return super().generate(requests, sampling)

    def answer(self, questions: Sequence[Question], decoding: Decoding = Decoding()) -> list[Answer]:  # noqa: B008
        self.events.append(("answer", self._weights()))
        return [Answer(f"{float(toy_backend.pixels(one.image)[0].mean()):.3f}", tokens=3) for one in questions]


class JudgedBenchmark(toy_backend.ToyBenchmark):
    """As the model says; ``missing`` are prompts of which it cannot be read."""

    asks_model = True
    missing: frozenset[str] = frozenset()
    raising: frozenset[str] = frozenset()

    def score(
        self, prompts: Sequence[Prompt], images: Sequence[Image.Image], model: ModelAdapter | None
    ) -> list[Verdict]:
        assert model is not None
        verdicts = []
        for prompt, answer in zip(prompts, model.answer([Question(image, "?") for image in images]), strict=True):
            if prompt.id in self.raising:
                raise ValueError(f"cannot read {prompt.id}")
            values: Mapping[str, float] = {} if prompt.id in self.missing else {"full": float(answer.text)}
            failures = {"full": GONE} if prompt.id in self.missing else {}
            verdicts.append(Verdict(prompt.id, values, failures, (answer.text,), answer.tokens))
        return verdicts

    def composites(self) -> list[Composite]:
        return [Composite("both", {"warm": 0.5, "cool": 0.5})]


def judged_host(benchmark: type[JudgedBenchmark]) -> PluginHost:
    class Plugin:
        @hookimpl
        def srum_model_adapters(self) -> list[Provider]:
            toy = toy_backend.srum_model_adapters()[0]
            able = toy.capabilities | {Capability.ANSWER}
            return [dataclasses.replace(toy, name="talking", factory=TalkingAdapter, capabilities=able)]

        @hookimpl
        def srum_benchmarks(self) -> list[Provider]:
            toy = toy_backend.srum_benchmarks()[0]
            needs = frozenset({Capability.ANSWER})
            return [dataclasses.replace(toy, name="judged", factory=benchmark, needs=lambda options: needs)]

    host = toy_host()
    host.register(Plugin(), "talking")
    return host


JUDGED = ("adapter=talking", "benchmark=judged")


def judged_run(folder: Path, *overrides: str, benchmark: type[JudgedBenchmark] = JudgedBenchmark, **more: Any) -> Any:
    host = judged_host(benchmark)
    return run(toy_config(folder, *JUDGED, *overrides, host=host), host, say=lambda text: None, **more)


def test_the_base_model_judges_both_sides_after_both_are_drawn(tmp_path: Path) -> None:
    TalkingAdapter.events.clear()
    toy_backend.calls.clear()
    summary = judged_run(tmp_path, "evaluate.chunk=8")
    *_, before, after, first, second = TalkingAdapter.events
    assert [name for name, _ in (before, after, first, second)] == ["generate", "generate", "answer", "answer"]
    base, tuned = before[1], after[1]
    assert base != tuned and first[1] == second[1] == base
    assert toy_backend.calls["load"] == 3  # before training, after it, and as judge
    assert summary["in_domain"]["composites"]["both"]["prompts"] == 4
    assert summary["measured"]["benchmark"]["name"] == "judged" and summary["measured"]["seed"] == 3
    (part,) = (tmp_path / "run/stages/evaluate").glob("*/part-00000.jsonl")
    record = json.loads(part.read_text().splitlines()[0])
    assert record["raw"] == [f"{record['values']['full']:.3f}"] and record["tokens"] == 3


def test_scoring_again_draws_nothing(tmp_path: Path) -> None:
    judged_run(tmp_path)
    before = contents(tmp_path / "run")
    TalkingAdapter.events.clear()
    judged_run(tmp_path, start="score")
    assert {name for name, _ in TalkingAdapter.events} == {"answer"}
    after = {name: data for name, data in contents(tmp_path / "run").items() if ".replaced-" not in name}
    assert after == before


def test_a_judge_that_dies_costs_no_image(tmp_path: Path) -> None:
    class Dying(JudgedBenchmark):
        def score(self, prompts: Any, images: Any, model: Any) -> Any:
            raise StageError("the endpoint is gone")

    with pytest.raises(StageError, match="gone"):
        judged_run(tmp_path, benchmark=Dying)
    TalkingAdapter.events.clear()
    judged_run(tmp_path)
    assert {name for name, _ in TalkingAdapter.events} == {"answer"}


def test_failures_are_counted_and_stop_the_run_where_they_are_too_many(tmp_path: Path) -> None:
    class Failing(JudgedBenchmark):
        missing, raising = frozenset({"i0"}), frozenset({"o1"})

    write_config(tmp_path, run={"name": "t", "directory": str(tmp_path / "run"), "seed": 3, "max_failed": 0.2})
    with pytest.raises(StageError, match="2 of 8 records of the stage evaluate have failed"):
        judged_run(tmp_path, benchmark=Failing)
    summary = judged_run(tmp_path, "run.max_failed=1", benchmark=Failing)
    assert summary["in_domain"]["failed"] == {"before": 1, "after": 1}
    assert summary["in_domain"]["prompts"] == 3
    assert summary["in_domain"]["causes"] == {"no score": 2}
    assert summary["out_of_domain"]["causes"] == {"ValueError": 2}
    (done,) = (tmp_path / "run/stages/evaluate").glob("*/done.json")
    assert [json.loads(done.read_text())[f"failed_{name}"] for name in ("before", "after")] == [2, 2]


def test_other_ways_to_score_share_the_images(tmp_path: Path) -> None:
    host = judged_host(JudgedBenchmark)
    toy_run(tmp_path, "adapter=talking", host=host)
    TalkingAdapter.events.clear()
    toy_run(tmp_path, *JUDGED, host=host)
    assert {name for name, _ in TalkingAdapter.events} == {"answer"}


def test_with_and_without_another_sampling_are_two_results(tmp_path: Path) -> None:
    first = judged_run(tmp_path)
    second = judged_run(tmp_path, "evaluate.sampling.noise=0.0")
    told = [one["measured"]["evaluate"]["sampling"]["noise"] for one in (first, second)]
    assert told == [0.2, 0.0]
    assert len(list((tmp_path / "run/stages/evaluate").glob("*/summary.json"))) == 2


def test_images_are_drawn_in_the_size_that_the_benchmark_reads(tmp_path: Path) -> None:
    class Wide(JudgedBenchmark):
        size = (16, 8)

    judged_run(tmp_path, benchmark=Wide)
    drawn = list((tmp_path / "run/stages").glob("*images/*/images/*.png"))
    assert drawn
    for file in drawn:
        with Image.open(file) as image:
            assert image.size == (16, 8)
    before = sorted((tmp_path / "run/stages").glob("*/*/manifest.json"))
    judged_run(tmp_path, "evaluate.width=16", "evaluate.height=8", benchmark=Wide)  # the same, said twice
    assert sorted((tmp_path / "run/stages").glob("*/*/manifest.json")) == before


@pytest.mark.parametrize("size", [512, [16, 8], (16.0, 8.0), (0, 8), (8,), (8, 8, 3)])
def test_a_size_that_is_none_is_told(tmp_path: Path, size: Any) -> None:
    odd = type("Odd", (JudgedBenchmark,), {"size": size})
    with pytest.raises(
        ContractError, match=r"benchmark 'judged' .*: its size is .* expected \(width, height\) in pixels"
    ):
        judged_run(tmp_path, benchmark=odd)


def test_another_size_than_the_benchmark_reads_is_refused_before_anything_is_drawn(tmp_path: Path) -> None:
    class Wide(JudgedBenchmark):
        size = (16, 8)

    with pytest.raises(ConfigError, match=r"benchmark 'judged' .* reads images of 16 x 8 pixels alone: leave both out"):
        judged_run(tmp_path, "evaluate.width=8", "evaluate.height=8", benchmark=Wide)
    assert not (tmp_path / "run/stages").exists()
