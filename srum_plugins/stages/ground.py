"""Stage ``ground``: regions for every candidate."""

from __future__ import annotations

from collections import Counter
from typing import Any

from srum_plugins.errors import ContractError
from srum_plugins.providers import Kind
from srum_plugins.records import Grounding
from srum_plugins.runs.shards import Shards
from srum_plugins.runs.store import StageDirectory
from srum_plugins.stages import generate
from srum_plugins.stages.session import Session, Stage, run_chunks, same_ids


def ingredients(session: Session) -> dict[str, Any]:
    """What the regions depend on, besides the candidates."""
    return {"grounder": session.ingredient(Kind.GROUNDER), "ground": session.info.config["ground"]}


def shards(session: Session, directory: StageDirectory) -> Shards[Grounding]:
    """The groundings on disk, in the order of the candidates."""
    total = len(session.prompts) * session.config.generate.candidates
    return Shards(directory.path, Grounding, total, session.config.ground.chunk)


def progress(session: Session, directory: StageDirectory) -> tuple[int, int]:
    """(done, total) candidates."""
    groundings = shards(session, directory)
    return groundings.done(), groundings.total


def execute(session: Session, directory: StageDirectory) -> dict[str, Any]:
    """Ground what is missing."""
    candidates = generate.read_candidates(session)
    groundings = shards(session, directory)
    who = session.choice(Kind.GROUNDER)

    def work(items: range) -> tuple[list[Grounding], dict[str, Any]]:
        chosen = [candidates[item] for item in items]
        found = session.grounder.ground(generate.locate(session, chosen), session.model_for(Kind.GROUNDER))
        same_ids([candidate.id for candidate in chosen], [grounding.candidate_id for grounding in found], who)
        for candidate, grounding in zip(chosen, found, strict=True):
            for region in grounding.regions:
                if not region.box.inside(candidate.width, candidate.height):
                    raise ContractError(
                        f"grounder {who.name!r}: {region.box} of candidate {candidate.id!r} lies outside the "
                        f"{candidate.width}x{candidate.height} image"
                    )
        return found, {}

    run_chunks(session, groundings, work, directory)
    records = groundings.read()
    dropped, mended = Counter[str](), Counter[str]()
    for grounding in records:
        dropped.update(grounding.dropped)
        mended.update(what for region in grounding.regions for what in region.mended)
    return {
        "candidates": len(records),
        "regions": sum(len(grounding.regions) for grounding in records),
        "without_regions": sum(not grounding.regions for grounding in records),
        **{f"dropped_{cause}": count for cause, count in sorted(dropped.items())},
        **{f"mended_{what.replace(' ', '_')}": count for what, count in sorted(mended.items())},
    }


def read_groundings(session: Session) -> list[Grounding]:
    """All groundings, from disk."""
    return shards(session, session.directory(STAGE)).read()


STAGE = Stage("ground", inputs=(generate.STAGE,), ingredients=ingredients, progress=progress, execute=execute)
