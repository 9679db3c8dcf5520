"""Stage ``judge``: one global and one score per region for every candidate, or typed failures."""

from __future__ import annotations

import time
from dataclasses import replace
from typing import Any

from srum_plugins.providers import Kind
from srum_plugins.records import BACKGROUND, Failure, Judgement, Score, total
from srum_plugins.result_checks import check_judgements
from srum_plugins.runs.files import write_sealed
from srum_plugins.runs.shards import Shards
from srum_plugins.runs.store import StageDirectory
from srum_plugins.stages import generate, ground
from srum_plugins.stages.background import foreground, with_background
from srum_plugins.stages.quarantine import Failing, set_apart
from srum_plugins.stages.session import Session, Stage, run_chunks

NOT_GROUNDED = Failure("not grounded", "the stage ground has set the candidate apart")


def ingredients(session: Session) -> dict[str, Any]:
    """What the scores depend on, besides candidates and regions. How several judges are combined is theirs."""
    return {"judge": session.ingredient(Kind.JUDGE), "judging": {"chunk": session.config.judging.chunk}}


def shards(session: Session, directory: StageDirectory) -> Shards[Judgement]:
    """The judgements on disk, in the order of the candidates."""
    total = len(session.prompts) * session.config.generate.candidates
    return Shards(directory.path, Judgement, total, session.config.judging.chunk)


def progress(session: Session, directory: StageDirectory) -> tuple[int, int]:
    """(done, total) candidates."""
    judgements = shards(session, directory)
    return judgements.done(), judgements.total


def make(session: Session, directory: StageDirectory) -> None:
    """Judge what is missing."""
    files = generate.saved(session)
    candidates, groundings = files.read(), ground.read_groundings(session)
    judgements = shards(session, directory)
    who = session.choice(Kind.JUDGE)
    name, version = who.name, who.registered.version

    def work(items: range) -> tuple[list[Judgement], dict[str, Any]]:
        grounded = [item for item in items if groundings[item].failure is None]
        regions = [foreground(groundings[item]) for item in grounded]
        located = generate.locate(session, files, [candidates[item] for item in grounded])
        began = time.monotonic()
        given = session.judge.judge(located, regions, session.model_for(Kind.JUDGE)) if grounded else []
        seconds = time.monotonic() - began
        check_judgements(given, regions, who.source)
        tokens = total(one.tokens for one in given)
        cost = {"candidates": len(given), "tokens": tokens, "seconds": round(seconds, 3)}
        write_sealed(directory.path / f"cost-{items.start:06d}.json", cost)
        found = {item: failed(item, NOT_GROUNDED) for item in items}
        for one, item in zip(given, grounded, strict=True):
            found[item] = replace(with_background(one, groundings[item]), judge=name, version=version)
        return list(found.values()), {}

    def failed(item: int, failure: Failure) -> Judgement:
        local = tuple(BACKGROUND if region.background else failure for region in groundings[item].regions)
        return Judgement(candidates[item].id, failure, local, judge=name, version=version)

    run_chunks(session, judgements, work, directory, failing=Failing(failed, own_failure))


def own_failure(judgement: Judgement) -> Failure | None:
    """Why a candidate has no alpha, if it was judged."""
    alpha = judgement.alpha
    return alpha if isinstance(alpha, Failure) and alpha != NOT_GROUNDED else None


def conclude(session: Session, directory: StageDirectory) -> dict[str, Any]:
    """Count failures, and take means."""
    groundings, records = ground.read_groundings(session), shards(session, directory).read()
    alphas = [record.alpha for record in records]
    scores = [
        score
        for record, grounding in zip(records, groundings, strict=True)
        for score, region in zip(record.local, grounding.regions, strict=True)
        if not region.background
    ]
    failures = {one.candidate_id: failure for one in records if (failure := own_failure(one)) is not None}
    quarantined = set_apart(directory, failures, len(records), session.config.run.max_failed)
    facts: dict[str, Any] = {"candidates": len(records), "quarantined": quarantined}
    for where, given in (("global", alphas), ("local", scores)):
        facts[f"failed_{where}"] = sum(isinstance(score, Failure) for score in given)
    for what, given in (("alpha", alphas), ("local", scores)):
        known = [score for score in given if isinstance(score, Score)]
        spreads = [score.spread for score in known if score.spread is not None]
        if known:
            facts[f"{what}_mean"] = sum(score.value for score in known) / len(known)
        if spreads:  # how far several judges are apart
            facts[f"{what}_spread_mean"] = sum(spreads) / len(spreads)
    return facts


def read_judgements(session: Session) -> list[Judgement]:
    """All judgements, from disk."""
    return shards(session, session.directory(STAGE)).read()


STAGE = Stage(
    "judge",
    (generate.STAGE, ground.STAGE),
    ingredients=ingredients,
    progress=progress,
    make=make,
    conclude=conclude,
)
