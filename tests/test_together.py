"""Whole runs in several processes: the same bytes whatever their number, the work shared out, and one end for all."""

import json
import os
import re
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
from engine_fixtures import OURS, contents, install_toy, write_config
from processes import launch
from toy_processes import (
    busy_command,
    counted_command,
    elsewhere_command,
    failing_command,
    other_command,
    said,
    toy_command,
)

from srum_plugins.stages.pipeline import NAMES

CONFIG: dict[str, Any] = {
    "generate": {"candidates": 3, "chunk": 2},
    "ground": {"chunk": 2},
    "judging": {"chunk": 2},
    "train": {"steps": 4, "batch": 6, "lr": 0.05, "warmup": 2, "checkpoint_every": 3},
    "evaluate": {"chunk": 2},
}
QUIET = {"SRUM_PLUGINS_BLOCK": OURS, "OMP_NUM_THREADS": "1", "COLUMNS": "120"}
PATIENT = 30.0  # seconds in which a process that another one stops may say why


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Mapping[int, Path]:
    """A run by one process, by two and by three."""
    found = {}
    for size in (1, 2, 3):
        found[size] = tmp_path_factory.mktemp(f"by-{size}")
        write_config(found[size], **CONFIG)
        assert launch(size, counted_command, str(found[size])) == [0] * size
    return found


def before_training(found: Mapping[str, Any]) -> dict[str, Any]:
    """The files that do not depend on trained weights, whose rounding depends on the number of processes."""
    trained = re.compile(r"stages/(train|evaluate(-images)?)/|pictures/(training|before-after|changed)|summary.json")
    return {name: data for name, data in found.items() if not trained.match(name)}


def counted(folder: Path, size: int, what: str) -> list[dict[str, int]]:
    return [json.loads((folder / f"counted-{rank}.json").read_text())[what] for rank in range(size)]


def metrics(run: Path) -> list[dict[str, float]]:
    (file,) = run.glob("stages/train/*/metrics.jsonl")
    return [json.loads(line) for line in file.read_text().splitlines()]


@pytest.mark.parametrize("size", [2, 3])
def test_several_processes_write_the_bytes_of_one(runs: Mapping[int, Path], size: int) -> None:
    alone, together = contents(runs[1] / "run"), contents(runs[size] / "run")
    expected = before_training(alone)
    assert {name.split("/")[1] for name in expected if "part-" in name} == {*NAMES[:4], "baseline-images", "baseline"}
    assert before_training(together) == expected
    for one, several in zip(metrics(runs[1] / "run"), metrics(runs[size] / "run"), strict=True):
        assert several == pytest.approx(one, rel=1e-5, abs=1e-5)


@pytest.mark.parametrize("size", [2, 3])
def test_every_process_works_and_nothing_is_done_twice(runs: Mapping[int, Path], size: int) -> None:
    (alone,) = counted(runs[1], 1, "calls")
    together = counted(runs[size], size, "calls")
    for point in ("generate", "ground", "judge", "aggregate", "score", "understanding", "save"):
        assert sum(calls.get(point, 0) for calls in together) == alone[point], point
    shared = [sum(calls.get(point, 0) for point in ("generate", "ground", "judge", "score")) for calls in together]
    assert min(shared) > 0
    assert all(calls["predict"] == alone["predict"] for calls in together)  # training is in step


@pytest.mark.parametrize("size", [1, 2, 3])
def test_listeners_hear_the_first_process_alone(runs: Mapping[int, Path], size: int) -> None:
    first, *others = counted(runs[size], size, "heard")
    assert others == [{}] * (size - 1)
    advanced = {"generate": 12, "ground": 12, "judge": 12, "reward": 12, "train": 4, "evaluate": 32, "step": 3}
    assert first == advanced | {f"{stage} finished": 1 for stage in NAMES}


@pytest.mark.parametrize(("victim", "then"), [(0, 3), (1, 1)])
def test_one_that_fails_stops_the_others_and_the_same_command_goes_on(
    runs: Mapping[int, Path], tmp_path: Path, victim: int, then: int
) -> None:
    write_config(tmp_path, **CONFIG)
    assert launch(2, failing_command, str(tmp_path), victim, grace=PATIENT) == [2, 2]
    assert said(tmp_path, victim) == "error: the palette is empty\n"
    other = 1 - victim
    assert said(tmp_path, other) == f"error: process {victim} stopped: the palette is empty (told to process {other})\n"
    assert launch(then, toy_command, str(tmp_path)) == [0] * then
    assert before_training(contents(tmp_path / "run")) == before_training(contents(runs[1] / "run"))


