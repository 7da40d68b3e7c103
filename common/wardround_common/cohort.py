"""The cohort: one hospital's rows as the dictionary knows them, held as columns and read in blocks.

Numbers are float64 in the dictionary's unit, NaN where missing; categories are int16 positions in
``levels``, -1 where missing. A cohort is frozen and prints as its name only. A hospital's is built by the
client's reader alone; the estimators build one from the rows that they are given.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property

import numpy as np

from wardround_common.dictionary import Dictionary, NumberVariable
from wardround_common.rowkey import row_keys
from wardround_common.sealing.fixed_point import BLOCK_ROWS
from wardround_common.typing import Array, Bools, Floats, Ints, Words

_MOST_REMEMBERED = 8


@dataclass(frozen=True)
class Flow:
    """Counts by reason on the way from the table to the cohort; counts add over hospitals.

    ``variables`` holds for each variable of the dictionary how many cohort cells were
    ``observed, empty, coded missing, out of range``.
    """

    read: int
    not_in_cohort: int
    out_of_range: int
    variables: Mapping[str, tuple[int, int, int, int]]

    def __add__(self, other: Flow) -> Flow:
        merged = {
            name: (a + e, b + f, c + g, d + h)
            for name, (a, b, c, d) in self.variables.items()
            for e, f, g, h in [other.variables[name]]
        }
        return Flow(
            self.read + other.read,
            self.not_in_cohort + other.not_in_cohort,
            self.out_of_range + other.out_of_range,
            merged,
        )


class RowKeys:
    """The cohort's row keys, computed when first asked for (a hash a row)."""

    def __init__(self, study_key: bytes, namespace: str, ids: Sequence[str] | int) -> None:
        self._source = (study_key, namespace, ids)

    @classmethod
    def known(cls, values: Words) -> RowKeys:
        """Wrap keys that were computed before."""
        keys = cls(b"", "", 0)
        keys.__dict__["values"] = values
        return keys

    @cached_property
    def values(self) -> Words:
        """One uint64 per row."""
        study_key, namespace, ids = self._source
        return row_keys(study_key, namespace, map(str, range(ids)) if isinstance(ids, int) else ids)


@dataclass(frozen=True, repr=False)
class Cohort:
    """One hospital's usable table. ``held_out`` marks the rows of the test part, None where there is none."""

    dictionary: Dictionary
    columns: Mapping[str, Array]
    rows: int
    keys: RowKeys
    held_out: Bools | None
    flow: Flow = field(compare=False)
    _complete: dict[str, bool] = field(default_factory=dict, init=False, compare=False)
    _remembered: dict[str, Array] = field(default_factory=dict, init=False, compare=False)

    def __repr__(self) -> str:
        return "Cohort(...)"

    def observed(self, name: str) -> Bools:
        """Return which rows have a value of ``name``."""
        column = self.columns[name]
        return ~np.isnan(column) if column.dtype.kind == "f" else column >= 0

    def complete(self, name: str) -> bool:
        """Tell whether no row lacks ``name``; computed once."""
        if name not in self._complete:
            self._complete[name] = bool(self.observed(name).all())
        return self._complete[name]

    def remembered(self, key: str, compute: Callable[[Block], Array]) -> Array:
        """Return ``compute`` of every row, from memory where it was computed before under this ``key``.

        ``compute`` takes a block and returns an array whose last axis is the block's rows. The key must
        name all that it depends on; the last few arrays are kept.
        """
        found = self._remembered.pop(key, None)
        if found is None:
            parts = [compute(block) for block in self.blocks()] or [compute(Block(self, slice(0, 0), None))]
            found = np.concatenate(parts, axis=-1)
        self._remembered[key] = found  # the most recent is the last
        while len(self._remembered) > _MOST_REMEMBERED:
            del self._remembered[next(iter(self._remembered))]
        return found

    def part(self, part: str) -> Bools | None:
        """Return which rows are in ``all``, ``train`` or ``test``; None means every row."""
        if part == "all" or (part == "train" and self.held_out is None):
            return None
        if self.held_out is None:
            return np.zeros(self.rows, bool)
        return self.held_out if part == "test" else ~self.held_out

    def usable(self, part: str, needed: Sequence[str]) -> Bools | None:
        """Return which rows of ``part`` have every variable of ``needed``; None means every row."""
        rows = self.part(part)
        for name in needed:
            if not self.complete(name):
                observed = self.observed(name)
                rows = observed if rows is None else rows & observed
        return rows

    def count(self, part: str, needed: Sequence[str]) -> int:
        """Return how many rows of ``part`` have every variable of ``needed``."""
        rows = self.usable(part, needed)
        return self.rows if rows is None else int(np.count_nonzero(rows))

    def blocks(self, rows: Bools | None = None, size: int = BLOCK_ROWS) -> Iterator[Block]:
        """Yield the rows that are True in ``rows`` (None: all), at most ``size`` of them at a time."""
        for start in range(0, self.rows, size):
            span = slice(start, min(start + size, self.rows))
            if rows is None or rows[span].all():
                yield Block(self, span, None)
            elif rows[span].any():
                yield Block(self, span, rows[span])

    def take(self, rows: Ints) -> Cohort:
        """Return the cohort of the given row positions; the flow counts those rows only."""
        columns = {name: column[rows] for name, column in self.columns.items()}
        counts = {}
        for name in self.dictionary:
            seen = int(np.count_nonzero(~_absent(columns[name])))
            counts[name] = (seen, len(rows) - seen, 0, 0)
        return Cohort(
            self.dictionary,
            columns,
            len(rows),
            RowKeys.known(self.keys.values[rows]),
            None if self.held_out is None else self.held_out[rows],
            Flow(len(rows), 0, 0, counts),
        )


