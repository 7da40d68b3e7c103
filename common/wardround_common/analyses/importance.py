"""Permutation importance over the federation: how much worse a model does when a variable tells nothing.

A single hospital could only shuffle its own rows. Here each row's value is redrawn, by row key, from the
variable's distribution over all hospitals' rows, missing values included; that breaks its bond with the
outcome and all other variables, as permuting does (Breiman 2001, section 10; Fisher, Rudin and Dominici
2019, section 3). The loss is that of the area under the ROC curve, or of R squared.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Annotated, Any, ClassVar, Literal

import numpy as np
from pydantic import Field as Key

from wardround_common.analysis import Analysis, Fitted, OnModelSpec, Plan, Rows, SmallCells
from wardround_common.cohort import Block, Cohort, Redrawn
from wardround_common.dictionary import NumberVariable
from wardround_common.disclosure import FEW, refused
from wardround_common.errors import StudyError
from wardround_common.evaluation.scores import area_under_curve
from wardround_common.histogram import CELLS, HistogramQuery
from wardround_common.models import LinearModel, Model
from wardround_common.program import Program, ask, together
from wardround_common.query import Contribution, Frame, Layout, Sum, Tally, cells_of, counts, sums
from wardround_common.rowkey import draws
from wardround_common.typing import Array, Floats, Ints, Words

LEAST_SPREAD = 1e-12  # of a number, in squared ranges: below it, it does not vary
SCORES = 4_000  # cells of the risk: of the area under the curve, 1e-4 at most


class ImportanceSpec(OnModelSpec):
    """``repeats``: how often each variable is redrawn; their spread is reported."""

    kind: Literal["importance"] = "importance"
    repeats: Annotated[int, Key(ge=2, le=100)] = 5
    seed: Annotated[int, Key(ge=0, lt=2**53)] = 0

    def sentence(self) -> str:
        """As for any analysis."""
        return (
            f"How much worse the model of `{self.model}` predicts when the values of one variable are drawn "
            "anew, for each variable in turn."
        )


@dataclass(frozen=True)
class Scored:
    """A figure of each repeat, shape (repeats,), and the hospitals with rows of the rarer, other outcome."""

    values: Floats
    hospitals: tuple[int, int]


@dataclass(frozen=True)
class RedrawnQuery:
    """How the model does when ``variable`` is redrawn ``repeats`` times; as it is where that is empty.

    ``counts`` is the variable's histogram over all hospitals, missing last.
    """

    kind: ClassVar[str] = "importance.redrawn"
    rows: Rows
    outcome: str
    model: Model
    variable: str
    counts: Ints
    repeats: int
    seed: int

    def layout(self, frame: Frame) -> Layout:
        """``cells`` (repeats, 2, 4000), ``outcomes`` (2,) of two levels.

        Of a number: ``n`` (), ``squares`` (repeats,), ``y`` (2,).
        """
        if self.model.classifies:
            cells = counts("cells", self.repeats, 2, SCORES)
            return Layout((cells, counts("outcomes", 2, contributors=True)), frame.rows_bound)
        n = counts("n", contributors=True)
        return Layout((n, sums("squares", 1.0, self.repeats), sums("y", 1.0, 2)), frame.rows_bound)

    def answer(self, cohort: Cohort, layout: Layout) -> Contribution:
        """Each row counts once for each repeat; errors and outcome are in ranges of the outcome."""
        tally = Tally(layout)
        for block in tally.over(self.rows.of(cohort)):
            outputs = [self.model.output(self._redrawn(block, cohort, i)) for i in range(self.repeats)]
            if not isinstance(self.model, LinearModel) and self.model.classifies:
                y = block.codes(self.outcome).astype(np.int64)
                tally.cells("outcomes", y)
                for i, output in enumerate(outputs):
                    cells = cells_of(self.model.risk(output), SCORES)
                    tally.cells("cells", (2 * i + y) * SCORES + cells)
                continue
            variable = cohort.dictionary.number(self.outcome)
            mapped = block.mapped(self.outcome)
            off = [mapped - np.clip((out - variable.range[0]) / variable.span, 0.0, 1.0) for out in outputs]
            tally.count("n", block.rows)
            tally.add("squares", np.stack([one * one for one in off]))
            tally.add("y", np.stack([mapped, mapped * mapped]))
        return tally.done()

    def _redrawn(self, block: Block, cohort: Cohort, repeat: int) -> Block:
        if not self.variable:
            return block
        drawn = draws(block.keys, f"redraw {self.variable}", self.seed + repeat)
        variable = cohort.dictionary[self.variable]
        if isinstance(variable, NumberVariable):
            return Redrawn(block, self.variable, numbers_of(drawn, self.counts, *variable.range))
        return Redrawn(block, self.variable, codes_of(drawn, self.counts))

    def read(self, total: Sum) -> Scored:
        """Return the area under the ROC curve, or R squared, of each repeat; NaN where y does not vary."""
        if self.model.classifies:
            areas = [area_under_curve(cells[0], cells[1]) for cells in total.arrays["cells"]]
            few, many = sorted(map(int, total.contributors["outcomes"]))
            return Scored(np.array(areas), (few, many))
        n, hospitals = total.count("n"), int(total.contributors["n"].reshape(()))
        y, yy = (total.arrays["y"] / n).tolist()
        spread = yy - y * y if yy - y * y > LEAST_SPREAD else math.nan
        return Scored(1.0 - total.arrays["squares"] / n / spread, (hospitals, hospitals))


def _ranks(drawn: Words, counts: Ints) -> tuple[Ints, Ints, Ints]:
    """Return each draw's cell of the histogram, its rank within the cell, and the cell's size."""
    ends = np.cumsum(counts)
    rank = ((drawn >> np.uint64(32)) * np.uint64(ends[-1]) >> np.uint64(32)).astype(np.int64)
    cell = np.searchsorted(ends, rank, side="right")
    return cell, rank - (ends[cell] - counts[cell]), counts[cell]


def numbers_of(drawn: Words, counts: Ints, low: float, high: float) -> Floats:
    """Return a value for each draw, spread evenly over its cell of the range; NaN for the last, missing."""
    cell, rank, size = _ranks(drawn, counts)
    values = low + (high - low) * ((cell + (rank + 0.5) / size) / CELLS)
    return np.where(cell == CELLS, np.nan, np.clip(values, low, high))


def codes_of(drawn: Words, counts: Ints) -> Array:
    """Return a level's position for each draw, -1 for the last, missing."""
    cell = _ranks(drawn, counts)[0]
    return np.where(cell == len(counts) - 1, -1, cell).astype(np.int16)


