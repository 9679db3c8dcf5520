"""The command line ``srum-shapes``: pretraining and measuring the small model."""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from pathlib import Path

from srum_plugins.cli import exit_status
from srum_plugins.config import parse_override
from srum_plugins.options import build_options
from srum_shapes.options import Recipe


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command; returns the exit status as :func:`srum_plugins.cli.exit_status` does."""
    parser = argparse.ArgumentParser(prog="srum-shapes", description="The drawn world and its small BAGEL.")
    commands = parser.add_subparsers(dest="command", required=True)
    command = commands.add_parser("pretrain", help="train the small model from scratch; resumes where it was stopped")
    command.add_argument("folder", type=Path, help="where states, logs and the finished model go")
    command.add_argument(
        "settings", nargs="*", metavar="KEY=VALUE", help=f"settings of the recipe: {', '.join(vars(Recipe()))}"
    )
    measuring = commands.add_parser("measure", help="what a checkpoint can do: the figures of its model card, as JSON")
    measuring.add_argument("folder", type=Path, help="the checkpoint's folder")
    measuring.add_argument("--prompts", type=_positive, default=240, help="validation prompts (%(default)s)")
    measuring.add_argument("--questions", type=_positive, default=1600, help="questions in all (%(default)s)")
    measuring.add_argument("--guidance", type=float, nargs="+", default=[1.0, 1.5, 2.5, 4.0], help="(%(default)s)")
    settings = vars(parser.parse_args(arguments))
    chosen, folder = settings.pop("command"), settings.pop("folder")

    # What is imported below needs torch and diffusers, which take seconds.
    def run() -> None:
        if chosen == "pretrain":
            recipe = build_options(Recipe, dict(parse_override(text) for text in settings["settings"]), "pretrain")
            from srum_shapes.pretrain import pretrain

            pretrain(recipe, folder)
        else:
            from srum_shapes.measure import measure

            print(
                json.dumps(measure(folder, settings["prompts"], settings["questions"], settings["guidance"]), indent=1)
            )

    return exit_status(run)


def _positive(text: str) -> int:
    if (number := int(text)) < 1:
        raise argparse.ArgumentTypeError(f"must be at least 1, got {number}")
    return number
