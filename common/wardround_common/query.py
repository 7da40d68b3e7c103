"""Sum queries: what a coordinator may ask, and the types on a number's way.

    Cohort -> Contribution -> Sealed -> Sum -> result

A query names its arrays (``layout``), computes one hospital's share (``answer``) and gives the opened sum
its meaning (``read``). The law that every query keeps, and the contract suite's first test:

    answer(A + B) == answer(A) + answer(B)          for any two cohorts, with ==
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, Protocol, TypeVar

import numpy as np

from wardround_common.cohort import Block, Cohort
from wardround_common.dictionary import Dictionary
from wardround_common.errors import ProtocolError
from wardround_common.sealing.fixed_point import Rounder, Within, grid_bits, to_floats
from wardround_common.typing import Array, Bools, Floats, Ints

_BLOCK = 1 << 14  # elements
MOST_VALUES = 1 << 24  # of one query: 128 MiB sealed


@dataclass(frozen=True)
class Field:
    """One array of a contribution. ``row_bound``: the most one row adds to each element, in its own unit.

    ``counts``: whole numbers, one row adds at most ``row_bound``. ``contributors``: the gate appends
    1[x > 0], so that the sum tells how many hospitals have anything in each element.
    """

    name: str
    shape: tuple[int, ...]
    counts: bool
    row_bound: Floats
    contributors: bool = False

    @property
    def size(self) -> int:
        """Number of elements."""
        return math.prod(self.shape)


def counts(name: str, *shape: int, contributors: bool = False) -> Field:
    """Return a field of row counts."""
    _check_size(shape)
    return Field(name, shape, True, np.ones(shape), contributors)


def sums(name: str, row_bound: Floats | float, *shape: int) -> Field:
    """Return a field of real row sums with a bound for all elements, or one for each."""
    _check_size(shape)
    return Field(name, shape, False, np.broadcast_to(np.asarray(row_bound, np.float64), shape).copy())


def _check_size(shape: tuple[int, ...]) -> None:
    """Raise ProtocolError before a field of a size that no query may have is allocated."""
    if min(shape, default=0) < 0 or math.prod(shape) > MOST_VALUES:
        raise ProtocolError(f"a query may ask {MOST_VALUES} values at most")


@dataclass(frozen=True)
class Frame:
    """All that a layout may depend on: never data."""

    dictionary: Dictionary
    rows_bound: int


@dataclass(frozen=True)
class Layout:
    """The arrays of one query's answers, in order, on the grid that ``rows_bound`` gives."""

    fields: tuple[Field, ...]
    rows_bound: int

    def __post_init__(self) -> None:
        if self.size > MOST_VALUES:
            raise ProtocolError(f"a query may ask {MOST_VALUES} values at most")

    @property
    def size(self) -> int:
        """Values on the wire: all elements, and the contributor counts behind them."""
        return sum(field.size * (2 if field.contributors else 1) for field in self.fields)

    def bits(self, field: Field) -> Ints:
        """Return the binary places of each element of ``field``."""
        return (
            np.zeros(field.shape, np.int64) if field.counts else grid_bits(field.row_bound, self.rows_bound)
        )

    def limit(self, field: Field, rows: int) -> Ints:
        """Return the most that ``rows`` rows can add up to, on the grid, per element."""
        return self._limit(field.row_bound, field.counts, rows)

    def vector(self, contribution: Contribution) -> Ints:
        """Return what travels of a contribution: its arrays in order, contributor counts behind."""
        parts = [contribution.arrays[field.name].reshape(-1) for field in self.fields]
        flags = [
            (part > 0).astype(np.int64)
            for part, field in zip(parts, self.fields, strict=True)
            if field.contributors
        ]
        together = [*parts, *flags]
        return together[0] if len(together) == 1 else np.concatenate(together)

    def is_within(self, field: Field, array: Ints, rows: int) -> bool:
        """Tell whether an array of ``field.shape`` is one that ``rows`` rows can add up to.

        In blocks that fit into a processor's cache, most of which have one bound for all their elements.
        """
        values, bounds = array.reshape(-1), field.row_bound.reshape(-1)
        for begin in range(0, len(values), _BLOCK):
            block = slice(begin, begin + _BLOCK)
            bound = bounds[block]
            if bool(np.all(bound == bound[0])):
                bound = bound[:1]
            limit = self._limit(bound, field.counts, rows)
            if not bool(np.all((values[block] <= limit) & (values[block] >= -limit))):
                return False
        return True

    def _limit(self, row_bound: Floats, counts: bool, rows: int) -> Ints:
        if not counts:
            row_bound = np.ldexp(row_bound, grid_bits(row_bound, self.rows_bound))
        return np.ceil(row_bound).astype(np.int64) * rows


