"""What the benchmarks share: their work, and the time, memory and operations of a call."""

from __future__ import annotations

import argparse
import json
import platform
import resource
import statistics
import time
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

from srum_plugins.attention.contract import Attention, Heads, Segments
from srum_plugins.attention.probe import choose
from srum_plugins.config import Choice, TrainSection
from srum_plugins.contracts import (
    Answer,
    Capability,
    Decoding,
    GenerationRequest,
    ModelAdapter,
    Question,
    TrainBatch,
    Weightless,
)
from srum_plugins.host import PluginHost
from srum_plugins.memory.estimate import estimate
from srum_plugins.memory.show import show
from srum_plugins.memory.workload import Asking, Drawing, Learning, Workload
from srum_plugins.providers import Kind
from srum_plugins.records import Prompt
from srum_plugins.rewards.objectives import Weighted, WeightedOptions
from srum_plugins.training import optimizers

REPEATS = 3
WORDS = 32
"""Tokens of every prompt and question."""
TEXT = " ".join(["word"] * WORDS)
LONGEST_ANSWER = 16
"""Tokens."""


def arguments(text: str, name: str, sizes: Collection[str]) -> argparse.ArgumentParser:
    """What every benchmark of a model can be told; ``name`` is that of its report."""
    parser = argparse.ArgumentParser(description=text, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--size", choices=list(sizes), default="small", help="dimensions; weights are random")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--images", type=int, default=2, help="images per call")
    parser.add_argument("--attention", default="auto", help="kernel, as in a config")
    parser.add_argument("--memory", action="store_true", help="only estimate memory, as srum doctor --memory does")
    parser.add_argument("--output", type=Path, help=f"JSON file (default: runs/{name}-SIZE.json)")
    return parser


def dtype_on(device: torch.device) -> torch.dtype:
    """That of the weights: half the memory where it is scarce, and what every CPU is fast in."""
    return torch.bfloat16 if device.type == "cuda" else torch.float32


def settings(images: int, eight_bit: bool) -> TrainSection:
    return TrainSection(optimizer="adamw8bit" if eight_bit else "adamw", batch=images, lr=1e-6)


def show_memory(make: Callable[[], Weightless], device: str, images: int, sampling: Any, how: Any) -> None:
    """Print what the benchmark's work is estimated to need; ``how`` are the adapter's settings of training."""
    kind = torch.device(device)
    learned = settings(images, eight_bit=dtype_on(kind) == torch.bfloat16)
    asked = Workload(
        device=kind.type,
        words=WORDS,
        questions=1,
        drawing={"generate": Drawing(images, None, sampling)},
        asking={"judge": Asking(images, None, frozenset({Capability.ANSWER}))},
        learning=Learning(learned, how, Weighted(WeightedOptions()), None),
    )
    show(estimate(make, asked), asked, device, as_json=False)


def training(
    adapter: ModelAdapter, how: Any, latents: Sequence[Tensor], size: tuple[int, int], eight_bit: bool
) -> tuple[Callable[[], None], Callable[[], None]]:
    """One optimizer step on latents of images of this (width, height), and its forward and backward alone, as
    functions; ``how`` are the adapter's settings of training."""
    parameters = adapter.start_training(how, base=False)
    optimizer = optimizers.build(settings(len(latents), eight_bit), parameters)
    objective, grid = Weighted(WeightedOptions()), adapter.token_grid(*size)
    weights = torch.ones(len(latents) * grid[0] * grid[1], device=latents[0].device)
    prompts = tuple(Prompt(str(number), TEXT) for number in range(len(latents)))
    batch = TrainBatch(prompts, (list(latents),), (weights,), (grid,) * len(latents))

    def gradients() -> None:
        optimizer.zero_grad(set_to_none=True)
        loss, _ = objective.loss(adapter, batch, adapter.draw(latents, torch.Generator().manual_seed(0)))
        loss.backward()  # type: ignore[no-untyped-call]  # torch does not annotate it

    def step() -> None:
        gradients()
        optimizer.step()

    return step, gradients


@dataclass(frozen=True)
class Bench:
    """A device, the operations per second of a large matrix product on it, and the kernel of the model's attention with
    its name."""

    device: torch.device
    reached: float
    attention: Attention
    kernel: str

    @classmethod
    def on(cls, device: str, attention: str, heads: Sequence[Heads]) -> Bench:
        """The kernel is the one that a config's word gives for these heads."""
        place = torch.device(device)
        name, found = kernel(attention, heads, place)
        return cls(place, matmul_rate(place, dtype_on(place)), found, name)

    def figures(
        self,
        adapter: ModelAdapter,
        sampling: Any,
        how: Any,
        images: Sequence[Image.Image],
        latents: Sequence[Tensor],
        written: Callable[[str], int],
    ) -> dict[str, dict[str, float]]:
        """Generates as many images, answers about these, and trains on their latents; ``written`` counts the tokens of
        an answer."""
        requests = [GenerationRequest(Prompt(str(seed), TEXT), seed) for seed in range(len(images))]
        questions, few = [Question(image, TEXT) for image in images], Decoding(max_tokens=LONGEST_ANSWER)
        answers: list[Answer] = []

        def answer() -> None:
            answers[:] = adapter.answer(questions, few)

        found = {
            "generate": self.measured(lambda: adapter.generate(requests, sampling)),
            "answer": self.measured(answer),
        }
        size = images[0].size
        step, gradients = training(adapter, how, latents, size, dtype_on(self.device) == torch.bfloat16)
        found["train"] = self.measured(step, counted=gradients)
        height, width = adapter.token_grid(*size)
        for name, tokens in (
            ("answer", sum(written(one.text) for one in answers)),
            ("train", len(images) * height * width),
        ):
            found[name]["tokens_per_second"] = tokens / found[name]["seconds"]
        for figures in found.values():
            figures["images_per_second"] = len(images) / figures["seconds"]
        return found

    def measured(self, work: Callable[[], Any], counted: Callable[[], Any] | None = None) -> dict[str, float]:
        """See :func:`measured`."""
        return measured(work, self.device, self.reached, counted, self.attention)

    def write(self, found: Mapping[str, Any], output: Path) -> None:
        """Write and print what was found, with the machine that it was found on."""
        report = {
            "device": name_of(self.device),
            "threads": torch.get_num_threads(),
            "torch": torch.__version__,
            "dtype": str(dtype_on(self.device)).removeprefix("torch."),
            "attention": self.kernel,
            "matmul_teraflops": self.reached / 1e12,
            **found,
        }
        output.parent.mkdir(parents=True, exist_ok=True)
        output.write_text(f"{json.dumps(report, indent=1)}\n")
        print(json.dumps(report, indent=1))


def blank(side: int, count: int) -> list[Image.Image]:
    """Images that are not the same one."""
    return [Image.new("RGB", (side, side), (number, 128, 64)) for number in range(count)]


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
