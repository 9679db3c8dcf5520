"""What the benchmarks share: time, memory and operations of a call, and the device's name."""

from __future__ import annotations

import platform
import resource
import statistics
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

from srum_plugins.attention.contract import Attention, Heads, Segments
from srum_plugins.attention.probe import choose
from srum_plugins.config import Choice
from srum_plugins.host import PluginHost
from srum_plugins.providers import Kind

REPEATS = 3


def kernel(name: str, heads: Sequence[Heads], device: torch.device) -> tuple[str, Attention]:
    """The kernel that a config's word gives for these heads, and its name; its operations are counted."""
    host = PluginHost.load()
    registered = host.get(Kind.ATTENTION, name)
    choice = Choice(Kind.ATTENTION, registered, registered.provider.options())
    chosen = choose(choice, host, heads, str(device))
    return chosen.name, counting(chosen.kernel, device, getattr(torch, heads[0].dtype))


class Counting(Attention):
    """A kernel with its operations, where torch's counter does not know it: two products of queries and keys forwards,
    five backwards."""

    def __init__(self, kernel: Attention) -> None:
        self.kernel = kernel
        self.operations = 0.0

    def attend(self, q: Tensor, k: Tensor, v: Tensor, segments: Segments) -> Tensor:
        pairs = sum(
            asked * seen - segments.causal * asked * (asked - 1) // 2
            for asked, seen in zip(segments.queries, segments.keys, strict=True)
        )
        product = 2 * pairs * q.shape[1] * q.shape[2]
        self._add(2 * product)
        out = self.kernel.attend(q, k, v, segments)
        if out.requires_grad:
            out.register_hook(lambda gradient: self._add(5 * product))
        return out

    def _add(self, operations: int) -> None:
        self.operations += operations


def counting(kernel: Attention, device: torch.device, dtype: torch.dtype) -> Attention:
    """The kernel, with its operations counted one way or the other."""
    parts = (torch.ones(4, 1, 8, device=device, dtype=dtype) for _ in range(3))
    with FlopCounterMode(display=False) as counter:
        kernel.attend(*parts, Segments.of([4], [4], False, device))
    return kernel if counter.get_total_flops() else Counting(kernel)


def measured(
    work: Callable[[], Any],
    device: torch.device,
    reached: float,
    counted: Callable[[], Any] | None = None,
    attention: Attention | None = None,
) -> dict[str, float]:
    """Median seconds of a call after one that warms up. Operations are those of ``counted``, or else of the call: what
    is compiled, as the 8-bit optimizer's step is, does not run while they are counted."""
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
    known = attention.operations if isinstance(attention, Counting) else 0.0
    with FlopCounterMode(display=False) as counter:
        (counted or work)()
    operations = counter.get_total_flops() + (attention.operations - known if isinstance(attention, Counting) else 0.0)
    work()
    seconds = statistics.median(timed(work, device) for _ in range(REPEATS))
    peak = (
        torch.cuda.max_memory_allocated(device)
        if device.type == "cuda"
        else resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024  # of the process, since it began
    )
    return {
        "seconds": seconds,
        "teraflop": operations / 1e12,
        "utilisation": operations / seconds / reached,
        "peak_gib": peak / 2**30,
    }


def timed(work: Callable[[], Any], device: torch.device) -> float:
    """Seconds of a call, the device's queue empty before and after."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    start = time.perf_counter()
    work()
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter() - start


def name_of(device: torch.device) -> str:
    """The device as its maker calls it."""
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    lines = Path("/proc/cpuinfo").read_text().splitlines() if Path("/proc/cpuinfo").exists() else []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.machine()


def matmul_rate(device: torch.device, dtype: torch.dtype) -> float:
    """Operations per second of a large matrix product, the best of twenty."""
    side = 8192 if device.type == "cuda" else 2048
    one = torch.randn(side, side, device=device, dtype=dtype)
    return 2 * side**3 / min(timed(lambda: one @ one, device) for _ in range(20))
