"""The calibration line, logit P(y) = a + b x log-odds of the model (Cox 1958), by Newton's method."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from wardround_common.analysis import Rows
from wardround_common.cohort import Cohort
from wardround_common.elementary import binary_deviance, logistic
from wardround_common.models import Classifier, output_of
from wardround_common.newton import Diverged, Slope, newton
from wardround_common.program import Program, ask
from wardround_common.query import Contribution, Frame, Layout, Sum, Tally, counts, sums
from wardround_common.sealing.fixed_point import unpack
from wardround_common.typing import Floats


@dataclass(frozen=True)
class CalibrationStep:
    """Newton sums of the calibration line at ``line`` = (a, b)."""

    kind: ClassVar[str] = "evaluate.calibration"
    rows: Rows
    outcome: str
    model: Classifier
    line: Floats

    def layout(self, frame: Frame) -> Layout:
        """``n`` (), ``deviance`` (), ``score`` (2,), ``information`` (3,), by the log-odds' bound."""
        most = self.model.log_odds_bound
        reach = abs(float(self.line[0])) + abs(float(self.line[1])) * most
        fields = (
            counts("n"),
            sums("deviance", 2.0 * (reach + 1.0)),
            sums("score", np.array([1.0, most]), 2),
            sums("information", np.array([0.25, 0.25 * most, 0.25 * most * most]), 3),
        )
        return Layout(fields, frame.rows_bound)

    def answer(self, cohort: Cohort, layout: Layout) -> Contribution:
        """As for any logistic model, over the columns 1 and log-odds."""
        tally = Tally(layout)
        for block in tally.over(self.rows.of(cohort)):
            y = block.outcome(self.outcome)
            x = self.model.log_odds(output_of(self.model, cohort, block))
            eta = self.line[0] + self.line[1] * x
            p = logistic(eta)
            w = np.minimum(p * (1.0 - p), 0.25)
            tally.count("n", block.rows)
            tally.add("deviance", binary_deviance(y, eta))
            tally.add("score", np.stack([y - p, (y - p) * x]))
            tally.add("information", np.stack([w, w * x, w * x * x]))
        return tally.done()

    def read(self, total: Sum) -> Slope:
        """Return the sums as Newton's method takes them."""
        information = unpack(total.arrays["information"], 2)
        return Slope(total.count("n"), total.number("deviance"), total.arrays["score"], information)


def calibration(rows: Rows, outcome: str, model: Classifier) -> Program[tuple[float, float] | None]:
    """Return intercept and slope of the calibration line; None where the scores separate the rows."""
    start = np.array([0.0, 1.0])
    slope = yield from ask(CalibrationStep(rows, outcome, model, start))
    try:
        found = yield from newton(
            start,
            slope,
            lambda line: ask(CalibrationStep(rows, outcome, model, line)),
            np.zeros(2),
            np.ones(2),
        )
    except Diverged:
        return None
    return float(found.beta[0]), float(found.beta[1])
