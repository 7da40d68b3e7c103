"""exp, log and their kin: within their documented errors of numpy's and scipy's, the same in any company."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.special import expit, log_expit
from scipy.stats import norm

from wardround_common.elementary import exp, log, log1p_exp, logistic, normal_tail

pytestmark = pytest.mark.skipif(
    np.finfo(np.longdouble).nmant < 63, reason="the references need extended precision"
)
GRID = np.concatenate([np.linspace(-40, 40, 20_001), np.linspace(-700, 700, 20_001), [0.0, -0.0, 1e-300]])


def ulps(found: np.ndarray, expected: np.ndarray) -> float:
    """Return the largest error in units in the last place; ``expected`` is in extended precision."""
    exact = expected.astype(np.float64)
    return float(np.max(np.abs(found - expected) / np.spacing(np.abs(exact))))


def test_exp_is_within_its_documented_error() -> None:
    assert ulps(exp(GRID), np.exp(GRID.astype(np.longdouble))) <= 2
    assert exp(np.zeros(1))[0] == 1.0


def test_log_is_within_its_documented_error() -> None:
    x = np.concatenate([exp(GRID), np.linspace(0.5, 2, 20_001), [5e-324, 1.7e308]])
    assert ulps(log(x), np.log(x.astype(np.longdouble))) <= 2
    assert log(np.ones(1))[0] == 0.0


def test_logistic_and_softplus_equal_scipys() -> None:
    np.testing.assert_allclose(logistic(GRID), expit(GRID), rtol=1e-15, atol=0)
    np.testing.assert_allclose(log1p_exp(GRID), -log_expit(-GRID), rtol=1e-15, atol=1e-300)


def test_the_normal_tail_equals_scipys() -> None:
    for z in np.concatenate([np.linspace(0, 36, 2001), [1e-12, 2 * math.sqrt(2), 2.8284271247461907]]):
        assert normal_tail(z) == pytest.approx(2 * norm.sf(z), rel=1e-12, abs=1e-300)
        assert normal_tail(-z) == normal_tail(z)
    assert normal_tail(math.inf) == 0.0
    assert math.isnan(normal_tail(math.nan))


@given(st.floats(allow_nan=False))
def test_probabilities_stay_within_zero_and_one_and_mirror_each_other(x: float) -> None:
    p, q = logistic(np.array([x, -x]))
    assert 0.0 <= min(p, q) <= 0.5 <= max(p, q) <= 1.0
    assert p + q == pytest.approx(1.0, abs=2.0**-52)  # one unit in the last place of 1


@given(st.floats(-800, 800), st.floats(-800, 800))
def test_the_logistic_function_never_falls(a: float, b: float) -> None:
    low, high = logistic(np.array([min(a, b), max(a, b)]))
    assert low <= high or low - high <= 2 * np.spacing(high)


@given(st.integers(0, 40_000), st.integers(1, 40))
def test_a_value_has_the_same_bits_alone_and_among_others(start: int, width: int) -> None:
    x = GRID[start : start + width]
    positive = np.abs(x) + 1e-3
    for function, values in ((exp, x), (log, positive), (logistic, x), (log1p_exp, x)):
        together = function(values)
        alone = [function(values[i : i + 1].copy())[0] for i in range(len(values))]
        assert together.tolist() == alone
        assert function(values[::-1])[::-1].tolist() == alone
