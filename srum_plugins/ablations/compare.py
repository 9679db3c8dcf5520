"""The rows of an ablation's table: each arm against the base and against a control, over all its seeds together."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from srum_plugins.ablations.outcome import Outcome
from srum_plugins.errors import ContractError
from srum_plugins.stats import Interval, paired_bootstrap

UNDERSTANDING = {True: "identical", False: "changed", None: "not compared"}


@dataclass(frozen=True)
class Row:
    """An arm on one split of the benchmark: mean full accuracy ``before`` and ``after`` in [0, 1], and the paired 95 %
    intervals of its differences to the model before training and to the control (None for the base itself, for the
    control itself, and where there is no control). A prompt counts with its mean over ``seeds``."""

    arm: str
    split: str
    seeds: tuple[int, ...]
    before: float
    after: float
    base: Interval | None
    control: Interval | None
    understanding: str

    def plain(self) -> dict[str, Any]:
        """The row as plain JSON types; all rows have the same keys."""
        found: dict[str, Any] = {
            "arm": self.arm,
            "split": self.split,
            "seeds": " ".join(map(str, self.seeds)),
            "before": self.before,
            "after": self.after,
        }
        for name, interval in (("base", self.base), ("control", self.control)):
            found |= {
                f"minus_{name}": None if interval is None else interval.delta,
                f"minus_{name}_low": None if interval is None else interval.low,
                f"minus_{name}_high": None if interval is None else interval.high,
                f"minus_{name}_prompts": None if interval is None else interval.n,
                f"minus_{name}_verdict": None if interval is None else interval.verdict,
            }
        return {**found, "understanding": self.understanding}


def joined(pairs: Sequence[Mapping[str, tuple[float, float]]]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """The two figures (n,) of every prompt that all seeds have, each the mean over the seeds.

    ``pairs`` has one mapping a seed, from prompt to its two figures.

    Raises:
        ContractError: there is no such prompt.
    """
    shared = [prompt for prompt in pairs[0] if all(prompt in pair for pair in pairs)] if pairs else []
    if not shared:
        raise ContractError("nothing to compare: no prompt was measured with every seed")
    table = np.array([[pair[prompt] for prompt in shared] for pair in pairs], dtype=np.float64)
    first, second = table.mean(axis=0).T
    return first, second


def rows(outcomes: Sequence[Outcome], control: str | None, untrained: Sequence[str] = ()) -> list[Row]:
    """A row for each arm and split, in the order of the outcomes. ``untrained`` names the arms that are the model
    before training, whose difference to it is 0 by construction and stands as None.

    An arm is compared with the control over the seeds that both have, a prompt of a seed always with the same prompt of
    that seed; not at all where they have no prompt in common.

    Raises:
        ContractError: an arm has no prompt of a split that was measured with all its seeds.
    """
    by_arm: dict[str, list[Outcome]] = {}
    for found in outcomes:
        by_arm.setdefault(found.arm, []).append(found)
    controls = {found.seed: found for found in by_arm.get(control or "", [])}
    table = []
    for arm, several in by_arm.items():
        for split in dict.fromkeys(mark.split for found in several for mark in found.marks):
            try:
                before, after = joined([_sides(found, split) for found in several])
            except ContractError as error:
                raise ContractError(f"arm {arm!r}, split {split!r}: {error}") from error
            table.append(
                Row(
                    arm=arm,
                    split=split,
                    seeds=tuple(found.seed for found in several),
                    before=float(before.mean()),
                    after=float(after.mean()),
                    base=None if arm in untrained else paired_bootstrap(before, after),
                    control=None if arm == control else _against(several, controls, split),
                    understanding=_understanding(several),
                )
            )
    return table


def _sides(found: Outcome, split: str) -> dict[str, tuple[float, float]]:
    return {mark.prompt_id: (mark.before, mark.after) for mark in found.marks if mark.split == split}


def _against(several: Sequence[Outcome], controls: Mapping[int, Outcome], split: str) -> Interval | None:
    pairs = []
    for found in several:
        if found.seed in controls:
            of_control = {mark.prompt_id: mark.after for mark in controls[found.seed].marks if mark.split == split}
            own = {mark.prompt_id: mark.after for mark in found.marks if mark.split == split}
            pairs.append({prompt: (of_control[prompt], own[prompt]) for prompt in own if prompt in of_control})
    if not pairs or not set.intersection(*(set(pair) for pair in pairs)):
        return None
    return paired_bootstrap(*joined(pairs))


def _understanding(several: Sequence[Outcome]) -> str:
    found = {outcome.understanding for outcome in several}
    return UNDERSTANDING[False if False in found else None if None in found else True]
