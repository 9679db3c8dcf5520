"""``srum plugins``: what is installed, what of it works, and why the rest does not."""

from __future__ import annotations

import argparse
import contextlib
import json
import sys


def add_commands(subparsers: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add the command to the ``srum`` parser."""
    parser = subparsers.add_parser("plugins", help="list all providers and listeners, with status and cause")
    parser.add_argument("--json", action="store_true", help="print a JSON list of objects")
    parser.set_defaults(handler=_plugins)


def _plugins(args: argparse.Namespace) -> None:
    from srum_plugins.host import PluginHost

    with contextlib.redirect_stdout(sys.stderr):  # a plugin that prints at import must not spoil the JSON
        host = PluginHost.load()
    rows = host.rows()
    for text in host.blocked_in_vain:
        print(f"warning: {text}", file=sys.stderr)
    if args.json:
        print(json.dumps(rows, indent=2))
    else:
        _print_table(rows)


def _print_table(rows: list[dict[str, str]]) -> None:
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    colour = {"ready": "green", "missing-extra": "yellow", "blocked": "yellow", "failed": "red"}
    lines = [
        [row["kind"], row["name"], row["status"], f"{row['distribution']} {row['version']}", _short(row["file"])]
        for row in rows
    ]
    table = Table(box=None, pad_edge=False, header_style="bold")
    for index, column in enumerate(("kind", "name", "status", "distribution", "file")):
        widest = max(map(len, [column, *(line[index] for line in lines)]))
        # A row a line: where there is no room the file is cut, which --json has as a whole.
        table.add_column(column, no_wrap=True, min_width=widest if column != "file" else None)
    for line in lines:
        # Text, because rich would read "[extra]" in a plain string as markup
        table.add_row(*(Text(cell, colour.get(cell, "")) for cell in line))
    console = Console(highlight=False)
    if not console.is_terminal:  # grep is to find whole rows
        console.width = max(console.width, 1000)
    console.print(table)
    for row in rows:
        told = [row["cause"], f"warning: {row['warning']}" if row["warning"] else ""]
        for text in filter(None, told):
            console.print(Text(f"\n{row['kind']} {row['name']}: ", "bold").append(text, "default"), soft_wrap=True)


def _short(file: str) -> str:
    """A file without the import folder that it lies in."""
    folders = [folder for folder in sys.path if folder and file.startswith(f"{folder}/")]
    return file[len(max(folders, key=len)) + 1 :] if folders else file
