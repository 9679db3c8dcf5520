"""kill -9 in the middle of every stage, then again: the same bytes as a run that nobody disturbed."""

import multiprocessing
import os
import signal
import sys
from pathlib import Path

from engine_fixtures import OURS, contents, install_toy, write_config

from srum_plugins import cli

# One after another in the same run directory: each process goes on where the one before it was killed.
KILLS = (
    "generate:2",
    "ground:2",
    "judge:3",
    "aggregate:1",
    "predict:5",  # after the checkpoint at step 3
    "save:1",  # half of the weights folder is written
    "score:2",  # before training
    "understanding:1",
    "score:3",  # after training, in the second process that gets here
)
# Processes are forked off one that has imported what takes seconds; none of them runs anything but one command.
PROCESSES = multiprocessing.get_context("forkserver")
PROCESSES.set_forkserver_preload(["srum_plugins.stages.pipeline", "torch._dynamo", "scipy.stats", "matplotlib.figure"])


def command(arguments: list[str], site: str, kill: str) -> None:
    """The command line, in a process of its own that sees the distributions of ``site``."""
    os.environ.update(SRUM_PLUGINS_BLOCK=OURS, TOY_KILL=kill)
    sys.path.insert(0, site)
    sys.exit(cli.main(arguments))


def run(folder: Path, site: Path, kill: str = "") -> int | None:
    process = PROCESSES.Process(target=command, args=(["run", str(folder / "toy.yaml")], str(site), kill))
    process.start()
    process.join()
    return process.exitcode


def test_killed_in_every_stage_it_ends_up_with_the_same_bytes(tmp_path: Path) -> None:
    site, killed, undisturbed = tmp_path / "site", tmp_path / "killed", tmp_path / "undisturbed"
    install_toy(site)
    for folder in (killed, undisturbed):
        folder.mkdir()
        write_config(folder)
    for kill in KILLS:
        assert run(killed, site, kill) == -signal.SIGKILL, kill
    for folder in (killed, undisturbed):
        assert run(folder, site) == 0
    found, expected = contents(killed / "run"), contents(undisturbed / "run")
    assert sorted(found) == sorted(expected)
    for name, data in expected.items():
        assert found[name] == data, name
