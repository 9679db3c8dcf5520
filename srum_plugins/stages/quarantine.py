"""Records that fail: a corrupt image, a judge that gives up. They are set apart with their reason, and the run goes on
without them, unless there are too many."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

import torch

from srum_plugins.errors import DamagedError, SrumError, StageError
from srum_plugins.randomness import seed_torch
from srum_plugins.records import Failure
from srum_plugins.runs.files import storing, write_bytes
from srum_plugins.runs.fingerprint import stable_seed
from srum_plugins.runs.shards import Attachment
from srum_plugins.runs.store import QUARANTINE, StageDirectory

T = TypeVar("T")

NOT_OF_A_RECORD = (SrumError, MemoryError, torch.OutOfMemoryError)
"""Errors that are no fault of a record, but for damaged files: settings, broken contracts, a full disk."""


@dataclass(frozen=True)
class Failing(Generic[T]):
    """How a stage keeps a record that failed: ``keep`` makes the record of the item at a position from its failure,
    ``read`` finds the failure in a record, if it is one."""

    keep: Callable[[int, Failure], T]
    read: Callable[[T], Failure | None]


def attempt(
    work: Callable[[range], tuple[list[T], Mapping[str, Attachment]]], items: range, failing: Failing[T], seed: int
) -> tuple[list[T], dict[str, Attachment]]:
    """The records of a chunk and the files that they name. If it fails as a whole, its items are worked on one by one,
    and those that fail are kept as failures.

    Raises:
        Exception: the first error, if it is no fault of a record, or if all of several items fail: then it is not them.
    """
    try:
        records, files = work(items)
        return records, dict(files)
    except Exception as error:
        if _is_fatal(error):
            raise
        first = error
    found: list[T] = []
    named: dict[str, Attachment] = {}
    failed = 0
    for item in items:
        seed_torch(stable_seed(seed, item))
        try:
            records, files = work(range(item, item + 1))
            found += records
            named |= files
        except Exception as error:
            if _is_fatal(error):
                raise
            failed += 1
            found.append(failing.keep(item, Failure(type(error).__name__, str(error))))
    if failed == len(items) > 1:
        raise first
    return found, named


def check_share(stage: str, failed: int, total: int, most: float, known: Sequence[Failure]) -> None:
    """Raise StageError if more than the share ``most`` of a stage's records have failed, with one of them."""
    if failed > most * total:
        example = f" Such as: {known[0].cause}: {known[0].detail}." if known else ""
        raise StageError(
            f"{failed} of {total} records of the stage {stage} have failed, more than run.max_failed={most:g} allows."
            f"{example} Mend the cause and run again with --from {stage}, or allow more"
        )


def set_apart(directory: StageDirectory, failures: Mapping[str, Failure], total: int, most: float) -> int:
    """Write the list of what failed, by candidate, and count it. Raises StageError if it is too much."""
    lines = [
        json.dumps({"candidate": name, "cause": failure.cause, "detail": failure.detail}, ensure_ascii=False)
        for name, failure in failures.items()
    ]
    path = directory.path / QUARANTINE
    if lines:
        write_bytes(path, "".join(f"{line}\n" for line in lines).encode())
    else:  # of chunks that were damaged since, and made again
        with storing(path):
            path.unlink(missing_ok=True)
    check_share(directory.name, len(lines), total, most, list(failures.values()))
    return len(lines)


def told(directory: StageDirectory, facts: Mapping[str, Any]) -> str:
    """What is said of a stage's quarantine; empty if nothing failed."""
    count = facts.get("quarantined", 0)
    return f"{directory.name}: {count} in quarantine, see {directory.path / QUARANTINE}" if count else ""


def _is_fatal(error: Exception) -> bool:
    return isinstance(error, NOT_OF_A_RECORD) and not isinstance(error, DamagedError)
