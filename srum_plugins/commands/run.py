"""The commands that run SRUM: ``srum run``, one per stage, and ``srum config``."""

from __future__ import annotations

import argparse

from srum_plugins.commands.arguments import add_config, add_overrides, opened

STAGES = {
    "generate": "generate candidate images for every prompt",
    "ground": "find regions in every candidate",
    "judge": "let the judge score every candidate and region",
    "reward": "turn scores into reward maps",
    "train": "train on the reward-weighted candidates",
    "evaluate": "measure the benchmark before and after training",
}
OVERRIDES = (
    "A word swaps a provider (grounder=native), a dotted key sets an option or a setting (train.steps=50). "
    "What is complete for the resulting configuration is reused."
)


def add_commands(subparsers: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add the commands to the ``srum`` parser; each sets ``handler``, a function of the parsed arguments."""
    run = _add(subparsers, "run", "run all stages, doing only what is missing")
    run.add_argument(
        "--from",
        dest="start",
        choices=[*STAGES, "score"],
        help="do this stage and those after it again; score: only the benchmark's figures",
    )
    run.set_defaults(handler=_run, only=None)
    for stage, summary in STAGES.items():
        _add(subparsers, stage, f"stage: {summary}").set_defaults(handler=_run, only=stage, start=None)
    _add(subparsers, "config", "print the resolved configuration as YAML").set_defaults(handler=_config)


def _add(
    subparsers: argparse._SubParsersAction[argparse.ArgumentParser], name: str, summary: str
) -> argparse.ArgumentParser:
    parser = subparsers.add_parser(name, help=summary, description=f"{summary[0].upper()}{summary[1:]}. {OVERRIDES}")
    add_config(parser)
    add_overrides(parser)
    return parser


def _run(args: argparse.Namespace) -> None:
    from rich.console import Console

    from srum_plugins.report import table

    console = Console()

    def say(message: str) -> None:
        console.print(message, markup=False, highlight=False, soft_wrap=True)

    config, host = opened(args)
    from srum_plugins.stages.pipeline import run  # here, because torch takes seconds: mistakes are told before
    from srum_plugins.world import join

    world = join(config.run.device)
    try:
        summary = run(config, host, only=args.only, say=say, world=world, start=args.start)
    finally:
        world.leave()
    if world.main and summary and args.only in (None, "evaluate"):
        console.print(table(summary))
        say(f"summary: {config.directory / 'summary.json'}")
        say(f"pictures: {config.directory / 'pictures'}")
        if config.run.report:
            say(f"report: {config.directory / 'report.html'}")


def _config(args: argparse.Namespace) -> None:
    from omegaconf import OmegaConf

    config, _ = opened(args)
    print(OmegaConf.to_yaml(OmegaConf.create(config.resolved())), end="")
