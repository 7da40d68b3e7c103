"""Logistic regression by Newton's method over the federation; equal to the pooled fit.

One round of counts and sums gives imputation and centres (one more if there are interactions), each
further round is a Newton step. At the first, with all slopes at zero, every row has the same weight, so
the information also gives the columns' variances: scaling costs no round. Ridge is lambda/2 x sum of
squared coefficients of predictors standardised by mean and population sd, intercept free. Standard
errors come from the inverse of the (penalised) information at the estimate (McCullagh and Nelder 1989,
section 4.4; with a penalty the Bayesian covariance of Wood 2017, section 6.10).
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Annotated, Any, ClassVar, Literal

import numpy as np
from pydantic import Field as Key

from wardround_common.analysis import Analysis, ModelSpec, Plan, Rows, SmallCells
from wardround_common.cohort import Cohort
from wardround_common.design import MISSING, Design, Term
from wardround_common.dictionary import Dictionary
from wardround_common.elementary import binary_deviance, log, logistic, normal_tail
from wardround_common.errors import FitError, listed
from wardround_common.linalg import factor, quadratic
from wardround_common.models import LogisticModel, linear_predictor
from wardround_common.moments import ColumnsQuery, MomentsQuery, moments
from wardround_common.newton import Diverged, Slope, newton, tolerance
from wardround_common.program import Program, ask
from wardround_common.query import Contribution, Frame, Layout, Sum, Tally, counts, sums
from wardround_common.sealing.fixed_point import Within, packed_size, unpack
from wardround_common.typing import Floats, Ints

Z95 = 1.959963984540054  # the standard normal's 97.5 % point


class LogisticSpec(ModelSpec):
    """``ridge``: lambda >= 0."""

    kind: Literal["logistic"] = "logistic"
    ridge: Annotated[float, Key(ge=0, le=1e12)] = 0.0

    def sentence(self) -> str:
        """As for any analysis."""
        return (
            f"A logistic regression that predicts {self.predicting()}: one weight for each, with its error."
        )

    def check(self, dictionary: Dictionary) -> None:
        """Raise ValueError unless the outcome has two levels and there is a predictor."""
        self.check_outcome(dictionary, ("category",))


@dataclass(frozen=True)
class NewtonStep:
    """Deviance, score and information of a logistic model at ``beta``."""

    kind: ClassVar[str] = "logistic.newton"
    rows: Rows
    outcome: str
    model: LogisticModel

    def layout(self, frame: Frame) -> Layout:
        """``n`` (), ``deviance`` (), ``score`` (p,), ``information`` packed; columns lie within [-1, 1]."""
        size = len(self.model.beta)
        fields = (
            counts("n"),
            sums("deviance", 2.0 * (self.model.log_odds_bound + 1.0)),
            sums("score", 1.0, size),
            sums("information", 0.25, packed_size(size)),
        )
        return Layout(fields, frame.rows_bound)

    def answer(self, cohort: Cohort, layout: Layout) -> Contribution:
        """Row by row: -2 log L, (y - p) z, and p (1 - p) z z^T."""
        tally, size = Tally(layout), len(self.model.beta)
        one = np.ones(size)
        for block in tally.over(self.rows.of(cohort)):
            y = block.outcome(self.outcome)
            columns = Within(self.model.design.columns(block), one)
            eta = linear_predictor(columns.values, self.model.beta)
            p = logistic(eta)
            tally.count("n", block.rows)
            tally.add("deviance", binary_deviance(y, eta))
            tally.products("score", y - p, columns)
            tally.squares("information", np.minimum(p * (1.0 - p), 0.25), columns)
        return tally.done()

    def read(self, total: Sum) -> Slope:
        """Return the sums as Newton's method takes them."""
        information = unpack(total.arrays["information"], len(self.model.beta))
        return Slope(total.count("n"), total.number("deviance"), total.arrays["score"], information)


@dataclass(frozen=True)
class Coefficient:
    """In the variables' own units; ``p`` is Wald's, two-sided."""

    value: float
    se: float

    def published(self) -> dict[str, float | None]:
        """Return value, standard error, p and the 95 % interval."""
        z = self.value / self.se if self.se > 0 else math.inf
        return {
            "value": self.value,
            "se": self.se,
            "p": normal_tail(z),
            "low": self.value - Z95 * self.se,
            "high": self.value + Z95 * self.se,
        }


@dataclass(frozen=True)
class LogisticFit:
    """``aliased``: terms that nothing distinguishes from others, or that never occur; left out."""

    n: int
    n_missing: int
    deviance: float
    df: int
    coefficients: dict[str, Coefficient]
    aliased: tuple[str, ...]
    outcome_mean: float
    model: LogisticModel

    def published(self, small: SmallCells) -> dict[str, Any]:
        """Return the fit; an aliased term has nulls."""
        nothing = dict.fromkeys(("value", "se", "p", "low", "high"))
        return {
            "n": self.n,
            "n_missing": small.count(self.n_missing),
            "deviance": self.deviance,
            "df": self.df,
            "coefficients": {
                **{term: found.published() for term, found in self.coefficients.items()},
                **{term: {**nothing, "aliased": True} for term in self.aliased},
            },
            "model_sha256": self.model.sha256,
        }


