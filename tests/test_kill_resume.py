"""kill -9 in the middle of every stage, then again: the same bytes as a run that nobody disturbed."""

import signal
from pathlib import Path

from engine_fixtures import contents, install_toy, srum, write_config

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


def test_killed_in_every_stage_it_ends_up_with_the_same_bytes(tmp_path: Path) -> None:
    install_toy(tmp_path / "site")
    for name in ("killed", "undisturbed"):
        (tmp_path / name).mkdir()
        write_config(tmp_path / name)
    killed, undisturbed = tmp_path / "killed", tmp_path / "undisturbed"
    for kill in KILLS:
        process = srum("run", str(killed / "toy.yaml"), site=tmp_path / "site", env={"TOY_KILL": kill})
        assert process.returncode == -signal.SIGKILL, (kill, process.stdout, process.stderr)
    for folder in (killed, undisturbed):
        process = srum("run", str(folder / "toy.yaml"), site=tmp_path / "site")
        assert process.returncode == 0, process.stderr
    found, expected = contents(killed / "run"), contents(undisturbed / "run")
    assert sorted(found) == sorted(expected)
    for name, data in expected.items():
        assert found[name] == data, name