def test_processes_that_would_run_something_else_are_refused(tmp_path: Path) -> None:
    write_config(tmp_path, **CONFIG)
    assert launch(2, other_command, str(tmp_path), "run.seed=4", grace=PATIENT) == [2, 2]
    assert re.match(
        r"error: process 1 on \S+ would run something else than process 0: the configuration is \w{12}, there \w{12}. "
        "Every machine needs the same config, packages and checkpoints",
        said(tmp_path, 1),
    )
    assert "process 1 stopped: process 1 on" in said(tmp_path, 0)
    assert not (tmp_path / "run/stages").exists()


def test_a_run_directory_that_one_process_does_not_see_is_refused(tmp_path: Path) -> None:
    write_config(tmp_path, **{**CONFIG, "run": {"name": "toy", "directory": "run", "seed": 3}})
    assert launch(2, elsewhere_command, str(tmp_path), grace=PATIENT) == [2, 2]
    assert re.match(
        r"error: process 1 on \S+ does not see the run directory \S+/1/run of the main process: it must lie on a file",
        said(tmp_path, 1),
    )
    assert not (tmp_path / "0/run/stages").exists()


def test_a_training_that_cannot_be_shared_equally_is_refused_before_anything(tmp_path: Path) -> None:
    write_config(tmp_path, **{**CONFIG, "train": {"batch": 5}})
    assert launch(2, toy_command, str(tmp_path), grace=PATIENT) == [2, 2]
    assert "train.batch=5 cannot be shared equally by 2 processes" in said(tmp_path, 0)
    assert not (tmp_path / "run").exists()


def test_of_two_runs_at_once_the_second_is_refused_until_the_first_is_killed(
    runs: Mapping[int, Path], tmp_path: Path
) -> None:
    write_config(tmp_path, **CONFIG)
    codes: list[int] = []
    first = threading.Thread(target=lambda: codes.extend(launch(2, busy_command, str(tmp_path))))
    first.start()
    busy = [tmp_path / f"busy-{rank}" for rank in range(2)]
    while not all(file.exists() and file.read_text() for file in busy):
        assert first.is_alive()
        time.sleep(0.01)
    owner = int(busy[0].read_text())
    assert launch(1, toy_command, str(tmp_path)) == [2]
    assert re.match(
        rf"error: \S+ is already being run by process {owner} on \S+: wait for it, or stop it, or give this run a "
        "directory of its own",
        said(tmp_path, 0),
    )
    os.kill(owner, signal.SIGKILL)
    assert launch(1, toy_command, str(tmp_path)) == [0]  # and waits for the other process of the run that was killed
    first.join()
    assert codes[0] == -signal.SIGKILL
    assert contents(tmp_path / "run") == contents(runs[1] / "run")


@pytest.mark.slow
@pytest.mark.parametrize(
    "launcher",
    [
        ("torch.distributed.run", "--nproc-per-node", "2", "--standalone"),
        ("accelerate.commands.accelerate_cli", "launch", "--multi_gpu", "--num_processes=2", "--main_process_port=0"),
    ],
    ids=["torchrun", "accelerate"],
)
def test_a_launcher_starts_a_run(runs: Mapping[int, Path], tmp_path: Path, launcher: tuple[str, ...]) -> None:
    install_toy(tmp_path / "site")
    write_config(tmp_path, **CONFIG)
    process = subprocess.run(
        [sys.executable, "-m", *launcher, "-m", "srum_plugins.cli", "run", "toy.yaml"],
        env={**os.environ, "PYTHONPATH": os.pathsep.join([str(tmp_path / "site"), *sys.path]), **QUIET},
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=200,
        check=False,
    )
    assert process.returncode == 0, process.stderr
    assert process.stdout.count("toy-maps+srum") == 1  # the table, once
    assert metrics(tmp_path / "run") == metrics(runs[2] / "run")  # to the last bit, so all before it was the same
