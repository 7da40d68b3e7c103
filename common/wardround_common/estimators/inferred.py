"""A dictionary for plain arrays: every column a number, its range the observed one made a little wider."""

from __future__ import annotations

import numpy as np

from wardround_common.dictionary import CategoryVariable, NumberVariable, Variable
from wardround_common.typing import Floats

_WIDER = 0.05  # of the observed width, at both ends


def number(values: Floats) -> NumberVariable:
    """Return a number whose range holds the values; shape (rows,), NaN where missing."""
    observed = values[~np.isnan(values)]
    low, high = (float(observed.min()), float(observed.max())) if len(observed) else (0.0, 1.0)
    more = max(_WIDER * (high - low), 1e-9 * max(abs(low), abs(high)), 1e-9)
    return NumberVariable(kind="number", range=(low - more, high + more))


def two_levels() -> CategoryVariable:
    """Return an outcome whose levels are 0 and 1."""
    return CategoryVariable(kind="category", levels=("0", "1"))


def variables(x: Floats, names: list[str], outcome: str, y: Floats | None) -> dict[str, Variable]:
    """Return the variables of ``x`` (rows, columns) by name, and the outcome: ``y``, or two levels."""
    found: dict[str, Variable] = {name: number(x[:, i]) for i, name in enumerate(names)}
    found[outcome] = two_levels() if y is None else number(y)
    return found


def unused_name(names: list[str]) -> str:
    """Return a name for the outcome that no column has."""
    name = "y"
    while name in names:
        name += "_"
    return name
