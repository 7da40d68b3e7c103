"""A model's figures in groups of rows: the levels of a category, or bands of a number."""

from __future__ import annotations

import math
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate, pairwise
from typing import Any, ClassVar

import numpy as np

from wardround_common.analysis import Plan, Rows, SmallCells, Subgroups
from wardround_common.cohort import Block, Cohort
from wardround_common.dictionary import CategoryVariable, Dictionary
from wardround_common.disclosure import Cuts, refused
from wardround_common.evaluation.scores import CELLS, area_under_curve, risk_of
from wardround_common.models import Classifier
from wardround_common.program import Program, ask, together
from wardround_common.query import Contribution, Frame, Layout, Sum, Tally, cells_of, counts, sums
from wardround_common.typing import Floats, Ints


@dataclass(frozen=True)
class SubgroupsQuery:
    """Rows by group, outcome and score cell; by group and call; squared errors and risks by group.

    ``cuts`` divide a number into bands, each with its lower end; a category's groups are its levels.
    """

    kind: ClassVar[str] = "evaluate.subgroups"
    rows: Rows
    outcome: str
    model: Classifier
    threshold: float
    variable: str
    cuts: Floats

    def layout(self, frame: Frame) -> Layout:
        """``cells`` (groups, 2, 10000), ``brier`` and ``predicted`` (groups,).

        ``confusion`` (groups + 1, 2, 2), ``outcomes`` (groups + 1, 2): rows without the variable are last.
        """
        groups = len(names_of(frame.dictionary, self.variable, self.cuts.tolist()))
        fields = (
            counts("cells", groups, 2, CELLS),
            counts("confusion", groups + 1, 2, 2),
            counts("outcomes", groups + 1, 2, contributors=True),
            sums("brier", 1.0, groups),
            sums("predicted", 1.0, groups),
        )
        return Layout(fields, frame.rows_bound)

    def answer(self, cohort: Cohort, layout: Layout) -> Contribution:
        """A row without the variable counts in the tables only."""
        tally = Tally(layout)
        groups = np.arange(len(names_of(cohort.dictionary, self.variable, self.cuts.tolist())))
        for block in tally.over(self.rows.of(cohort)):
            found, y = self._group(block, cohort.dictionary), block.codes(self.outcome).astype(np.int64)
            group = np.where(found < 0, len(groups), found)
            p = risk_of(self.model, cohort, block)
            cell, known = cells_of(p, CELLS), group < len(groups)
            tally.cells("confusion", 4 * group + 2 * y + (cell >= round(self.threshold * CELLS)))
            tally.cells("outcomes", 2 * group + y)
            group, y, p = group[known], y[known], p[known]
            tally.cells("cells", (2 * group + y) * CELLS + cell[known])
            own = group == groups[:, None]
            tally.add("brier", np.where(own, (p - y) * (p - y), 0.0))
            tally.add("predicted", np.where(own, p, 0.0))
        return tally.done()

    def _group(self, block: Block, dictionary: Dictionary) -> Ints:
        if isinstance(dictionary[self.variable], CategoryVariable):
            return block.codes(self.variable).astype(np.int64)
        values = block.numbers(self.variable)
        return np.where(np.isnan(values), -1, np.searchsorted(self.cuts, values, side="right"))

    def read(self, total: Sum) -> Sum:
        """The sums as they are."""
        return total


@dataclass(frozen=True)
class Subgroup:
    """One group's figures; counts are by outcome, then by call."""

    name: str
    confusion: tuple[tuple[int, int], tuple[int, int]]
    hospitals: tuple[int, int]
    auc: float | None
    brier: float
    predicted: float

    @property
    def outcomes(self) -> tuple[int, int]:
        """Rows without and with the outcome."""
        return sum(self.confusion[0]), sum(self.confusion[1])

    @property
    def cells(self) -> tuple[int, int, int, int]:
        """True negatives, false positives, false negatives, true positives."""
        return (*self.confusion[0], *self.confusion[1])

    def published(self, n: int | None, events: int | None, table: bool) -> dict[str, Any]:
        """Return the figures; without both counts there are none. ``table``: its four cells may be shown."""
        if n is None or events is None:
            return {"group": self.name, "n": n, "events": None, **refused("too few rows")}
        tn, fp, fn, tp = self.cells
        return {
            "group": self.name,
            "n": n,
            "events": events,
            "auc": self.auc,
            "brier": self.brier / n if n else None,
            "observed": events / n if n else None,
            "predicted": self.predicted / n if n else None,
            "sensitivity": tp / (tp + fn) if table and events else None,
            "specificity": tn / (tn + fp) if table and events < n else None,
        }


