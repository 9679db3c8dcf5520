"""The figures of an ablation's table, and how it is shown."""

import csv
import io
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.console import Console

from srum_plugins.ablations.compare import joined, rows
from srum_plugins.ablations.outcome import Mark, Outcome
from srum_plugins.ablations.tables import csv_text, markdown, table
from srum_plugins.errors import ContractError
from srum_plugins.records import Failure, from_json, to_json
from srum_plugins.stats import NO_CHANGE, Interval

figures = st.floats(0.0, 1.0)


def outcome(arm: str, seed: int, after: dict[str, float], before: float = 0.5, **more: Any) -> Outcome:
    marks = tuple(Mark(prompt, "in_domain", before, figure) for prompt, figure in after.items())
    return Outcome(arm, seed, "fingerprint", marks, **more)


@given(st.integers(1, 3), st.integers(1, 5), st.data())
def test_a_prompt_counts_with_its_mean_over_seeds(seeds: int, prompts: int, data: st.DataObject) -> None:
    pairs = [
        {f"p{number}": (data.draw(figures), data.draw(figures)) for number in range(prompts)} for _ in range(seeds)
    ]
    first, second = joined(pairs)
    assert first.shape == second.shape == (prompts,)
    assert first.mean() == pytest.approx(np.mean([pair[name][0] for pair in pairs for name in pair]))
    assert second[0] == pytest.approx(np.mean([pair["p0"][1] for pair in pairs]))


def test_a_prompt_that_a_seed_lacks_does_not_count() -> None:
    first, second = joined([{"a": (0.0, 1.0), "b": (0.0, 1.0)}, {"b": (1.0, 0.0), "c": (1.0, 1.0)}])
    assert (first.tolist(), second.tolist()) == ([0.5], [0.5])
    with pytest.raises(ContractError, match="no prompt was measured with every seed"):
        joined([{"a": (0.0, 1.0)}, {"b": (0.0, 1.0)}])


@given(st.floats(-1, 1), st.floats(-1, 1))
def test_the_verdict_is_that_of_the_interval(one: float, two: float) -> None:
    low, high = sorted((one, two))
    assert Interval(low, low, low, 1).verdict == "one prompt tells nothing"
    verdict = Interval((low + high) / 2, low, high, 10).verdict
    assert verdict == (NO_CHANGE if low <= 0 <= high else "better" if low > 0 else "worse")


ALL = {
    "base": outcome("base", 0, {"a": 0.5, "b": 0.5, "c": 0.5}, understanding=True),
    "uniform": outcome("uniform", 0, {"a": 0.25, "b": 0.25, "c": 0.25}, understanding=True),
    "good": outcome("good", 0, {"a": 1.0, "b": 1.0, "c": 0.75}, understanding=True),
    "noise": outcome("noise", 0, {"a": 1.0, "b": 0.0, "c": 0.5}),
}


def test_each_arm_is_compared_with_the_base_and_with_the_control() -> None:
    found = {row.arm: row for row in rows([*ALL.values()], "uniform", ["base"])}
    assert list(found) == ["base", "uniform", "good", "noise"]
    good = found["good"]
    assert good.base is not None and good.control is not None
    assert (good.before, good.after) == (0.5, pytest.approx(11 / 12))
    assert good.base.delta == pytest.approx(5 / 12)
    assert good.control.delta == pytest.approx(8 / 12)
    assert (good.base.verdict, good.control.verdict) == ("better", "better")
    assert found["base"].base is None
    assert found["base"].control == Interval(0.25, 0.25, 0.25, 3)
    assert found["uniform"].base == Interval(-0.25, -0.25, -0.25, 3)
    assert found["uniform"].control is None
    noise = found["noise"].base
    assert noise is not None and noise.verdict == NO_CHANGE


def test_the_control_of_a_seed_is_that_of_the_same_seed() -> None:
    several = [
        outcome("uniform", 0, {"a": 0.0, "b": 0.0}),
        outcome("good", 0, {"a": 1.0, "b": 0.5}),
        outcome("good", 1, {"a": 0.0, "b": 0.0}),
    ]
    (_, row) = rows(several, "uniform")
    assert row.seeds == (0, 1)
    assert row.base is not None and row.base.delta == pytest.approx(-0.125)
    assert row.control is not None and row.control.delta == pytest.approx(0.75)  # of seed 0 alone


def test_arms_of_other_prompts_are_not_compared() -> None:
    (_, row) = rows([outcome("uniform", 0, {"a": 0.0}), outcome("other", 0, {"b": 1.0})], "uniform")
    assert row.control is None
    with pytest.raises(ContractError, match=r"arm 'torn', split 'in_domain': nothing to compare"):
        rows([outcome("torn", 0, {"a": 0.0}), outcome("torn", 1, {"b": 1.0})], None)


def test_understanding_that_changed_with_one_seed_has_changed() -> None:
    def said(*same: bool | None) -> str:
        marked = [outcome("x", seed, {"a": 1.0}, understanding=one) for seed, one in enumerate(same)]
        return rows(marked, None)[0].understanding

    assert said(True, True) == "identical"
    assert said(True, None) == "not compared"
    assert said(None, False, True) == "changed"


def test_the_tables_say_what_the_rows_say() -> None:
    found = rows([*ALL.values()], "uniform", ["base"])
    stream = io.StringIO()
    Console(file=stream, width=140).print(table(found, "uniform", "toy"))
    text = stream.getvalue()
    for words in ("minus base", "minus uniform", "0 by construction", NO_CHANGE, "better", "worse", "identical"):
        assert words in text
    lines = markdown(found, "uniform", "toy", {("bad", 1): Failure("RewardError", "a|b")}).splitlines()
    assert lines[2].startswith("| arm | split | before | after | minus base | verdict | minus uniform | verdict |")
    assert "| noise | in_domain | 0.500 | 0.500 | +0.000 \\[" in "\n".join(lines)
    assert lines[-1] == "- bad, seed 1: failed, RewardError: a\\|b"
    read = list(csv.DictReader(io.StringIO(csv_text(found))))
    assert [line["arm"] for line in read] == ["base", "uniform", "good", "noise"]
    assert float(read[2]["minus_control"]) == pytest.approx(8 / 12)
    assert read[0]["minus_base"] == ""


def test_without_a_control_there_is_no_such_column() -> None:
    text = markdown(rows([ALL["good"]], None), None, "toy", {})
    assert "minus base" in text
    assert text.count("minus") == 1


@given(st.text(max_size=20))
def test_names_are_text_in_markdown(name: str) -> None:
    marks = (Mark("p", name, 0.0, 1.0),)
    text = markdown(rows([Outcome("arm", 0, "f", marks)], None), None, "toy", {})
    plain = text.replace("\\\\", "").replace("\\|", "")
    assert all(line.count("|") == 10 for line in plain.splitlines() if line.startswith("|"))
    assert len([line for line in text.splitlines() if line.startswith("|")]) == 3


def test_an_outcome_survives_the_disk() -> None:
    found = outcome("good", 3, {"a": 1.0}, understanding=False, summary={"in_domain": {"delta": 0.5, "ci95": [0, 1]}})
    assert from_json(Outcome, to_json(found)) == found
