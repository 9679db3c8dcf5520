"""``--from STAGE``: results of the same configuration that are to be made again. They are put aside, not deleted."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

from srum_plugins.runs.files import read_sealed, storing, write_sealed
from srum_plugins.runs.store import StageDirectory

NOTE = "redo.json"
"""What is being done again, at the top of a run directory, until it is done: the same command, killed and started once
more, goes on with it."""


def put_aside(directory: Path, start: str, stages: Sequence[StageDirectory], say: Callable[[str], None]) -> None:
    """Rename the directories of these stages, unless they are being done again already. Only for who holds the run.

    Raises:
        StorageError: the disk is read-only.
    """
    wanted = {"from": start, "stages": {stage.name: stage.fingerprint for stage in stages}}
    note = directory / NOTE
    if note.exists() and read_sealed(note) == wanted:
        return
    for stage in stages:
        if stage.path.exists():
            number = 1 + len(list(stage.family.glob(f"{stage.path.name}.replaced-*")))
            aside = stage.path.with_name(f"{stage.path.name}.replaced-{number}")
            with storing(aside):
                stage.path.rename(aside)
            say(f"{stage.name} is done again; what was there is now {aside}, to be deleted when nobody needs it")
    write_sealed(note, wanted)


def finished(directory: Path) -> None:
    """What was to be done again is done."""
    with storing(directory / NOTE):
        (directory / NOTE).unlink(missing_ok=True)
