"""LDL^T by elementwise numpy: equal to LAPACK's answers, and honest about columns that add nothing."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from wardround_common.linalg import dot, factor, quadratic

SEEDS = st.integers(0, 2**32 - 1)


def positive_definite(seed: int, size: int) -> np.ndarray:
    half = np.random.default_rng(seed).normal(size=(3 * size + 5, size))
    return half.T @ half / len(half)


@given(SEEDS, st.integers(1, 30))
def test_solves_and_inverts_as_numpy_does(seed: int, size: int) -> None:
    matrix = positive_definite(seed, size)
    rhs = np.random.default_rng(seed + 1).normal(size=(size, 2))
    found = factor(matrix, np.full(size, 1e-12))
    assert found.kept == tuple(range(size)) and found.aliased == ()
    np.testing.assert_allclose(found.solve(rhs), np.linalg.solve(matrix, rhs), rtol=1e-9, atol=1e-10)
    np.testing.assert_allclose(found.solve(rhs[:, 0]), found.solve(rhs)[:, 0], rtol=0)
    np.testing.assert_allclose(found.inverse(size), np.linalg.inv(matrix), rtol=1e-9, atol=1e-10)
    rebuilt = (found.lower * found.diagonal) @ found.lower.T
    np.testing.assert_allclose(rebuilt, matrix, rtol=1e-12, atol=1e-12)


@given(SEEDS, st.integers(2, 12), st.data())
def test_a_combination_of_earlier_columns_is_aliased_and_left_at_zero(
    seed: int, size: int, data: st.DataObject
) -> None:
    at = data.draw(st.integers(1, size))
    rng = np.random.default_rng(seed)
    columns = rng.normal(size=(200, size))
    twin = columns[:, :at] @ rng.uniform(1, 2, at)
    columns = np.insert(columns, at, twin, axis=1)
    matrix = columns.T @ columns / 200
    found = factor(matrix, 1e-10 * np.diag(matrix))
    assert found.aliased == (at,)
    rest = [i for i in range(size + 1) if i != at]
    rhs = rng.normal(size=size + 1)
    x = found.solve(rhs)
    assert x[at] == 0.0
    np.testing.assert_allclose(
        x[rest], np.linalg.solve(matrix[np.ix_(rest, rest)], rhs[rest]), rtol=1e-8, atol=1e-9
    )
    inverse = found.inverse(size + 1)
    assert not inverse[at].any() and not inverse[:, at].any()


def test_a_column_of_zeros_is_aliased() -> None:
    matrix = np.diag([2.0, 0.0, 3.0])
    found = factor(matrix, np.full(3, 1e-12))
    assert (found.kept, found.aliased) == ((0, 2), (1,))


def test_a_pivot_that_is_not_a_number_is_aliased() -> None:
    assert factor(np.array([[np.nan]]), np.zeros(1)).aliased == (0,)


def test_what_was_given_is_left_as_it_was() -> None:
    matrix, rhs = positive_definite(1, 4), np.arange(4.0)
    before, right = matrix.copy(), rhs.copy()
    factor(matrix, np.zeros(4)).solve(rhs)
    assert (matrix == before).all() and (rhs == right).all()


@given(SEEDS, st.integers(1, 20))
def test_inner_products_equal_numpys(seed: int, size: int) -> None:
    rng = np.random.default_rng(seed)
    a, b, matrix = rng.normal(size=size), rng.normal(size=size), positive_definite(seed, size)
    assert dot(a, b) == pytest.approx(float(a @ b), rel=1e-12, abs=1e-12)
    assert quadratic(a, matrix) == pytest.approx(float(a @ matrix @ a), rel=1e-12, abs=1e-12)
