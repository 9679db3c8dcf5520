"""``srum report``: what a run did, as one HTML page."""

from __future__ import annotations

import argparse
from pathlib import Path


def add_commands(subparsers: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add the command to the ``srum`` parser."""
    parser = subparsers.add_parser(
        "report",
        help="write what a run did as one HTML page",
        description="Write report.html into the run's directory: one page that needs no network, with the results, "
        "images, reward maps, curves, costs and versions of the stages that are complete. No model is loaded.",
    )
    parser.add_argument("config", metavar="CONFIG", type=Path, help="a YAML file, such as configs/demo.yaml")
    parser.add_argument("overrides", metavar="KEY=VALUE", nargs="*", help="settings that replace those of the file")
    parser.set_defaults(handler=_report)


def _report(args: argparse.Namespace) -> None:
    from srum_plugins.config import load
    from srum_plugins.host import PluginHost

    host = PluginHost.load()
    config = load(args.config, args.overrides, host)
    from srum_plugins.reporting.run_report import write  # here, because torch takes seconds: mistakes are told before
    from srum_plugins.stages.pipeline import summary_of
    from srum_plugins.stages.session import Session

    session = Session(config, host)
    print(f"report: {write(session, summary_of(session))}")
