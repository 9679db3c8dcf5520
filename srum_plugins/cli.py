"""The command line ``srum``. Commands import what they need when they run, so that help is instant and a broken
plugin stops none that does not use it."""

from __future__ import annotations

import argparse
import os
import select
import sys
from collections.abc import Callable, Sequence

from srum_plugins import __version__
from srum_plugins.commands import doctor, experiments, new, plugins, report, run, verify
from srum_plugins.errors import SrumError


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command and return its exit status, see :func:`exit_status`."""
    args = parse(argv)
    return exit_status(lambda: args.handler(args))


def parse(argv: Sequence[str] | None = None) -> argparse.Namespace:
    """The arguments of a command. Overrides may stand anywhere, also behind options, where argparse takes none."""
    parser = build_parser()
    args, rest = parser.parse_known_args(argv)
    late = [word for word in rest if "=" in word and not word.startswith("-") and hasattr(args, "overrides")]
    if others := [word for word in rest if word not in late and word != "--"]:
        parser.error(f"unrecognized arguments: {' '.join(others)}")
    if late:
        args.overrides += late
    return args


def exit_status(command: Callable[[], int | None]) -> int:
    """Run a command: 0 or what it returns, or 2 for an error that the user can mend, or 130 if interrupted, each told
    in plain words on standard error; 1 if nobody reads its output any more."""
    try:
        status = command() or 0
        _flush()
        return status
    except SrumError as error:
        _complain(str(error))
        return 2
    except KeyboardInterrupt:
        _complain("interrupted")
        return 130
    except BrokenPipeError:
        if not _is_unread():
            raise  # it was another pipe
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # or Python complains of it at its end
        return 1  # as rich does, where it is the one that finds out


def build_parser() -> argparse.ArgumentParser:
    """The parser of all commands. Each command's module adds its own, with ``handler`` as the function to call."""
    parser = argparse.ArgumentParser(
        prog="srum", description="Self-rewarding post-training of unified multimodal models."
    )
    parser.add_argument("--version", action="version", version=f"srum-plugins {__version__}")
    subparsers = parser.add_subparsers(title="commands", metavar="COMMAND", required=True)
    for module in (run, experiments, new, doctor, plugins, report, verify):
        module.add_commands(subparsers)
    return parser


def _flush() -> None:
    if sys.stdout is not None:  # None where it was closed before the start
        sys.stdout.flush()


def _is_unread() -> bool:
    """Whether standard output is a pipe that nobody reads any more."""
    try:
        poll = select.poll()
        poll.register(sys.stdout.fileno(), 0)
    except (AttributeError, OSError, ValueError):  # it is no file
        return False
    return any(event & select.POLLERR for _, event in poll.poll(0))


def _complain(message: str) -> None:
    from rich.console import Console
    from rich.text import Text

    Console(stderr=True).print(Text("error: ", "bold red").append(message, "default"), soft_wrap=True)


if __name__ == "__main__":
    sys.exit(main())