@dataclass(frozen=True, repr=False)
class Contribution:
    """One hospital's private share: int64 arrays on the layout's grid. Prints as its name only."""

    rows: int
    arrays: Mapping[str, Ints]

    def __repr__(self) -> str:
        return "Contribution(...)"

    def __add__(self, other: Contribution) -> Contribution:
        return Contribution(
            self.rows + other.rows, {name: self.arrays[name] + other.arrays[name] for name in self.arrays}
        )

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Contribution):
            return NotImplemented
        return self.rows == other.rows and all(
            np.array_equal(array, other.arrays[name]) for name, array in self.arrays.items()
        )

    __hash__ = None  # type: ignore[assignment]


@dataclass(frozen=True)
class Sum:
    """The opened sum over the hospitals of an epoch; counts as int64, the rest as float64.

    ``contributors`` tells, for fields marked so, in how many hospitals each element is above zero.
    """

    epoch: int
    hospitals: tuple[str, ...]
    arrays: Mapping[str, Array]
    contributors: Mapping[str, Ints]

    def count(self, name: str) -> int:
        """Return a field of one count."""
        return int(self.arrays[name].reshape(()))

    def number(self, name: str) -> float:
        """Return a field of one real number."""
        return float(self.arrays[name].reshape(()))


@dataclass(frozen=True)
class Shares:
    """What each hospital alone answered to an unsealed query (`seal: none`), by hospital in order."""

    each: tuple[Sum, ...]


S_co = TypeVar("S_co", covariant=True)


class Query(Protocol[S_co]):
    """A question to every hospital's rows whose answers are only ever seen added up."""

    kind: ClassVar[str]

    def layout(self, frame: Frame) -> Layout:
        """Return the arrays that are asked. Depends on the query and the frame alone."""

    def answer(self, cohort: Cohort, layout: Layout) -> Contribution:
        """Return this hospital's share: a pure function of rows and query."""

    def read(self, total: Sum) -> S_co:
        """Return what the sum means."""


def is_sealed(query: Query[Any]) -> bool:
    """Tell whether a query's answers are only ever seen added up; ``read`` is given ``Shares`` else."""
    return bool(getattr(query, "sealed", True))


def cells_of(shares: Floats, cells: int) -> Ints:
    """Return which of ``cells`` equal parts of [0, 1] each share lies in; 1 lies in the last."""
    found: Ints = np.minimum((shares * cells).astype(np.int64), cells - 1)
    return found


def open_sum(layout: Layout, epoch: int, hospitals: tuple[str, ...], vector: Ints) -> Sum:
    """Return the sum that an opened vector of ``layout.size`` int64 holds."""
    arrays: dict[str, Array] = {}
    contributors: dict[str, Ints] = {}
    start = 0
    for field in layout.fields:
        part = vector[start : start + field.size].reshape(field.shape)
        start += field.size
        arrays[field.name] = part.copy() if field.counts else to_floats(part, layout.bits(field))
    for field in layout.fields:
        if field.contributors:
            contributors[field.name] = vector[start : start + field.size].reshape(field.shape).copy()
            start += field.size
    return Sum(epoch, hospitals, arrays, contributors)


class Tally:
    """Collects one contribution block by block: each method adds a block's rows to a field."""

    def __init__(self, layout: Layout) -> None:
        self._layout, self._rows = layout, 0
        self._counts: dict[str, Ints] = {}
        self._sums: dict[str, Rounder] = {}
        for field in layout.fields:
            if field.counts:
                self._counts[field.name] = np.zeros(field.size, np.int64)
            else:
                self._sums[field.name] = Rounder(field.row_bound, layout.rows_bound)

    def over(self, blocks: Iterable[Block]) -> Iterator[Block]:
        """Pass blocks on, noting how many rows they hold."""
        for block in blocks:
            self._rows += block.rows
            yield block

    def count(self, name: str, rows: Bools | int) -> None:
        """Add a number of rows, or the True ones, to a field of one count."""
        self._counts[name] += rows if isinstance(rows, int) else int(np.count_nonzero(rows))

    def cells(self, name: str, positions: Array) -> None:
        """Add one for every row to the element at its position in the flattened field; shape (rows,)."""
        cells = self._counts[name]
        cells += np.bincount(positions, minlength=len(cells))

    def add(self, name: str, values: Floats) -> None:
        """Add rows of real numbers: shape (rows,) or (elements, rows). Overwrites ``values``."""
        self._sums[name].add(np.ascontiguousarray(np.atleast_2d(values)))

    def products(self, name: str, left: Floats, right: Within) -> None:
        """Add left x right[j] for all j, row by row; see ``Rounder.add_products``."""
        self._sums[name].add_products(left, right)

    def squares(self, name: str, weights: Floats, columns: Within) -> None:
        """Add the packed weighted products of all pairs of columns; see ``Rounder.add_squares``."""
        self._sums[name].add_squares(weights, columns)

    def done(self) -> Contribution:
        """Return the contribution of all that was added."""
        arrays = {
            field.name: (self._counts[field.name] if field.counts else self._sums[field.name].total).reshape(
                field.shape
            )
            for field in self._layout.fields
        }
        return Contribution(self._rows, arrays)
