"""``srum doctor --memory``: how much memory a run of a config needs on its device, before anything is loaded."""

from __future__ import annotations

import argparse
import contextlib
import dataclasses
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:  # the command line answers without them
    from rich.table import Table

    from srum_plugins.memory.workload import Estimate, Workload

GIB = 2**30
NOT_COUNTED = (
    "the device's own context and libraries",
    "what kernels need while they run, such as the workspaces of convolutions and of the compiled 8-bit optimizer step",
    "gaps between blocks in the allocator's cache",
    "models of grounders, judges and benchmarks beside the adapter's",
)


def add_commands(subparsers: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add the command to the ``srum`` parser."""
    parser = subparsers.add_parser(
        "doctor",
        help="say before a run what it will need",
        description="Say before a run what it will need. Nothing is loaded, downloaded or written.",
    )
    parser.add_argument(
        "--memory", action="store_true", required=True, help="memory on the device of run.device, by stage"
    )
    parser.add_argument("--json", action="store_true", help="print a JSON object, in bytes")
    parser.add_argument("config", metavar="CONFIG", type=Path, help="a YAML file, such as configs/demo.yaml")
    parser.add_argument("overrides", metavar="KEY=VALUE", nargs="*", help="settings that replace those of the file")
    parser.set_defaults(handler=_doctor)


def _doctor(args: argparse.Namespace) -> None:
    from srum_plugins.config import load
    from srum_plugins.errors import ConfigError, ContractError
    from srum_plugins.host import PluginHost
    from srum_plugins.providers import Kind

    with contextlib.redirect_stdout(sys.stderr):  # what a plugin prints must not spoil the JSON
        config = load(args.config, args.overrides, PluginHost.load())
        choice = config.providers[Kind.ADAPTER]
        weightless = choice.registered.provider.weightless
        who = f"the adapter {choice.name!r} of {choice.registered.origin}"
        if weightless is None:
            raise ConfigError(
                f"the memory of a run with {who} cannot be told before it is loaded: its provider has no `weightless`, "
                "the function that makes the model without memory (docs/plugins.md)"
            )
        from srum_plugins.memory.estimate import estimate  # here, because torch takes seconds
        from srum_plugins.memory.tracker import ValueNeededError
        from srum_plugins.memory.workload import workload

        asked = workload(config)
        try:
            found = estimate(lambda: weightless(choice.options), asked)
        except (ValueNeededError, NotImplementedError) as error:
            raise ContractError(f"the memory of {who} cannot be told: its work depends on values: {error}") from error
    show(found, asked, config.run.device, as_json=args.json)


def show(found: Estimate, asked: Workload, device: str, *, as_json: bool) -> None:
    """Print an estimate as tables in GiB, or as JSON in bytes, with what ``device`` has if it is a CUDA device here."""
    there = _memory(device)
    if as_json:
        print(json.dumps({**_plain(found, asked), "device": device, "device_bytes": there}, indent=2))
        return
    from rich.console import Console

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
    from rich.table import Table

    table = Table(box=None, pad_edge=False, header_style="bold")
    table.add_column(title, overflow="fold")
    for column in columns:
        table.add_column(f"{column}" if column == "GiB" else f"{column}, GiB", justify="right", vertical="bottom")
    for name, sizes in rows:
        table.add_row(name, *(_gib(size) for size in sizes))
    return table


def _memory(device: str) -> int | None:
    """Bytes of a CUDA device that is here; None for others."""
    import torch

    if not (device.startswith("cuda") and torch.cuda.is_available()):
        return None
    total: int = torch.cuda.get_device_properties(torch.device(device)).total_memory
    return total


def _has(there: int | None) -> str:
    return "is no CUDA device of this machine." if there is None else f"has {_gib(there)} GiB."


def _gib(size: int) -> str:
    return f"{size / GIB:.2f}" if size >= GIB / 100 else f"{size / GIB:.4f}"
