"""The command line ``srum-shapes``: pretraining of the small model."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from dataclasses import fields
from pathlib import Path

from srum_shapes.pretrain import Recipe, pretrain


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command; returns the exit code."""
    parser = argparse.ArgumentParser(prog="srum-shapes", description="The drawn world and its small BAGEL.")
    commands = parser.add_subparsers(dest="command", required=True)
    command = commands.add_parser("pretrain", help="train the small model from scratch; resumes where it was stopped")
    command.add_argument("folder", type=Path, help="where states, logs and the finished model go")
    for setting in fields(Recipe):
        command.add_argument(
            f"--{setting.name.replace('_', '-')}",
            type=type(setting.default),
            default=setting.default,
            help="(%(default)s)",
        )
    parsed = vars(parser.parse_args(arguments))
    parsed.pop("command")
    folder = parsed.pop("folder")
    pretrain(Recipe(**parsed), folder)
    return 0
