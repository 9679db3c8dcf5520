"""Stage ``judge``: one global and one score per region for every candidate, or typed failures."""

from __future__ import annotations

from typing import Any

from srum_plugins.errors import ContractError
from srum_plugins.providers import Kind
from srum_plugins.records import Judgement, Score
from srum_plugins.runs.shards import Shards
from srum_plugins.runs.store import StageDirectory
from srum_plugins.stages import generate, ground
from srum_plugins.stages.session import Session, Stage, run_chunks, same_ids


def ingredients(session: Session) -> dict[str, Any]:
    """What the scores depend on, besides candidates and regions."""
    return {"judge": session.ingredient(Kind.JUDGE), "judging": session.info.config["judging"]}


def shards(session: Session, directory: StageDirectory) -> Shards[Judgement]:
    """The judgements on disk, in the order of the candidates."""
    total = len(session.prompts) * session.config.generate.candidates
    return Shards(directory.path, Judgement, total, session.config.judging.chunk)


def progress(session: Session, directory: StageDirectory) -> tuple[int, int]:
    """(done, total) candidates."""
    judgements = shards(session, directory)
    return judgements.done(), judgements.total


def execute(session: Session, directory: StageDirectory) -> dict[str, Any]:
    """Judge what is missing."""
    candidates, groundings = generate.read_candidates(session), ground.read_groundings(session)
    judgements = shards(session, directory)
    who = session.choice(Kind.JUDGE)

    def work(items: range) -> tuple[list[Judgement], dict[str, Any]]:
        chosen = [candidates[item] for item in items]
        regions = [groundings[item] for item in items]
        given = session.judge.judge(generate.locate(session, chosen), regions, session.model_for(Kind.JUDGE))
        same_ids([candidate.id for candidate in chosen], [judgement.candidate_id for judgement in given], who)
        for grounding, judgement in zip(regions, given, strict=True):
            if len(judgement.local) != len(grounding.regions):
                raise ContractError(
                    f"judge {who.name!r}: candidate {judgement.candidate_id!r} has {len(grounding.regions)} regions, "
                    f"but got {len(judgement.local)} local scores"
                )
        return given, {}

    run_chunks(session, judgements, work, directory)
    records = judgements.read()
    alphas = [record.alpha.value for record in records if isinstance(record.alpha, Score)]
    scores = [score for record in records for score in record.local]
    local = [score.value for score in scores if isinstance(score, Score)]
    facts: dict[str, Any] = {
        "candidates": len(records),
        "failed_global": len(records) - len(alphas),
        "failed_local": len(scores) - len(local),
    }
    if alphas:
        facts["alpha_mean"] = sum(alphas) / len(alphas)
    if local:
        facts["local_mean"] = sum(local) / len(local)
    return facts


def read_judgements(session: Session) -> list[Judgement]:
    """All judgements, from disk."""
    return shards(session, session.directory(STAGE)).read()


STAGE = Stage("judge", (generate.STAGE, ground.STAGE), ingredients=ingredients, progress=progress, execute=execute)
