"""The processes of one run: who this one is, what the first one says, and how they share work out.

A run is one process unless a launcher (``torchrun``, ``accelerate launch``) starts several and says so in the
environment. They talk through the launcher's key-value store, in JSON. Process 0 is the main one: it alone decides what
is to be done, and it alone tells listeners and people.
"""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import timedelta
from typing import TYPE_CHECKING, Any, TypeVar

from srum_plugins.errors import ConfigError, StageError

if TYPE_CHECKING:
    from torch.distributed import Store  # type: ignore[attr-defined]  # torch does not export it by name

T = TypeVar("T")

VARIABLES = ("RANK", "WORLD_SIZE", "LOCAL_RANK", "MASTER_ADDR", "MASTER_PORT")
"""What a launcher says to each process."""
FAILED = "failed"
LONGEST = timedelta(hours=2)
"""How long a collective of training waits for a process, which may be writing a checkpoint."""
FAREWELL = 10.0
"""Seconds that the main process waits for the others at the end."""
POLL = 0.05  # seconds between two looks at the store


@dataclass
class World:
    """This process (``rank`` of ``size``, ``local_rank`` on its machine) among those of the run.

    All processes must call :meth:`tell`, :meth:`meet` and :meth:`share` in the same order.
    """

    rank: int = 0
    size: int = 1
    local_rank: int = 0
    store: Store | None = None
    _turn: int = field(default=0, init=False)

    @property
    def main(self) -> bool:
        """Whether this is the process that decides and tells."""
        return self.rank == 0

    def tell(self, what: str, say: Callable[[], T]) -> T:
        """What the main process says, for all of them: plain JSON. Only there is ``say`` called."""
        if self.store is None:
            return say()
        key = self._key(what)
        if self.main:
            self.store.set(key, json.dumps(value := say()))
            return value
        self._wait(lambda store: store.check([key]))
        told: T = json.loads(self.store.get(key))
        return told

    def gather(self, what: str, value: T) -> list[T]:
        """What every process says, by rank: plain JSON."""
        if self.store is None:
            return [value]
        key = self._key(what)
        self.store.set(f"{key}/{self.rank}", json.dumps(value))
        keys = [f"{key}/{rank}" for rank in range(self.size)]
        self._wait(lambda store: store.check(keys))
        return [json.loads(self.store.get(one)) for one in keys]

    def meet(self, what: str) -> None:
        """Wait until all processes are here.

        Raises:
            StageError: one of them has failed, or is gone.
        """
        share = self.share(what, 0)
        share.add(1)
        share.wait(self.size)

    def share(self, what: str, count: int) -> Share:
        """A list of ``count`` pieces of work that the processes take one by one."""
        return Share(self, self._key(what), count)

    def fail(self, error: BaseException) -> None:
        """Let the others know that this process stops: they stop too, as soon as they wait or take work."""
        if self.store is not None:
            with suppress(Exception):  # what is being raised says more than a store that is gone
                # The first says why: what others raise then follows from it.
                self.store.compare_set(FAILED, "", f"process {self.rank} stopped: {str(error) or type(error).__name__}")

    def check(self) -> None:
        """Raise StageError if another process has failed."""
        if self.store is not None:
            try:
                failed = self.store.get(FAILED).decode() if self.store.check([FAILED]) else ""
            except RuntimeError as error:  # the store's own errors
                raise _gone(error) from error
            if failed:
                raise StageError(f"{failed} (told to process {self.rank})")

    def leave(self) -> None:
        """End the process group, if there is one. The main process, which may host the store, goes last, so that the
        others can read why."""
        if self.store is None:
            return
        import torch.distributed as dist

        with suppress(Exception):  # nothing is lost any more
            left, until = self.store.add("left", 1), time.monotonic() + FAREWELL
            while self.main and left < self.size and time.monotonic() < until:
                time.sleep(POLL)
                left = self.store.add("left", 0)
        if dist.is_initialized():
            dist.destroy_process_group()

    def _key(self, what: str) -> str:
        self._turn += 1
        return f"{self._turn}/{what}"

    def _wait(self, ready: Callable[[Store], bool], meanwhile: Callable[[], None] = lambda: None) -> None:
        assert self.store is not None
        while True:
            try:
                if ready(self.store):
                    return
            except RuntimeError as error:
                raise _gone(error) from error
            self.check()
            meanwhile()
            time.sleep(POLL)


