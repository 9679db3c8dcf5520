"""From the scores of questions to the figures of an image."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from srum_compbench.reading import number, score_of
from srum_rubric.parsing import NO_SCORE, OUT_OF_RANGE, quoted

from srum_plugins.contracts import Answer
from srum_plugins.records import Failure

WRONG_COUNT = "wrong number of scores"
SCORES = (0.0, 0.5, 1.0)


def read_scores(answer: Answer, count: int) -> tuple[float, ...] | Failure:
    """The ``count`` scores of an answer, each 0, 0.5 or 1, or why they cannot be had. Nothing is rounded, filled up or
    left out."""
    value: Any = score_of(answer)
    if isinstance(value, Failure):
        return value
    listed = value if isinstance(value, list) else [value]
    scores = [number(one) for one in listed]
    if None in scores:
        return Failure(NO_SCORE, f"{quoted(str(value))} are not all numbers")
    known = tuple(score for score in scores if score is not None)
    if len(known) != count:
        return Failure(WRONG_COUNT, f"{len(known)} for {count} questions: {quoted(str(value))}")
    if odd := [score for score in known if score not in SCORES]:
        return Failure(OUT_OF_RANGE, f"{odd[0]:g} is none of 1, 0.5 and 0")
    return tuple(score + 0.0 for score in known)  # zero has no sign


def weighted_mean(groups: Mapping[str, Sequence[float]], weights: Mapping[str, float]) -> float:
    """``sum_g weights[g] * mean(groups[g])``, in [0, 1] for scores in [0, 1] and weights that add up to 1."""
    return min(1.0, math.fsum(weight * math.fsum(groups[name]) / len(groups[name]) for name, weight in weights.items()))
