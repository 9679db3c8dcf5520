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
    table = Table(box=None, pad_edge=False, header_style="bold")
    for column in ("kind", "name", "distribution", "file"):
        table.add_column(column, overflow="fold")
    table.add_column("status", no_wrap=True)
    for row in rows:
        cells = (row["kind"], row["name"], f"{row['distribution']} {row['version']}", _short(row["file"]))
        # Text, because rich would read "[extra]" in a plain string as markup
        table.add_row(*(Text(cell) for cell in cells), Text(row["status"], colour[row["status"]]))
    console = Console(highlight=False)
    console.print(table)
    for row in rows:
        told = [row["cause"], f"warning: {row['warning']}" if row["warning"] else ""]
        for text in filter(None, told):
            console.print(Text(f"\n{row['kind']} {row['name']}: ", "bold").append(text, "default"), soft_wrap=True)


def _short(file: str) -> str:
    """A file without the import folder that it lies in."""
    folders = [folder for folder in sys.path if folder and file.startswith(f"{folder}/")]
    return file[len(max(folders, key=len)) + 1 :] if folders else file
