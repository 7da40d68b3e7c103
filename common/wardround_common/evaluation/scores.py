"""Counts of rows by outcome and score, and the area under the ROC curve.

The score is the risk times 10,000 cells. Cells that hold both outcomes are split again, up to 65,536
values, so a few hundred rows give the exact area and a million give it to about 1e-6.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from wardround_common.analysis import Rows
from wardround_common.cohort import Block, Cohort
from wardround_common.models import Classifier, output_of
from wardround_common.program import Program, ask
from wardround_common.query import Contribution, Frame, Layout, Sum, Tally, cells_of, counts, sums
from wardround_common.typing import Floats, Ints

CELLS = 10_000
FINER_VALUES = 1 << 16
MOST_FINER = 1 << 12


def risk_of(model: Classifier, cohort: Cohort, block: Block) -> Floats:
    """Return the rows' risks."""
    return model.risk(output_of(model, cohort, block))


@dataclass(frozen=True)
class ScoresQuery:
    """Rows by outcome and score cell, and squared errors."""

    kind: ClassVar[str] = "evaluate.scores"
    rows: Rows
    outcome: str
    model: Classifier

    def layout(self, frame: Frame) -> Layout:
        """``cells`` (2, 10000), ``brier`` (), ``outcomes`` (2,)."""
        fields = (
            counts("cells", 2, CELLS),
            sums("brier", 1.0),
            counts("outcomes", 2, contributors=True),
        )
        return Layout(fields, frame.rows_bound)

    def answer(self, cohort: Cohort, layout: Layout) -> Contribution:
        """A row counts once; its squared error is at most 1."""
        tally = Tally(layout)
        for block in tally.over(self.rows.of(cohort)):
            y = block.codes(self.outcome).astype(np.int64)
            p = risk_of(self.model, cohort, block)
            tally.cells("cells", y * CELLS + cells_of(p, CELLS))
            tally.cells("outcomes", y)
            off = p - y
            tally.add("brier", off * off)
        return tally.done()

    def read(self, total: Sum) -> Sum:
        """The sums as they are."""
        return total


@dataclass(frozen=True)
class FinerQuery:
    """Rows by outcome in ``parts`` equal parts of each of the score cells ``split``, sorted."""

    kind: ClassVar[str] = "evaluate.finer"
    rows: Rows
    outcome: str
    model: Classifier
    split: Ints
    parts: int

    def layout(self, frame: Frame) -> Layout:
        """``cells`` (2, split cells, parts)."""
        return Layout((counts("cells", 2, len(self.split), self.parts),), frame.rows_bound)

    def answer(self, cohort: Cohort, layout: Layout) -> Contribution:
        """A row in one of the cells counts once; all others don't count."""
        tally, size = Tally(layout), len(self.split)
        for block in tally.over(self.rows.of(cohort)):
            p = risk_of(self.model, cohort, block)
            score, cell = p * CELLS, cells_of(p, CELLS)
            at = np.minimum(np.searchsorted(self.split, cell), size - 1)
            part = np.minimum(((score - cell) * self.parts).astype(np.int64), self.parts - 1)
            y = block.codes(self.outcome).astype(np.int64)
            tally.cells("cells", ((y * size + at) * self.parts + part)[self.split[at] == cell])
        return tally.done()

    def read(self, total: Sum) -> Ints:
        """Return the counts; shape (2, split cells, parts)."""
        cells: Ints = total.arrays["cells"]
        return cells


def area(rows: Rows, outcome: str, model: Classifier, cells: Ints) -> Program[float]:
    """Return the area under the ROC curve from the cells, and a finer count of those with both outcomes."""
    mixed = np.flatnonzero(cells.min(axis=0))
    parts = min(FINER_VALUES // (2 * len(mixed)), MOST_FINER) if len(mixed) else 0
    if parts < 2:
        return area_under_curve(cells[0], cells[1])
    finer = yield from ask(FinerQuery(rows, outcome, model, mixed, parts))
    sizes = np.ones(CELLS, np.int64)
    sizes[mixed] = parts
    starts = np.cumsum(sizes) - sizes
    whole = np.zeros((2, int(sizes.sum())), np.int64)
    whole[:, starts] = cells
    whole[:, starts[mixed, None] + np.arange(parts)] = finer
    return area_under_curve(whole[0], whole[1])


def area_under_curve(negative: Ints, positive: Ints) -> float:
    """Return the Mann-Whitney area from counts by score cell in rising order, ties half; both not zero."""
    held = np.flatnonzero(positive)
    below = (np.cumsum(negative) - negative)[held].tolist()
    wins: int = sum(
        p * (2 * b + t)
        for p, b, t in zip(positive[held].tolist(), below, negative[held].tolist(), strict=True)
    )
    return wins / (2 * int(negative.sum()) * int(positive.sum()))
