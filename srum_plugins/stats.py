"""Uncertainty of before/after comparisons."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from srum_plugins.errors import ContractError

_BATCH = 500  # resamples held in memory at a time


BETTER, WORSE, NO_CHANGE = "better", "worse", "no significant change"


@dataclass(frozen=True)
class Interval:
    """A mean paired difference ``delta`` over ``n`` prompts with its confidence limits, in the unit of the figures."""

    delta: float
    low: float
    high: float
    n: int

    @property
    def verdict(self) -> str:
        """What the interval allows to say: :data:`BETTER` or :data:`WORSE` where it lies above or below 0, and
        :data:`NO_CHANGE` where it holds 0. Of a single prompt it has no width, and says nothing."""
        if self.n < 2:
            return "one prompt tells nothing"
        return BETTER if self.low > 0 else WORSE if self.high < 0 else NO_CHANGE


def paired_bootstrap(
    before: ArrayLike, after: ArrayLike, *, resamples: int = 10000, seed: int = 0, level: float = 0.95
) -> Interval:
    """Percentile bootstrap interval of ``mean(after - before)``, resampling prompts.

    ``before`` and ``after`` are (n,): one figure per prompt, in the same order, so that the difference of a prompt is
    taken within the prompt. The same seed gives the same interval. It has zero width where all differences are equal,
    and so for a single prompt, about whose spread the data say nothing.

    Raises:
        ContractError: the inputs are not two equally long, non-empty vectors of finite numbers, or ``resamples`` or
            ``level`` make no sense.
    """
    first, second = _vector("before", before), _vector("after", after)
    if first.size != second.size:
        raise ContractError(
            f"a paired comparison needs one figure per prompt on both sides: {first.size} before, {second.size} after"
        )
    if resamples < 1 or not 0.0 < level < 1.0:
        raise ContractError(f"needs resamples >= 1 and 0 < level < 1, got {resamples} and {level}")
    difference = second - first
    delta = float(difference.mean())
    if np.all(difference == difference[0]):  # scipy refuses a single observation
        return Interval(delta, delta, delta, difference.size)
    from scipy.stats import bootstrap  # here, because it takes a second

    limits = bootstrap(
        (difference,),
        np.mean,
        n_resamples=resamples,
        batch=_BATCH,
        confidence_level=level,
        method="percentile",
        rng=np.random.default_rng(seed),
    ).confidence_interval
    return Interval(delta, float(limits.low), float(limits.high), difference.size)


def _vector(name: str, values: ArrayLike) -> NDArray[np.float64]:
    vector = np.asarray(values, dtype=np.float64)
    if vector.ndim != 1 or vector.size == 0:
        raise ContractError(f"{name}: expected a non-empty vector of one figure per prompt, got shape {vector.shape}")
    if not np.isfinite(vector).all():
        where = int(np.flatnonzero(~np.isfinite(vector))[0])
        raise ContractError(f"{name}: the figure of prompt {where} is {vector[where]}, not finite")
    return vector
