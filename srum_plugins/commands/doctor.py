"""``srum doctor``: what is wrong with this machine, or with a run on it, before anything is loaded."""

from __future__ import annotations

import argparse
import contextlib
import dataclasses
import json
import os
import sys
from collections import Counter
from collections.abc import Sequence
from typing import TYPE_CHECKING

from srum_plugins.commands.arguments import add_config, add_overrides, opened

if TYPE_CHECKING:  # the command line answers without them
    from srum_plugins.doctor.finding import Finding


def add_commands(subparsers: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add the command to the ``srum`` parser."""
    parser = subparsers.add_parser(
        "doctor",
        help="check this machine, and a run before it starts",
        description="Check this machine: Python, packages, plugins, devices, attention kernels, disk, tracking. With "
        "CONFIG also whether that run can go to its end. Nothing is loaded, downloaded or written. The exit status is "
        "1 if there is a problem.",
    )
    parser.add_argument(
        "--memory", action="store_true", help="instead: the memory of CONFIG on the device of run.device, by stage"
    )
    parser.add_argument("--json", action="store_true", help="print JSON; memory in bytes")
    add_config(parser, needed=False)
    add_overrides(parser)
    parser.set_defaults(handler=_doctor)


def _doctor(args: argparse.Namespace) -> int:
    from srum_plugins.errors import ConfigError

    os.environ["HF_HUB_OFFLINE"] = "1"  # before anything reads it: a plugin that asks for a checkpoint downloads none
    if args.memory:
        if args.config is None:
            raise ConfigError("--memory needs the CONFIG of a run, such as demo")
        _memory(args)
        return 0
    from srum_plugins.doctor.examine import examine
    from srum_plugins.progress import console

    with contextlib.redirect_stdout(sys.stderr), console().status("") as status:  # what plugins print spoils no JSON
        found = list(examine(args.config, args.overrides, lambda what: status.update(f"looking at {what}")))
    if args.json:
        print(json.dumps([dataclasses.asdict(one) for one in found], indent=2))
    else:
        _print(found)
    return int(any(one.level == "problem" for one in found))


def _print(found: Sequence[Finding]) -> None:
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    colour = {"ok": "green", "warning": "yellow", "problem": "red"}
    table = Table(box=None, pad_edge=False, header_style="bold")
    for column in ("what", "", "how it is"):
        table.add_column(column, overflow="fold")
    for one in found:
        says = Text(one.says)  # Text, because rich would read "[extra]" in a plain string as markup
        if one.mend:
            says.append(f"\n→ {one.mend}", "bold" if one.level != "ok" else "dim")
        table.add_row(Text(one.check), Text(one.level, colour[one.level]), says)
    console = Console(highlight=False)
    console.print(table)
    counts = Counter(one.level for one in found)
    plural = {level: f"{counts[level]} {level}{'' if counts[level] == 1 else 's'}" for level in ("problem", "warning")}
    console.print(f"\n{plural['problem']}, {plural['warning']}")


def _memory(args: argparse.Namespace) -> None:
    from srum_plugins.errors import ConfigError, ContractError
    from srum_plugins.providers import Kind

    with contextlib.redirect_stdout(sys.stderr):  # what a plugin prints must not spoil the JSON
        config, _ = opened(args)
        choice = config.providers[Kind.ADAPTER]
        weightless = choice.registered.provider.weightless
        who = f"the adapter {choice.name!r} of {choice.registered.origin}"
        if weightless is None:
            raise ConfigError(
                f"the memory of a run with {who} cannot be told before it is loaded: its provider has no `weightless`, "
                "the function that makes the model without memory (docs/plugins.md)"
            )
        from srum_plugins.memory.estimate import estimate  # here, because torch takes seconds
        from srum_plugins.memory.show import show
        from srum_plugins.memory.tracker import ValueNeededError
        from srum_plugins.memory.workload import workload

        asked = workload(config)
        try:
            found = estimate(lambda: weightless(choice.options), asked)
        except (ValueNeededError, NotImplementedError) as error:
            raise ContractError(f"the memory of {who} cannot be told: its work depends on values: {error}") from error
    show(found, asked, config.run.device, as_json=args.json)
