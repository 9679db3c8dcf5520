"""All that is looked at, in the order in which a reader would mend it."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path

from srum_plugins.commands.arguments import opened_host
from srum_plugins.config import RunConfig, load
from srum_plugins.doctor import packages
from srum_plugins.doctor.finding import Finding, found
from srum_plugins.errors import SrumError
from srum_plugins.host import PluginHost

DIRECTORY = Path("runs/run")
"""The run directory of a configuration that names none."""


def examine(path: Path | None, overrides: Sequence[str], say: Callable[[str], None]) -> Iterator[Finding]:
    """This machine, and with a configuration also that run. ``say`` is told what is looked at."""
    say("packages and plugins")
    yield from found("python", packages.python)
    yield from found("dependencies", packages.dependencies)
    host, config, refused = _opened(path, overrides)
    yield from found("plugins", lambda: packages.plugins(host))
    yield from refused
    say("devices, and at attention kernels on one of them")
    yield from found("torch", _devices)
    if config is None:
        yield from found("attention", lambda: _attention(host))
    else:
        say(f"the configuration {path}")
        yield from _run(config, host)
    say("disks and tracking")
    yield from found("run directory", lambda: _directory(config))
    yield from found("cache of the hub", _cache)
    yield from found("tracking", lambda: _tracking(config))


def _opened(path: Path | None, overrides: Sequence[str]) -> tuple[PluginHost, RunConfig | None, list[Finding]]:
    """The plugins, the configuration if it can be read, and why it cannot."""
    if path is None:
        return PluginHost.load(), None, []
    host = None
    try:
        host = opened_host(path, overrides)
        return host, load(path, overrides, host), []
    except SrumError as error:
        return host or PluginHost.load(), None, [Finding("config", "problem", str(error))]


# What these import takes seconds, or fails where torch is broken: that is then told like all else.
def _devices() -> Iterator[Finding]:
    from srum_plugins.doctor.devices import devices

    yield from devices()


def _attention(host: PluginHost) -> Iterator[Finding]:
    import torch

    from srum_plugins.doctor.devices import attention

    yield from attention(host, "cuda" if torch.cuda.is_available() else "cpu")


def _run(config: RunConfig, host: PluginHost) -> Iterator[Finding]:
    def look(what: str) -> Iterator[Finding]:
        from srum_plugins.doctor import configuration

        yield from getattr(configuration, what)(config, host)

    for what in ("device", "contract", "attention", "prompts"):
        yield from found(what, partial(look, what))


def _directory(config: RunConfig | None) -> Iterator[Finding]:
    from srum_plugins.doctor.storage import run_directory

    yield from run_directory(DIRECTORY if config is None else config.directory)


def _cache() -> Iterator[Finding]:
    from srum_plugins.doctor.storage import checkpoints

    yield from checkpoints()


def _tracking(config: RunConfig | None) -> Iterator[Finding]:
    from srum_plugins.doctor.tracking import store
    from srum_plugins.tracking.mlflow_run import default_uri

    if config is not None and not config.tracking.enabled:
        yield Finding("tracking", "ok", "switched off by tracking.enabled=false")
        return
    directory, uri = (DIRECTORY, None) if config is None else (config.directory, config.tracking.uri)
    yield from store(uri or default_uri(directory))
