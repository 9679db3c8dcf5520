"""Several processes of one run, as a launcher would start them, forked off one that has imported what takes seconds."""

import multiprocessing
import os
import socket
import sys
import time
from collections.abc import Callable, Sequence
from functools import cache
from multiprocessing import forkserver
from pathlib import Path
from typing import Any

import pytest

PROCESSES = multiprocessing.get_context("forkserver")
LONGEST = 300.0  # seconds, also of a busy machine, after which processes that wait in vain are killed


@cache
def _start_server() -> None:
    """Start the process that others are forked off. It finds modules by PYTHONPATH alone."""
    tests = str(Path(__file__).parent)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PYTHONPATH", tests, prepend=os.pathsep)
        patch.setenv("TORCH_CPP_LOG_LEVEL", "ERROR")  # the store warns of every process that is killed
        PROCESSES.set_forkserver_preload(
            [
                *("toy_processes", "tiny_bagel", "srum_plugins.training.step"),
                *("torch.distributed.fsdp", "torch._dynamo", "scipy.stats", "matplotlib.figure", "peft.tuners.lora"),
            ]
        )
        forkserver.ensure_running()


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def _begin(rank: int, size: int, port: int, work: Callable[..., Any], arguments: Sequence[Any]) -> None:
    if size > 1:
        os.environ |= {"RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": str(size)}
        os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    os.environ["GLOO_SOCKET_IFNAME"] = "lo"
    sys.exit(work(rank, *arguments))


def launch(size: int, work: Callable[..., Any], *arguments: Any, grace: float = 0.5) -> list[int]:
    """Run ``work(rank, *arguments)`` in so many processes; their exit codes. As with torchrun, one that fails or is
    killed ends the others: ``grace`` seconds later, so that they may end by themselves with what they have to say."""
    _start_server()
    port = free_port()
    group = [PROCESSES.Process(target=_begin, args=(rank, size, port, work, arguments)) for rank in range(size)]
    for process in group:
        process.start()
    until = time.monotonic() + LONGEST
    while any(process.is_alive() for process in group):
        if any(process.exitcode not in (None, 0) for process in group):
            until = min(until, time.monotonic() + grace)
        if time.monotonic() > until:
            for process in group:
                process.kill()
        time.sleep(0.01)
    return [process.exitcode or 0 for process in group]
