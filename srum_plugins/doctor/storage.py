"""Where a run writes, and where checkpoints are kept: rights, space, locks. Nothing is written to find out."""

from __future__ import annotations

import fcntl
import os
from collections.abc import Iterator
from pathlib import Path

from srum_plugins.doctor.finding import Finding
from srum_plugins.runs.lock import UNSUPPORTED

GIB = 2**30
LOW = 5 * GIB
"""Bytes below which a disk is soon full: candidates and checkpoints of a run of BAGEL are far more."""
FEW = 10_000
"""Files below which a disk is soon full."""


def run_directory(directory: Path) -> Iterator[Finding]:
    """Where a run would live: whether it may be written, how much fits, and whether its file system has locks."""
    check = "run directory"
    folder = existing(directory)
    yield _space(check, directory, folder, f"choose another: run.directory=DIR, not below {folder}")
    if (why := _without_locks(folder)) is not None:
        mend = "mount it with locks (Lustre: -o flock), or choose another run.directory"
        yield Finding(check, "problem", f"the file system of {folder} has no locks: {why}", mend)


def checkpoints() -> Iterator[Finding]:
    """The cache that checkpoints of the Hugging Face hub are downloaded to."""
    from huggingface_hub.constants import HF_HUB_CACHE  # a dependency of transformers

    cache = Path(HF_HUB_CACHE)
    yield _space("cache of the hub", cache, existing(cache), "set HF_HOME to a folder that may be written")


def existing(path: Path) -> Path:
    """The nearest folder of a path that is there."""
    return next(folder for folder in (path.absolute(), *path.absolute().parents) if folder.is_dir())


def _space(check: str, path: Path, folder: Path, mend: str) -> Finding:
    if path.exists() and not path.is_dir():
        return Finding(check, "problem", f"{path} is no folder", mend)
    if not os.access(folder, os.W_OK | os.X_OK):
        return Finding(check, "problem", f"{path.absolute()}: {folder} may not be written", mend)
    disk = os.statvfs(folder)
    free, total = disk.f_bavail * disk.f_frsize, disk.f_blocks * disk.f_frsize
    says = f"{path.absolute()}: {free / GIB:.1f} of {total / GIB:.1f} GiB free"
    if disk.f_files and disk.f_favail < FEW:  # some file systems count none
        return Finding(check, "warning", f"{says}, and room for only {disk.f_favail} files", "delete files, or " + mend)
    return Finding(check, "warning" if free < LOW else "ok", says, f"free some, or {mend}" if free < LOW else "")


def _without_locks(folder: Path) -> str | None:
    """Why a file system has no locks, tried on the folder itself; None if it has, or if that cannot be told."""
    try:
        handle = os.open(folder, os.O_RDONLY)
    except OSError:  # a folder that may be written, and not be listed
        return None
    try:
        fcntl.flock(handle, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except OSError as error:  # of other kinds: held by another, or a folder that cannot be locked where a file can
        return error.strerror if error.errno in UNSUPPORTED else None
    finally:
        os.close(handle)
    return None
