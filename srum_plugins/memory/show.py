"""An estimate of memory as tables or as JSON."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Sequence
from typing import Any

import torch
from rich.console import Console
from rich.table import Table

from srum_plugins.memory.workload import Estimate, Workload

GIB = 2**30
NOT_COUNTED = (
    "the device's own context and libraries",
    "what kernels need while they run, such as the workspaces of convolutions and of the compiled 8-bit optimizer step",
    "gaps between blocks in the allocator's cache",
    "models of grounders, judges and benchmarks beside the adapter's",
)


def show(found: Estimate, asked: Workload, device: str, *, as_json: bool) -> None:
    """Print an estimate as tables in GiB, or as JSON in bytes, with what ``device`` has if it is a CUDA device here."""
    there = _memory(device)
    if as_json:
        print(json.dumps({**_plain(found, asked), "device": device, "device_bytes": there}, indent=2))
        return
    console = Console(highlight=False)
    console.print(_table("held, once training runs", ("GiB",), [(name, (n,)) for name, n in found.held.items()]))
    rows = [(f"{work.stage}: {work.name}", (work.held, work.activations, work.peak)) for work in found.works]
    console.print(_table("\nwork", ("held", "activations", "peak"), rows))
    lines = [f"\nThe peak of the run is {_gib(found.peak)} GiB; {device} " + _has(there)]
    if found.per_example is not None:
        lines.append(f"One more example in a training batch adds {_gib(found.per_example)} GiB.")
    lines.append(f"Assumed: {'; '.join(_assumed(asked))}.")
    lines.append(f"Not counted: {'; '.join(NOT_COUNTED)}.")
    for line in lines:
        console.print(line, markup=False, soft_wrap=True)


def _plain(found: Estimate, asked: Workload) -> dict[str, Any]:
    return {
        "held": dict(found.held),
        "works": [{**dataclasses.asdict(work), "peak": work.peak} for work in found.works],
        "per_example": found.per_example,
        "peak": found.peak,
        "assumed": _assumed(asked),
        "not_counted": list(NOT_COUNTED),
    }


def _assumed(asked: Workload) -> list[str]:
    return [
        "full chunks and batches",
        f"prompts and questions of {asked.words} tokens, {asked.questions} of them about an image",
        "plans and answers as long as they may be",
        "attention in one kernel that holds no matrix of scores",
    ]


def _table(title: str, columns: tuple[str, ...], rows: Sequence[tuple[str, tuple[int, ...]]]) -> Table:
    table = Table(box=None, pad_edge=False, header_style="bold")
    table.add_column(title, overflow="fold")
    for column in columns:
        table.add_column(f"{column}" if column == "GiB" else f"{column}, GiB", justify="right", vertical="bottom")
    for name, sizes in rows:
        table.add_row(name, *(_gib(size) for size in sizes))
    return table


def _memory(device: str) -> int | None:
    """Bytes of a CUDA device that is here; None for others."""
    if not (device.startswith("cuda") and torch.cuda.is_available()):
        return None
    total: int = torch.cuda.get_device_properties(torch.device(device)).total_memory
    return total


def _has(there: int | None) -> str:
    return "is no CUDA device of this machine." if there is None else f"has {_gib(there)} GiB."


def _gib(size: int) -> str:
    return f"{size / GIB:.2f}" if size >= GIB / 100 else f"{size / GIB:.4f}"
