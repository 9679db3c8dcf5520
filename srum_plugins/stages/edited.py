"""Code of plugins that was edited since a stage was made. With the same version it makes nothing stale, but its author
has to know."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

import srum_plugins
from srum_plugins.config import Choice, RunConfig
from srum_plugins.gate import STAGE_OF_SLOT
from srum_plugins.providers import Kind
from srum_plugins.runs.provenance import code_digest, code_place
from srum_plugins.runs.store import StageDirectory

CORE = Path(srum_plugins.__file__).parent
FIRST_STAGE = {Kind.ADAPTER: "generate", Kind.ATTENTION: "generate", Kind.MONITOR: "train"}
"""Of the kinds that no one stage is for."""


def plugin_code(choices: Iterable[Choice]) -> dict[str, str]:
    """A digest of the code of each plugin by ``code of PACKAGE``, but for those in the core."""
    places = {code_place(Path(one.registered.file.rpartition(":")[0])) for one in choices}
    return {f"code of {place.stem}": code_digest([place]) for place in sorted(places) if CORE not in place.parents}


def edited(config: RunConfig, directory: StageDirectory) -> list[str]:
    """Which plugins had other code when a stage was made, if it is complete, in words: each for the first stage that it
    takes part in."""
    noted = directory.made_with() if directory.complete else {}
    if not noted:
        return []
    own = [one for one in config.used if _first(one.registered.kind) == directory.name]
    return [
        f"{directory.name} was made with other {name}, of the same version: `srum run CONFIG --from {directory.name}` "
        "does it and what follows again"
        for name, code in plugin_code(own).items()
        if name in noted and noted[name] != code
    ]


def _first(kind: Kind) -> str:
    return FIRST_STAGE.get(kind) or STAGE_OF_SLOT[kind.value]
