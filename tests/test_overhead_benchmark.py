"""The benchmark of overhead: all of a run's time is charged, and to one kind at a time."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from pathlib import Path
from types import ModuleType

import pytest
from benchmark_module import FOLDER, load_benchmark
from engine_fixtures import OURS, install_toy, write_config


@pytest.fixture(scope="module")
def overhead() -> ModuleType:
    return load_benchmark("overhead")


def test_nested_time_counts_for_the_inner_one_alone(overhead: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    now = 100.0
    monkeypatch.setattr(time, "perf_counter", lambda: now)

    def spend(seconds: float) -> None:
        nonlocal now
        now += seconds

    def outer() -> None:
        spend(1)
        inner()
        spend(2)
        with pytest.raises(ZeroDivisionError):
            failing()
        spend(4)

    def fail() -> None:
        spend(8)
        raise ZeroDivisionError

    ledger = overhead.Ledger(spent=32)
    inner, failing = ledger.wrap("inner", lambda: spend(16)), ledger.wrap("failing", fail)
    ledger.wrap("outer", outer)()
    spend(64)
    ledger.charge()
    assert ledger.seconds == {overhead.START: 32, "outer": 7, "inner": 16, "failing": 8, overhead.OTHER: 64}


def test_a_run_is_measured_from_its_first_moment(tmp_path: Path) -> None:
    install_toy(tmp_path / "site")
    config, file = write_config(tmp_path), tmp_path / "figures.json"
    command = [sys.executable, str(FOLDER / "overhead.py"), str(config), "train.steps=3", "--output", str(file)]
    paths = os.pathsep.join([str(tmp_path / "site"), *sys.path])
    began = time.monotonic()
    subprocess.run(
        command,
        env={**os.environ, "PYTHONPATH": paths, "SRUM_PLUGINS_BLOCK": OURS, "OMP_NUM_THREADS": "1"},
        capture_output=True,
        check=True,
    )
    wall = time.monotonic() - began
    report = json.loads(file.read_text())
    kinds = report["kinds"]
    assert report["seconds"] == pytest.approx(sum(kinds.values())) and 0 < report["seconds"] < wall
    assert report["overhead"] == pytest.approx(1 - kinds["model"] / report["seconds"])
    own = (report["seconds"] - kinds["model"] - kinds["the model's libraries"]) / report["seconds"]
    assert report["overhead_without_libraries"] == pytest.approx(own)
    assert all(seconds > 0 for seconds in kinds.values())
    expected = {"imports and start-up", "model", "records", "PNG", "hashes", "files, fsync, rename", "pictures"}
    expected |= {"the model's libraries"}
    assert expected | {"prompts", "rewards", "statistics", "checkpoints", "other"} == set(kinds)
    assert not (tmp_path / "run").exists()
