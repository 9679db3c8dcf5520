"""Registers the grounder ``file``."""

from __future__ import annotations

from typing import Any

from srum_file.options import FileOptions
from srum_plugins.hookspecs import hookimpl
from srum_plugins.providers import Provider


@hookimpl
def srum_grounders() -> list[Provider]:
    """Somebody else's boxes."""
    return [
        Provider(
            name="file",
            summary="boxes of your own detector from a JSONL file; asks no model",
            factory=_factory,
            options=FileOptions,
            identity=_identity,
        )
    ]


def _factory(options: FileOptions) -> Any:
    from srum_file.grounder import FileGrounder

    return FileGrounder(options)


def _identity(options: FileOptions) -> str:
    """sha256 of the file, all of which is checked: this is asked for before anything is loaded."""
    from srum_file.lines import read

    return read(options.path).digest
