"""The command line ``python -m srum_sam``: training and measuring the tiny SAM."""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from pathlib import Path

from srum_plugins.cli import exit_status
from srum_plugins.config import parse_override
from srum_plugins.options import build_options
from srum_sam.environment import check, check_packages
from srum_sam.options import SHIPPED, Recipe, SamOptions


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command; returns the exit status as :func:`srum_plugins.cli.exit_status` does."""
    parser = argparse.ArgumentParser(prog="python -m srum_sam", description="The tiny SAM of the drawn world.")
    commands = parser.add_subparsers(dest="command", required=True)
    command = commands.add_parser("pretrain", help="train the tiny SAM from scratch, on one core")
    command.add_argument("folder", type=Path, help=f"where {SHIPPED.name}, the recipe and the log of the loss go")
    command.add_argument(
        "settings", nargs="*", metavar="KEY=VALUE", help=f"settings of the recipe: {', '.join(vars(Recipe()))}"
    )
    measuring = commands.add_parser("measure", help="how well boxes fit drawn objects: the model card's figures")
    measuring.add_argument("--pictures", type=_positive, default=500, help="held-out scenes (%(default)s)")
    measuring.add_argument("--folder", type=Path, help="PNG files that a model drew instead, as the oracle reads them")
    measuring.add_argument(
        "settings", nargs="*", metavar="KEY=VALUE", help="options of the grounder, such as points_per_side=16"
    )
    given = parser.parse_args(arguments)

    # What is imported below needs torch and torchvision.
    def run() -> None:
        settings = dict(parse_override(text) for text in given.settings)
        if given.command == "pretrain":
            recipe = build_options(Recipe, settings, "pretrain")
            check_packages()
            from srum_sam.pretrain import pretrain

            pretrain(recipe, given.folder)
        else:
            options = build_options(SamOptions, settings, "grounder")
            check(options)
            from srum_sam.measure import held_out, measure, read_by_oracle

            pictures = read_by_oracle(given.folder) if given.folder else held_out(given.pictures)
            print(json.dumps(measure(options, pictures), indent=1))

    return exit_status(run)


def _positive(text: str) -> int:
    if (number := int(text)) < 1:
        raise argparse.ArgumentTypeError(f"must be at least 1, got {number}")
    return number


if __name__ == "__main__":
    raise SystemExit(main())
