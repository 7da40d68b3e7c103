"""Evaluation of a fitted model on training or held-out rows, from sums alone.

One round counts rows in 10,000 cells of the score and sums what is exact: the confusion table at the
threshold and the Brier score. The area under the ROC curve (Hanley and McNeil 1982) follows from the
cells, ties within one counting half; cells that hold both outcomes are split again in the next round, up
to 65,536 values, so a few hundred rows give the exact area and a million give it to about 1e-6. Further
rounds fit the calibration line, logit P(y) = a + b x
linear predictor (Cox 1958), by Newton's method, and fill the calibration table, whose groups are merged
until each holds ``min_cell`` rows with and without the outcome.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, Any, ClassVar, Literal

import numpy as np
from pydantic import Field as Key

from wardround_common.analysis import Analysis, AnalysisSpec, Plan, Rows, SmallCells
from wardround_common.cohort import Cohort
from wardround_common.elementary import binary_deviance, logistic
from wardround_common.errors import StudyError
from wardround_common.models import LogisticModel
from wardround_common.newton import Diverged, Slope, newton
from wardround_common.program import Program, ask, together
from wardround_common.query import Contribution, Frame, Layout, Sum, Tally, counts, sums
from wardround_common.sealing.fixed_point import unpack
from wardround_common.typing import Floats, Ints

CELLS = 10_000
FINER_VALUES = 1 << 16
MOST_FINER = 1 << 12
GROUPS = 10


class EvaluateSpec(AnalysisSpec):
    """Evaluate ``model`` again, at another ``threshold`` or on another part of the rows."""

    kind: Literal["evaluate"] = "evaluate"
    model: str
    threshold: Annotated[float, Key(gt=0, lt=1)] = 0.5
    part: Literal["train", "test"] = "test"


def _cell(score: Floats) -> Ints:
    """Return each row's score cell; ``score`` is the probability times CELLS, whose end is in the last."""
    cells: Ints = np.minimum(score.astype(np.int64), CELLS - 1)
    return cells


@dataclass(frozen=True)
class ScoresQuery:
    """Rows by outcome and score cell, the confusion table at ``threshold``, and squared errors."""

    kind: ClassVar[str] = "evaluate.scores"
    rows: Rows
    outcome: str
    model: LogisticModel
    threshold: float

    def layout(self, frame: Frame) -> Layout:
        """``cells`` (2, 10000), ``confusion`` (2, 2) by outcome and call, ``brier`` (), ``outcomes`` (2,)."""
        fields = (
            counts("cells", 2, CELLS),
            counts("confusion", 2, 2),
            sums("brier", 1.0),
            counts("outcomes", 2, contributors=True),
        )
        return Layout(fields, frame.rows_bound)

    def answer(self, cohort: Cohort, layout: Layout) -> Contribution:
        """A row counts once in each table; its squared error is at most 1."""
        tally = Tally(layout)
        for block in tally.over(self.rows.of(cohort)):
            y = block.codes(self.outcome).astype(np.int64)
            p = self.model.probability(block)
            tally.cells("cells", y * CELLS + _cell(p * CELLS))
            tally.cells("confusion", 2 * y + (p >= self.threshold))
            tally.cells("outcomes", y)
            off = p - y
            tally.add("brier", off * off)
        return tally.done()

    def read(self, total: Sum) -> Sum:
        """The sums as they are."""
        return total


@dataclass(frozen=True)
class CalibrationStep:
    """Newton sums of the calibration line at ``line`` = (a, b)."""

    kind: ClassVar[str] = "evaluate.calibration"
    rows: Rows
    outcome: str
    model: LogisticModel
    line: Floats

    def layout(self, frame: Frame) -> Layout:
        """``n`` (), ``deviance`` (), ``score`` (2,), ``information`` (3,), by the predictor's bound."""
        most = self.model.predictor_bound
        reach = abs(float(self.line[0])) + abs(float(self.line[1])) * most
        fields = (
            counts("n"),
            sums("deviance", 2.0 * (reach + 1.0)),
            sums("score", np.array([1.0, most]), 2),
            sums("information", np.array([0.25, 0.25 * most, 0.25 * most * most]), 3),
        )
        return Layout(fields, frame.rows_bound)

    def answer(self, cohort: Cohort, layout: Layout) -> Contribution:
        """As for any logistic model, over the columns 1 and linear predictor."""
        tally = Tally(layout)
        for block in tally.over(self.rows.of(cohort)):
            y = block.outcome(self.outcome)
            x = np.clip(
                self.model.linear_predictor(block), -self.model.predictor_bound, self.model.predictor_bound
            )
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


