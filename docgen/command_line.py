"""The help of every command, as the parsers print it."""

from __future__ import annotations

import argparse
import os
from collections.abc import Iterator
from contextlib import contextmanager

from docgen.markdown import MADE
from srum_plugins.cli import build_parser

COLUMNS = "100"
"""The width that help is printed in, whatever terminal it is made in."""


def page() -> str:
    """The page of all commands."""
    parser = build_parser()
    with _width():
        parts = [
            "# Command line",
            MADE,
            "What `--help` prints. A command ends with 0; with 2 for what you can mend, told in one message; with 130 "
            "if it was interrupted. [Configuration](../configuration.md#overrides) tells what `KEY=VALUE` means.",
            _help("srum", parser),
            *(_help(f"srum {name}", command) for name, command in _commands(parser)),
        ]
    return "\n\n".join(parts) + "\n"


def _help(name: str, parser: argparse.ArgumentParser) -> str:
    return f"## `{name}`\n\n```text\n{parser.format_help().rstrip()}\n```"


def _commands(parser: argparse.ArgumentParser) -> Iterator[tuple[str, argparse.ArgumentParser]]:
    """Every command of a parser, and the commands of these, as words after ``srum``."""
    for action in parser._actions:
        if isinstance(action, argparse._SubParsersAction):
            for name, command in action.choices.items():
                yield name, command
                yield from ((f"{name} {inner}", one) for inner, one in _commands(command))


@contextmanager
def _width() -> Iterator[None]:
    before = os.environ.get("COLUMNS")
    os.environ["COLUMNS"] = COLUMNS
    try:
        yield
    finally:
        if before is None:
            del os.environ["COLUMNS"]
        else:
            os.environ["COLUMNS"] = before
