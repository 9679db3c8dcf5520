"""The paired bootstrap: what must hold for any data, and that its intervals cover."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from srum_plugins.errors import ContractError
from srum_plugins.stats import Interval, paired_bootstrap

FIGURES = st.lists(st.tuples(st.floats(0, 1, width=32), st.floats(0, 1, width=32)), min_size=1, max_size=30)


def interval(pairs: list[tuple[float, float]], seed: int = 0, shift: float = 0.0) -> Interval:
    data = np.array(pairs, dtype=np.float64)
    return paired_bootstrap(data[:, 0], data[:, 1] + shift, resamples=300, seed=seed)


def limits(result: Interval) -> np.ndarray:
    return np.array([result.delta, result.low, result.high])


@settings(deadline=None, max_examples=60)
@given(pairs=FIGURES, seed=st.integers(0, 3), shift=st.floats(-5, 5))
def test_a_shift_of_all_figures_after_moves_the_interval_by_as_much(pairs, seed, shift) -> None:
    moved, plain = interval(pairs, seed, shift), interval(pairs, seed)
    np.testing.assert_allclose(limits(moved), limits(plain) + shift, atol=1e-9)
    assert moved.n == plain.n == len(pairs)


@settings(deadline=None, max_examples=60)
@given(pairs=FIGURES, seed=st.integers(0, 3))
def test_swapping_before_and_after_mirrors_the_interval(pairs, seed) -> None:
    swapped = interval([(after, before) for before, after in pairs], seed)
    plain = interval(pairs, seed)
    np.testing.assert_allclose(
        [swapped.delta, swapped.low, swapped.high], [-plain.delta, -plain.high, -plain.low], atol=1e-12
    )


@settings(deadline=None, max_examples=60)
@given(pairs=FIGURES, seed=st.integers(0, 3))
def test_limits_are_ordered_lie_among_the_differences_and_repeat(pairs, seed) -> None:
    result = interval(pairs, seed)
    differences = [after - before for before, after in pairs]
    assert min(differences) - 1e-9 <= result.low <= result.high <= max(differences) + 1e-9
    assert result == interval(pairs, seed)


@settings(deadline=None, max_examples=30)
@given(before=st.lists(st.integers(0, 8), min_size=1, max_size=20), step=st.integers(-4, 4))
def test_equal_differences_give_zero_width(before, step) -> None:
    result = paired_bootstrap(before, [value + step for value in before], resamples=50)
    assert (result.delta, result.low, result.high) == (step, step, step)


def test_a_higher_level_is_wider() -> None:
    after = np.random.default_rng(0).normal(size=50)
    narrow, wide = (paired_bootstrap(np.zeros(50), after, level=level) for level in (0.5, 0.99))
    assert wide.low < narrow.low < narrow.delta < narrow.high < wide.high


def test_the_interval_covers_the_truth_about_as_often_as_it_says() -> None:
    """Binary outcomes before and after with a true gain of 0.15, as full accuracy has."""
    rng = np.random.default_rng(7)
    hits = 0
    for trial in range(300):
        before = rng.random(200) < 0.6
        after = np.where(before, rng.random(200) < 0.95, rng.random(200) < 0.45)  # 0.6 -> 0.75
        result = paired_bootstrap(before, after, resamples=400, seed=trial)
        hits += result.low <= 0.15 <= result.high
    assert 0.90 <= hits / 300 <= 0.985


@pytest.mark.parametrize(
    ("before", "after", "message"),
    [
        ([1.0, 2.0], [1.0], "2 before, 1 after"),
        ([], [], "non-empty"),
        ([[1.0]], [[1.0]], "shape"),
        ([0.0, float("nan")], [0.0, 1.0], "before: the figure of prompt 1 is nan"),
        ([0.0], [float("inf")], "after: the figure of prompt 0 is inf"),
    ],
)
def test_refuses_what_is_not_a_paired_comparison(before, after, message) -> None:
    with pytest.raises(ContractError, match=message):
        paired_bootstrap(before, after)


@pytest.mark.parametrize("setting", [{"resamples": 0}, {"level": 1.0}, {"level": 0.0}])
def test_refuses_senseless_settings(setting) -> None:
    with pytest.raises(ContractError, match="resamples >= 1 and 0 < level < 1"):
        paired_bootstrap([0.0], [1.0], **setting)
