"""Small dense linear algebra with the same bits on every processor.

LAPACK and BLAS choose kernels by processor and give other last bits; these use elementwise numpy alone.
At a hundred columns a factorisation takes about 2 ms, against rounds of a network.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from wardround_common.typing import Floats


@dataclass(frozen=True)
class Factor:
    """A = L D L^T on the columns ``kept``; ``aliased`` are combinations of kept ones before them."""

    lower: Floats  # (k, k), unit lower triangular
    diagonal: Floats  # (k,), positive
    kept: tuple[int, ...]
    aliased: tuple[int, ...]

    def solve(self, rhs: Floats) -> Floats:
        """Return x of A x = rhs over the kept columns; zero at aliased ones. ``rhs``: (p,) or (p, m)."""
        k = len(self.kept)
        x = rhs[list(self.kept)].astype(np.float64)
        columns = x.reshape(k, rhs.size // max(len(rhs), 1))
        for i in range(k):
            columns[i + 1 :] -= self.lower[i + 1 :, i, None] * columns[i]
        columns /= self.diagonal[:, None]
        for i in range(k - 1, -1, -1):
            columns[:i] -= self.lower[i, :i, None] * columns[i]
        out = np.zeros(rhs.shape)
        out[list(self.kept)] = columns.reshape(x.shape)
        return out

    def inverse(self, size: int) -> Floats:
        """Return A's inverse over the kept columns, zero elsewhere; shape (size, size)."""
        out = self.solve(np.eye(size))
        out[:, list(self.aliased)] = 0.0
        return out


def factor(matrix: Floats, tolerance: Floats) -> Factor:
    """Factorise a symmetric positive semidefinite matrix, leaving out columns that add nothing.

    Columns are taken in order. One whose remaining pivot is <= its ``tolerance`` (shape (p,), in the
    unit of the diagonal) is aliased: to within the rounding of the sums it is a combination of those
    before it. This is R's rule for linear models (limited pivoting, Chambers 1977, chapter 5).
    """
    size = len(matrix)
    schur = matrix.astype(np.float64)
    lower = np.zeros((size, size))
    kept: list[int] = []
    aliased: list[int] = []
    for j in range(size):
        pivot = schur[j, j]
        if not pivot > tolerance[j]:
            aliased.append(j)
            continue
        column = schur[:, j] / pivot
        column[: j + 1] = 0.0
        lower[:, j] = column
        lower[j, j] = 1.0
        schur[j + 1 :, j + 1 :] -= column[j + 1 :, None] * schur[j, None, j + 1 :]
        kept.append(j)
    diagonal = np.array([schur[j, j] for j in kept])
    return Factor(lower[np.ix_(kept, kept)], diagonal, tuple(kept), tuple(aliased))


def dot(left: Floats, right: Floats) -> float:
    """Return the inner product, added in order."""
    total = 0.0
    for a, b in zip(left.tolist(), right.tolist(), strict=True):
        total += a * b
    return total


def quadratic(vector: Floats, matrix: Floats) -> float:
    """Return v^T M v, added in order."""
    return dot(vector, np.array([dot(row, vector) for row in matrix]))
