"""Stage ``ground``: regions for every candidate, and the filter that every grounder's proposals go through."""

from __future__ import annotations

from collections import Counter
from typing import Any

from srum_plugins.corruption import corrupted
from srum_plugins.errors import ContractError
from srum_plugins.providers import Kind
from srum_plugins.records import Failure, Grounding
from srum_plugins.result_checks import same_ids
from srum_plugins.runs.shards import Shards
from srum_plugins.runs.store import StageDirectory
from srum_plugins.stages import generate
from srum_plugins.stages.prompt_filter import NOT_IN_PROMPT, filtered
from srum_plugins.stages.quarantine import Failing, set_apart
from srum_plugins.stages.session import Session, Stage, run_chunks


def ingredients(session: Session) -> dict[str, Any]:
    """What the regions depend on, besides the candidates; without a filter, not on how it would ask, and not on the
    corruption unless there is one."""
    settings, ground = session.info.config["ground"], session.config.ground
    keys = ["chunk"]
    if ground.filter != "none":
        keys += ["filter", "threshold", "template"]
    if ground.corrupts:
        keys += ["corrupt", "corrupt_level"]
    return {"grounder": session.ingredient(Kind.GROUNDER), "ground": {key: settings[key] for key in keys}}


def shards(session: Session, directory: StageDirectory) -> Shards[Grounding]:
    """The groundings on disk, in the order of the candidates."""
    total = len(session.prompts) * session.config.generate.candidates
    return Shards(directory.path, Grounding, total, session.config.ground.chunk)


def progress(session: Session, directory: StageDirectory) -> tuple[int, int]:
    """(done, total) candidates."""
    groundings = shards(session, directory)
    return groundings.done(), groundings.total


def make(session: Session, directory: StageDirectory) -> None:
    """Ground what is missing."""
    files = generate.saved(session)
    candidates = files.read()
    groundings = shards(session, directory)
    who, settings = session.choice(Kind.GROUNDER), session.config.ground

    def work(items: range) -> tuple[list[Grounding], dict[str, Any]]:
        chosen = [candidates[item] for item in items]
        located = generate.locate(session, files, chosen)
        found = session.grounder.ground(located, session.model_for(Kind.GROUNDER))
        same_ids([candidate.id for candidate in chosen], [grounding.candidate_id for grounding in found], who.source)
        for candidate, grounding in zip(chosen, found, strict=True):
            for region in grounding.regions:
                if not region.box.inside(candidate.width, candidate.height):
                    raise ContractError(
                        f"grounder {who.name!r}: {region.box} of candidate {candidate.id!r} lies outside the "
                        f"{candidate.width}x{candidate.height} image"
                    )
        if settings.corrupts:
            found = [
                corrupted(one, item.image.size, settings.corrupt, settings.corrupt_level, session.config.run.seed)
                for item, one in zip(located, found, strict=True)
            ]
        return found if settings.filter == "none" else filtered(located, found, session.model(), settings), {}

    def keep(item: int, failure: Failure) -> Grounding:
        return Grounding(candidates[item].id, (), failure=failure)

    run_chunks(session, groundings, work, directory, failing=Failing(keep, lambda grounding: grounding.failure))


def conclude(session: Session, directory: StageDirectory) -> dict[str, Any]:
    """Count regions, and what was dropped and mended."""
    records = shards(session, directory).read()
    failures = {one.candidate_id: one.failure for one in records if one.failure is not None}
    dropped, mended = Counter[str](), Counter[str]()
    for grounding in records:
        dropped.update(grounding.dropped)
        mended.update(what for region in grounding.regions for what in region.mended)
    facts = {
        "candidates": len(records),
        "quarantined": set_apart(directory, failures, len(records), session.config.run.max_failed),
        "regions": sum(len(grounding.regions) for grounding in records),
        "without_regions": sum(not grounding.regions for grounding in records) - len(failures),
    }
    if session.config.ground.filter != "none":
        facts["background"] = sum(region.background for grounding in records for region in grounding.regions)
        facts["in_prompt"] = facts["regions"] - facts["background"]
        dropped.setdefault(NOT_IN_PROMPT, 0)
    return {
        **facts,
        **{f"dropped_{cause.replace(' ', '_')}": count for cause, count in sorted(dropped.items())},
        **{f"mended_{what.replace(' ', '_')}": count for what, count in sorted(mended.items())},
    }


def read_groundings(session: Session) -> list[Grounding]:
    """All groundings, from disk."""
    return shards(session, session.directory(STAGE)).read()


STAGE = Stage(
    "ground", inputs=(generate.STAGE,), ingredients=ingredients, progress=progress, make=make, conclude=conclude
)
