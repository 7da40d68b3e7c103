"""Row sums on a public grid: the one place where a row is rounded and held to its bound.

Floating-point sums depend on order, so on how rows are split over hospitals and on the processor.
Here every row's contribution is first rounded to a multiple of 2^-bits and checked against its bound;
from then on all additions are of integers, exact in any order, and ``answer(A + B) == answer(A) +
answer(B)`` holds with ``==``.

``bits`` follows from public constants alone: rows_bound x row_bound x 2^bits < 2^62, so that a sum over
every row of the federation cannot wrap in 64 bits, and row_bound x 2^bits <= 2^50, so that one addition
rounds a float64 to the grid: for |v| < 2^51 units the float v + 1.5 x 2^52 units holds the rounded v, ties
to even, in its low mantissa bits. Those are added up as 64-bit integers, wrapping, and the constant is
taken off at the end: three passes over a block in cache for each sum.
"""

from __future__ import annotations

import numpy as np

from wardround_common.errors import ProtocolError
from wardround_common.typing import Array, Floats, Ints

SUM_BITS = 62
ROW_BITS = 50
BLOCK_ROWS = (
    16_384  # measured: fewer rows and two threads wait for Python's lock, more and they wait for memory
)
_ROUNDER = 1.5 * 2.0**52


def power_of_two_above(rows: int) -> int:
    """Return the least power of two >= rows, and at least 1."""
    return 1 << max(rows - 1, 0).bit_length()


def grid_bits(row_bound: Floats, rows_bound: int) -> Ints:
    """Return how many binary places each element is given; shape of ``row_bound``.

    ProtocolError where a bound is not a positive finite number, or leaves no place before the point.
    """
    if not np.all(np.isfinite(row_bound) & (row_bound > 0)):
        raise ProtocolError("a row bound must be positive and finite")
    exponent = np.frexp(row_bound)[1].astype(np.int64)  # row_bound < 2^exponent
    rows = max(rows_bound - 1, 0).bit_length()
    return np.minimum(ROW_BITS - exponent, SUM_BITS - 1 - exponent - rows)


class Rounder:
    """Rounds blocks of rows to one field's grid and adds them up. Elements first, rows last."""

    def __init__(self, row_bound: Floats, rows_bound: int) -> None:
        flat = row_bound.reshape(-1)
        self._bound = flat[:, None]
        self._shift = np.ldexp(_ROUNDER, -grid_bits(flat, rows_bound))[:, None]
        self._offset = self._shift[:, 0].view(np.int64)
        self.total = np.zeros(flat.shape, np.int64)

    def add(self, values: Floats) -> None:
        """Add a block of rows: ``values`` has shape (elements, rows), contiguous, and is overwritten."""
        if not values.shape[1]:
            return
        if not bool(np.all(reach(values)[:, None] <= self._bound)):
            raise ProtocolError("a row's contribution exceeds its bound")
        self._add(values, slice(None))

    def add_products(self, left: Floats, right: Within) -> None:
        """Add left x right[j] for all j, row by row: ``left`` (rows,), ``right`` (elements, rows).

        The largest |left| is checked against what the field's bound leaves for it, so the products need
        no check of their own: rounding is monotone, so |fl(a b)| <= fl(A B) for |a| <= A, |b| <= B.
        """
        if not len(left):
            return
        if not bool(np.all(reach(left[None])[0] * right.bound <= self._bound)):
            raise ProtocolError("a row's contribution exceeds its bound")
        self._add(left * right.values, slice(None))

    def add_squares(self, weights: Floats, columns: Within) -> None:
        """Add weights x columns[i] x columns[j] for i <= j, packed by rows of the upper triangle.

        ``weights`` has shape (rows,), the columns (p, rows); checked as in ``add_products``.
        """
        if not len(weights):
            return
        values, size, start = columns.values, len(columns.values), 0
        pairs = packed_pairs(columns.bound)
        if not bool(np.all(reach(weights[None])[0] * pairs[:, None] <= self._bound)):
            raise ProtocolError("a row's contribution exceeds its bound")
        weighted, work = weights * values, np.empty_like(values)
        for i in range(size):
            products = np.multiply(weighted[i], values[i:], out=work[i:])
            self._add(products, slice(start, start + size - i))
            start += size - i

    def _add(self, values: Floats, where: slice) -> None:
        values += self._shift[where]
        mantissas = values.view(np.int64).sum(axis=1)
        self.total[where] += mantissas - values.shape[1] * self._offset[where]


def on_grid(values: Floats, row_bound: Floats, rows: int, rows_bound: int) -> Ints:
    """Return a hospital sum on the grid: values of one hospital as a whole, at most rows x row_bound each.

    ProtocolError where one is larger, or not a number.
    """
    if not bool(np.all(np.abs(values) <= rows * row_bound)):
        raise ProtocolError("a hospital's contribution exceeds its bound")
    return np.rint(np.ldexp(values, grid_bits(row_bound, rows_bound))).astype(np.int64)


def reach(values: Floats) -> Floats:
    """Return the largest magnitude of each element over the rows: (elements, rows) -> (elements,).

    NaN where a row has one, which is within no bound.
    """
    most: Floats = np.maximum(values.max(axis=1), -values.min(axis=1))
    return most


class Within:
    """Columns that were checked once against their bounds; shape (p, rows). Raises ProtocolError."""

    def __init__(self, values: Floats, bound: Floats) -> None:
        if values.shape[1] and not bool(np.all(reach(values) <= bound)):
            raise ProtocolError("a column exceeds its bound")
        self.values, self.bound = values, bound


def packed_pairs(values: Floats) -> Floats:
    """Return values[i] x values[j] for i <= j, packed as ``Rounder.add_squares`` packs them."""
    rows, columns = np.triu_indices(len(values))
    pairs: Floats = values[rows] * values[columns]
    return pairs


def to_floats(total: Ints, bits: Ints) -> Floats:
    """Return the value of integer sums on their grid, as float64."""
    return np.ldexp(total.astype(np.float64), -bits)


def packed_size(size: int) -> int:
    """Return the number of elements in the upper triangle of a square matrix."""
    return size * (size + 1) // 2


def unpack(packed: Array, size: int) -> Array:
    """Return the symmetric matrix whose upper triangle was packed by rows; shape (size, size)."""
    full = np.empty((size, size), packed.dtype)
    upper = np.triu_indices(size)
    full[upper] = packed
    full[upper[1], upper[0]] = packed
    return full
