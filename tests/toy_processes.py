"""Runs of the toy backend in processes of their own (tests/processes.py), and how one of them is killed."""

import json
import os
import re
import signal
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import toy_backend
from engine_fixtures import toy_config, toy_host

from srum_plugins import hookimpl
from srum_plugins import world as worlds
from srum_plugins.ablations.arms import Arm
from srum_plugins.ablations.experiment import run_arms
from srum_plugins.ablations.plan import plan
from srum_plugins.errors import SrumError, StageError
from srum_plugins.host import PluginHost
from srum_plugins.stages.pipeline import run

FILE_EVENTS = ("open", "os.rename", "os.mkdir", "os.remove", "os.rmdir", "os.scandir", "shutil.copyfile", "fcntl.flock")


def toy_command(
    rank: int, folder: str, *overrides: str, only: str | None = None, host: PluginHost | None = None
) -> int:
    """``srum run`` or, with ``only``, one stage; the exit status. What it says is kept for :func:`said`."""
    host = host or toy_host()
    with (Path(folder) / f"said-{rank}.txt").open("w") as file:
        try:
            world = worlds.join("cpu")
            try:
                config = toy_config(Path(folder), *overrides, host=host)
                run(config, host, only, lambda text: print(text, file=file), world)
            finally:
                world.leave()
        except SrumError as error:
            print(f"error: {error}", file=file)
            return 2
    return 0


class Ear:
    """A listener that counts what it hears."""

    def __init__(self) -> None:
        self.heard: dict[str, int] = {}

    @hookimpl
    def srum_stage_advanced(self, stage: str, done: int, total: int) -> None:
        assert done <= total
        self.heard[stage] = done

    @hookimpl
    def srum_stage_finished(self, stage: str) -> None:
        self.heard[f"{stage} finished"] = self.heard.get(f"{stage} finished", 0) + 1

    @hookimpl
    def srum_train_step_finished(self, step: int) -> None:
        self.heard["step"] = step


def counted_command(rank: int, folder: str) -> int:
    """``srum run``; notes in ``counted-RANK.json`` what the toy backend was asked for and what a listener heard."""
    host, ear = toy_host(), Ear()
    host.register(ear, "ear")
    slow(0.05)
    status = toy_command(rank, folder, host=host)
    (Path(folder) / f"counted-{rank}.json").write_text(json.dumps({"calls": toy_backend.calls, "heard": ear.heard}))
    return status


def failing_command(rank: int, folder: str, victim: int) -> int:
    """``srum run``, where the process ``victim`` cannot make its first image, and the others are busy until then."""
    failed = Path(folder) / "failed"

    def reached(point: str) -> None:
        if point == "generate" and rank == victim:
            failed.touch()
            raise StageError("the palette is empty")
        while point == "generate" and not failed.exists():
            time.sleep(0.01)

    toy_backend.reached = reached
    return toy_command(rank, folder)


def busy_command(rank: int, folder: str) -> int:
    """``srum run``, which notes its process id in ``busy-RANK`` and then generates for ever."""

    def reached(point: str) -> None:
        while point == "generate":
            (Path(folder) / f"busy-{rank}").write_text(str(os.getpid()))
            time.sleep(60)

    toy_backend.reached = reached
    return toy_command(rank, folder)


def other_command(rank: int, folder: str, *overrides: str) -> int:
    """``srum run``, of another configuration in every process but the first."""
    return toy_command(rank, folder, *(overrides if rank else ()))


def elsewhere_command(rank: int, folder: str) -> int:
    """``srum run`` in a working directory of the process's own."""
    place = Path(folder) / str(rank)
    place.mkdir()
    os.chdir(place)
    return toy_command(rank, folder)


def said(folder: Path, rank: int) -> str:
    """What a process of the last run had to say: the main one's messages, and the error that ended it."""
    return (folder / f"said-{rank}.txt").read_text()


def slow(seconds: float) -> None:
    """Let every chunk of this process take so long, or the first process has made all of them before another begins."""
    original = toy_backend.reached

    def slowly(point: str) -> None:
        original(point)
        if point in ("generate", "ground", "judge", "score"):
            time.sleep(seconds)

    toy_backend.reached = slowly


def opened(handle: int) -> str:
    """The path of an open file."""
    return str(Path(f"/proc/self/fd/{handle}").readlink())


class Moments:
    """The moments of this process at which it does something to files below ``folder``, meets other processes, or asks
    the toy backend for something. Just before the ``last`` one it dies, as by kill -9."""

    def __init__(self, folder: Path, note: Path, last: int | None) -> None:
        self.folder, self.note, self.last = folder, note, last
        self.count = 0
        sys.addaudithook(self._audit)
        self._watch(os, "fsync", lambda handle: f"fsync {self._name(opened(handle))}")
        self._watch(toy_backend, "reached", lambda point: f"toy {point}")
        self._watch(worlds.World, "tell", lambda world, what, say: "tell")
        self._watch(worlds.World, "share", lambda world, what, count: "share")

    def _watch(self, owner: Any, name: str, label: Callable[..., str]) -> None:
        original = getattr(owner, name)

        def watched(*arguments: Any) -> Any:
            self._reached(label(*arguments))
            return original(*arguments)

        setattr(owner, name, watched)

    def _audit(self, event: str, arguments: tuple[Any, ...]) -> None:
        if event not in FILE_EVENTS:
            return
        if isinstance(arguments[0], int):
            self._reached(event)
        else:
            path = os.fsdecode(arguments[0])
            # A name alone lies in a folder that is being removed.
            if path.startswith(str(self.folder)) or os.sep not in path:
                self._reached(f"{event} {self._name(path)}")

    def _name(self, path: str) -> str:
        """What kind of file that is: without its place and numbers."""
        return re.sub(r"[0-9a-f]{12}|\d{4,}|(?<=images/).*", "#", path.removeprefix(str(self.folder)))

    def _reached(self, what: str) -> None:
        self.count += 1
        if self.count == self.last:
            handle = os.open(self.note, os.O_WRONLY | os.O_CREAT)
            os.write(handle, what.encode())
            os.kill(os.getpid(), signal.SIGKILL)


def killed_command(rank: int, folder: str, stage: str, victim: int | None, last: int | None) -> int:
    """One stage, in which the process ``victim`` dies at its ``last`` moment, and notes it in ``killed.txt``. A process
    that lives notes the number of its moments in ``moments-RANK.txt``."""
    own = Path(folder)
    moments = Moments(own / "run", own / "killed.txt", last if rank == victim else None)
    slow(0.02)
    status = toy_command(rank, folder, only=stage)
    (own / f"moments-{rank}.txt").write_text(str(moments.count))
    return status


def ablation_command(rank: int, folder: str, *overrides: str) -> int:
    """An ablation of two arms and the base, with one seed."""
    arms = [Arm("base", "", trained=False), *(Arm(name, "", (f"aggregator=toy-{name}",)) for name in ("flat", "maps"))]
    host = toy_host()
    try:
        world = worlds.join("cpu")
        try:
            planned = plan("ablation", Path(folder) / "toy.yaml", overrides, arms, [3], "flat", host)
            run_arms(planned, host, world, lambda text: None)
        finally:
            world.leave()
    except SrumError:
        return 2
    return 0