def _absent(column: Array) -> Bools:
    return np.isnan(column) if column.dtype.kind == "f" else column < 0


class Block:
    """Some rows of a cohort. ``numbers`` and ``codes`` are views where no row is left out; don't write."""

    def __init__(self, cohort: Cohort, span: slice, mask: Bools | None) -> None:
        self._cohort, self._span, self._mask = cohort, span, mask
        self.rows = span.stop - span.start if mask is None else int(np.count_nonzero(mask))

    def _read(self, column: Array) -> Array:
        part = column[..., self._span]
        return part if self._mask is None else part[..., self._mask]

    def of(self, remembered: Array) -> Array:
        """Return these rows of an array over the whole cohort, whose last axis is its rows."""
        return self._read(remembered)

    @property
    def keys(self) -> Words:
        """The rows' keys; uint64, shape (rows,)."""
        return self._read(self._cohort.keys.values)

    def numbers(self, name: str) -> Floats:
        """Return float64 values of a number variable, NaN where missing; shape (rows,)."""
        return self._read(self._cohort.columns[name])

    def mapped(self, name: str) -> Floats:
        """Return values of a number variable as shares of its range, NaN where missing; shape (rows,)."""
        variable = self._cohort.dictionary.number(name)
        return (self.numbers(name) - variable.range[0]) / variable.span

    def codes(self, name: str) -> Array:
        """Return positions in ``levels`` of a category, -1 where missing; int16, shape (rows,)."""
        return self._read(self._cohort.columns[name])

    def observed(self, name: str) -> Bools:
        """Return which of the rows have a value of ``name``."""
        return ~_absent(self.codes(name))

    def complete(self, name: str) -> bool:
        """Tell whether no row of the cohort lacks ``name``."""
        return self._cohort.complete(name)

    def outcome(self, name: str) -> Floats:
        """Return the outcome as float64: 0 and 1 for a category of two levels, else the number."""
        variable = self._cohort.dictionary[name]
        column = self.codes(name)
        return column if isinstance(variable, NumberVariable) else column.astype(np.float64)


class Redrawn(Block):
    """The rows of another block, with other values of one variable."""

    def __init__(self, block: Block, name: str, column: Array) -> None:
        super().__init__(block._cohort, block._span, block._mask)
        self._name, self._column = name, column

    def numbers(self, name: str) -> Floats:
        """Return the values; see ``Block.numbers``."""
        return self._column if name == self._name else super().numbers(name)

    def codes(self, name: str) -> Array:
        """Return the positions; see ``Block.codes``."""
        return self._column if name == self._name else super().codes(name)

    def complete(self, name: str) -> bool:
        """Tell whether no row lacks ``name``."""
        return not _absent(self._column).any() if name == self._name else super().complete(name)


def concatenate(cohorts: Sequence[Cohort]) -> Cohort:
    """Return the rows of several cohorts of one study as one, in order, their flows added."""
    first = cohorts[0]
    flow = first.flow
    for other in cohorts[1:]:
        flow = flow + other.flow
    parts = [c.held_out for c in cohorts if c.held_out is not None]
    return Cohort(
        first.dictionary,
        {name: np.concatenate([c.columns[name] for c in cohorts]) for name in first.columns},
        sum(c.rows for c in cohorts),
        RowKeys.known(np.concatenate([c.keys.values for c in cohorts])),
        np.concatenate(parts) if parts else None,
        flow,
    )
