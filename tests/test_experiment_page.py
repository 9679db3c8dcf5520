"""The HTML page of an ablation and of a stress test: whole, escaped, and with the figures of the arms."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pytest
import toy_backend
from engine_fixtures import toy_host, write_config
from hypothesis import given, settings
from hypothesis import strategies as st
from pages import HOSTILE, Measure, Page, check_alone

from srum_plugins import hookimpl
from srum_plugins.ablations.arms import Arm
from srum_plugins.ablations.compare import Row
from srum_plugins.ablations.experiment import run_arms
from srum_plugins.ablations.plan import plan
from srum_plugins.ablations.results import Results
from srum_plugins.ablations.sections import Spent, changes, comparison, gains, spent
from srum_plugins.ablations.stress import CLEAN, curves, stress_arms
from srum_plugins.hookspecs import RunInfo
from srum_plugins.reporting import sections
from srum_plugins.reporting.curves import DASHES, SERIES, curve_svg, legend
from srum_plugins.reporting.figures import PLOT, duration, limits, number, plot
from srum_plugins.reporting.page import page
from srum_plugins.reporting.sections import Section
from srum_plugins.runs.files import read_sealed
from srum_plugins.stats import Interval
from srum_plugins.world import World

SMALL = ("train.steps=2", "train.warmup=0", "prompts.count=2", "benchmark.count=4")
QUICK = "run.report=false"  # of an arm; the experiment has its page all the same
FLAT = Arm("flat", "weight 1 everywhere", ("aggregator=toy-flat", QUICK), "flat")
MAPS = Arm("maps", "the <toy's> maps", ("aggregator=toy-maps", QUICK), "maps")
BASE = Arm("base", "before training", (), "base", trained=False)
# Candidates of one reward make no pairs, which is found when training is about to begin.
BROKEN = Arm("broken", "no pairs", ("aggregator=toy-flat", "objective=paired", QUICK), "broken")
SOME, NOTHING = Interval(0.25, 0.1, 0.4, 7), Interval(0.0, -0.1, 0.1, 7)


def every_section(text: str) -> list[Section]:
    """Every section with the text wherever an experiment may bring its own, but for curves, which a run has too."""
    rows = [
        Row(text, text, (0, 1), 0.5, 0.5, None, NOTHING, "identical"),
        Row(f"{text}2", text, (0, 1), 0.5, 0.75, SOME, None, "identical"),
    ]
    return [
        gains(rows, text),
        comparison(rows, text, [text]),
        spent([Spent(text, {text: 2.0}), Spent(text, {f"{text}2": 1.0})]),
        changes([Arm(text, text, (text, text))]),
    ]


@given(HOSTILE)
@settings(max_examples=15)
def test_no_text_of_an_experiment_is_anything_but_text(text: str) -> None:
    plain, found = (Page(page("t", [], every_section(one))) for one in ("plain", text))
    check_alone(found)
    assert found.shape == plain.shape
    assert "".join(found.texts).count(text) >= "".join(plain.texts).count("plain")


@given(st.floats(-1, 1), st.floats(0, 1), st.floats(0, 1))
def test_an_interval_lies_where_its_scale_says_and_within_the_plot(middle: float, below: float, above: float) -> None:
    one = Interval(middle, middle - below, middle + above, 9)
    most = max(abs(one.low), abs(one.high), 1e-9)
    places = {name: float(text) for name, text in plot(one, most).items()}
    assert 0 <= places["low"] <= places["middle"] <= places["high"] <= PLOT
    tolerance = 0.051  # places are rounded to a tenth
    assert places["high"] >= PLOT / 2 - tolerance if one.high >= 0 else places["high"] <= PLOT / 2 + tolerance
    mirrored = plot(Interval(-middle, -one.high, -one.low, 9), most)
    assert abs(float(mirrored["low"]) + places["high"] - PLOT) <= 2 * tolerance


def test_a_dot_is_open_where_the_interval_holds_zero() -> None:
    rows = [Row("a", "s", (0,), 0.5, 0.75, SOME, NOTHING, "identical")]
    drawn = Page(page("t", [], [gains(rows, "control")])).of("circle")
    assert [dot.get("class") for dot in drawn] == [None, "open"]


def test_a_run_keeps_its_colour_where_others_have_no_such_metric() -> None:
    steps, nothing = ([0.0, 1.0], [1.0, 2.0]), ([], [])
    both, alone = curve_svg([steps, steps], "a"), curve_svg([nothing, steps], "a")
    assert "var(--line-0)" in both and "var(--line-1)" in both
    assert "var(--line-0)" not in alone and "var(--line-1)" in alone
    names = [f"run {place}" for place in range(SERIES * len(DASHES))]
    assert len({entry[:2] for entry in legend(names)}) == len(names)  # none looks like another


def test_readings_that_are_well_are_folded_if_they_are_many() -> None:
    many = [{"name": f"reading {place}", "value": 0.5} for place in range(20)]
    data = sections.monitors([*many, {"name": "far", "value": 2.0, "step": 3, "level": "stop"}]).data
    assert [row["name"] for row in data["rows"]] == ["far"]
    assert len(data["folded"]) == 20
    assert not sections.monitors(many[:3]).data["folded"]


# --- of an ablation ---------------------------------------------------------------------------------------------------
class Listener:
    """Keeps which pages it was told of, by run, and what ended."""

    def __init__(self) -> None:
        self.heard: list[tuple[str, str]] = []
        self.pages: dict[str, str] = {}

    @hookimpl
    def srum_report(self, run: RunInfo, path: Path) -> None:
        self.heard.append((run.name, "report"))
        self.pages[run.name] = path.read_text()

    @hookimpl
    def srum_run_finished(self, run: RunInfo) -> None:
        self.heard.append((run.name, "finished"))


def go(
    folder: Path,
    arms: Sequence[Arm],
    *overrides: str,
    name: str = "ablation",
    kinds: Sequence[str] = (),
    seeds: Sequence[int] = (3,),
) -> tuple[Results, Listener]:
    host, listener = toy_host(), Listener()
    host.register(listener, "listener")
    path = folder / "toy.yaml"
    if not path.exists():
        write_config(folder, run={**toy_backend.config(folder / "run")["run"], "report": True})
    found = plan(name, path, [*SMALL, *overrides], arms, seeds, arms[1].name, host)
    said: list[str] = []
    return run_arms(found, host, World(), said.append, lambda rows: curves(rows, kinds, [1.0])), listener


@pytest.fixture(scope="module")
def done(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Results, Listener]:
    folder = tmp_path_factory.mktemp("ablation")
    return folder, *go(folder, [BASE, FLAT, MAPS, BROKEN], "judge.fail_every=2", seeds=(3, 4))


def test_an_ablation_ends_with_a_page_that_has_everything(done: tuple[Path, Results, Listener]) -> None:
    folder, results, listener = done
    path = folder / "run-arms/ablation/report.html"
    assert path.read_text() == listener.pages["toy ablation"]
    found = Page(path.read_text())
    check_alone(found)
    keys = [entry["id"] for entry in found.of("section")]
    assert [key for key in keys if key != "different"] == [
        "gains", "table", "images", "training", "quarantine", "cost", "arms", "made",
    ]  # fmt: skip
    shown = " ".join("".join(found.texts).split())
    for row in results.rows:
        assert f"{row.arm} {row.split}" in shown
        for one in (row.base, row.control):
            assert one is None or f"{number(one.delta, '+.3f')} {limits(one.low, one.high)} {one.verdict}" in shown
    assert "0 by construction" in shown
    assert "broken, seed 3: failed, RewardError" in shown and "2 runs failed" in shown
    assert "the <toy's> maps" in shown  # as text
    assert FLAT.overrides[0] in shown
    marks = found.of("circle")
    assert len(marks) == sum(one is not None for row in results.rows for one in (row.base, row.control))


def test_images_of_a_prompt_stand_side_by_side_with_the_same_seed(done: tuple[Path, Results, Listener]) -> None:
    folder, results, _ = done
    found = Page((folder / "run-arms/ablation/report.html").read_text())
    labels = [shown["alt"].partition(":")[0] for shown in found.of("img")]
    assert labels == ["before", "flat", "maps"] * (len(labels) // 3)
    seed = folder / "run-arms/seed-3/stages"
    files = [
        sorted((seed / stage).glob("*/part-*.jsonl")) for stage in ("baseline-images", "evaluate-images")
    ]  # of the base, and of both arms
    drawn = [
        {(row["prompt_id"], row["seed"]) for line in path.read_text().splitlines() for row in [json.loads(line)]}
        for side in files
        for path in side
    ]
    prompts = set.union(*drawn)
    assert len(prompts) == 8 and len(labels) >= 3 * 8  # none has another seed
    first = list(results.outcomes["maps", 3].marks)[:1]
    assert first and f"maps: a red tile, {'met' if first[0].after == 1.0 else 'not met'}" in found.of("img")[2]["alt"]


def test_the_time_of_what_is_shared_is_counted_once(done: tuple[Path, Results, Listener]) -> None:
    folder = done[0]
    seconds = [
        read_sealed(path)["seconds"]
        for path in (folder / "run-arms").glob("seed-*/stages/*/*/seconds.json")
        if (path.parent / "done.json").exists() and not path.parts[-3].startswith(("baseline", "evaluate-"))
    ]
    shown = " ".join("".join(Page((folder / "run-arms/ablation/report.html").read_text()).texts).split())
    cost = shown[shown.index("made for") :]
    for word in ("all arms", "together"):
        assert word in cost
    assert len(seconds) == 2 * (3 + 2 + 2 + 2)  # of two seeds: shared, rewards, trainings, evaluations
    assert duration(sum(seconds)) in cost


def test_the_page_is_made_again_from_what_is_on_disk_alone(done: tuple[Path, Results, Listener]) -> None:
    folder = done[0]
    path = folder / "run-arms/ablation/report.html"
    before = path.read_bytes()
    path.unlink()
    toy_backend.calls.clear()
    _, listener = go(folder, [BASE, FLAT, MAPS, BROKEN], "judge.fail_every=2", seeds=(3, 4))
    assert path.read_bytes() == before
    assert toy_backend.calls["generate"] == toy_backend.calls["score"] == 0  # the broken arm is tried again
    assert ("toy ablation", "report") in listener.heard


def test_without_reports_there_is_none(tmp_path: Path) -> None:
    _, listener = go(tmp_path, [BASE, FLAT], "run.report=false")
    assert listener.heard[-1] == ("toy ablation", "finished") and not listener.pages
    assert (tmp_path / "run-arms/ablation/table.md").exists()
    assert not list(tmp_path.rglob("report.html"))


def test_nothing_measured_is_a_page_that_says_why(tmp_path: Path) -> None:
    results, listener = go(tmp_path, [BASE, BROKEN])
    assert not results.rows
    found = Page(listener.pages["toy ablation"])
    check_alone(found)
    keys = [entry["id"] for entry in found.of("section")]
    assert "images" not in keys and "training" not in keys
    assert "broken, seed 3: failed, RewardError" in "".join(found.texts)


def test_a_stress_test_has_its_curve(tmp_path: Path) -> None:
    arms = [replace(arm, overrides=(*arm.overrides, QUICK)) for arm in stress_arms(["drop"], [1.0])]
    results, listener = go(tmp_path, [Arm("before", "", trained=False), *arms], name="stress", kinds=["drop"])
    found = Page(listener.pages["toy stress"])
    check_alone(found)
    assert [entry["id"] for entry in found.of("section")][:3] == ["sensitivity", "gains", "table"]
    clean = [row.base for row in results.rows if row.arm == CLEAN and row.split == "in_domain"]
    assert clean[0] is not None and f"in_domain {number(clean[0].delta, '.4g')} to" in "".join(found.texts)


@pytest.mark.parametrize("width", [360, 1280])
def test_in_a_browser_no_page_of_arms_is_wider_than_the_window(
    done: tuple[Path, Results, Listener], measured: Measure, width: int
) -> None:
    found = measured((done[0] / "run-arms/ablation/report.html").read_text(), width)
    assert (found["out"], found["width"] <= width) == ([], True)
    assert found["broken"] == 0 and found["images"] >= 24 and found["sections"] >= 8
    colours = found["shot"].getcolors(maxcolors=width * 900)
    assert colours is not None and len(colours) > 20


def test_in_a_browser_long_names_of_arms_do_not_widen_a_phone(measured: Measure) -> None:
    found = measured(page("t", [], every_section("w" * 200)), 360)
    assert (found["out"], found["width"] <= 360) == ([], True)
