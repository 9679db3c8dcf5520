"""The commands that compare several runs: ``srum ablate`` and ``srum stress``."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from srum_plugins.commands.arguments import add_config, add_overrides, opened_host

if TYPE_CHECKING:  # the command line answers without them
    from srum_plugins.ablations.arms import Arm
    from srum_plugins.ablations.compare import Row
    from srum_plugins.ablations.plan import Experiment
    from srum_plugins.ablations.stress import Curves
    from srum_plugins.host import PluginHost

CONTROL = "uniform"
LEVELS = ("0.25", "0.5", "1")
SHARING = (
    "Runs of one seed share what they have in common, and what is complete is reused. KEY=VALUE count for "
    "every run, and more than its own."
)


def add_commands(subparsers: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add the commands to the ``srum`` parser."""
    ablate = subparsers.add_parser(
        "ablate",
        help="run several arms of a config, and compare them in one table",
        description=f"Run arms of a config, each a file of a few overrides, and compare them in one table. {SHARING}",
    )
    add_config(ablate)
    ablate.add_argument("--arms", nargs="+", default=[], metavar="NAME", help="which arms; all of them if left out")
    ablate.add_argument(
        "--control", metavar="NAME", help=f"the arm that others are compared with ({CONTROL}, if it is among them)"
    )
    ablate.add_argument(
        "--arms-from", type=Path, metavar="FOLDER", help="where the arms' files are (ablations, beside CONFIG)"
    )
    ablate.add_argument("--list", action="store_true", help="say what arms there are, and run nothing")
    _add_shared(ablate)
    ablate.set_defaults(handler=_ablate)

    stress = subparsers.add_parser(
        "stress",
        help="measure how much the gain depends on a part of the run, such as its boxes",
        description="Make the regions of the configured grounder worse on purpose, more and more, and measure what is "
        f"left of the gain. {SHARING}",
    )
    stress.add_argument("what", choices=["grounding"], help="what is made worse")
    add_config(stress)
    stress.add_argument("--kinds", nargs="+", default=[], metavar="KIND", help="which ways; all of them if left out")
    stress.add_argument(
        "--levels", nargs="+", default=list(LEVELS), metavar="LEVEL", help=f"how much, in (0, 1] ({' '.join(LEVELS)})"
    )
    _add_shared(stress)
    stress.set_defaults(handler=_stress)


def _add_shared(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--seeds", nargs="+", default=[], metavar="SEED", help="seeds of the whole loop (run.seed)")
    parser.add_argument("--out", type=Path, metavar="FOLDER", help="where runs and tables go (<run.directory>-arms)")
    add_overrides(parser)


def _apart(words: Sequence[str], overrides: list[str]) -> list[str]:
    """The words that are no overrides. An option of several words takes on the command line the overrides that follow
    it: these are added to the others."""
    overrides += [word for word in words if "=" in word]
    return [word for word in words if "=" not in word]


def _numbers(option: str, words: Sequence[str], kind: Callable[[str], float]) -> list[float]:
    from srum_plugins.errors import ConfigError

    try:
        return [kind(word) for word in words]
    except ValueError as error:
        raise ConfigError(f"{option}: {error}") from error


def _ablate(args: argparse.Namespace) -> None:
    from srum_plugins.ablations.arms import choose, read_arms
    from srum_plugins.errors import ConfigError, did_you_mean

    overrides = list(args.overrides)
    names = _apart(args.arms, overrides)
    seeds = [int(seed) for seed in _numbers("--seeds", _apart(args.seeds, overrides), int)]
    arms = choose(read_arms(args.arms_from or args.config.parent / "ablations"), names)
    if args.list:
        _list(arms)
        return
    chosen = [arm.name for arm in arms]
    control = args.control or (CONTROL if CONTROL in chosen else None)
    if control is not None and control not in chosen:
        raise ConfigError(f"--control {control} is not among the arms that are run.{did_you_mean(control, chosen)}")
    host = opened_host(args.config, overrides)
    from srum_plugins.ablations.plan import plan  # here, because torch takes seconds: mistakes are told before

    _run(plan("ablation", args.config, overrides, arms, seeds, control, host, args.out), host)


def _stress(args: argparse.Namespace) -> None:
    from srum_plugins.ablations.stress import CLEAN, curves, stress_arms
    from srum_plugins.corruption import KINDS

    overrides = list(args.overrides)
    kinds = _apart(args.kinds, overrides) or list(KINDS)
    levels = _numbers("--levels", _apart(args.levels, overrides), float)
    seeds = [int(seed) for seed in _numbers("--seeds", _apart(args.seeds, overrides), int)]
    arms = stress_arms(kinds, levels)
    host = opened_host(args.config, overrides)
    from srum_plugins.ablations.plan import plan  # here, because torch takes seconds: mistakes are told before

    experiment = plan("stress-grounding", args.config, overrides, arms, seeds, CLEAN, host, args.out)
    _run(experiment, host, lambda rows: curves(rows, kinds, levels))


def _run(
    experiment: Experiment,
    host: PluginHost,
    sensitivity: Callable[[Sequence[Row]], Curves] = lambda rows: {},
) -> None:
    from rich.console import Console

    from srum_plugins.ablations.experiment import run_arms
    from srum_plugins.ablations.tables import table
    from srum_plugins.world import join

    console = Console()

    def say(message: str) -> None:
        console.print(message, markup=False, highlight=False, soft_wrap=True)

    world = join(experiment.main.run.device)
    try:
        results = run_arms(experiment, host, world, say, sensitivity)
    finally:
        world.leave()
    if world.main:
        console.print(table(results.rows, experiment.control, f"{experiment.main.run.name} · {experiment.name}"))
        say(f"tables and report: {experiment.results}")
    if results.failures:
        raise results.failed()


def _list(arms: Sequence[Arm]) -> None:
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    grid = Table(box=None, pad_edge=False, header_style="bold")
    for head in ("arm", "what it is", "what it changes"):
        grid.add_column(head, overflow="fold")
    for arm in arms:
        grid.add_row(Text(arm.name, "bold"), Text(arm.about), Text(" ".join(arm.overrides)))
    Console().print(grid)
