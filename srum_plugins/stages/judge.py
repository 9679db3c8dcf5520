"""Stage ``judge``: one global and one score per region for every candidate, or typed failures."""

from __future__ import annotations

import time
from dataclasses import replace
from typing import Any

from srum_plugins.errors import ContractError
from srum_plugins.providers import Kind
from srum_plugins.records import Judgement, Score
from srum_plugins.runs.files import write_json
from srum_plugins.runs.shards import Shards
from srum_plugins.runs.store import StageDirectory
from srum_plugins.stages import generate, ground
from srum_plugins.stages.background import foreground, with_background
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
    name, version = who.name, who.registered.version

    def work(items: range) -> tuple[list[Judgement], dict[str, Any]]:
        chosen = [candidates[item] for item in items]
        regions = [foreground(groundings[item]) for item in items]
        located, model = generate.locate(session, chosen), session.model_for(Kind.JUDGE)
        began = time.monotonic()
        given = session.judge.judge(located, regions, model)
        seconds = time.monotonic() - began
        same_ids([candidate.id for candidate in chosen], [judgement.candidate_id for judgement in given], who)
        for grounding, judgement in zip(regions, given, strict=True):
            if len(judgement.local) != len(grounding.regions):
                raise ContractError(
                    f"judge {who.name!r}: candidate {judgement.candidate_id!r} has {len(grounding.regions)} regions, "
                    f"but got {len(judgement.local)} local scores"
                )
        tokens = None if any(one.tokens is None for one in given) else sum(one.tokens or 0 for one in given)
        cost = {"candidates": len(given), "tokens": tokens, "seconds": round(seconds, 3)}
        write_json(directory.path / f"cost-{items.start:06d}.json", cost)
        whole = [with_background(one, groundings[item]) for one, item in zip(given, items, strict=True)]
        return [replace(one, judge=name, version=version) for one in whole], {}

    run_chunks(session, judgements, work, directory)
    records = judgements.read()
    alphas = [record.alpha.value for record in records if isinstance(record.alpha, Score)]
    scores = [
        score
        for record, grounding in zip(records, groundings, strict=True)
        for score, region in zip(record.local, grounding.regions, strict=True)
        if not region.background
    ]
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