@dataclass(frozen=True)
class GroupsQuery:
    """Rows, predicted risk and outcome by groups of score cells; ``ends`` are the groups' last cells."""

    kind: ClassVar[str] = "evaluate.groups"
    rows: Rows
    outcome: str
    model: LogisticModel
    ends: Ints

    def layout(self, frame: Frame) -> Layout:
        """``counts`` (2, groups) by outcome, ``predicted`` (groups,)."""
        groups = len(self.ends)
        fields = (counts("counts", 2, groups, contributors=True), sums("predicted", 1.0, groups))
        return Layout(fields, frame.rows_bound)

    def answer(self, cohort: Cohort, layout: Layout) -> Contribution:
        """A row adds to one group."""
        tally, groups = Tally(layout), len(self.ends)
        for block in tally.over(self.rows.of(cohort)):
            p = self.model.probability(block)
            group = np.searchsorted(self.ends, _cell(p * CELLS))
            y = block.codes(self.outcome).astype(np.int64)
            tally.cells("counts", y * groups + group)
            tally.add("predicted", np.where(group == np.arange(groups)[:, None], p, 0.0))
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
    model: LogisticModel
    split: Ints
    parts: int

    def layout(self, frame: Frame) -> Layout:
        """``cells`` (2, split cells, parts)."""
        return Layout((counts("cells", 2, len(self.split), self.parts),), frame.rows_bound)

    def answer(self, cohort: Cohort, layout: Layout) -> Contribution:
        """A row in one of the cells counts once; all others don't count."""
        tally, size = Tally(layout), len(self.split)
        for block in tally.over(self.rows.of(cohort)):
            score = self.model.probability(block) * CELLS
            cell = _cell(score)
            at = np.minimum(np.searchsorted(self.split, cell), size - 1)
            part = np.minimum(((score - cell) * self.parts).astype(np.int64), self.parts - 1)
            y = block.codes(self.outcome).astype(np.int64)
            tally.cells("cells", ((y * size + at) * self.parts + part)[self.split[at] == cell])
        return tally.done()

    def read(self, total: Sum) -> Ints:
        """Return the counts; shape (2, split cells, parts)."""
        cells: Ints = total.arrays["cells"]
        return cells


@dataclass(frozen=True)
class Group:
    """A row of the calibration table."""

    without: int
    with_outcome: int
    hospitals: int
    predicted: float

    def published(self) -> dict[str, float]:
        """Return n, mean predicted risk and observed share."""
        n = self.without + self.with_outcome
        return {"n": n, "predicted": self.predicted / n, "observed": self.with_outcome / n}


@dataclass(frozen=True)
class Evaluation:
    """Figures of one model on one part. ``calibration``: intercept and slope, None where there is none."""

    part: str
    threshold: float
    confusion: tuple[tuple[int, int], tuple[int, int]]  # by outcome, then by call
    hospitals: tuple[int, int]  # that have rows without, with the outcome
    auc: float | None
    brier: float
    calibration: tuple[float, float] | None
    table: tuple[Group, ...]
    min_hospitals: int

    @property
    def n(self) -> int:
        """Rows."""
        return sum(map(sum, self.confusion))

    def published(self, small: SmallCells) -> dict[str, Any]:
        """Return the metrics; refused on fewer than ``min_cell`` rows, or rows of too few hospitals.

        Sensitivity and specificity are rows of a table of counts and need all four to be shown.
        """
        (tn, fp), (fn, tp) = self.confusion
        negatives, positives = tn + fp, fn + tp
        if self.n < small.min_cell or max(self.hospitals) < self.min_hospitals:
            return {"n": None, "state": "refused", "why": "too few rows, or rows of too few hospitals"}
        both = min(positives, negatives) >= small.min_cell and min(self.hospitals) >= 2
        cells = [small.count(cell) for cell in (tn, fp, fn, tp)]
        table = both and None not in cells
        line = self.calibration if both else None
        groups = [
            g for g in self.table if min(g.without, g.with_outcome) >= small.min_cell and g.hospitals >= 2
        ]
        return {
            "n": self.n,
            "auc": self.auc if both else None,
            "accuracy": (tp + tn) / self.n,
            "brier": self.brier,
            "threshold": self.threshold,
            "sensitivity": tp / positives if table else None,
            "specificity": tn / negatives if table else None,
            "calibration_intercept": None if line is None else line[0],
            "calibration_slope": None if line is None else line[1],
            "calibration": [group.published() for group in groups],
        }


