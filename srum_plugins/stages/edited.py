"""Code of plugins that was edited since a stage was made. With the same version it makes nothing stale, but its author
has to know."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

import srum_plugins
from srum_plugins.config import Choice, RunConfig
from srum_plugins.gate import STAGE_NEEDS, STAGE_OF_SLOT
from srum_plugins.providers import Kind
from srum_plugins.runs.provenance import code_digest, code_place
from srum_plugins.runs.store import StageDirectory

CORE = Path(srum_plugins.__file__).parent
FIRST_STAGE = {Kind.ADAPTER: "generate", Kind.ATTENTION: "generate"}
"""Of the kinds that no one stage is for."""
AGAIN = {"evaluate": "score"}
"""Where to start again, if not with the stage: a benchmark's prompts are part of the fingerprint, and images stay."""


def plugin_code(config: RunConfig) -> dict[str, str]:
    """A digest of the code of each plugin that is used, but for the core's, by ``code of DISTRIBUTION/PACKAGE``."""
    return {name: code_digest([place]) for name, place in _places(config.used).items()}


def edited(config: RunConfig, directory: StageDirectory) -> list[str]:
    """Which plugins had other code when a stage was made, if it is complete, in words: each at the first stage that it
    takes part in."""
    noted = directory.made_with() if directory.complete else {}
    if not noted:
        return []
    earlier: set[str] = set()
    for stage, choices in _by_stage(config).items():
        own = {name: place for name, place in _places(choices).items() if name not in earlier}
        if stage == directory.name:
            break
        earlier |= own.keys()
    start = AGAIN.get(directory.name, directory.name)
    return [
        f"{directory.name} was made with other {name}, of the same version: `srum run CONFIG --from {start}` does it "
        "and what follows again"
        for name, place in own.items()
        if name in noted and noted[name] != code_digest([place])
    ]


def _by_stage(config: RunConfig) -> dict[str, list[Choice]]:
    """What is chosen by the stage that it is for, in the order of the stages."""
    found: dict[str, list[Choice]] = {stage: [] for stage in STAGE_NEEDS}
    for kind, choice in config.providers.items():
        found[FIRST_STAGE.get(kind) or STAGE_OF_SLOT[kind.value]] += choice.each
    for choice in config.monitors.values():
        found[STAGE_OF_SLOT["monitors"]] += [choice, *choice.parts.values()]
    return found


def _places(choices: Iterable[Choice]) -> dict[str, Path]:
    """Where the code of these is, by what a manifest calls it."""
    found = {}
    for one in choices:
        place = code_place(Path(one.registered.file.rpartition(":")[0]))
        if CORE not in place.parents:
            found[f"code of {one.registered.distribution}/{place.stem}"] = place
    return dict(sorted(found.items()))
