"""One partition of the risk behind everything that is published by it.

Confusion table, calibration table and curves are counts of the same rows by their risk, so what lies between
their cuts would be a count as well. Hence they share their cuts. The threshold is cut first, where all cells
of the confusion table may be shown; each side is divided into bands of ``min_cell`` rows of both outcomes,
which become the calibration table; and each band into steps of ``min_cell`` rows of one outcome, for either
outcome apart, from which the curves are drawn. Where the confusion table may not be shown, nothing is cut
where it would be.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from typing import ClassVar, TypeVar

import numpy as np

from wardround_common.analysis import Rows
from wardround_common.cohort import Cohort
from wardround_common.disclosure import is_near
from wardround_common.evaluation.scores import CELLS, risk_of
from wardround_common.models import Classifier
from wardround_common.program import Program, ask, together
from wardround_common.query import Contribution, Frame, Layout, Sum, Tally, cells_of, counts, sums
from wardround_common.typing import Ints

GROUPS = 10  # bands that are wanted
MOST_STEPS = 200  # of one outcome: more than a picture shows
Beside = Collection[tuple[int, int]]
_Part = TypeVar("_Part", "Step", "Band")


@dataclass(frozen=True)
class BandsQuery:
    """Rows by outcome, and predicted risk, in bands of score cells; ``ends`` are the bands' last cells."""

    kind: ClassVar[str] = "evaluate.bands"
    rows: Rows
    outcome: str
    model: Classifier
    ends: Ints

    def layout(self, frame: Frame) -> Layout:
        """``counts`` (2, bands) by outcome, ``predicted`` (bands,)."""
        bands = len(self.ends)
        fields = (counts("counts", 2, bands, contributors=True), sums("predicted", 1.0, bands))
        return Layout(fields, frame.rows_bound)

    def answer(self, cohort: Cohort, layout: Layout) -> Contribution:
        """A row adds to one band."""
        tally, bands = Tally(layout), len(self.ends)
        for block in tally.over(self.rows.of(cohort)):
            p = risk_of(self.model, cohort, block)
            band = np.searchsorted(self.ends, cells_of(p, CELLS))
            y = block.codes(self.outcome).astype(np.int64)
            tally.cells("counts", y * bands + band)
            tally.add("predicted", np.where(band == np.arange(bands)[:, None], p, 0.0))
        return tally.done()

    def read(self, total: Sum) -> Sum:
        """The sums as they are."""
        return total


@dataclass(frozen=True)
class StepsQuery:
    """Rows of each outcome in steps of its own, to learn who contributes to them."""

    kind: ClassVar[str] = "evaluate.steps"
    rows: Rows
    outcome: str
    model: Classifier
    without_ends: Ints
    with_ends: Ints

    def layout(self, frame: Frame) -> Layout:
        """``without`` (steps of rows without the outcome,), ``with`` (steps of those with it,)."""
        fields = (
            counts("without", len(self.without_ends), contributors=True),
            counts("with", len(self.with_ends), contributors=True),
        )
        return Layout(fields, frame.rows_bound)

    def answer(self, cohort: Cohort, layout: Layout) -> Contribution:
        """A row adds to one step of its outcome."""
        tally = Tally(layout)
        for block in tally.over(self.rows.of(cohort)):
            cell = cells_of(risk_of(self.model, cohort, block), CELLS)
            has = block.codes(self.outcome) == 1
            tally.cells("without", np.searchsorted(self.without_ends, cell[~has]))
            tally.cells("with", np.searchsorted(self.with_ends, cell[has]))
        return tally.done()

    def read(self, total: Sum) -> Sum:
        """The sums as they are."""
        return total


@dataclass(frozen=True)
class Step:
    """Rows of one outcome from the risk ``low`` up to the next step's; ``hospitals`` have one at least."""

    low: float
    count: int
    hospitals: int

    def joined(self, above: Step) -> Step:
        """Return both as one; of their hospitals we know only that they are as many at least."""
        return Step(self.low, self.count + above.count, max(self.hospitals, above.hospitals))


@dataclass(frozen=True)
class Band:
    """Rows from one risk up to another: by outcome, with the sum of their risks and their steps."""

    counts: tuple[int, int]
    hospitals: tuple[int, int]
    predicted: float
    steps: tuple[tuple[Step, ...], tuple[Step, ...]]

    def joined(self, above: Band) -> Band:
        """Return both bands as one."""
        return Band(
            (self.counts[0] + above.counts[0], self.counts[1] + above.counts[1]),
            (max(self.hospitals[0], above.hospitals[0]), max(self.hospitals[1], above.hospitals[1])),
            self.predicted + above.predicted,
            (self.steps[0] + above.steps[0], self.steps[1] + above.steps[1]),
        )

    def showable(self, min_cell: int) -> bool:
        """Tell whether each outcome has no row here, or ``min_cell`` rows of two hospitals at least."""
        both = zip(self.counts, self.hospitals, strict=True)
        return all(_showable(count, hospitals, min_cell) for count, hospitals in both)

    def published(self) -> dict[str, float]:
        """Return n, mean predicted risk and observed share: a row of the calibration table."""
        n = sum(self.counts)
        return {"n": n, "predicted": self.predicted / n, "observed": self.counts[1] / n}


