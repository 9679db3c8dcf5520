"""``--from STAGE``: results of the same configuration that are to be made again. They are put aside, not deleted."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import count
from pathlib import Path
from typing import Any

from srum_plugins.errors import DamagedError
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
    if note.exists() and _noted(note) == wanted:
        return
    # The last first: if this is interrupted, no stage is left that was made of one that is done again.
    for stage in reversed(stages):
        if stage.path.exists():
            aside = _unused(stage.path)
            with storing(aside):
                stage.path.rename(aside)
            say(f"{stage.name} is done again; what was there is now {aside}, to be deleted when nobody needs it")
    write_sealed(note, wanted)


def _noted(note: Path) -> dict[str, Any]:
    """What a note says; nothing, if it is damaged: then all is put aside once more, and nothing is lost."""
    try:
        return read_sealed(note)
    except DamagedError:
        return {}


def _unused(path: Path) -> Path:
    """A name for what is put aside. Those before it may have been deleted in any order."""
    numbers = (f"{path.name}.replaced-{number}" for number in count(1))
    return next(aside for name in numbers if not (aside := path.with_name(name)).exists())


def redoing(directory: Path) -> bool:
    """Whether something is being done again."""
    return (directory / NOTE).exists()


def finished(directory: Path) -> None:
    """What was to be done again is done."""
    with storing(directory / NOTE):
        (directory / NOTE).unlink(missing_ok=True)