def fit(plan: Plan, spec: LogisticSpec) -> Program[LogisticFit]:
    """Fit by Newton's method. StudyError for too few rows, FitError where there is no such estimate."""
    outcome, predictors = str(spec.outcome), spec.predictors or ()
    rows = Rows("train", spec.needed())
    found = yield from moments(plan, spec, rows)
    n, design = found.n, found.design

    def at(chosen: Design) -> Callable[[Floats], Program[Slope]]:
        return lambda beta: ask(NewtonStep(rows, outcome, LogisticModel(chosen, beta)))

    odds = np.array([found.outcome_mean / (1.0 - found.outcome_mean)])
    start = np.zeros(1 + len(design.terms))
    start[0] = log(odds)[0]
    slope = yield from at(design)(start)
    variances = np.diag(slope.information) / slope.information[0, 0]
    penalty = spec.ridge * variances
    penalty[0] = 0.0
    design, kept, aliased = _without_aliased(plan, design, slope, penalty)
    slope = replace(slope, score=slope.score[kept], information=slope.information[np.ix_(kept, kept)])
    scale, penalty, start = np.sqrt(variances[kept]), penalty[kept], start[: len(kept)]
    begun = _begun(plan, design)
    if begun is not None:
        there = yield from at(design)(begun)
        if there.deviance < slope.deviance:
            start, slope = begun, there
    try:
        best = yield from newton(start, slope, at(design), penalty, scale)
    except Diverged as error:
        terms = listed([design.terms[i - 1].name for i in error.which if i > 0] or predictors)
        raise FitError(
            f"analysis `{plan.label}`: the outcome `{outcome}` is perfectly separated by {terms}, so no "
            "finite estimate exists; set `ridge: 1`, or leave it out of `predictors`"
        ) from None
    covariance = best.factor.inverse(len(scale))
    return LogisticFit(
        n,
        plan.usable.dropped,
        best.slope.deviance,
        n - len(scale),
        _in_own_units(design, best.beta, covariance),
        aliased,
        found.outcome_mean,
        LogisticModel(design, best.beta),
    )


def _begun(plan: Plan, design: Design) -> Floats | None:
    """Return the coefficients that were reached with other hospitals, of the same terms."""
    begun = plan.start
    if not isinstance(begun, NewtonStep) or begun.model.design.terms != design.terms:
        return None
    before, beta = begun.model.design, begun.model.beta.copy()
    moved = beta[1:] * design.scales * (design.centres - before.centres)
    beta[0] += float(np.cumsum(moved)[-1])
    return beta


def _without_aliased(
    plan: Plan, design: Design, slope: Slope, penalty: Floats
) -> tuple[Design, Ints, tuple[str, ...]]:
    """Leave out terms that carry nothing; FitError where that takes all of a predictor that was asked for.

    Returns the design, the positions that are kept (intercept 0) and the names of those that are not.
    """
    bare = tolerance(slope)
    factored = factor(slope.information + np.diag(penalty), bare)
    kept = np.array(factored.kept, np.int64)
    names = ["intercept", *(term.name for term in design.terms)]
    kept_predictors = {_predictor(design.terms[i - 1]) for i in factored.kept if i > 0}
    for j in factored.aliased:
        term = design.terms[j - 1]
        if _predictor(term) in kept_predictors or term.factors[0].level == MISSING:
            continue
        what = f"analysis `{plan.label}`: `{_predictor(term)}` "
        if slope.information[j, j] <= bare[j]:
            raise FitError(f"{what}is constant over the training rows; take it out of `predictors`")
        share = factored.solve(slope.information[:, j])
        size = np.abs(share) * np.sqrt(np.diag(slope.information))
        others = [names[k] for k in factored.kept if k > 0 and size[k] > 1e-6 * float(size.max())]
        raise FitError(
            f"{what}is collinear with {listed(others)}; take one out of `predictors`, or set `ridge: 1`"
        )
    terms = kept[1:] - 1
    design = replace(design, terms=tuple(design.terms[i] for i in terms), centres=design.centres[terms])
    return design, kept, tuple(names[j] for j in factored.aliased)


def _predictor(term: Term) -> str:
    """Return the predictor that a term was expanded from."""
    return ":".join(factor.variable for factor in term.factors)


def _in_own_units(design: Design, beta: Floats, covariance: Floats) -> dict[str, Coefficient]:
    """Return coefficients and errors with centring and scaling undone; the intercept's from all of it."""
    errors = [math.sqrt(max(quadratic(design.to_intercept, covariance), 0.0))]
    for variance, scale in zip(np.diag(covariance)[1:].tolist(), design.scales.tolist(), strict=True):
        errors.append(math.sqrt(max(variance, 0.0)) * scale)
    values = design.own_units(beta).items()
    return {term: Coefficient(value, se) for (term, value), se in zip(values, errors, strict=True)}


ANALYSIS = Analysis(
    *("logistic", LogisticSpec, (MomentsQuery, ColumnsQuery, NewtonStep), fit),
    is_model=True,
    on_change="continue",
)
