"""Stage ``reward``: judgements become reward maps. Needs no model and no image, except for the picture at its end."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from PIL import Image

from srum_plugins.contracts import Judged, Reward
from srum_plugins.errors import ContractError, StageError
from srum_plugins.pictures import SheetItem, reward_sheet
from srum_plugins.providers import Kind
from srum_plugins.randomness import seed_torch
from srum_plugins.result_checks import same_ids
from srum_plugins.rewards.maps import RewardMap
from srum_plugins.runs.fingerprint import stable_seed
from srum_plugins.runs.shards import Shards
from srum_plugins.runs.store import StageDirectory
from srum_plugins.stages import generate, ground, judge
from srum_plugins.stages.background import foreground, without_background
from srum_plugins.stages.session import Session, Stage

SHOWN = 4  # prompts on the overlay sheet, each with its best and its worst candidate


@dataclass(frozen=True)
class RewardRecord:
    """A candidate's reward on disk; ``map`` and ``score`` are null where a failed judgement allows none."""

    candidate_id: str
    score: float | None
    map: RewardMap | None


def ingredients(session: Session) -> dict[str, Any]:
    """What the maps depend on, besides candidates, regions and scores."""
    return {"aggregator": session.ingredient(Kind.AGGREGATOR)}


def shards(session: Session, directory: StageDirectory) -> Shards[RewardRecord]:
    """The rewards on disk, in the order of the candidates: one chunk, since an aggregator sees the whole run."""
    total = len(session.prompts) * session.config.generate.candidates
    return Shards(directory.path, RewardRecord, total, total)


def progress(session: Session, directory: StageDirectory) -> tuple[int, int]:
    """(done, total) candidates."""
    rewards = shards(session, directory)
    return rewards.done(), rewards.total


def make(session: Session, directory: StageDirectory) -> None:
    """Aggregate, in the main process alone: it takes seconds."""
    rewards = shards(session, directory)
    if not session.world.main or not rewards.missing():
        return
    seed_torch(stable_seed(session.config.run.seed, "reward"))  # as in run_chunks
    rewards.write(0, aggregated(session, read_judged(session)))
    session.hook.srum_stage_advanced(run=session.info, stage="reward", done=rewards.total, total=rewards.total)


def conclude(session: Session, directory: StageDirectory) -> dict[str, Any]:
    """Draw an overlay sheet."""
    items, rewards = read_judged(session), shards(session, directory)
    given = _rewards(rewards)
    scores = [reward.score for reward in given if reward is not None]
    if not scores:
        raise StageError(
            f"no candidate has a reward: every judgement failed (judge {session.choice(Kind.JUDGE).name!r})"
        )
    session.picture(directory, "rewards", _sheet(session, items, given))
    return {
        "rewards": len(scores),
        "without_reward": len(items) - len(scores),
        "score_mean": sum(scores) / len(scores),
        "score_min": min(scores),
        "score_max": max(scores),
    }


def aggregated(session: Session, items: list[Judged]) -> list[RewardRecord]:
    """The rewards of the run's aggregator, checked against the contract: one per candidate."""
    who = session.choice(Kind.AGGREGATOR)
    given = session.aggregator.aggregate(items, stable_seed(session.config.run.seed, "reward"))
    if len(given) != len(items):
        raise ContractError(f"aggregator {who.name!r} returned {len(given)} rewards for {len(items)} candidates")
    same_ids(
        [item.candidate.id for item, reward in zip(items, given, strict=True) if reward],
        [reward.candidate_id for reward in given if reward],
        who.source,
    )
    for item, reward in zip(items, given, strict=True):
        if reward is not None:
            _check(item, reward, who.name)
    return [
        RewardRecord(item.candidate.id, reward.score if reward else None, reward.map if reward else None)
        for item, reward in zip(items, given, strict=True)
    ]


def read_judged(session: Session) -> list[Judged]:
    """Every candidate with all that is known of it, from disk, but for the background."""
    prompts = {prompt.id: prompt for prompt in session.prompts}
    candidates = generate.saved(session).read()
    groundings, judgements = ground.read_groundings(session), judge.read_judgements(session)
    return [
        Judged(prompts[candidate.prompt_id], candidate, foreground(grounding), without_background(judgement, grounding))
        for candidate, grounding, judgement in zip(candidates, groundings, judgements, strict=True)
    ]


def read_rewards(session: Session) -> list[Reward | None]:
    """All rewards, from disk, in the order of the candidates."""
    return _rewards(shards(session, session.directory(STAGE)))


def _rewards(rewards: Shards[RewardRecord]) -> list[Reward | None]:
    return [
        None if record.map is None or record.score is None else Reward(record.candidate_id, record.map, record.score)
        for record in rewards.read()
    ]


def _check(item: Judged, reward: Reward, name: str) -> None:
    size, expected = (reward.map.width, reward.map.height), (item.candidate.width, item.candidate.height)
    if size != expected:
        raise ContractError(
            f"aggregator {name!r}: the map of candidate {item.candidate.id!r} is of {size[0]}x{size[1]} pixels, the "
            f"image has {expected[0]}x{expected[1]}"
        )
    if not math.isfinite(reward.score):
        raise ContractError(f"aggregator {name!r}: the score of candidate {item.candidate.id!r} is {reward.score}")


def extremes(items: Sequence[Judged], rewards: Sequence[Reward | None]) -> list[tuple[Judged, Reward]]:
    """The best and the worst candidate of the prompts in which they differ most."""
    pairs: dict[str, list[tuple[Judged, Reward]]] = {}
    for item, reward in zip(items, rewards, strict=True):
        if reward is not None:
            pairs.setdefault(item.prompt.id, []).append((item, reward))
    ends = []
    for group in pairs.values():
        group.sort(key=lambda pair: -pair[1].score)
        ends.append((group[0], group[-1]) if len(group) > 1 else (group[0],))
    ends.sort(key=lambda pair: pair[-1][1].score - pair[0][1].score)
    return [pair for end in ends[:SHOWN] for pair in end]


def _sheet(session: Session, items: list[Judged], rewards: list[Reward | None]) -> Image.Image:
    shown = extremes(items, rewards)
    located = generate.locate(session, generate.saved(session), [item.candidate for item, _ in shown])
    grid = session.directory(generate.STAGE).facts()["token_grid"]
    return reward_sheet(
        [
            SheetItem(
                image,
                reward.map,
                tuple(grid) if grid else (image.height, image.width),
                f"{item.prompt.text} · {reward.score:+.3f}",
            )
            for image, (item, reward) in zip((place.image for place in located), shown, strict=True)
        ]
    )


STAGE = Stage(
    "reward",
    (generate.STAGE, ground.STAGE, judge.STAGE),
    ingredients=ingredients,
    progress=progress,
    make=make,
    conclude=conclude,
)
