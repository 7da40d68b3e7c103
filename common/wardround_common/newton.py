"""Newton's method as a program: each iteration asks one sum of deviance, gradient and information.

A step that does not lower the penalised deviance is halved (Marschner 2011, "glm2: Fitting generalized
linear models with convergence problems", section 2). Convergence is judged on the step in units of the
columns' standard deviations, after which the error is that step's square.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from wardround_common.errors import FitError
from wardround_common.linalg import Factor, factor
from wardround_common.program import Program
from wardround_common.typing import Floats

CONVERGED = 1e-8  # largest step, in standard deviations; what is left after it is of its square
MOST_ITERATIONS = 60
SEPARATED_DEVIANCE = 1e-6  # per row: every row is fitted perfectly
STUCK_STEP = 0.1  # a step that late in the iteration does not shrink: the estimate is infinite


@dataclass(frozen=True)
class Slope:
    """Sums at one beta: -2 log-likelihood, its score and its information."""

    rows: int
    deviance: float
    score: Floats  # (p,)
    information: Floats  # (p, p)


@dataclass(frozen=True)
class Optimum:
    """Where the iteration ended; ``slope`` was summed within CONVERGED standard deviations of ``beta``."""

    beta: Floats
    slope: Slope
    factor: Factor


class Diverged(FitError):
    """No finite maximum: the coefficients at positions ``which`` grow without bound."""

    def __init__(self, which: tuple[int, ...]) -> None:
        super().__init__("the likelihood has no finite maximum")
        self.which = which


def tolerance(slope: Slope) -> Floats:
    """Return the pivots below which a column adds nothing beyond the sums' own rounding; shape (p,)."""
    return 1e-10 * np.diag(slope.information) + slope.rows * 2.0**-44


def newton(
    beta: Floats,
    slope: Slope,
    ask_slope: Callable[[Floats], Program[Slope]],
    penalty: Floats,
    scale: Floats,
) -> Program[Optimum]:
    """Maximise log-likelihood - sum(penalty x beta^2) / 2 from ``beta``, where ``slope`` was summed.

    ``penalty`` and ``scale`` (the columns' standard deviations, 1 for the intercept) have shape (p,).
    Raises Diverged.
    """

    def objective(at: Floats, of: Slope) -> float:
        return of.deviance + float(np.cumsum(penalty * at * at)[-1])

    best, halvings = objective(beta, slope), 0
    for iteration in range(MOST_ITERATIONS):
        information = slope.information + np.diag(penalty)
        factored = factor(information, slope.rows * 2.0**-44 + np.zeros(len(beta)))
        step = factored.solve(slope.score - penalty * beta)
        size = np.abs(step) * scale
        if float(size.max()) < CONVERGED and not factored.aliased:
            return Optimum(beta + step, slope, factored)
        free = not penalty.any()
        perfect = slope.deviance < SEPARATED_DEVIANCE * slope.rows
        if free and (perfect or factored.aliased or (iteration > 15 and float(size.max()) > STUCK_STEP)):
            grown = np.abs(beta) * scale
            grown[0] = 0.0
            raise Diverged(tuple(np.flatnonzero(grown > 0.5 * max(float(grown.max()), 1.0)).tolist()))
        following = beta + step
        new = yield from ask_slope(following)
        while objective(following, new) > best + 1e-9 * (1.0 + abs(best)) and halvings < 30:
            halvings += 1
            step = step / 2.0
            following = beta + step
            new = yield from ask_slope(following)
        beta, slope, best = following, new, objective(following, new)
    raise Diverged(tuple(range(1, len(beta))))