@dataclass(frozen=True)
class Division:
    """All groups of one variable, and the rows ``lacking`` it; ``cuts`` divide a number."""

    variable: str
    groups: tuple[Subgroup, ...]
    lacking: Subgroup
    cuts: tuple[float, ...] = ()

    def places(self) -> tuple[Cuts, Cuts]:
        """Return what the groups tell of either outcome: how many rows lie below the end of each.

        A category's levels end at their positions from 1 on; all rows with and without the variable, at
        infinity.
        """
        ends = [*(self.cuts or range(1, len(self.groups))), sys.float_info.max, math.inf]
        every = [one.outcomes for one in (*self.groups, self.lacking)]
        without, with_outcome = (
            dict(zip(ends, accumulate(own), strict=True)) for own in zip(*every, strict=True)
        )
        return without, with_outcome

    def refused(self) -> list[dict[str, Any]]:
        """Return the groups without a figure, where other groups' counts are too near to theirs."""
        why = refused("too near to another analysis's groups")
        return [{"group": one.name, "n": None, "events": None, **why} for one in self.groups]

    def published(self, small: SmallCells, calls: bool = True) -> list[dict[str, Any]]:
        """Return the groups. Counts of rows, outcomes and calls are rows of tables whose totals are known.

        Without ``calls``, sensitivity and specificity are kept back.
        """
        every = (*self.groups, self.lacking)
        without, events = zip(*(one.outcomes for one in every), strict=True)
        few, many = zip(*(one.hospitals for one in every), strict=True)
        shown = small.counts([sum(one.outcomes) for one in every], list(map(max, few, many)))
        both = zip(small.counts(without, few), small.counts(events, many), strict=True)
        known = [event if other is not None else None for other, event in both]
        tables = _tables(small, every, known) if calls else set()
        return [
            group.published(n, event, i in tables)
            for i, (group, n, event) in enumerate(zip(self.groups, shown, known, strict=False))
        ]


def _tables(small: SmallCells, every: Sequence[Subgroup], known: Sequence[int | None]) -> set[int]:
    """Return which of the groups' tables of outcome and call may be shown.

    All tables' sum is known, so those kept back are two at least, and their sums no small counts.
    """
    shown = {
        i
        for i, (one, event) in enumerate(zip(every, known, strict=True))
        if event is not None and None not in [small.count(cell) for cell in one.cells]
    }
    while len(shown) < len(every):
        hidden = [one.cells for i, one in enumerate(every) if i not in shown]
        total = [sum(cells) for cells in zip(*hidden, strict=True)]
        rest = [(sum(every[i].cells), i) for i in shown if any(every[i].cells)]
        if not rest or (len(hidden) > 1 and None not in [small.count(cell) for cell in total]):
            break
        shown.remove(min(rest)[1])
    return shown


def names_of(dictionary: Dictionary, variable: str, cuts: Sequence[float]) -> tuple[str, ...]:
    """Return the groups' names: the levels, or `below 50`, `50 to 65`, `65 and above`."""
    described = dictionary[variable]
    if isinstance(described, CategoryVariable):
        return described.levels
    texts = [f"{cut:.15g}" for cut in cuts]
    middle = [f"{low} to {high}" for low, high in pairwise(texts)]
    return (f"below {texts[0]}", *middle, f"{texts[-1]} and above")


def subgroups(
    plan: Plan, rows: Rows, outcome: str, model: Classifier, threshold: float, wanted: Subgroups
) -> Program[list[Division]]:
    """Ask each variable's groups, all in one round."""
    queries = [
        SubgroupsQuery(rows, outcome, model, threshold, name, np.array(cuts, np.float64))
        for name, cuts in sorted(wanted.items())
    ]
    found = yield from together([ask(query) for query in queries])
    return [_division(plan, query, total) for query, total in zip(queries, found, strict=True)]


def _division(plan: Plan, query: SubgroupsQuery, total: Sum) -> Division:
    def group(i: int, name: str, auc: float | None, brier: float, predicted: float) -> Subgroup:
        (tn, fp), (fn, tp) = total.arrays["confusion"][i].tolist()
        few, many = map(int, total.contributors["outcomes"][i])
        return Subgroup(name, ((tn, fp), (fn, tp)), (few, many), auc, brier, predicted)

    groups = []
    names = names_of(plan.dictionary, query.variable, query.cuts.tolist())
    figures = zip(total.arrays["brier"].tolist(), total.arrays["predicted"].tolist(), strict=True)
    for i, (name, (brier, predicted)) in enumerate(zip(names, figures, strict=True)):
        cells = total.arrays["cells"][i]
        both = int(cells.sum(axis=1).min()) > 0
        auc = area_under_curve(cells[0], cells[1]) if both else None
        groups.append(group(i, name, auc, brier, predicted))
    lacking = group(len(names), "", None, 0.0, 0.0)
    return Division(query.variable, tuple(groups), lacking, tuple(query.cuts.tolist()))