def evaluate(
    plan: Plan, rows: Rows, outcome: str, model: LogisticModel, threshold: float
) -> Program[Evaluation | None]:
    """Evaluate a model on the rows; None where there are none."""
    scores = yield from ask(ScoresQuery(rows, outcome, model, threshold))
    (tn, fp), (fn, tp) = scores.arrays["confusion"].tolist()
    n = tn + fp + fn + tp
    if not n:
        return None
    cells = scores.arrays["cells"]
    auc, line, table = None, None, ()
    if min(fn + tp, tn + fp) > 0:
        auc, line, table = yield from together(
            [
                _area(rows, outcome, model, cells),
                _calibration(rows, outcome, model),
                _table(rows, outcome, model, group_ends(cells, plan.min_cell)),
            ]
        )
    few, many = map(int, scores.contributors["outcomes"])
    return Evaluation(
        rows.part,
        threshold,
        ((tn, fp), (fn, tp)),
        (few, many),
        auc,
        scores.number("brier") / n,
        line,
        table,
        plan.min_hospitals,
    )


def _area(rows: Rows, outcome: str, model: LogisticModel, cells: Ints) -> Program[float]:
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


def _table(rows: Rows, outcome: str, model: LogisticModel, ends: Ints) -> Program[tuple[Group, ...]]:
    if not len(ends):
        return ()
    total = yield from ask(GroupsQuery(rows, outcome, model, ends))
    counted, hospitals = total.arrays["counts"].tolist(), total.contributors["counts"].min(axis=0)
    predicted = total.arrays["predicted"].tolist()
    return tuple(map(Group, counted[0], counted[1], hospitals.tolist(), predicted))


def _calibration(rows: Rows, outcome: str, model: LogisticModel) -> Program[tuple[float, float] | None]:
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
    except Diverged:  # the scores separate these rows: no finite slope
        return None
    return float(found.beta[0]), float(found.beta[1])


def area_under_curve(negative: Ints, positive: Ints) -> float:
    """Return the Mann-Whitney area from counts by score cell in rising order, ties half; both not zero."""
    held = np.flatnonzero(positive)
    below = (np.cumsum(negative) - negative)[held].tolist()
    wins: int = sum(
        p * (2 * b + t)
        for p, b, t in zip(positive[held].tolist(), below, negative[held].tolist(), strict=True)
    )
    return wins / (2 * int(negative.sum()) * int(positive.sum()))


def group_ends(cells: Ints, min_cell: int, groups: int = GROUPS) -> Ints:
    """Return the last cells of up to ``groups`` groups, near equal in rows, each with both outcomes.

    Every group has at least ``min_cell`` rows with and without the outcome; a remainder joins the last.
    """
    rows = cells.sum(axis=0)
    wanted, held, ends = rows.sum() / groups, np.zeros(2, np.int64), []
    for cell in np.flatnonzero(rows).tolist():
        held = held + cells[:, cell]
        if held.sum() >= wanted and held.min() >= min_cell:
            ends.append(cell)
            held = np.zeros(2, np.int64)
    if not ends and held.min() < min_cell:
        return np.zeros(0, np.int64)
    return np.array([*ends[:-1], CELLS - 1] if ends else [CELLS - 1], np.int64)


def again(
    plan: Plan, spec: EvaluateSpec, rows: Rows, outcome: str, model: LogisticModel
) -> Program[Evaluation]:
    """Run an entry `{kind: evaluate}` of the study. StudyError where the part has no rows."""
    found = yield from evaluate(plan, rows, outcome, model, spec.threshold)
    if found is None:
        raise StudyError(f"analysis `{plan.label}`: there are no {spec.part} rows; the study has no `split`")
    return found


def published_all(small: SmallCells, found: Sequence[Evaluation]) -> dict[str, Any]:
    """Return the `metrics` object of a model: by part of the rows."""
    return {one.part: one.published(small) for one in found}


ANALYSIS = Analysis("evaluate", EvaluateSpec, (ScoresQuery, FinerQuery, CalibrationStep, GroupsQuery), None)
