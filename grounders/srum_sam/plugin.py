"""Registers the grounder ``sam``."""

from __future__ import annotations

import hashlib
from typing import Any

from srum_plugins.hookspecs import hookimpl
from srum_plugins.providers import Provider
from srum_sam.environment import EXTRA, MODULES, check
from srum_sam.options import SamOptions

HASHED = 64 * 2**20
"""Bytes of a checkpoint up to which it is read at every start to tell it from others."""


@hookimpl
def srum_grounders() -> list[Provider]:
    """Segment Anything."""
    return [
        Provider(
            name="sam",
            summary="Segment Anything finds whatever can be told from the rest; asks no model",
            factory=_factory,
            options=SamOptions,
            modules=MODULES,
            extra=EXTRA,
            check=check,
            identity=_weights,
        )
    ]


def _factory(options: SamOptions) -> Any:
    from srum_sam.grounder import SamGrounder

    return SamGrounder(options)


def _weights(options: SamOptions) -> str:
    """sha256 of the checkpoint; of a large one, because reading gigabytes at every start would take long, of its name,
    size and date. Or a word that says that it is not there."""
    file = options.file
    if not file.is_file():
        return "no weights"
    known = file.stat()
    if known.st_size <= HASHED:
        return hashlib.sha256(file.read_bytes()).hexdigest()
    return hashlib.sha256(f"{file.name} {known.st_size} {known.st_mtime_ns}".encode()).hexdigest()
