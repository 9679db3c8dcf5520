"""The monitor ``held-out-judge``: does another judge see the gain that the run's judge sees, on images drawn afresh?"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

from srum_plugins.contracts import Located, ModelAdapter, Monitor, Watched
from srum_plugins.monitors.options import HeldOutJudgeOptions
from srum_plugins.records import Candidate, Failure, Judgement, Prompt, Reading, Score
from srum_plugins.runs.fingerprint import stable_seed
from srum_plugins.stats import paired_bootstrap

Alphas = dict[str, float]


class HeldOutJudge(Monitor):
    """Draws the same prompts from the same seeds at every reading, and lets both judges score the whole images."""

    def __init__(self, options: HeldOutJudgeOptions) -> None:
        self._options = options
        self.every = options.every

    def before(self, run: Watched, model: ModelAdapter) -> list[Reading]:
        """The mean alpha of both judges."""
        self._run = run
        self._before = self._score(model)
        return [
            Reading(name, math.fsum(alphas.values()) / len(alphas)) if alphas else _nothing(name)
            for name, alphas in zip(("trained_for", "held_out"), self._before, strict=True)
        ]

    def during(self, step: int, rows: Sequence[Mapping[str, float]], model: ModelAdapter) -> list[Reading]:
        """See :meth:`after`."""
        return self.after(model)

    def after(self, model: ModelAdapter) -> list[Reading]:
        """``trained_for`` and ``held_out``: the mean alpha now; ``gap``: how much more the first gained since before.
        The level is that of the lower end of the gap's 95 % interval, so that few images do not end a training by
        chance. Images that a judge failed at, now or before, are left out: their share is ``failed``."""
        now = self._score(model)
        names = [key for key in now[0] if all(key in side for side in (*now, *self._before))]
        failed = Reading("failed", 1 - len(names) / self._options.images)
        if not names:
            return [_nothing("gap"), failed]
        before = [self._before[0][key] - self._before[1][key] for key in names]
        after = [now[0][key] - now[1][key] for key in names]
        gap = paired_bootstrap(before, after, seed=self._run.seed)
        gained = [math.fsum(now[side][key] - self._before[side][key] for key in names) / len(names) for side in (0, 1)]
        message = (
            f"the run's judge gained {gained[0]:+.3f}, the held-out one {gained[1]:+.3f} on {len(names)} images; "
            f"95 % interval of the gap {gap.low:+.3f} to {gap.high:+.3f}"
        )
        means = [math.fsum(now[side][key] for key in names) / len(names) for side in (0, 1)]
        return [
            Reading("gap", gap.delta, self._options.gap.of(gap.low), message),
            Reading("trained_for", means[0]),
            Reading("held_out", means[1]),
            failed,
        ]

    def _score(self, model: ModelAdapter) -> tuple[Alphas, Alphas]:
        """The alphas of both judges by image, of those that have one."""
        prompts = [self._run.prompts[index % len(self._run.prompts)] for index in range(self._options.images)]
        seeds = [stable_seed(self._run.seed, prompt.id, index) for index, prompt in enumerate(prompts)]
        drawn = self._run.generate(model, prompts, seeds)
        items = [
            Located(prompt, _candidate(prompt, index, seed, one.image.size), one.image)
            for index, (prompt, seed, one) in enumerate(zip(prompts, seeds, drawn, strict=True))
        ]
        return _alphas(self._run.judge(items, model)), _alphas(self._run.judge(items, model, "judge"))


def _candidate(prompt: Prompt, index: int, seed: int, size: tuple[int, int]) -> Candidate:
    identifier = f"monitor-{index}-{prompt.id}"
    return Candidate(identifier, prompt.id, index, seed, f"{identifier}.png", *size)


def _alphas(judgements: Sequence[Judgement]) -> Alphas:
    return {one.candidate_id: one.alpha.value for one in judgements if isinstance(one.alpha, Score)}


def _nothing(name: str) -> Reading:
    return Reading(name, None, failure=Failure("no image was scored", "the judges failed at all of them"))
