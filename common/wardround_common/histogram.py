"""Histograms over the declared ranges: what the forest's bins and the redrawing of variables come from."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from wardround_common.analysis import Rows
from wardround_common.cohort import Cohort
from wardround_common.dictionary import NumberVariable
from wardround_common.query import Contribution, Frame, Layout, Sum, Tally, cells_of, counts
from wardround_common.typing import Ints

CELLS = 4096


@dataclass(frozen=True)
class Histogram:
    """Rows by cell of a number's range, or by level of a category; and those without a value."""

    counts: Ints
    missing: int

    @property
    def observed(self) -> int:
        """Rows with a value."""
        return int(self.counts.sum())


@dataclass(frozen=True)
class HistogramQuery:
    """Counts of rows by cell or level, and of missing ones, for each variable."""

    kind: ClassVar[str] = "histogram"
    rows: Rows
    variables: tuple[str, ...]

    def layout(self, frame: Frame) -> Layout:
        """A number ``v``: ``v cells`` (4096 + 1,); a category: ``v cells`` (levels + 1,); missing is last."""
        sizes = []
        for name in self.variables:
            variable = frame.dictionary[name]
            sizes.append(CELLS if isinstance(variable, NumberVariable) else len(variable.levels))
        fields = [counts(f"{name} cells", n + 1) for name, n in zip(self.variables, sizes, strict=True)]
        return Layout(tuple(fields), frame.rows_bound)

    def answer(self, cohort: Cohort, layout: Layout) -> Contribution:
        """A row counts once for each variable."""
        tally = Tally(layout)
        for block in tally.over(self.rows.of(cohort)):
            for name in self.variables:
                variable = cohort.dictionary[name]
                if isinstance(variable, NumberVariable):
                    mapped = block.mapped(name)
                    lacking = np.isnan(mapped)
                    cells = cells_of(np.where(lacking, 0.0, mapped), CELLS)
                    tally.cells(f"{name} cells", np.where(lacking, CELLS, cells))
                else:
                    codes = block.codes(name)
                    tally.cells(f"{name} cells", np.where(codes < 0, len(variable.levels), codes))
        return tally.done()

    def read(self, total: Sum) -> Mapping[str, Histogram]:
        """Return the histograms by variable."""
        arrays = {name: total.arrays[f"{name} cells"] for name in self.variables}
        return {name: Histogram(cells[:-1], int(cells[-1])) for name, cells in arrays.items()}
