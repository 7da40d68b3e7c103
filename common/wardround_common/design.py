"""The design matrix: from a study's terms to columns within [-1, 1], block by block.

Every column is centred on its federated mean and scaled by its public span (the width of the declared
range; 1 for an indicator), so no row can exceed 1 and the bound is known before anything is asked. The
fit is carried out in these columns: column = (value - centre) x scale.

Missing values take the federated mean, or mode, and get one indicator per variable, ``chol=missing``,
where at least ``min_cell`` training rows lack it and at least as many have it: below that an indicator's
coefficient would describe a handful of patients, and seldom be estimable.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from wardround_common.cohort import Block
from wardround_common.dictionary import RESERVED_LEVEL, CategoryVariable, Dictionary, NumberVariable
from wardround_common.typing import Floats
from wardround_common.wire import Encoded


@dataclass(frozen=True)
class Factor:
    """One variable inside a term: a number's value, or 1 at a level (or where missing), else 0."""

    variable: str
    level: int = -1  # position in `levels`; -1 for a number; MISSING for the indicator of missing rows


MISSING = -2


@dataclass(frozen=True)
class Term:
    """A column: the product of its factors. ``low`` and ``high`` bound it in its own unit."""

    name: str
    factors: tuple[Factor, ...]
    low: float
    high: float


@dataclass(frozen=True)
class Design(Encoded):
    """Terms with their centres, and what missing values are replaced with (level positions as floats)."""

    terms: tuple[Term, ...]
    centres: Floats
    fill_names: tuple[str, ...]
    fill_values: Floats

    @property
    def variables(self) -> tuple[str, ...]:
        """The variables that the terms are made of, each once."""
        return tuple(dict.fromkeys(f.variable for term in self.terms for f in term.factors))

    @property
    def scales(self) -> Floats:
        """What each term is multiplied with: just below 1 / span, so that rounding keeps within 1."""
        return np.array([(1.0 - 2.0**-50) / (term.high - term.low) for term in self.terms])

    @property
    def to_intercept(self) -> Floats:
        """What each coefficient adds to the intercept in the variables' own units; shape (1 + terms,)."""
        return np.concatenate([[1.0], -self.centres * self.scales])

    def own_units(self, beta: Floats) -> dict[str, float]:
        """Return coefficients by term, the intercept first, with centring and scaling undone."""
        intercept = float(np.cumsum(beta * self.to_intercept)[-1])
        slopes = (beta[1:] * self.scales).tolist()
        names = (term.name for term in self.terms)
        return {"intercept": intercept, **dict(zip(names, slopes, strict=True))}

    def columns(self, block: Block) -> Floats:
        """Return the intercept and all terms of a block of rows; shape (1 + terms, rows), within [-1, 1]."""
        fill = dict(zip(self.fill_names, self.fill_values.tolist(), strict=True))
        out = np.empty((1 + len(self.terms), block.rows))
        out[0] = 1.0
        scales = self.scales
        for i, term in enumerate(self.terms):
            values = _factor(block, term.factors[0], fill)
            for factor in term.factors[1:]:
                values = values * _factor(block, factor, fill)
            column = np.subtract(values, self.centres[i], out=out[i + 1])
            column *= scales[i]
        return out


def _factor(block: Block, factor: Factor, fill: Mapping[str, float]) -> Floats:
    if factor.level == MISSING:
        return (~block.observed(factor.variable)).astype(np.float64)
    if factor.level < 0:
        values: Floats = block.numbers(factor.variable)
        if factor.variable in fill and not block.complete(factor.variable):
            values = np.where(np.isnan(values), fill[factor.variable], values)
        return values
    codes = block.codes(factor.variable)
    if factor.variable in fill and not block.complete(factor.variable):
        codes = np.where(codes < 0, int(fill[factor.variable]), codes)
    column: Floats = (codes == factor.level).astype(np.float64)
    return column


def expand(
    dictionary: Dictionary, predictors: tuple[str, ...], indicators: frozenset[str]
) -> tuple[Term, ...]:
    """Return the terms of the predictors in order, each variable's indicator behind its main effect."""
    terms: list[Term] = []
    for predictor in predictors:
        names = predictor.split(":")
        terms.extend(_products(dictionary, names))
        if len(names) == 1 and names[0] in indicators:
            terms.append(Term(f"{names[0]}={RESERVED_LEVEL}", (Factor(names[0], MISSING),), 0.0, 1.0))
    return tuple(terms)


def _products(dictionary: Dictionary, names: list[str]) -> list[Term]:
    found = [Term("", (), 1.0, 1.0)]
    for name in names:
        variable = dictionary[name]
        found = [_times(term, single) for term in found for single in _singles(name, variable)]
    return found


def _singles(name: str, variable: NumberVariable | CategoryVariable) -> list[Term]:
    if isinstance(variable, NumberVariable):
        return [Term(name, (Factor(name),), *variable.range)]
    return [
        Term(f"{name}={level}", (Factor(name, i),), 0.0, 1.0)
        for i, level in enumerate(variable.levels)
        if i > 0
    ]


def _times(left: Term, right: Term) -> Term:
    if not left.factors:
        return right
    ends = [a * b for a in (left.low, left.high) for b in (right.low, right.high)]
    return Term(f"{left.name}:{right.name}", left.factors + right.factors, min(ends), max(ends))
