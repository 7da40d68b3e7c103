"""Means of the variables, and the design that follows from them: the first round of every linear model."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import ClassVar

import numpy as np

from wardround_common.analysis import ModelSpec, Plan, Rows, nothing_to_learn
from wardround_common.cohort import Cohort
from wardround_common.design import MISSING, Design, expand
from wardround_common.dictionary import NumberVariable
from wardround_common.program import Program, ask
from wardround_common.query import Contribution, Field, Frame, Layout, Sum, Tally, counts, sums
from wardround_common.typing import Floats


@dataclass(frozen=True)
class Moments:
    """``outcome_mean``: the share with the second level, or the mean in the outcome's own unit."""

    n: int
    outcome_mean: float
    design: Design


@dataclass(frozen=True)
class MomentsQuery:
    """Counts of the outcome and of levels, counts and mapped sums of numbers, over the training rows."""

    kind: ClassVar[str] = "moments"
    rows: Rows
    outcome: str
    variables: tuple[str, ...]

    def layout(self, frame: Frame) -> Layout:
        """``n`` (); a number ``v``: ``v n`` (), ``v sum`` (); a category: ``v levels``.

        An outcome of two levels: ``positive`` (), ``negative`` (); a number: ``outcome`` ().
        """
        fields: list[Field] = [counts("n")]
        if isinstance(frame.dictionary[self.outcome], NumberVariable):
            fields.append(sums("outcome", 1.0))
        else:
            fields += [counts("positive", contributors=True), counts("negative", contributors=True)]
        for name in self.variables:
            variable = frame.dictionary[name]
            if isinstance(variable, NumberVariable):
                fields += [counts(f"{name} n"), sums(f"{name} sum", 1.0)]
            else:
                fields.append(counts(f"{name} levels", len(variable.levels)))
        return Layout(tuple(fields), frame.rows_bound)

    def answer(self, cohort: Cohort, layout: Layout) -> Contribution:
        """Numbers are mapped to [0, 1] by their range."""
        tally, outcome = Tally(layout), cohort.dictionary[self.outcome]
        for block in tally.over(self.rows.of(cohort)):
            tally.count("n", block.rows)
            if isinstance(outcome, NumberVariable):
                tally.add("outcome", block.mapped(self.outcome))
            else:
                positive = block.codes(self.outcome) == 1
                tally.count("positive", positive)
                tally.count("negative", ~positive)
            for name in self.variables:
                variable = cohort.dictionary[name]
                if isinstance(variable, NumberVariable):
                    mapped = block.mapped(name)
                    mapped = mapped[~np.isnan(mapped)]
                    tally.count(f"{name} n", len(mapped))
                    tally.add(f"{name} sum", mapped)
                else:
                    codes = block.codes(name)
                    tally.cells(f"{name} levels", codes[codes >= 0])
        return tally.done()

    def read(self, total: Sum) -> Sum:
        """The sums as they are."""
        return total


@dataclass(frozen=True)
class ColumnsQuery:
    """Sums of design columns; asked for interactions, whose means don't follow from the variables'."""

    kind: ClassVar[str] = "columns"
    rows: Rows
    design: Design

    def layout(self, frame: Frame) -> Layout:
        """``columns`` (terms,)."""
        return Layout((sums("columns", 1.0, len(self.design.terms)),), frame.rows_bound)

    def answer(self, cohort: Cohort, layout: Layout) -> Contribution:
        """Sum the columns of the training rows."""
        tally = Tally(layout)
        for block in tally.over(self.rows.of(cohort)):
            tally.add("columns", self.design.columns(block)[1:])
        return tally.done()

    def read(self, total: Sum) -> Floats:
        """Return the sums; shape (terms,)."""
        columns: Floats = total.arrays["columns"]
        return columns


def moments(plan: Plan, spec: ModelSpec, rows: Rows) -> Program[Moments]:
    """Ask the moments; return the design with imputation and centres.

    FitError where all rows have one outcome, StudyError where there are too few rows for the terms.
    """
    outcome = str(spec.outcome)
    variables = tuple(name for name in spec.required() if name != outcome)
    total = yield from ask(MomentsQuery(rows, outcome, variables))
    n = total.count("n")
    mean = _outcome_mean(plan, outcome, n, total)
    fill: dict[str, float] = {}
    means: dict[tuple[str, int], float] = {}
    indicators = set()
    for name in variables:
        variable = plan.dictionary[name]
        if isinstance(variable, NumberVariable):
            observed = total.count(f"{name} n")
            fill[name] = means[name, -1] = variable.at(total.number(f"{name} sum") / max(observed, 1))
        else:
            levels = total.arrays[f"{name} levels"].copy()
            observed = int(levels.sum())
            fill[name] = float(np.argmax(levels))
            levels[int(fill[name])] += n - observed
            means.update({(name, i): int(count) / n for i, count in enumerate(levels)})
        means[name, MISSING] = (n - observed) / n
        if min(n - observed, observed) >= plan.min_cell:
            indicators.add(name)
    terms = expand(plan.dictionary, spec.predictors or (), frozenset(indicators))
    plan.check_size(len(terms), "term", n)
    single = [
        means[t.factors[0].variable, t.factors[0].level] if len(t.factors) == 1 else t.low for t in terms
    ]
    design = Design(terms, np.array(single), tuple(fill), np.array(list(fill.values())))
    products = [i for i, term in enumerate(terms) if len(term.factors) > 1]
    if products:
        asked = replace(design, terms=tuple(terms[i] for i in products), centres=design.centres[products])
        columns = yield from ask(ColumnsQuery(rows, asked))
        design.centres[products] += columns / (n * asked.scales)
    return Moments(n, mean, design)


def _outcome_mean(plan: Plan, outcome: str, n: int, total: Sum) -> float:
    variable = plan.dictionary[outcome]
    if isinstance(variable, NumberVariable):
        return variable.at(total.number("outcome") / n)
    positive = total.count("positive")
    if positive in (0, n):
        raise nothing_to_learn(plan, n, outcome)
    return positive / n
