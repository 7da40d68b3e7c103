"""Counts of rows by outcome and score: the area under the curve, and curves in merged cells.

The score is the risk times 10,000 cells. Cells that hold both outcomes are split again, up to 65,536
values, so a few hundred rows give the exact area and a million give it to about 1e-6.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from wardround_common.analysis import Rows
from wardround_common.cohort import Block, Cohort
from wardround_common.models import Classifier
from wardround_common.program import Program, ask
from wardround_common.query import Contribution, Frame, Layout, Sum, Tally, counts, sums
from wardround_common.typing import Floats, Ints

CELLS = 10_000
FINER_VALUES = 1 << 16
MOST_FINER = 1 << 12
GROUPS = 10
MOST_STEPS = 200  # of a curve: more than a picture shows
MOST_ENDS = 1_000  # cells that are tried as ends of a step


def risk_of(model: Classifier, cohort: Cohort, block: Block) -> Floats:
    """Return the rows' risks; the model's output is computed once for the whole cohort."""
    return model.risk(block.of(cohort.remembered(model.sha256, model.output)))


def cell_of(score: Floats) -> Ints:
    """Return each row's score cell; ``score`` is the risk times CELLS, whose end is in the last."""
    cells: Ints = np.minimum(score.astype(np.int64), CELLS - 1)
    return cells


@dataclass(frozen=True)
class ScoresQuery:
    """Rows by outcome and score cell, the confusion table at ``threshold``, and squared errors."""

    kind: ClassVar[str] = "evaluate.scores"
    rows: Rows
    outcome: str
    model: Classifier
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
            p = risk_of(self.model, cohort, block)
            tally.cells("cells", y * CELLS + cell_of(p * CELLS))
            tally.cells("confusion", 2 * y + (p >= self.threshold))
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
            score = risk_of(self.model, cohort, block) * CELLS
            cell = cell_of(score)
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
class GroupsQuery:
    """Rows, predicted risk and outcome by groups of score cells; ``ends`` are the groups' last cells."""

    kind: ClassVar[str] = "evaluate.groups"
    rows: Rows
    outcome: str
    model: Classifier
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
            p = risk_of(self.model, cohort, block)
            group = np.searchsorted(self.ends, cell_of(p * CELLS))
            y = block.codes(self.outcome).astype(np.int64)
            tally.cells("counts", y * groups + group)
            tally.add("predicted", np.where(group == np.arange(groups)[:, None], p, 0.0))
        return tally.done()

    def read(self, total: Sum) -> Sum:
        """The sums as they are."""
        return total


@dataclass(frozen=True)
class StepsQuery:
    """Rows by outcome in the steps of a curve, which are groups of score cells, to learn who contributes."""

    kind: ClassVar[str] = "evaluate.steps"
    rows: Rows
    outcome: str
    model: Classifier
    ends: Ints

    def layout(self, frame: Frame) -> Layout:
        """``counts`` (2, steps)."""
        return Layout((counts("counts", 2, len(self.ends), contributors=True),), frame.rows_bound)

    def answer(self, cohort: Cohort, layout: Layout) -> Contribution:
        """A row adds to one step."""
        tally = Tally(layout)
        for block in tally.over(self.rows.of(cohort)):
            step = np.searchsorted(self.ends, cell_of(risk_of(self.model, cohort, block) * CELLS))
            tally.cells("counts", block.codes(self.outcome).astype(np.int64) * len(self.ends) + step)
        return tally.done()

    def read(self, total: Sum) -> Sum:
        """The sums as they are."""
        return total


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
class Step:
    """Rows between two thresholds; ``threshold`` is the lower one, as a risk. Hospitals by outcome."""

    threshold: float
    without: int
    with_outcome: int
    hospitals: tuple[int, int]

    def joined(self, lower: Step) -> Step:
        """Return both steps as one; of their hospitals we know only that they are as many at least."""
        hospitals = tuple(map(max, self.hospitals, lower.hospitals))
        return Step(
            lower.threshold,
            self.without + lower.without,
            self.with_outcome + lower.with_outcome,
            (hospitals[0], hospitals[1]),
        )

    def showable(self, min_cell: int) -> bool:
        """Tell whether both counts are 0, or ``min_cell`` rows of two hospitals at least."""
        held = zip((self.without, self.with_outcome), self.hospitals, strict=True)
        return all(not count or (count >= min_cell and hospitals >= 2) for count, hospitals in held)


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


