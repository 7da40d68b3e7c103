"""Figures of a regression: errors in the outcome's own unit, R squared, and the calibration line."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np

from wardround_common.analysis import Plan, Rows, SmallCells
from wardround_common.cohort import Cohort
from wardround_common.disclosure import refused
from wardround_common.models import Model, output_of
from wardround_common.program import Program, ask
from wardround_common.query import Contribution, Frame, Layout, Sum, Tally, counts, sums


@dataclass(frozen=True)
class ResidualsQuery:
    """Sums of outcome y, prediction f, their squares and product, and |y - f|, all in ranges of y.

    Both are taken from ``centre``, near the outcome's mean, so that little is lost when R squared is made
    from the sums.
    """

    kind: ClassVar[str] = "evaluate.residuals"
    rows: Rows
    outcome: str
    model: Model
    centre: float

    def layout(self, frame: Frame) -> Layout:
        """``n`` (), ``sums`` (6,): y, f, yy, ff, yf, |y - f|."""
        return Layout((counts("n", contributors=True), sums("sums", 1.0, 6)), frame.rows_bound)

    def answer(self, cohort: Cohort, layout: Layout) -> Contribution:
        """Each row's terms lie within [-1, 1]."""
        tally, variable = Tally(layout), cohort.dictionary.number(self.outcome)
        for block in tally.over(self.rows.of(cohort)):
            y = (block.numbers(self.outcome) - self.centre) / variable.span
            predicted = output_of(self.model, cohort, block)
            f = np.clip((predicted - self.centre) / variable.span, -1.0, 1.0)
            tally.count("n", block.rows)
            tally.add("sums", np.stack([y, f, y * y, f * f, y * f, np.minimum(np.abs(y - f), 1.0)]))
        return tally.done()

    def read(self, total: Sum) -> Sum:
        """The sums as they are."""
        return total


@dataclass(frozen=True)
class Residuals:
    """``calibration``: intercept and slope of outcome on prediction; None where predictions don't differ."""

    part: str
    n: int
    hospitals: int
    rmse: float
    mae: float
    r2: float | None
    calibration: tuple[float, float] | None
    min_hospitals: int

    def published(self, small: SmallCells) -> dict[str, Any]:
        """Return the figures; refused on fewer than ``min_cell`` rows, or rows of too few hospitals."""
        if self.n < small.min_cell or self.hospitals < self.min_hospitals:
            return {"n": None, **refused()}
        line = self.calibration
        return {
            "n": self.n,
            "rmse": self.rmse,
            "mae": self.mae,
            "r2": self.r2,
            "calibration_intercept": None if line is None else line[0],
            "calibration_slope": None if line is None else line[1],
        }


def residuals(plan: Plan, rows: Rows, outcome: str, model: Model, centre: float) -> Program[Residuals | None]:
    """Evaluate a regression on the rows; None where there are none."""
    total = yield from ask(ResidualsQuery(rows, outcome, model, centre))
    n = total.count("n")
    if not n:
        return None
    span = plan.dictionary.number(outcome).span
    y, f, yy, ff, yf, absolute = (total.arrays["sums"] / n).tolist()
    spread, of_f = yy - y * y, ff - f * f
    squared = max(yy - 2.0 * yf + ff, 0.0)
    slope = (yf - y * f) / of_f if of_f > 1e-12 else None
    line = None if slope is None else (centre + span * y - slope * (centre + span * f), slope)
    return Residuals(
        rows.part,
        n,
        int(total.contributors["n"].reshape(())),
        span * math.sqrt(squared),
        span * absolute,
        1.0 - squared / spread if spread > 1e-12 else None,
        line,
        plan.min_hospitals,
    )
