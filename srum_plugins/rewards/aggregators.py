"""Aggregators: how judgements become reward maps. The paper's, the release's, and four controls.

Every aggregator but ``srum-release`` uses exactly the candidates that ``srum`` uses, so that arms of a comparison
differ in their weights alone.
"""

from __future__ import annotations

import math
from abc import abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np

from srum_plugins.contracts import Aggregator, Judged, Reward
from srum_plugins.errors import ConfigError, ContractError, RewardError
from srum_plugins.records import Box, Failure, Region, Score
from srum_plugins.rewards.maps import MapRegion, Overlap, RewardMap, Transform

OnFailedRegion = Literal["drop_candidate", "drop_region"]
Scored = tuple[tuple[Region, float], ...]


@dataclass(frozen=True)
class CandidateOptions:
    """Which candidates count. One whose alpha could not be judged never does; for one with a region that could not be
    judged, ``on_failed_region`` says whether the candidate is left out, or only that region."""

    on_failed_region: OnFailedRegion = "drop_candidate"


@dataclass(frozen=True)
class ReleaseOptions(CandidateOptions):
    """Options of ``srum-release``, which leaves out regions without a score."""

    on_failed_region: OnFailedRegion = "drop_region"


@dataclass(frozen=True)
class SrumOptions(CandidateOptions):
    """Options of the aggregators with local scores.

    ``background``, in [-1, 1], is R where no region is; 0 says nothing is known there, so that the sample's loss has no
    weight. ``overlap`` is R where several regions are. ``masks`` paints a region's mask, if it has one, instead of its
    box.
    """

    background: float = 0.0
    overlap: Overlap = "max"
    masks: bool = True

    def __post_init__(self) -> None:
        if not -1.0 <= self.background <= 1.0:
            raise ConfigError(f"background must lie in [-1, 1], got {self.background}")


class _OneByOne(Aggregator):
    """An aggregator whose reward of a candidate depends on that candidate alone."""

    def __init__(self, options: CandidateOptions) -> None:
        self._on_failed_region = options.on_failed_region

    def aggregate(self, items: Sequence[Judged], seed: int) -> list[Reward | None]:
        """One reward per item; see :meth:`Aggregator.aggregate`."""
        return [self._aggregate(item) for item in items]

    def _aggregate(self, item: Judged) -> Reward | None:
        name, regions, local = item.candidate.id, item.grounding.regions, item.judgement.local
        if len({name, item.grounding.candidate_id, item.judgement.candidate_id}) > 1:
            raise ContractError(f"candidate {name} came with the grounding or the judgement of another")
        if len(regions) != len(local):
            raise ContractError(f"candidate {name} has {len(regions)} regions but {len(local)} local scores")
        alpha = item.judgement.alpha
        failed = any(isinstance(score, Failure) for score in local)
        if isinstance(alpha, Failure) or (failed and self._on_failed_region == "drop_candidate"):
            return None
        scored = tuple((r, s.value) for r, s in zip(regions, local, strict=True) if isinstance(s, Score))
        try:
            return self._reward(item, alpha.value, scored)
        except RewardError as error:
            raise RewardError(f"candidate {name}: {error}") from error

    @abstractmethod
    def _reward(self, item: Judged, alpha: float, scored: Scored) -> Reward: ...


class Srum(_OneByOne):
    """The paper's reward: weight alpha * R with alpha in [0, 1] and signed R in [-1, 1] (arXiv 2510.12784).

    The score is alpha * (1 + m) / 2, in [0, 1], with m the mean local score; without regions m is the background.
    """

    def __init__(self, options: SrumOptions) -> None:
        super().__init__(options)
        self._options = options

    def _reward(self, item: Judged, alpha: float, scored: Scored) -> Reward:
        o = self._options
        regions = tuple(
            MapRegion(region.mask if o.masks and region.mask is not None else region.box, score)
            for region, score in scored
        )
        mean = sum(score for _, score in scored) / len(scored) if scored else o.background
        size = item.candidate.width, item.candidate.height
        return Reward(
            item.candidate.id, RewardMap(*size, regions, alpha, o.background, o.overlap), alpha * (1 + mean) / 2
        )


class LocalOnly(Srum):
    """Control: ``srum`` with alpha = 1. The score is (1 + m) / 2."""

    def _reward(self, item: Judged, alpha: float, scored: Scored) -> Reward:
        return super()._reward(item, 1.0, scored)


