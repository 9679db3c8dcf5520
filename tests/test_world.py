"""The processes of one run: how they talk, share work out and stop together, in threads that share a store."""

import socket
import threading
from collections import Counter
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, TypeVar

import pytest
import torch
from engine_fixtures import toy_config, toy_host
from hypothesis import given
from hypothesis import strategies as st
from torch.distributed import HashStore

from srum_plugins import world as worlds
from srum_plugins.errors import CheckpointError, ConfigError, StageError
from srum_plugins.stages import pipeline
from srum_plugins.world import World, disagreements, join

T = TypeVar("T")


# --- one store, and threads as processes ------------------------------------------------------------------------------
def together(size: int, work: Callable[[World], T]) -> list[T]:
    """What ``work`` returns in each of so many processes, by rank."""
    store = HashStore()
    with ThreadPoolExecutor(size) as pool:
        return list(pool.map(lambda rank: work(World(rank, size, rank, store)), range(size)))


@pytest.fixture(scope="module", autouse=True)
def quick() -> Any:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(worlds, "POLL", 0.0005)
        yield


@given(size=st.integers(1, 5), count=st.integers(0, 30))
def test_every_piece_of_work_is_taken_once_and_all_wait_for_the_last(size: int, count: int) -> None:
    finished: list[int] = []

    def work(world: World) -> tuple[list[int], list[int], int]:
        share, taken, told = world.share("pieces", count), [], [0]
        for piece in share:
            taken.append(piece)
            finished.append(piece)
            told.append(share.add(1))
        share.wait(count, told.append)
        return taken, told, len(finished)

    found = together(size, work)
    assert sorted(piece for taken, _, _ in found for piece in taken) == list(range(count))
    for taken, told, finished_then in found:
        assert taken == sorted(taken)
        assert told == sorted(set(told)) and told[-1] == count
        assert finished_then == count


def test_one_process_alone_takes_everything_and_waits_for_nobody() -> None:
    world, told = World(), []
    share = world.share("pieces", 3)
    assert list(share) == [0, 1, 2]
    share.wait(3, told.append)
    world.meet("here")
    assert world.tell("what", lambda: {"a": 1}) == {"a": 1}
    assert world.gather("what", 5) == [5]
    assert told == []


def test_a_slow_piece_holds_nobody_up() -> None:
    count, others_are_done = 20, threading.Event()

    def work(world: World) -> list[int]:
        share, taken = world.share("pieces", count), []
        for piece in share:
            if piece == 0:
                assert others_are_done.wait(60)
            taken.append(piece)
            if share.add(1) == count - 1:
                others_are_done.set()
        return taken

    found = together(3, work)
    assert [0] in found
    assert sorted(piece for taken in found for piece in taken) == list(range(count))


JSON = st.recursive(st.none() | st.booleans() | st.integers() | st.text(), lambda inner: st.lists(inner), max_leaves=5)


@given(size=st.integers(1, 4), said=st.lists(JSON, min_size=1, max_size=4))
def test_what_the_main_one_tells_all_hear_and_what_each_says_is_gathered_by_rank(size: int, said: list[Any]) -> None:
    asked: Counter[int] = Counter()

    def work(world: World) -> list[Any]:
        def say(what: Any) -> Any:
            asked[world.rank] += 1
            return what

        told = [world.tell("the same name every time", lambda what=what: say(what)) for what in said]
        return [*told, *(world.gather("own", [world.rank, what]) for what in said)]

    expected = [*said, *([[rank, what] for rank in range(size)] for what in said)]
    assert together(size, work) == [expected] * size
    assert asked == {0: len(said)}


@pytest.mark.parametrize("what", ["meet", "tell", "gather", "share", "wait"])
def test_one_that_fails_stops_all_others_with_its_error(what: str) -> None:
    def work(world: World) -> None:
        if world.rank == 0:
            world.fail(ValueError("no such tile"))
            return
        with pytest.raises(StageError, match=rf"^process 0 stopped: no such tile \(told to process {world.rank}\)$"):
            match what:
                case "meet":
                    world.meet("here")
                case "tell":
                    world.tell("what", str)
                case "gather":
                    world.gather("what", 1)
                case "share":
                    list(world.share("endless", 10**9))
                case "wait":
                    world.share("pieces", 1).wait(1)

    together(3, work)


class Gone:
    """A store whose host has ended."""

    def __getattr__(self, name: str) -> Any:
        raise RuntimeError("Broken pipe")


@pytest.mark.parametrize(
    "act",
    [
        lambda world: world.meet("here"),
        lambda world: world.tell("what", str),
        lambda world: world.check(),
        lambda world: next(iter(world.share("pieces", 3))),
    ],
)
def test_a_store_that_is_gone_is_an_error_in_plain_words(act: Callable[[World], Any]) -> None:
    world = World(1, 2, 1, Gone())  # type: ignore[arg-type]  # as far as it is used
    with pytest.raises(StageError, match=r"cannot be reached any more \(Broken pipe\): one of them has ended"):
        act(world)
    world.fail(ValueError("what is raised says more"))


