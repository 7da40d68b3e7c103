"""Poisson bootstrap by row key: how often each row stands in a tree's sample.

A row's weight is Poisson(1), which is the multinomial bootstrap's in the limit (Oza and Russell 2001), but
drawn for each row on its own, so that it does not depend on the other rows or where they lie. The draw
is compared with the distribution function in units of 2^-64, so that it is the same everywhere.
"""

from __future__ import annotations

import decimal
import math

import numpy as np

from wardround_common.rowkey import draws
from wardround_common.typing import Ints, Words

MOST_WEIGHT = 7  # one row in 100,000 would have more


def _thresholds() -> Words:
    """Return P(weight <= k) for k = 0 ... 6 in units of 2^-64, rounded down."""
    with decimal.localcontext() as context:
        context.prec = 60
        terms = [decimal.Decimal(-1).exp() / math.factorial(k) for k in range(MOST_WEIGHT)]
        return np.array([int(sum(terms[: k + 1]) * 2**64) for k in range(MOST_WEIGHT)], np.uint64)


_THRESHOLDS = _thresholds()


def weights(keys: Words, tree: int, seed: int) -> Ints:
    """Return the rows' weights in one tree: 0 to MOST_WEIGHT; shape of ``keys``."""
    return np.searchsorted(_THRESHOLDS, draws(keys, f"bootstrap {tree}", seed), side="right")
