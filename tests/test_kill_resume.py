"""kill -9 at random moments of every stage, then the same command again: the same bytes as a run that nobody disturbed.

A moment is one at which a process does something to a file, meets the others or asks the model (toy_processes.Moments).
"""

import random
import shutil
import signal
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from engine_fixtures import contents, write_config
from processes import launch
from toy_processes import killed_command, said

from srum_plugins.stages.pipeline import NAMES

KILLS = 10
"""In each stage, with each number of processes."""
CONFIG: dict[str, Any] = {
    "generate": {"candidates": 3, "chunk": 3},
    "ground": {"chunk": 3},
    "judging": {"chunk": 3},
    "train": {"steps": 5, "batch": 4, "lr": 0.05, "warmup": 2, "ema": 0.5, "checkpoint_every": 2, "keep_best": "loss"},
    "evaluate": {"chunk": 3},
}


@dataclass(frozen=True)
class Undisturbed:
    """A run by so many processes that nobody disturbed. By stage: a copy of what was there before it, what was there
    after it, and how many moments each process had in it."""

    size: int
    before: dict[str, Path]
    after: dict[str, dict[str, Any]]
    moments: dict[str, list[int]]


@pytest.fixture(scope="module", params=[1, 2])
def undisturbed(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Undisturbed:
    size, folder = request.param, tmp_path_factory.mktemp("undisturbed")
    write_config(folder, **CONFIG)
    (folder / "run").mkdir()
    found = Undisturbed(size, {}, {}, {})
    for stage in NAMES:
        found.before[stage] = folder / f"before-{stage}"
        shutil.copytree(folder / "run", found.before[stage])
        assert launch(size, killed_command, str(folder), stage, None, None) == [0] * size, said(folder, 0)
        found.after[stage] = contents(folder / "run")
        found.moments[stage] = [int((folder / f"moments-{rank}.txt").read_text()) for rank in range(size)]
    return found


def kills(undisturbed: Undisturbed, stage: str, folder: Path) -> Iterator[str]:
    """Kill one process after another, each run going on where the one before was killed, and compare what is there when
    a run gets to its end; yields where they were killed."""
    size, expected = undisturbed.size, undisturbed.after[stage]
    draw = random.Random(f"{stage}, {size}")
    killed, history = 0, []
    while killed < KILLS or history:
        if not history:
            shutil.rmtree(folder / "run", ignore_errors=True)
            shutil.copytree(undisturbed.before[stage], folder / "run")
        victim = draw.randrange(size)
        last = draw.randint(1, undisturbed.moments[stage][victim]) if killed < KILLS else None
        codes = launch(size, killed_command, str(folder), stage, victim, last, grace=draw.uniform(0, 0.1))
        if codes[victim] == -signal.SIGKILL and (folder / "killed.txt").exists():
            killed += 1
            history.append(f"process {victim} before {(folder / 'killed.txt').read_text()}")
            (folder / "killed.txt").unlink()
            yield history[-1]
            continue
        assert codes == [0] * size, (history, [said(folder, rank) for rank in range(size)])
        found = contents(folder / "run")
        assert found.keys() ^ expected.keys() == set(), history
        assert [name for name in expected if found[name] != expected[name]] == [], history
        history = []


@pytest.mark.parametrize("stage", NAMES)
def test_killed_at_random_moments_a_stage_ends_up_with_the_same_bytes(
    undisturbed: Undisturbed, stage: str, tmp_path: Path
) -> None:
    write_config(tmp_path, **CONFIG)
    where = list(kills(undisturbed, stage, tmp_path))
    print(f"{stage}, {undisturbed.size}, of {undisturbed.moments[stage]} moments:", *where, sep="\n  ")
    assert len(where) == KILLS
    assert len(set(where)) >= KILLS // 2  # in different places ...
    assert {line.split()[1] for line in where} == {str(rank) for rank in range(undisturbed.size)}  # ... and processes
