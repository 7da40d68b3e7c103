"""How a made-up variable is spread, and how its values are written; nothing here comes from a patient.

Every draw is a quantile: uniform numbers go in, values come out, so that an outcome can be given any
dependence on the predictors and keep its own distribution.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from scipy.special import ndtr, ndtri

from wardround_common.dictionary import CategoryVariable, NumberVariable
from wardround_common.typing import Array, Floats, Ints


@dataclass(frozen=True)
class NumberShape:
    """A bell within the declared range. ``shift``: how many spreads this hospital lies off the others."""

    variable: NumberVariable
    centre: float
    spread: float
    shift: float

    @classmethod
    def drawn(cls, variable: NumberVariable, rng: np.random.Generator) -> NumberShape:
        """Draw centre and spread: below the middle of the range, and wide enough to fill half of it."""
        centre = variable.range[0] + variable.span * rng.uniform(0.3, 0.5)
        return cls(variable, centre, variable.span * rng.uniform(0.1, 0.16), 0.0)

    def elsewhere(self, rng: np.random.Generator) -> NumberShape:
        """Return the shape at another hospital."""
        return NumberShape(self.variable, self.centre, self.spread, 0.3 * rng.standard_normal())

    @property
    def digits(self) -> int:
        """Decimal places: none from a span of 60 on, one from 6 on, and so on."""
        return max(0, 1 - math.floor(math.log10(self.variable.span / 6)))

    def values(self, uniform: Floats) -> Floats:
        """Return numbers on the grid of the written digits, within the range."""
        low, high = self.variable.range
        middle = self.centre + self.shift * self.spread
        below, above = (ndtr((bound - middle) / self.spread) for bound in (low, high))
        drawn = middle + self.spread * ndtri(below + uniform * (above - below))
        unit = 10.0**self.digits
        least, most = math.ceil(low * unit - 1e-9), math.floor(high * unit + 1e-9)
        rounded: Floats = np.clip(np.rint(drawn * unit), least, most) / unit
        return rounded

    def cells(self, values: Floats, uniform: Floats) -> Array:
        """Return whole numbers without a decimal point."""
        return values.astype(np.int64).astype(object) if self.digits == 0 else values.astype(object)

    def beyond(self, uniform: Floats) -> Array:
        """Return cells above the range."""
        far = self.variable.range[1] + self.variable.span * (0.1 + 0.3 * uniform)
        return self.cells(np.round(far, self.digits), uniform)

    def scores(self, values: Floats) -> Floats:
        """Return the distance from the centre in spreads."""
        scores: Floats = (values - self.centre) / self.spread
        return scores


@dataclass(frozen=True)
class CategoryShape:
    """Levels of unequal shares. ``weights`` are this hospital's, ``effects`` the levels' scores."""

    variable: CategoryVariable
    weights: Floats
    effects: Floats

    @classmethod
    def drawn(cls, variable: CategoryVariable, rng: np.random.Generator) -> CategoryShape:
        """Draw shares and effects; of two levels the second is the rarer one."""
        weights = 0.6 * rng.standard_normal(len(variable.levels))
        if len(weights) == 2:
            weights = np.array([0.0, rng.uniform(-1.0, 0.0)])
        effects = rng.standard_normal(len(weights))
        shares = np.exp(weights) / np.exp(weights).sum()
        effects -= shares @ effects
        return cls(variable, weights, effects / math.sqrt(shares @ effects**2))

    def elsewhere(self, rng: np.random.Generator) -> CategoryShape:
        """Return the shape at another hospital."""
        weights = self.weights + 0.3 * rng.standard_normal(len(self.weights))
        return CategoryShape(self.variable, weights, self.effects)

    def values(self, uniform: Floats) -> Ints:
        """Return positions in the levels, int16."""
        upto = np.cumsum(np.exp(self.weights) / np.exp(self.weights).sum())
        return np.searchsorted(upto[:-1], uniform, side="right").astype(np.int16)

    def cells(self, values: Ints, uniform: Floats) -> Array:
        """Return one of each level's codes, the first ones more often."""
        sizes = np.array([len(codes) for codes in self.variable.codes])
        starts = np.cumsum(sizes) - sizes
        flat = np.array([code for codes in self.variable.codes for code in codes], object)
        cells: Array = flat[starts[values] + (uniform**2 * sizes[values]).astype(np.int64)]
        return cells

    def scores(self, values: Ints) -> Floats:
        """Return the levels' effects."""
        scores: Floats = self.effects[values]
        return scores
