"""Summary: each variable's n, missing, mean, standard deviation and quantiles, or its level counts.

Two rounds: counts, sums and one fine histogram over the declared range; then squares about the mean
(the two-pass variance, Chan, Golub and LeVeque 1983). Quantiles are interpolated within a histogram cell,
so they are off by at most range / 4096; the extremes, which are single patients, are not published.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import numpy as np
from pydantic import Field as Key

from wardround_common.analysis import Analysis, AnalysisSpec, Plan, SmallCells
from wardround_common.cohort import Cohort
from wardround_common.dictionary import Dictionary, NumberVariable
from wardround_common.disclosure import may_show_quantile, refused
from wardround_common.errors import did_you_mean, listed
from wardround_common.program import Program, ask
from wardround_common.query import Contribution, Field, Frame, Layout, Sum, Tally, cells_of, counts, sums
from wardround_common.typing import Floats, Ints

CELLS = 4096
QUANTILES = (0.05, 0.25, 0.5, 0.75, 0.95)


class SummarySpec(AnalysisSpec):
    """``variables``: which to describe, by default all of the dictionary; over all rows of the cohort."""

    kind: Literal["summary"] = "summary"
    variables: tuple[str, ...] | None = Key(default=None, min_length=1)

    def sentence(self) -> str:
        """As for any analysis."""
        return (
            f"Counts, means, spreads and quantiles of {listed(self.variables or ())} over all hospitals "
            "together."
        )

    def check(self, dictionary: Dictionary) -> None:
        """Raise ValueError for a variable that the dictionary lacks."""
        for i, name in enumerate(self.variables or ()):
            if name not in dictionary:
                raise ValueError(
                    f"variables[{i}]: `{name}` is not in `variables`{did_you_mean(name, dictionary)}"
                )


@dataclass(frozen=True)
class NumberSummary:
    """``quantiles`` holds only those with ``min_cell`` rows at least on either side."""

    n: int
    missing: int
    hospitals: int
    mean: float
    sd: float  # of the sample, n - 1
    quantiles: Mapping[float, float]


@dataclass(frozen=True)
class CategorySummary:
    """Rows by level, and in how many hospitals each level occurs."""

    levels: Mapping[str, int]
    missing: int
    hospitals: Mapping[str, int]


@dataclass(frozen=True)
class Summary:
    """By variable. ``min_hospitals``: a variable that fewer observe is refused, not shown."""

    rows: int
    variables: Mapping[str, NumberSummary | CategorySummary]
    min_hospitals: int

    def published(self, small: SmallCells, kept: Collection[str] = ()) -> dict[str, Any]:
        """Return n, and by variable a value, a null where a small count is suppressed, or a refusal.

        ``kept``: the categories whose levels tell of few rows beside other analyses' figures.
        """
        shown: dict[str, Any] = {}
        for name, found in self.variables.items():
            if isinstance(found, CategorySummary):
                row = small.counts([*found.levels.values(), found.missing], [*found.hospitals.values(), 2])
                if name in kept:
                    row[:-1] = [None] * len(found.levels)
                shown[name] = {
                    "kind": "category",
                    "levels": dict(zip(found.levels, row, strict=False)),
                    "missing": row[-1],
                    "suppressed": row.count(None),
                }
                continue
            n, missing = small.counts([found.n, found.missing])
            if found.hospitals < self.min_hospitals or found.n < small.min_cell:
                shown[name] = {"kind": "number", **refused("observed in too few hospitals or rows")}
                continue
            shown[name] = {
                "kind": "number",
                "n": n,
                "missing": missing,
                "mean": found.mean,
                "sd": found.sd,
                "quantiles": {f"{q:g}": value for q, value in found.quantiles.items()},
            }
        return {"n": self.rows, "variables": shown}


@dataclass(frozen=True)
class SummaryQuery:
    """Counts and sums of each variable, numbers mapped to [0, 1] by their range, and histograms."""

    kind: ClassVar[str] = "summary"
    variables: tuple[str, ...]

    def layout(self, frame: Frame) -> Layout:
        """A number ``v``: ``v sum`` (), ``v cells`` (4096,), ``v n`` (); a category: ``v levels``."""
        fields: list[Field] = [counts("rows")]
        for name in self.variables:
            variable = frame.dictionary[name]
            if isinstance(variable, NumberVariable):
                fields += [sums(f"{name} sum", 1.0), counts(f"{name} cells", CELLS)]
                fields.append(counts(f"{name} n", contributors=True))
            else:
                fields.append(counts(f"{name} levels", len(variable.levels), contributors=True))
        return Layout(tuple(fields), frame.rows_bound)

    def answer(self, cohort: Cohort, layout: Layout) -> Contribution:
        """Each row adds at most 1 to every count and, mapped, at most 1 to every sum."""
        tally = Tally(layout)
        for block in tally.over(cohort.blocks()):
            tally.count("rows", block.rows)
            for name in self.variables:
                variable = cohort.dictionary[name]
                if not isinstance(variable, NumberVariable):
                    codes = block.codes(name)
                    tally.cells(f"{name} levels", codes[codes >= 0])
                    continue
                mapped = block.mapped(name)
                mapped = mapped[~np.isnan(mapped)]
                tally.count(f"{name} n", len(mapped))
                tally.cells(f"{name} cells", cells_of(mapped, CELLS))
                tally.add(f"{name} sum", mapped)
        return tally.done()

    def read(self, total: Sum) -> Sum:
        """The sums as they are."""
        return total


@dataclass(frozen=True)
class SquaresQuery:
    """Sums of ((x - mean) / span)^2, whose row bound is 1."""

    kind: ClassVar[str] = "squares"
    variables: tuple[str, ...]
    means: Floats

    def layout(self, frame: Frame) -> Layout:
        """``squares`` (variables,)."""
        return Layout((sums("squares", 1.0, len(self.variables)),), frame.rows_bound)

    def answer(self, cohort: Cohort, layout: Layout) -> Contribution:
        """A missing value adds nothing."""
        tally = Tally(layout)
        for block in tally.over(cohort.blocks()):
            out = np.zeros((len(self.variables), block.rows))
            for i, name in enumerate(self.variables):
                off = (block.numbers(name) - self.means[i]) / cohort.dictionary.number(name).span
                out[i] = np.where(np.isnan(off), 0.0, off * off)
            tally.add("squares", out)
        return tally.done()

    def read(self, total: Sum) -> Floats:
        """Return the sums of squares; shape (variables,)."""
        squares: Floats = total.arrays["squares"]
        return squares


def describe(plan: Plan, spec: SummarySpec) -> Program[Summary]:
    """Ask counts, sums and histograms, then the squares about the means."""
    names = spec.variables if spec.variables is not None else tuple(plan.dictionary)
    first = yield from ask(SummaryQuery(names))
    rows = first.count("rows")
    found: dict[str, NumberSummary | CategorySummary] = {}
    numbers = [name for name in names if isinstance(plan.dictionary[name], NumberVariable)]
    numbers = [name for name in numbers if first.count(f"{name} n") > 0]
    means = {}
    for name in numbers:
        variable = plan.dictionary.number(name)
        means[name] = variable.at(first.number(f"{name} sum") / first.count(f"{name} n"))
    squares: dict[str, float] = {}
    if numbers:
        asked = SquaresQuery(tuple(numbers), np.array([means[name] for name in numbers]))
        squares = dict(zip(numbers, (yield from ask(asked)).tolist(), strict=True))
    for name in names:
        described = plan.dictionary[name]
        if not isinstance(described, NumberVariable):
            found[name] = _category(first, name, described.levels)
            continue
        n = first.count(f"{name} n")
        hospitals = int(first.contributors[f"{name} n"])
        sd = described.span * math.sqrt(squares.get(name, 0.0) / (n - 1)) if n > 1 else 0.0
        quantiles = _quantiles(first.arrays[f"{name} cells"], described, plan.min_cell)
        found[name] = NumberSummary(n, rows - n, hospitals, means.get(name, 0.0), sd, quantiles)
    return Summary(rows, found, plan.min_hospitals)


def _category(total: Sum, name: str, levels: tuple[str, ...]) -> CategorySummary:
    rows = total.arrays[f"{name} levels"].tolist()
    hospitals = total.contributors[f"{name} levels"].tolist()
    return CategorySummary(
        dict(zip(levels, rows, strict=True)),
        total.count("rows") - sum(rows),
        dict(zip(levels, hospitals, strict=True)),
    )


def _quantiles(cells: Ints, variable: NumberVariable, min_cell: int) -> dict[float, float]:
    """Interpolate within the cell that the quantile falls into; rows spread evenly over a cell."""
    n = int(cells.sum())
    below = np.cumsum(cells)
    found = {}
    for q in QUANTILES:
        if not may_show_quantile(q, n, min_cell):
            continue
        target = q * n
        cell = int(np.searchsorted(below, target))
        inside = (target - (int(below[cell]) - int(cells[cell]))) / int(cells[cell])
        found[q] = variable.range[0] + variable.span * (cell + inside) / CELLS
    return found


ANALYSIS = Analysis("summary", SummarySpec, (SummaryQuery, SquaresQuery), describe)
