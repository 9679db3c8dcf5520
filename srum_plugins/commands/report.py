"""``srum report``: what a run did, as one HTML page."""

from __future__ import annotations

import argparse

from srum_plugins.commands.arguments import add_config, add_overrides, opened


def add_commands(subparsers: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add the command to the ``srum`` parser."""
    parser = subparsers.add_parser(
        "report",
        help="write what a run did as one HTML page",
        description="Write report.html into the run's directory: one page that needs no network, with the results, "
        "images, reward maps, curves, costs and versions of the stages that are complete. No model is loaded.",
    )
    add_config(parser)
    add_overrides(parser)
    parser.set_defaults(handler=_report)


def _report(args: argparse.Namespace) -> None:
    config, host = opened(args)
    from srum_plugins.reporting.run_report import write  # here, because torch takes seconds: mistakes are told before
    from srum_plugins.stages.pipeline import summary_of
    from srum_plugins.stages.session import Session

    session = Session(config, host)
    print(f"report: {write(session, summary_of(session))}")
