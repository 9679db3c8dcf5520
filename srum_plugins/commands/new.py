"""``srum new``: a package to start a plugin from."""

from __future__ import annotations

import argparse
import shlex
from pathlib import Path

KINDS = {
    "adapter": "a unified model: it draws, answers, finds and is trained",
    "grounder": "proposes regions in an image",
    "judge": "scores an image and its regions",
    "aggregator": "turns scores into a reward map",
    "benchmark": "prompts with an independent measure of their images",
}


def add_commands(subparsers: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add the command to the ``srum`` parser."""
    parser = subparsers.add_parser(
        "new",
        help="write a package to start a plugin from",
        description="Write a small installable package, srum-NAME, that works at once: an entry point, a toy\n"
        "implementation to put your own in place of, its conformance test, and a README with the\nnext commands. "
        "Nothing is overwritten or installed.",
        epilog="kinds:\n" + "\n".join(f"  {kind:<12}{what}" for kind, what in KINDS.items()),
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("kind", metavar="KIND", choices=KINDS, help="what to write: " + ", ".join(KINDS))
    parser.add_argument("name", metavar="NAME", help="what configs will call it, such as my-model")
    parser.add_argument(
        "--out", metavar="FOLDER", type=Path, default=Path(), help="where to put the folder srum-NAME (default: here)"
    )
    parser.set_defaults(handler=_new)


def _new(args: argparse.Namespace) -> None:
    from srum_plugins.host import PluginHost
    from srum_plugins.providers import Kind
    from srum_plugins.scaffold.package import Naming, check_free, write

    kind, naming = Kind(args.kind), Naming(args.name)
    check_free(kind, naming, PluginHost.load())
    for file in write(kind, naming, args.out):
        print(file)
    folder = args.out / naming.distribution
    place = str(folder) if folder.is_absolute() else f"./{folder}"  # else pip takes it for a name
    print(
        f"\nnext, in the environment of srum-plugins:\n"
        f"  pip install -e {shlex.quote(f'{place}[test]')}\n"
        f"  python -m pytest {shlex.quote(place)}\n"
        f"then put your own in its place; README.md says where, and how to run it"
    )
