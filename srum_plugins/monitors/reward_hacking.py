"""The monitor ``reward-hacking``: does the reward rise while the model forgets what it should keep to?"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

from srum_plugins.contracts import ModelAdapter, Monitor, Watched
from srum_plugins.monitors.options import RewardHackingOptions
from srum_plugins.records import Failure, Reading

PAIRS = (("reference_loss", "-loss"), ("winner_loss", "margin"), ("sample_loss", "-loss"))
"""Metrics of a reference and of a reward: of the objective ``srum``, of ``paired``, and of ``srum`` without a
reference."""


class RewardHacking(Monitor):
    """Looks at the metrics of training alone, and costs nothing."""

    def __init__(self, options: RewardHackingOptions) -> None:
        self._options = options
        self.every = options.every

    def before(self, run: Watched, model: ModelAdapter) -> list[Reading]:
        """Nothing: there is no metric yet."""
        return []

    def during(self, step: int, rows: Sequence[Mapping[str, float]], model: ModelAdapter) -> list[Reading]:
        """``reference_rise`` and ``reward_rise``, once two windows of steps are there."""
        o = self._options
        if len(rows) < 2 * o.window:
            return []
        names = chosen(rows[-1], o.reference, o.reward)
        if isinstance(names, Failure):
            return [Reading("reference_rise", None, failure=names)]
        reference, reward = names
        before, now = (mean(part, reference) for part in (rows[: o.window], rows[-o.window :]))
        if before <= 0:
            why = Failure("no relative rise", f"{reference} was {before:.4g} in the first {o.window} steps")
            return [Reading("reference_rise", None, failure=why)]
        rise = now / before - 1
        gained = mean(rows[-o.window :], reward) - mean(rows[: o.window], reward)
        verdict = "while the reward rose" if gained > 0 else "and the reward did not rise: training may diverge"
        message = f"{reference} from {before:.4g} to {now:.4g}, {verdict} ({reward} by {gained:+.4g})"
        return [Reading("reference_rise", rise, o.rise.of(rise), message), Reading("reward_rise", gained)]


def chosen(row: Mapping[str, float], reference: str | None, reward: str | None) -> tuple[str, str] | Failure:
    """The names of the two metrics: those given, else the first pair of :data:`PAIRS` that a step has."""

    def has(*names: str) -> bool:
        return all(name.removeprefix("-") in row for name in names)

    found = next((pair for pair in PAIRS if has(*pair)), None)
    names = (reference or (found and found[0]), reward or (found and found[1]))
    if names[0] is None or names[1] is None or not has(names[0], names[1]):
        known = ", ".join(name for name in row if name != "step")
        return Failure("no such metric", f"set reference and reward, to two of: {known}")
    return names[0], names[1]


def mean(rows: Sequence[Mapping[str, float]], name: str) -> float:
    """The mean of a metric (``-NAME``: with the other sign)."""
    sign, key = (-1.0, name[1:]) if name.startswith("-") else (1.0, name)
    return sign * math.fsum(row[key] for row in rows) / len(rows)