@dataclass(frozen=True)
class Bands:
    """All bands, from the lowest risk up; the first ``below`` are under the threshold, 0 if it is not cut."""

    below: int
    bands: tuple[Band, ...]

    def shown(self, min_cell: int) -> Bands:
        """Return the bands as they may be published, joined where need be; none where none may."""
        low, high = (_merged(part, min_cell) for part in (self.bands[: self.below], self.bands[self.below :]))
        if self.below and low and high:
            return Bands(len(low), (*low, *high))
        return Bands(0, _merged(self.bands, min_cell))

    def apart(self, beside: Beside, min_cell: int) -> Bands:
        """Return the bands, of which no border tells of few rows between it and a cut told elsewhere.

        ``beside``: how many rows without and with the outcome lie below each of those cuts.
        """
        return Bands(0, tuple(_apart(self.bands, lambda band: band.counts, beside, min_cell)))


def cut(cells: Ints, at: int, min_cell: int) -> tuple[int, Ints, tuple[Ints, Ints]]:
    """Return how many bands lie below cell ``at``, the bands' last cells, and those of each outcome's steps.

    ``cells`` (2, CELLS) are the rows by outcome. No band where the rows are too few for one.
    """
    below = np.cumsum(cells, axis=1)
    calls = np.concatenate([cells[:, :at].sum(axis=1), cells[:, at:].sum(axis=1)])
    if not all(count >= min_cell for count in cells.sum(axis=1).tolist()):
        return 0, np.zeros(0, np.int64), (np.zeros(0, np.int64), np.zeros(0, np.int64))
    forced = 0 < at < CELLS and bool(np.all((calls == 0) | (calls >= min_cell)))
    # Elsewhere a cut is one at the threshold too, if no row of an outcome lies between the two.
    barred = below == (below[:, [at - 1]] if at else 0) if not forced else np.zeros(cells.shape, bool)
    sides = [(0, at), (at, CELLS)] if forced else [(0, CELLS)]
    ends: list[int] = []
    lower = 0
    wanted = max(int(cells.sum()) // GROUPS, 1)
    for first, last in sides:
        both = cells[:, first:last].sum(axis=1).min() > 0
        found = _ends(cells[:, first:last], wanted, min_cell if both else CELLS**2, barred[:, first:last])
        ends += [first + end for end in found]
        lower = lower or (len(ends) if forced else 0)
    steps = []
    for outcome in (0, 1):
        own: list[int] = []
        for first, last in zip([0, *(end + 1 for end in ends)], ends, strict=False):
            where = slice(first, last + 1)
            wanted = max(min_cell, int(cells[outcome].sum()) // MOST_STEPS)
            found = _ends(cells[[outcome], where], wanted, wanted, barred[[outcome], where])
            own += [first + end for end in found]
        steps.append(np.array(own, np.int64))
    return lower, np.array(ends, np.int64), (steps[0], steps[1])


def _ends(cells: Ints, wanted: int, least: int, barred: Ints) -> list[int]:
    """Return the last cells of parts with ``wanted`` rows, ``least`` of each outcome; one at least."""
    where = np.flatnonzero(cells.sum(axis=0))
    below = np.cumsum(cells[:, where], axis=1)
    every, open_ = below.sum(axis=0), np.flatnonzero(~barred[:, where].any(axis=0))
    ends: list[int] = []
    before = np.zeros(len(cells), np.int64)
    while True:
        enough = [np.searchsorted(row, start + least) for row, start in zip(below, before, strict=True)]
        first = max(int(np.searchsorted(every, before.sum() + wanted)), *map(int, enough))
        later = int(np.searchsorted(open_, first))
        if later == len(open_):
            break
        ends.append(int(where[open_[later]]))
        before = below[:, open_[later]]
    return [*ends[:-1], cells.shape[1] - 1]  # what is left over joins the last


def bands(rows: Rows, outcome: str, model: Classifier, cells: Ints, at: int, min_cell: int) -> Program[Bands]:
    """Ask who contributes to the bands, and to their steps, that the counts by score cell allow."""
    below, ends, (without, with_outcome) = cut(cells, at, min_cell)
    if not len(ends):
        return Bands(0, ())
    counted, stepped = yield from together(
        [
            ask(BandsQuery(rows, outcome, model, ends)),
            ask(StepsQuery(rows, outcome, model, without, with_outcome)),
        ]
    )
    steps = [_steps(stepped, name, own) for name, own in (("without", without), ("with", with_outcome))]
    low, found = 0.0, []
    for i, end in enumerate(ends.tolist()):
        high = (end + 1) / CELLS
        inside = [tuple(step for step in own if low <= step.low < high) for own in steps]
        (a, b), (c, d) = (
            counted.arrays["counts"][:, i].tolist(),
            counted.contributors["counts"][:, i].tolist(),
        )
        found.append(Band((a, b), (c, d), float(counted.arrays["predicted"][i]), (inside[0], inside[1])))
        low = high
    return Bands(below, tuple(found))


def _steps(total: Sum, name: str, ends: Ints) -> list[Step]:
    low = np.concatenate([[0], ends[:-1] + 1]) / CELLS
    return list(map(Step, low.tolist(), total.arrays[name].tolist(), total.contributors[name].tolist()))


def _showable(count: int, hospitals: int, min_cell: int) -> bool:
    return not count or (count >= min_cell and hospitals >= 2)


def _joined(found: Sequence[_Part], fit: Callable[[_Part], bool]) -> list[_Part]:
    """Return the parts, each that is not ``fit`` to be shown joined with its neighbours."""
    shown: list[_Part] = []
    for part in found:
        shown.append(shown.pop().joined(part) if shown and not fit(shown[-1]) else part)
    while len(shown) > 1 and not fit(shown[-1]):
        last = shown.pop()
        shown.append(shown.pop().joined(last))
    return shown


def _merged(found: Sequence[Band], min_cell: int) -> tuple[Band, ...]:
    """Return the bands as they may be shown; none if none may."""
    shown = _joined(found, lambda band: band.showable(min_cell))
    return tuple(shown) if shown and shown[-1].showable(min_cell) else ()


def curves(found: Bands, min_cell: int, beside: Beside = ()) -> dict[str, list[float]]:
    """Return ROC, precision and net benefit at the thresholds between the steps, from the highest down.

    Each outcome is counted exactly at the thresholds of its own steps, and read on a straight line between
    them elsewhere. Net benefit of treating those above a risk t: TP / n - FP / n x t / (1 - t) (Vickers and
    Elkin 2006, equation 1). The points (0, 0) and (1, 1) of the ROC curve are left out, and
    all points where there are rows of one outcome only. ``beside``: see ``Bands.apart``.
    """
    steps = _drawn(found, min_cell, beside)
    thresholds = sorted({step.low for own in steps for step in own if step.low > 0}, reverse=True)
    (fp, negatives), (tp, positives) = (_above(own, thresholds) for own in steps)
    out: dict[str, list[float]] = {k: [] for k in ("threshold", "tpr", "fpr", "precision", "net_benefit")}
    if not positives or not negatives:
        return out
    for t, true, false in zip(thresholds, tp, fp, strict=True):
        out["threshold"].append(t)
        out["tpr"].append(true / positives)
        out["fpr"].append(false / negatives)
        out["precision"].append(true / (true + false))
        out["net_benefit"].append((true - false * t / (1.0 - t)) / (positives + negatives))
    return out


def _drawn(found: Bands, min_cell: int, beside: Beside) -> list[list[Step]]:
    """Return the steps of either outcome that may be shown."""

    def fit(step: Step) -> bool:  # all steps of a band together are, as the band is
        return _showable(step.count, step.hospitals, min_cell)

    return [
        _apart(
            [step for band in found.bands for step in _joined(band.steps[outcome], fit)],
            lambda step: (step.count,),
            [(other[outcome],) for other in beside],
            min_cell,
        )
        for outcome in (0, 1)
    ]


def _apart(
    found: Sequence[_Part],
    counts_of: Callable[[_Part], Sequence[int]],
    beside: Collection[Sequence[int]],
    min_cell: int,
) -> list[_Part]:
    """Return the parts, joined where few rows lie between their border and a cut that is told elsewhere."""
    shown: list[_Part] = []
    below: list[int] = []
    for part in found:
        near = bool(shown) and is_near(below, beside, min_cell)
        shown.append(shown.pop().joined(part) if near else part)
        below = [x + y for x, y in zip(below or [0, 0], counts_of(part), strict=False)]
    return shown


def _above(steps: Sequence[Step], thresholds: Sequence[float]) -> tuple[list[float], int]:
    """Return how many rows of an outcome have at least each threshold's risk, and how many there are."""
    if not steps:
        return [], 0
    sizes = np.array([step.count for step in steps], np.float64)
    above = np.append(np.cumsum(sizes[::-1])[::-1], 0.0)
    low = np.array([*(step.low for step in steps), 1.0])
    low[0] = 0.0
    return np.interp(thresholds, low, above).tolist(), int(above[0])
