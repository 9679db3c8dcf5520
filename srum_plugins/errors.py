"""The exceptions that users meet. The command line prints them without a traceback."""

from __future__ import annotations

import difflib
from collections.abc import Iterable
from pathlib import Path


class SrumError(Exception):
    """Base of every error that says what was wrong, where, and what to do about it."""


class ConfigError(SrumError):
    """A setting is unknown, missing, of the wrong type, or does not fit another setting."""


class PluginError(SrumError):
    """A plugin could not be loaded, registered, or asked for."""


class ContractError(SrumError):
    """A provider returned something that its contract does not allow."""


class CapabilityError(SrumError):
    """A config asks a provider for something it has declared that it cannot do."""


class CheckpointError(SrumError):
    """Weights or training state on disk do not match what is to be loaded."""


class RewardError(SrumError):
    """A score, a map or a weight is not finite or lies outside its range."""


class StageError(SrumError):
    """A stage cannot run, or stopped before it was complete."""


class DamagedError(StageError):
    """A file of a run directory is not as it was written: ``file``, and the ``problem`` with it in a few words."""

    def __init__(self, file: Path, problem: str) -> None:
        super().__init__(
            f"{file}: {problem}. `srum verify CONFIG --repair` removes what is damaged; the next run makes only that "
            "again."
        )
        self.file, self.problem = file, problem


class StorageError(StageError):
    """The disk or its rights keep a file of a run directory from being written or read."""


class TrackingError(SrumError):
    """The experiment tracker cannot be used."""


def did_you_mean(word: str, known: Iterable[str]) -> str:
    """A suffix naming the nearest known words and then all of them, for error messages."""
    names = sorted(known)
    near = difflib.get_close_matches(word, names, n=3, cutoff=0.5)
    hint = f" Did you mean {' or '.join(repr(name) for name in near)}?" if near else ""
    return f"{hint} Known: {', '.join(names) if names else '(none)'}."
