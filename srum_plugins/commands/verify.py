"""``srum verify``: whether every file of a run is as it was written; ``--repair`` removes what is not."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

from srum_plugins.commands.arguments import add_config, add_overrides, opened

if TYPE_CHECKING:  # the command line answers without them
    from rich.console import Console

    from srum_plugins.stages.verify import Verified

GIB = 2**30


def add_commands(subparsers: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add the command to the ``srum`` parser."""
    parser = subparsers.add_parser(
        "verify",
        help="check every file of a run against its checksums",
        description="Check every file of the run of this configuration against its checksums. Nothing is written "
        "without --repair. The exit status is 2 if something is damaged.",
    )
    parser.add_argument(
        "--repair", action="store_true", help="remove what is damaged, so that the next run makes only that again"
    )
    add_config(parser)
    add_overrides(parser)
    parser.set_defaults(handler=_verify)


def _verify(args: argparse.Namespace) -> None:
    from rich.console import Console

    from srum_plugins.errors import StageError
    from srum_plugins.progress import console as progress_console

    config, host = opened(args)
    from srum_plugins.stages.session import Session  # here, because torch takes seconds: mistakes are told before
    from srum_plugins.stages.verify import repair, verify

    session = Session(config, host)
    with progress_console().status("verify") as status:
        found = verify(
            session,
            lambda stage, files, size: status.update(f"verify {stage}: {files} files, {size / GIB:.2f} GiB so far"),
        )
    out = Console(highlight=False)

    def say(line: str) -> None:
        out.print(line, markup=False, soft_wrap=True)

    if not found.files:
        raise StageError(f"nothing to verify: no stage of this configuration is in {config.directory}")
    if found.unfinished:
        say(f"not complete, and not checked beyond what is there: {', '.join(found.unfinished)}")
    if not found.findings:
        say(f"all {found.files} files of {found.size / GIB:.2f} GiB are whole")
        return
    _show(found, config.directory, out)
    if not args.repair:
        raise StageError(
            f"{len({finding.file for finding in found.findings})} of {found.files} files are damaged; "
            "`srum verify --repair` removes them, and what the next run then makes again"
        )
    repair(session, found.findings, say)
    say("`srum run` makes again what was removed, and nothing else")


def _show(found: Verified, folder: Path, out: Console) -> None:
    from rich.table import Table
    from rich.text import Text

    table = Table(box=None, pad_edge=False, header_style="bold")
    for column in ("stage", "file", "what is wrong"):
        table.add_column(column, overflow="fold")
    for finding in found.findings:
        file = finding.file.relative_to(folder) if finding.file.is_relative_to(folder) else finding.file
        # Text, because rich would read "[...]" in a plain string as markup
        table.add_row(*(Text(cell) for cell in (finding.stage, str(file), finding.problem)))
    out.print(table)