class GlobalOnly(_OneByOne):
    """Control: ``srum`` with R = 1 everywhere, so that the weight and the score are alpha."""

    def _reward(self, item: Judged, alpha: float, scored: Scored) -> Reward:
        return Reward(item.candidate.id, _constant(item, alpha), alpha)


class Uniform(_OneByOne):
    """Control: weight 1 everywhere, plain fine-tuning on the candidates. The score is 1: all candidates tie."""

    def _reward(self, item: Judged, alpha: float, scored: Scored) -> Reward:
        return Reward(item.candidate.id, _constant(item, 1.0), 1.0)


class Shuffled(Aggregator):
    """Control: the rewards of ``srum``, each moved to another candidate of the run.

    One seeded cycle through all candidates with a reward, so that none keeps its own: the rewards are the same, what
    they say of their images is lost. Maps are stretched to the size of the image that they move to.
    """

    def __init__(self, options: SrumOptions) -> None:
        self._srum = Srum(options)

    def aggregate(self, items: Sequence[Judged], seed: int) -> list[Reward | None]:
        """One reward per item; see :meth:`Aggregator.aggregate`.

        Raises:
            RewardError: only one candidate has a reward.
        """
        rewards = self._srum.aggregate(items, seed)
        own = [(index, reward) for index, reward in enumerate(rewards) if reward is not None]
        if len(own) == 1:
            raise RewardError("shuffled rewards need at least two candidates with a reward, there is one")
        order = np.random.default_rng(seed).permutation(len(own))
        for taker, giver in zip(order, np.roll(order, 1), strict=True):
            index, reward = own[taker][0], own[giver][1]
            candidate, given = items[index].candidate, reward.map
            stretch = Transform.identity(given.width, given.height).resize(candidate.width, candidate.height)
            rewards[index] = replace(reward, candidate_id=candidate.id, map=given.transform(stretch))
        return rewards


class SrumRelease(_OneByOne):
    """The reward of the published code, with its floor, its whole-pixel boxes and its bilinear token weights.

    The release asks for a global score g in [-1, 1] and uses (g + 1) / 2; a judgement's alpha is that number. The
    score is alpha times the mean of max(0.5, (s + 1) / 2) over the regions; without regions alpha * 0.5.
    """

    def _reward(self, item: Judged, alpha: float, scored: Scored) -> Reward:
        candidate = item.candidate
        boxes = [((r.box.x0, r.box.y0, r.box.x1, r.box.y1), score) for r, score in scored]
        levels = [max(_FLOOR, (score + 1) / 2) for _, score in scored] or [_FLOOR]
        painted = _release_map(candidate.width, candidate.height, boxes, alpha)
        return Reward(candidate.id, painted, alpha * sum(levels) / len(levels))


_FLOOR = 0.5


def release_map(
    width: int, height: int, regions: Sequence[tuple[Sequence[float], float]], global_score: float
) -> RewardMap:
    """The reward map of the SRUM release from its own inputs; ``.pixels()`` agrees with it bit for bit.

    Args:
        width: of the image in pixels, as ``height``.
        regions: (x0, y0, x1, y1) and score in [-1, 1] of each. Sides are cut to whole numbers towards zero and to the
            image; boxes that are then empty or reversed are skipped.
        global_score: in [-1, 1].

    Raises:
        RewardError: a score is out of range, where the release goes on regardless, or a side is not finite.
    """
    if not -1.0 <= global_score <= 1.0:
        raise RewardError(f"the global score must lie in [-1, 1], got {global_score}")
    return _release_map(width, height, regions, (global_score + 1) / 2)


def _release_map(width: int, height: int, regions: Sequence[tuple[Sequence[float], float]], alpha: float) -> RewardMap:
    painted = []
    for sides, score in regions:
        if not -1.0 <= score <= 1.0:
            raise RewardError(f"the score of a region must lie in [-1, 1], got {score}")
        if not all(math.isfinite(side) for side in sides):
            raise RewardError(f"a box needs finite sides, got {tuple(sides)}")
        x0, y0, x1, y1 = (int(side) for side in sides)
        x0, y0, x1, y1 = max(0, x0), max(0, y0), min(width, x1), min(height, y1)
        if x0 < x1 and y0 < y1:
            painted.append(MapRegion(Box(x0, y0, x1, y1), max(_FLOOR, (score + 1) / 2)))
    return RewardMap(width, height, tuple(painted), alpha, background=_FLOOR, overlap="max", reduction="bilinear")


def _constant(item: Judged, weight: float) -> RewardMap:
    """The map with this weight everywhere."""
    return RewardMap(item.candidate.width, item.candidate.height, (), alpha=weight, background=1.0)
