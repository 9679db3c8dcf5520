"""One run directory is held by one run.

The kernel drops a lock with its process, so that one left by a dead process is free. The main process holds the
directory; the others of its run hold a second lock together, so that the next run waits for those that outlive it.
"""

from __future__ import annotations

import errno
import fcntl
import os
import socket
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO

from srum_plugins.errors import ConfigError, StageError
from srum_plugins.runs.files import storing
from srum_plugins.world import World

PATIENCE = 30.0
"""Seconds that a run waits for processes of the one before it that was killed: a launcher ends them soon."""
UNSUPPORTED = (errno.ENOLCK, errno.ENOTSUP, errno.ENOSYS)


@contextmanager
def held(directory: Path, world: World) -> Iterator[None]:
    """Hold a run directory in all processes of a run.

    Raises:
        StageError: another run holds it, or its file system has no locks.
        StorageError: the directory may not be written.
        ConfigError: the processes do not see the same directory.
    """
    with storing(directory / "lock"):
        directory.mkdir(parents=True, exist_ok=True)
        files = [(directory / name).open("a+") for name in ("lock", "lock.workers")]
    with files[0] as own, files[1] as workers:
        if world.main:
            _take(own, directory)
            _outlast(workers, directory)
            token = uuid.uuid4().hex
            with storing(directory / "lock"):
                own.truncate(0)  # and not by its buffer, which would be written once more on closing
                os.write(own.fileno(), f"process {os.getpid()} on {socket.gethostname()}\n{token}\n".encode())
                os.fsync(own.fileno())
        told = world.tell("lock", lambda: token)
        if not world.main:
            own.seek(0)
            if told not in own.read():
                raise ConfigError(
                    f"process {world.rank} on {socket.gethostname()} does not see the run directory "
                    f"{directory.resolve()} of the main process: it must lie on a file system that all of them share"
                )
            fcntl.flock(workers, fcntl.LOCK_SH)
        world.meet("locked")
        yield
        if world.main:
            own.truncate(0)


def _take(file: IO[str], directory: Path) -> None:
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as error:
        file.seek(0)
        holder = file.readline().strip() or "another process"
        raise StageError(
            f"{directory} is already being run by {holder}: wait for it, or stop it, or give this run a directory of "
            f"its own (run.directory=DIR). The lock is {file.name}"
        ) from error
    except OSError as error:
        if error.errno not in UNSUPPORTED:
            raise
        raise StageError(
            f"the file system of {directory} has no locks ({error.strerror}), so that two runs could write there at "
            "once: mount it with them (Lustre: -o flock), or choose another run.directory"
        ) from error


def _outlast(file: IO[str], directory: Path) -> None:
    """Wait for the other processes of a run that was killed."""
    until = time.monotonic() + PATIENCE
    while True:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            if time.monotonic() > until:
                raise StageError(
                    f"processes of an earlier run are still at work in {directory} ({file.name}): stop them"
                ) from error
            time.sleep(0.2)
        else:
            fcntl.flock(file, fcntl.LOCK_UN)
            return
