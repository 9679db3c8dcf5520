"""The shipped checkpoint through the real command line, with the demo's own config made small."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from srum_shapes.adapter import build
from srum_shapes.benchmark import ShapesBenchmark
from srum_shapes.options import AdapterOptions, BenchmarkOptions

from srum_plugins.cli import main

DEMO = Path(__file__).parent.parent / "configs" / "demo.yaml"
SMALL = (
    "prompts.count=10",
    "train.steps=2",
    "train.batch=4",
    "benchmark.prompts_per_split=10",
    "benchmark.questions=16",
    "generate.sampling={points: 5}",
    "evaluate.sampling={points: 5}",
    "tracking.enabled=false",
)


def run(folder: Path, *overrides: str) -> dict[str, object]:
    assert main(["run", str(DEMO), f"run.directory={folder}", *SMALL, *overrides]) == 0
    summary: dict[str, object] = json.loads((folder / "summary.json").read_text())
    return summary


def test_it_understands() -> None:
    """Far from chance on every kind; the model card has the exact figures."""
    report = ShapesBenchmark(BenchmarkOptions(questions=320, seed=7)).understanding(build(AdapterOptions(), "cpu"))
    assert report is not None
    assert all(accuracy >= 0.75 for accuracy in report.accuracy.values()), report.accuracy
    assert sum(report.accuracy.values()) / len(report.accuracy) >= 0.9


def test_the_demo_end_to_end(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    summary = run(tmp_path)
    assert summary["arm"] == "srum+paired"
    for split in ("in_domain", "out_of_domain"):
        figures = summary[split]
        assert isinstance(figures, dict)
        assert {"before", "after", "delta", "ci95", "prompts", "categories"} <= set(figures)
        assert figures["prompts"] == 10
    understanding = summary["understanding"]
    assert isinstance(understanding, dict)
    assert understanding["identical"] is True and understanding["before"] == understanding["after"]
    pictures = {path.name for path in (tmp_path / "pictures").iterdir()}
    assert {"candidates.png", "rewards.png", "before-after.png"} <= pictures


def facts(folder: Path, stage: str) -> dict[str, float]:
    """What the one run of a stage found."""
    (done,) = (folder / "stages" / stage).glob("*/done.json")
    found: dict[str, float] = json.loads(done.read_text())
    return found


@pytest.mark.parametrize(
    "overrides",
    [
        ("judge=rubric",),
        ("judge=rubric", "grounder=components"),
        ("judge=questions",),
        ("judge=[choice,questions]", "judging.combine=min"),
    ],
)
def test_one_word_swaps_the_judge(tmp_path: Path, overrides: tuple[str, ...]) -> None:
    assert run(tmp_path, *overrides)["seconds"]
    found = facts(tmp_path, "judge")
    assert found["failed_global"] <= 0.1 * found["candidates"]
    regions = facts(tmp_path, "ground")["regions"]
    assert found["failed_local"] <= 0.25 * regions
    assert 0 < found["alpha_mean"] < 1


@pytest.mark.parametrize(
    "overrides",
    [
        ("grounder=whole-image",),
        ("grounder=grid", "ground.filter=background"),
        ("grounder=components", "ground.filter=drop"),
        ("grounder.phrases=ask",),
    ],
)
def test_one_word_swaps_the_grounder(tmp_path: Path, overrides: tuple[str, ...]) -> None:
    assert run(tmp_path, *overrides)["seconds"]
    found = facts(tmp_path, "ground")
    assert found["regions"] > 0
    assert ("in_prompt" in found) == any("filter" in override for override in overrides)


@pytest.mark.parametrize(
    "overrides",
    [
        ("aggregator=uniform", "objective=srum"),
        ("aggregator=srum-release", "objective=srum"),
        ("objective=srum", "objective.negative_weights=saturate"),
    ],
)
def test_one_word_swaps_a_provider(tmp_path: Path, overrides: tuple[str, ...]) -> None:
    assert run(tmp_path, *overrides)["seconds"]


@pytest.mark.slow
def test_two_processes_that_share_the_weights_out_make_the_same_candidates_and_steps(tmp_path: Path) -> None:
    for size, sharding in ((1, "none"), (2, "fsdp2")):
        launcher = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(size)] if size > 1 else []
        command = [sys.executable, *launcher, "-m", "srum_plugins.cli", "run", str(DEMO), *SMALL, "train.batch=8"]
        command += [f"run.directory={tmp_path / str(size)}", f"train.sharding={sharding}"]
        environment = {**os.environ, "OMP_NUM_THREADS": "1", "SRUM_QUIET": "1"}
        subprocess.run(command, env=environment, check=True, timeout=400)

    def steps(size: int) -> list[dict[str, float]]:
        (file,) = (tmp_path / str(size)).glob("stages/train/*/metrics.jsonl")
        return [json.loads(line) for line in file.read_text().splitlines()]

    for one, two in zip(steps(1), steps(2), strict=True):
        assert two == pytest.approx(one, rel=1e-3, abs=1e-5)
    for file in (tmp_path / "1").glob("stages/[gjrb]*/*/*s/*.png"):  # candidates, and images before training
        if file.parent.name == "images":
            assert file.read_bytes() == (tmp_path / "2" / file.relative_to(tmp_path / "1")).read_bytes()
    understanding = json.loads((tmp_path / "2/summary.json").read_text())["understanding"]
    assert understanding["identical"] is True
