"""Row sums: every row is rounded to the grid once and held to its bound; then additions are exact."""

from __future__ import annotations

import math
from concurrent.futures import ThreadPoolExecutor
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from wardround_common.errors import ProtocolError
from wardround_common.sealing.fixed_point import (
    ROW_BITS,
    SUM_BITS,
    Rounder,
    Within,
    grid_bits,
    packed_pairs,
    packed_size,
    power_of_two_above,
    to_floats,
    unpack,
)

BOUNDS = st.floats(2.0**-40, 2.0**40)
ROWS_BOUNDS = st.sampled_from([1, 2, 3, 1000, 1 << 20, 10_000_000, 1 << 31])


def bits_of(bound: float, rows_bound: int) -> int:
    return int(grid_bits(np.array([bound]), rows_bound)[0])


def total(values: np.ndarray, bound: float, rows_bound: int) -> int:
    rounder = Rounder(np.array([bound]), rows_bound)
    rounder.add(values[None].copy())
    return int(rounder.total[0])


@given(BOUNDS, ROWS_BOUNDS)
def test_the_grid_is_as_fine_as_the_two_limits_allow(bound: float, rows_bound: int) -> None:
    unit = Fraction(2) ** bits_of(bound, rows_bound)
    row, all_rows = Fraction(bound) * unit, Fraction(bound) * unit * rows_bound
    assert row <= 2**ROW_BITS and all_rows < 2**SUM_BITS
    assert row * 2 > 2 ** (ROW_BITS - 2) or all_rows * 2 > 2 ** (SUM_BITS - 4)


@given(BOUNDS, ROWS_BOUNDS, st.data())
def test_a_row_is_rounded_to_the_nearest_point_ties_to_even(
    bound: float, rows_bound: int, data: st.DataObject
) -> None:
    value = data.draw(st.floats(-bound, bound))
    exact = Fraction(value) * Fraction(2) ** bits_of(bound, rows_bound)
    assert total(np.array([value]), bound, rows_bound) == round(exact)


@given(st.integers(-1000, 1000))
def test_a_tie_goes_to_the_even_point(half: int) -> None:
    bits = bits_of(1024.0, 1000)
    value = math.ldexp(half + 0.5, -bits)
    assert total(np.array([value]), 1024.0, 1000) == round(Fraction(2 * half + 1, 2))


@given(
    arrays(np.float64, st.tuples(st.integers(1, 3), st.integers(0, 40)), elements=st.floats(-1, 1)),
    st.integers(0, 40),
)
def test_a_sum_is_the_sum_of_its_rounded_rows_in_any_order(values: np.ndarray, cut: int) -> None:
    elements, bound = len(values), np.ones(len(values))
    whole, halves, alone = (Rounder(bound, 1 << 20) for _ in range(3))
    whole.add(values.copy())
    for part in (values[:, cut:], values[:, :cut]):
        halves.add(part.copy())
    for row in range(values.shape[1] - 1, -1, -1):
        alone.add(values[:, row : row + 1].copy())
    assert (whole.total == halves.total).all() and (whole.total == alone.total).all()
    error = to_floats(whole.total, grid_bits(bound, 1 << 20)) - values.sum(axis=1)
    assert np.abs(error).max(initial=0) <= 41 * 2.0 ** -bits_of(1.0, 1 << 20)
    assert whole.total.shape == (elements,)


@pytest.mark.parametrize("rows_bound", [1, 1000, 1 << 31])
@pytest.mark.parametrize("bound", [1.0, math.pi, 2.0**-30, np.nextafter(2.0, 1.0), 2.0**40])
@pytest.mark.parametrize("sign", [1.0, -1.0])
def test_rows_at_their_bound_never_overflow(bound: float, rows_bound: int, sign: float) -> None:
    rows = min(rows_bound, 1000)
    one = total(np.array([sign * bound]), bound, rows_bound)
    assert total(np.full(rows, sign * bound), bound, rows_bound) == rows * one
    assert abs(one * rows_bound) < 2**62
    assert one == round(Fraction(sign * bound) * Fraction(2) ** bits_of(bound, rows_bound))


@pytest.mark.parametrize("wrong", [np.nextafter(1.0, 2.0), -1.5, np.nan, np.inf, -np.inf, 1e300])
def test_a_row_beyond_its_bound_is_refused(wrong: float) -> None:
    values = np.array([[0.5, 0.5, 0.5], [0.5, wrong, 0.5]])
    rounder = Rounder(np.array([2.0**20, 1.0]), 100)
    if np.isfinite(wrong) and abs(wrong) < 2.0**20:
        rounder.add(values[::-1].copy()[:, :1])
    with pytest.raises(ProtocolError, match="exceeds its bound"):
        rounder.add(values)


@pytest.mark.parametrize("wrong", [np.nextafter(1.0, 2.0), np.nan, np.inf])
def test_weights_and_columns_beyond_their_bounds_are_refused(wrong: float) -> None:
    one, columns = np.ones(2), Within(np.ones((2, 3)), np.ones(2))
    weights = np.array([1.0, wrong, 0.0])
    with pytest.raises(ProtocolError):
        Rounder(one, 100).add_products(weights, columns)
    with pytest.raises(ProtocolError):
        Rounder(np.ones(3), 100).add_squares(weights, columns)
    with pytest.raises(ProtocolError):
        Within(np.array([[0.5, wrong]]), np.ones(1))


@pytest.mark.parametrize("bound", [0.0, -1.0, np.nan, np.inf])
def test_a_bound_that_is_not_positive_and_finite_is_refused(bound: float) -> None:
    with pytest.raises(ProtocolError, match="positive and finite"):
        grid_bits(np.array([1.0, bound]), 10)


@given(
    arrays(np.float64, (3, 17), elements=st.floats(-1, 1)), arrays(np.float64, 17, elements=st.floats(0, 1))
)
def test_products_and_squares_equal_rows_that_were_multiplied_first(
    columns: np.ndarray, weights: np.ndarray
) -> None:
    within = Within(columns, np.ones(3))
    products, squares = Rounder(np.ones(3), 100), Rounder(np.ones(packed_size(3)), 100)
    products.add_products(weights, within)
    squares.add_squares(weights, within)
    plain, packed = Rounder(np.ones(3), 100), Rounder(np.ones(packed_size(3)), 100)
    plain.add(weights * columns)
    pairs = [(weights * columns[i]) * columns[j] for i in range(3) for j in range(i, 3)]
    packed.add(np.stack(pairs))
    assert (products.total == plain.total).all() and (squares.total == packed.total).all()


def test_packing_is_by_rows_of_the_upper_triangle() -> None:
    values = np.array([2.0, 3.0, 5.0])
    assert packed_pairs(values).tolist() == [4, 6, 10, 9, 15, 25]
    assert (unpack(packed_pairs(values), 3) == np.outer(values, values)).all()


def test_two_threads_get_the_bits_of_one() -> None:
    rng = np.random.default_rng(0)
    blocks = [rng.uniform(-1, 1, (40, 4000)) for _ in range(8)]

    def summed(block: np.ndarray) -> list[int]:
        rounder = Rounder(np.ones(40), 1 << 20)
        rounder.add(block.copy())
        return rounder.total.tolist()

    with ThreadPoolExecutor(2) as pool:
        assert list(pool.map(summed, blocks)) == [summed(block) for block in blocks]


@pytest.mark.parametrize(("rows", "power"), [(0, 1), (1, 1), (2, 2), (3, 4), (1024, 1024), (1025, 2048)])
def test_the_row_bound_is_the_next_power_of_two(rows: int, power: int) -> None:
    assert power_of_two_above(rows) == power