@given(st.dictionaries(st.text(), st.text()), st.dictionaries(st.text(), st.text()))
def test_disagreements_name_what_differs(own: dict[str, str], told: dict[str, str]) -> None:
    found = disagreements(own, told)
    different = [name for name in own.keys() | told.keys() if own.get(name) != told.get(name)]
    assert len(found) == len(different)
    assert disagreements(own, own) == []


# --- what a launcher says ---------------------------------------------------------------------------------------------
def launched(**changed: str | None) -> dict[str, str]:
    said = {"RANK": "0", "WORLD_SIZE": "2", "LOCAL_RANK": "0", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "1"}
    return {name: value for name, value in {**said, **changed}.items() if value is not None}


@pytest.mark.parametrize("environment", [{}, {"WORLD_SIZE": "1"}, {"RANK": "3"}])
def test_without_a_launcher_a_run_is_one_process(environment: dict[str, str]) -> None:
    assert join("cuda:1", environment) == World()


@pytest.mark.parametrize(
    ("changed", "device", "message"),
    [
        ({"MASTER_ADDR": None}, "cpu", "WORLD_SIZE=2 speaks of several processes, but MASTER_ADDR is not set"),
        ({"RANK": None, "LOCAL_RANK": None}, "cpu", "but RANK, LOCAL_RANK is not set: .* or unset WORLD_SIZE"),
        ({"WORLD_SIZE": "two"}, "cpu", "WORLD_SIZE='two' is not a whole number"),
        ({"LOCAL_RANK": ""}, "cpu", "LOCAL_RANK='' is not a whole number"),
        ({"RANK": "2"}, "cpu", "RANK=2 is not one of WORLD_SIZE=2 processes, which count from 0"),
        ({"RANK": "-1"}, "cpu", "RANK=-1 is not one of"),
        ({"WORLD_SIZE": "0"}, "cpu", "RANK=0 is not one of WORLD_SIZE=0"),
        ({"MASTER_PORT": "http"}, "cpu", r"process 0 cannot meet the 1 others at 127\.0\.0\.1:http"),
        ({}, "cuda:0", "run.device=cuda:0 would put all 2 processes on one device: set run.device=cuda"),
    ],
)
def test_what_a_launcher_says_wrong_is_refused_in_plain_words(
    changed: dict[str, str | None], device: str, message: str
) -> None:
    with pytest.raises(ConfigError, match=message):
        join(device, launched(**changed))


def test_a_port_that_is_taken_is_named() -> None:
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        port = str(other.getsockname()[1])
        with pytest.raises(ConfigError, match=rf"cannot meet the 1 others at 127\.0\.0\.1:{port}"):
            join("cpu", launched(MASTER_PORT=port))


def test_processes_that_have_no_device_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    with pytest.raises(ConfigError, match="LOCAL_RANK=1, but torch finds 1 CUDA devices here: start no more than 1"):
        join("cuda", launched(RANK="1", LOCAL_RANK="1"))


# --- who says why -----------------------------------------------------------------------------------------------------
def test_the_first_that_fails_says_why() -> None:
    store = HashStore()
    first, second = (World(rank, 2, rank, store) for rank in range(2))
    second.fail(ValueError("no such tile"))
    with pytest.raises(StageError) as told:
        first.check()
    first.fail(told.value)
    with pytest.raises(StageError, match=r"^process 1 stopped: no such tile \(told to process 0\)$"):
        first.check()


def test_a_listener_that_fails_while_others_are_waited_for_is_not_taken_for_them() -> None:
    def fail(done: int) -> None:
        raise RuntimeError("the tracker is full")

    own, other = (World(rank, 2, rank, store) for store in [HashStore()] for rank in range(2))
    other.share("pieces", 2).add(1)
    with pytest.raises(RuntimeError, match=r"^the tracker is full$"):
        own.share("pieces", 2).wait(2, fail)


def test_a_process_that_fails_at_its_beginning_lets_the_others_know(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*arguments: Any) -> None:
        raise CheckpointError("the checkpoint is not on this machine")

    main, other = (World(rank, 2, rank, store) for store in [HashStore()] for rank in range(2))
    monkeypatch.setattr(pipeline, "Session", fail)
    with pytest.raises(CheckpointError):
        pipeline.run(toy_config(tmp_path), toy_host(), "generate", world=other)
    with pytest.raises(StageError, match=r"^process 1 stopped: the checkpoint is not on this machine"):
        main.check()

    def lose(*arguments: Any) -> None:
        raise RuntimeError("Connection closed by peer")

    monkeypatch.setattr(pipeline, "Session", lose)
    with pytest.raises(StageError, match=r"^process 1 stopped: the checkpoint is not on this machine"):
        pipeline.run(toy_config(tmp_path), toy_host(), "generate", world=main)
