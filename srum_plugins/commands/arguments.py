"""What commands about a configuration have in common: the arguments CONFIG and KEY=VALUE, and how they are read."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

from srum_plugins.errors import did_you_mean

if TYPE_CHECKING:  # the command line answers without them
    from srum_plugins.config import RunConfig
    from srum_plugins.host import PluginHost


def add_config(parser: argparse.ArgumentParser, *, needed: bool = True) -> None:
    """Add CONFIG, a path; None where it is not ``needed`` and not given."""
    about = f"a YAML file, or the name of one that srum-plugins brings: {', '.join(sorted(_brought()))}"
    parser.add_argument("config", metavar="CONFIG", type=_config, nargs=None if needed else "?", help=about)


def _config(word: str) -> Path:
    path, brought = Path(word), _brought()
    if "=" in word and not path.is_file():
        raise argparse.ArgumentTypeError(f"there is no file {word!r}. CONFIG comes first, then KEY=VALUE")
    if path.is_file() or path.suffix or path.name != word:  # what is no file there is told when it is read
        return path
    if word not in brought:
        raise argparse.ArgumentTypeError(f"there is no file {word!r}, and no config.{did_you_mean(word, brought)}")
    return brought[word]


@cache
def _brought() -> dict[str, Path]:
    """The configs of this package by name; in a checkout its folder is a link to that at the top."""
    return {file.stem: file for file in (Path(__file__).parents[1] / "configs").glob("*.yaml")}


def add_overrides(parser: argparse.ArgumentParser) -> None:
    """Add any number of KEY=VALUE, which may stand anywhere behind CONFIG (:func:`srum_plugins.cli.parse`)."""
    parser.add_argument("overrides", metavar="KEY=VALUE", nargs="*", help="settings that replace those of the file")


def opened_host(path: Path, overrides: Sequence[str]) -> PluginHost:
    """All plugins but those that the configuration blocks, which are not imported.

    Raises:
        ConfigError: the file or an override cannot be read.
    """
    from srum_plugins.config import blocked
    from srum_plugins.host import PluginHost

    return PluginHost.load(blocked(path, overrides), blocked_by="plugins.block of the config")


def opened(args: argparse.Namespace) -> tuple[RunConfig, PluginHost]:
    """The validated configuration of the parsed arguments, with the plugins that it is for.

    Raises:
        ConfigError: as :func:`srum_plugins.config.load`.
        PluginError: as :func:`srum_plugins.config.load`.
    """
    from srum_plugins.config import load

    host = opened_host(args.config, args.overrides)
    return load(args.config, args.overrides, host), host