@dataclass
class Share:
    """Pieces of work that processes take by an atomic counter, so that a slow piece holds nobody else up."""

    world: World
    key: str
    count: int
    _own: dict[str, int] = field(default_factory=dict, init=False)
    _seen: int = field(default=0, init=False)

    def __iter__(self) -> Iterator[int]:
        """The pieces, from 0, that this process is to do."""
        while (place := self._add("taken", 1) - 1) < self.count:
            self.world.check()
            yield place

    def add(self, amount: int, what: str = "done") -> int:
        """Count what this process has done; returns what all have done so far."""
        done = self._add(what, amount)
        if what == "done":
            self._seen = done
        return done

    def wait(self, amount: int, progress: Callable[[int], None] = lambda done: None) -> None:
        """Wait until ``amount`` is done by all together, and tell ``progress`` how much is whenever that is more."""
        if self.world.store is None:
            return

        def look() -> None:
            done = self._add("done", 0)
            if done != self._seen:
                self._seen = done
                progress(done)

        self.world._wait(lambda store: self._add("done", 0) >= amount, look)
        look()

    def _add(self, what: str, amount: int) -> int:
        if self.world.store is None:
            self._own[what] = self._own.get(what, 0) + amount
            return self._own[what]
        try:
            return int(self.world.store.add(f"{self.key}/{what}", amount))
        except RuntimeError as error:
            raise _gone(error) from error


def join(device: str, environment: Mapping[str, str] = os.environ) -> World:
    """The world that the launcher describes: one process without a launcher.

    ``device`` is ``run.device``: it decides how gradients travel (gloo, and NCCL between CUDA devices).

    Raises:
        ConfigError: the environment speaks of several processes, and lacks what they need to meet; or ``device`` is
            one for all of them.
    """
    size = _number(environment, "WORLD_SIZE") if "WORLD_SIZE" in environment else 1
    if size == 1:
        return World()
    if missing := [name for name in VARIABLES if name not in environment]:
        raise ConfigError(
            f"WORLD_SIZE={size} speaks of several processes, but {', '.join(missing)} is not set: start them with "
            f"`torchrun --nproc-per-node {size} -m srum_plugins.cli run CONFIG`, or unset WORLD_SIZE for one process"
        )
    rank, local = _number(environment, "RANK"), _number(environment, "LOCAL_RANK")
    if not 0 <= rank < size:
        raise ConfigError(f"RANK={rank} is not one of WORLD_SIZE={size} processes, which count from 0")
    import torch

    dist: Any = torch.distributed  # torch does not export all of it by name
    cuda = torch.device(device).type == "cuda"
    if cuda and torch.device(device).index is not None:
        raise ConfigError(
            f"run.device={device} would put all {size} processes on one device: set run.device=cuda, which is a device "
            "for each"
        )
    if cuda and torch.cuda.is_available():
        if local >= (devices := torch.cuda.device_count()):
            raise ConfigError(
                f"LOCAL_RANK={local}, but torch finds {devices} CUDA devices here: start no more than {devices} "
                "processes on this machine, and let each of them see all of its devices"
            )
        torch.cuda.set_device(local)
    place = f"{environment['MASTER_ADDR']}:{environment['MASTER_PORT']}"
    try:
        store, _, _ = next(dist.rendezvous("env://", rank, size))
        # A launcher that starts processes again keeps its store.
        own = dist.PrefixStore(f"srum/{environment.get('TORCHELASTIC_RESTART_COUNT', '0')}", store)
        backend = "cpu:gloo,cuda:nccl" if cuda else "gloo"
        group = dist.PrefixStore("group", own)
        dist.init_process_group(backend, store=group, rank=rank, world_size=size, timeout=LONGEST)
    except (RuntimeError, ValueError) as error:
        raise ConfigError(
            f"process {rank} cannot meet the {size - 1} others at {place} (MASTER_ADDR, MASTER_PORT): {error}"
        ) from error
    return World(rank, size, local, dist.PrefixStore("run", own))


def _number(environment: Mapping[str, str], name: str) -> int:
    try:
        return int(environment[name])
    except ValueError as error:
        raise ConfigError(f"{name}={environment[name]!r} is not a whole number; launchers set it") from error


def _gone(error: Exception) -> StageError:
    return StageError(
        f"the other processes cannot be reached any more ({error}): one of them has ended. Start the same command again"
    )


def disagreements(own: Mapping[str, Any], told: Mapping[str, Any]) -> list[str]:
    """What this process has otherwise than the main one, one phrase each."""
    names = sorted(own.keys() | told.keys())
    return [f"{name} is {own.get(name)}, there {told.get(name)}" for name in names if own.get(name) != told.get(name)]
