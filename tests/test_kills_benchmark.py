"""The benchmark of kills: it sees every difference, and counts what it killed."""

import os
import shutil
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import pytest
from benchmark_module import FOLDER, load_benchmark
from engine_fixtures import OURS, install_toy, toy_run, write_config


@pytest.fixture(scope="module")
def kills() -> ModuleType:
    return load_benchmark("kills")


def test_every_change_of_a_run_is_seen_but_for_times_and_its_place(kills: ModuleType, tmp_path: Path) -> None:
    one, other = tmp_path / "run", tmp_path / "other"
    toy_run(tmp_path)
    shutil.copytree(one, other)
    (other / "config.yaml").write_text("run: elsewhere")
    (next(other.glob("stages/train/*")) / "seconds.json").write_text("later")
    expected = kills.digests(one)
    assert len(expected) > 50
    assert kills.different(expected, kills.digests(other)) == []
    changed = sorted(expected)[::7]
    for name in changed:
        (other / name).write_bytes((other / name).read_bytes() + b" ")
    (other / "stages/.aside-1-current").touch()
    assert kills.different(expected, kills.digests(other)) == sorted([*changed, "stages/.aside-1-current"])
    trained = {name for name in expected if "/train/" in name or "/evaluate/" in name}
    assert trained.isdisjoint(kills.before_training(expected))
    assert {"pictures/rewards.png", "stages/baseline/current"} <= set(kills.before_training(expected))


@pytest.mark.slow
def test_kills_are_counted_and_the_files_compared(tmp_path: Path) -> None:
    install_toy(tmp_path / "site")
    config = write_config(tmp_path)
    options = ["--kills", "2", "--processes", "1", "--folder", str(tmp_path / "kills")]
    process = subprocess.run(
        [sys.executable, str(FOLDER / "kills.py"), str(config), "train.steps=3", *options],
        env={
            **os.environ,
            "PYTHONPATH": os.pathsep.join([str(tmp_path / "site"), *sys.path]),
            "SRUM_PLUGINS_BLOCK": OURS,
        },
        capture_output=True,
        text=True,
        timeout=280,
        check=False,
    )
    assert process.returncode == 0, process.stdout + process.stderr
    assert "1 process(es), run 1: 2 kills so far, all " in process.stdout
    assert process.stdout.splitlines()[-1].endswith("| 2 |")