@dataclass(frozen=True)
class Importance:
    """The figure as it is, and by variable its values after each redrawing."""

    spec: ImportanceSpec
    metric: str
    n: int
    least: int  # rows of the rarer outcome
    hospitals: tuple[int, int]  # with rows of the outcome that fewer, and more of them have
    min_hospitals: int
    baseline: float
    redrawn: dict[str, Floats]

    def published(self, small: SmallCells) -> dict[str, Any]:
        """Return mean and spread of each variable's loss.

        Refused on few rows of either outcome, and on rows of too few hospitals.
        """
        common = {"model": self.spec.model, "part": self.spec.part, "repeats": self.spec.repeats}
        few, many = self.hospitals
        why = "the outcome does not vary on these rows" if math.isnan(self.baseline) else None
        if self.least < small.min_cell or few < 2 or many < self.min_hospitals:
            why = FEW
        if why is not None:
            return {**common, "n": None, **refused(why)}
        losses = {name: (self.baseline - found).tolist() for name, found in self.redrawn.items()}
        return {
            **common,
            "n": self.n,
            "metric": self.metric,
            "baseline": self.baseline,
            "variables": {name: _spread(loss) for name, loss in losses.items()},
        }


def _spread(loss: list[float]) -> dict[str, float]:
    mean = math.fsum(loss) / len(loss)
    return {"drop": mean, "sd": math.sqrt(math.fsum((x - mean) ** 2 for x in loss) / (len(loss) - 1))}


def importance(plan: Plan, spec: ImportanceSpec, rows: Rows, fitted: Fitted) -> Program[Importance]:
    """Ask the variables' distributions on these rows, then redraw each. StudyError where there are none."""
    names = fitted.model.variables
    asked = (*names, fitted.outcome)
    histograms = yield from ask(HistogramQuery(rows, asked))
    outcome = histograms[fitted.outcome]
    if not outcome.observed:
        raise StudyError(f"analysis `{plan.label}`: there are no {spec.part} rows; the study has no `split`")
    classifies = fitted.model.classifies
    least = int(outcome.counts.min()) if classifies else outcome.observed
    if not least:
        return Importance(spec, "auc", outcome.observed, 0, (0, 0), plan.min_hospitals, 0.0, {})
    nothing = np.zeros(1, np.int64)

    def redrawn(variable: str, counted: Ints, repeats: int) -> RedrawnQuery:
        return RedrawnQuery(rows, fitted.outcome, fitted.model, variable, counted, repeats, spec.seed)

    queries = [redrawn("", nothing, 1)]
    for name in names:
        counted = np.append(histograms[name].counts, histograms[name].missing)
        queries.append(redrawn(name, counted, spec.repeats))
    baseline, *found = yield from together([ask(query) for query in queries])
    return Importance(
        spec,
        "auc" if classifies else "r2",
        outcome.observed,
        least,
        baseline.hospitals,
        plan.min_hospitals,
        float(baseline.values[0]),
        {name: one.values for name, one in zip(names, found, strict=True)},
    )


ANALYSIS = Analysis("importance", ImportanceSpec, (HistogramQuery, RedrawnQuery), None, on_model=importance)