def table(rows: Rows, outcome: str, model: Classifier, ends: Ints) -> Program[tuple[Group, ...]]:
    """Return the calibration table of the groups that end at ``ends``."""
    if not len(ends):
        return ()
    total = yield from ask(GroupsQuery(rows, outcome, model, ends))
    counted, hospitals = total.arrays["counts"].tolist(), total.contributors["counts"].min(axis=0)
    predicted = total.arrays["predicted"].tolist()
    return tuple(map(Group, counted[0], counted[1], hospitals.tolist(), predicted))


def steps(rows: Rows, outcome: str, model: Classifier, ends: Ints) -> Program[tuple[Step, ...]]:
    """Return the steps of the ROC curve that end at ``ends``, from the highest scores down."""
    total = yield from ask(StepsQuery(rows, outcome, model, ends))
    low = np.concatenate([[0], ends[:-1] + 1]) / CELLS
    without, with_outcome = total.arrays["counts"].tolist()
    hospitals = [(int(a), int(b)) for a, b in total.contributors["counts"].T]
    return tuple(map(Step, low.tolist(), without, with_outcome, hospitals))[::-1]


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


def step_ends(cells: Ints, min_cell: int) -> Ints:
    """Return the last cells of a curve's steps, rising: each outcome has no row there, or ``min_cell``.

    There are as many steps as can be, up to MOST_STEPS near equal ones: the most steps that end at a cell
    are one more than the most that end at any cell from which on the step would be allowed.
    """
    rows = cells.sum(axis=0)
    held_cells = np.flatnonzero(rows)
    chosen = np.linspace(0, len(held_cells) - 1, min(len(held_cells), MOST_ENDS)).astype(np.int64)
    occupied = held_cells[chosen]  # where a step may end
    below = np.concatenate([np.zeros((2, 1), np.int64), np.cumsum(cells, axis=1)[:, occupied]], axis=1)
    least = max(int(rows.sum()) // MOST_STEPS, 1)
    most = np.full(len(occupied) + 1, -1)
    most[0] = 0
    begins = np.zeros(len(occupied) + 1, np.int64)
    for end in range(1, len(occupied) + 1):
        held = below[:, end, None] - below[:, :end]
        allowed = ((held == 0) | (held >= min_cell)).all(axis=0) & (held.sum(axis=0) >= least)
        allowed &= most[:end] >= 0
        if allowed.any():
            begins[end] = int(np.argmax(np.where(allowed, most[:end], -1)))
            most[end] = most[begins[end]] + 1
    ends, end = [], len(occupied)
    while end > 0 and most[end] > 0:
        ends.append(int(occupied[end - 1]))
        end = int(begins[end])
    return np.array([*ends[:0:-1], CELLS - 1], np.int64)


def merged(found: tuple[Step, ...], min_cell: int) -> tuple[Step, ...]:
    """Return the steps, those that may not be shown joined with their neighbours; nothing if none may."""
    shown: list[Step] = []
    for step in found:
        shown.append(shown.pop().joined(step) if shown and not shown[-1].showable(min_cell) else step)
    while len(shown) > 1 and not shown[-1].showable(min_cell):
        last = shown.pop()
        shown.append(shown.pop().joined(last))
    return tuple(shown) if shown and shown[-1].showable(min_cell) else ()


def curves(found: tuple[Step, ...]) -> dict[str, list[float]]:
    """Return ROC, precision and net benefit at each step's threshold, from the highest down.

    Net benefit of treating those above a risk t: TP / n - FP / n x t / (1 - t) (Vickers and Elkin 2006,
    equation 1). The points (0, 0) and (1, 1) of the ROC curve are left out.
    """
    positives, negatives = sum(s.with_outcome for s in found), sum(s.without for s in found)
    out: dict[str, list[float]] = {key: [] for key in ("threshold", "tpr", "fpr", "precision", "net_benefit")}
    tp = fp = 0
    for step in found[:-1]:
        tp, fp, t = tp + step.with_outcome, fp + step.without, step.threshold
        out["threshold"].append(t)
        out["tpr"].append(tp / positives)
        out["fpr"].append(fp / negatives)
        out["precision"].append(tp / (tp + fp))
        out["net_benefit"].append((tp - fp * t / (1.0 - t)) / (positives + negatives))
    return out
