"""The map of the paper, alpha * R, with another score: a candidate is as good as its weakest region."""

from __future__ import annotations

from collections.abc import Sequence

from srum_plugins.contracts import Aggregator, Judged, Reward
from srum_plugins.records import Failure, Score
from srum_plugins.rewards.maps import MapRegion, RewardMap

from srum_example_name.plugin import Options


class ExampleNameAggregator(Aggregator):
    """The score is alpha * (1 + r) / 2, in [0, 1], with r the lowest local score, or the background without any."""

    def __init__(self, options: Options) -> None:
        self._background = options.background

    def aggregate(self, items: Sequence[Judged], seed: int) -> list[Reward | None]:
        """One reward per item; None where the image or one of its regions could not be judged."""
        return [self._reward(item) for item in items]

    def _reward(self, item: Judged) -> Reward | None:
        alpha = item.judgement.alpha
        local = [score.value for score in item.judgement.local if isinstance(score, Score)]
        if isinstance(alpha, Failure) or len(local) < len(item.judgement.local):
            return None
        pairs = zip(item.grounding.regions, local, strict=True)
        regions = tuple(MapRegion(region.box, score) for region, score in pairs)
        painted = RewardMap(item.candidate.width, item.candidate.height, regions, alpha.value, self._background)
        return Reward(item.candidate.id, painted, alpha.value * (1 + min(local, default=self._background)) / 2)
