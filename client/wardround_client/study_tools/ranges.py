"""Tidy ranges for numbers, and the numbers that more likely mean missing than measured."""

from __future__ import annotations

import math

import numpy as np

from wardround_common.typing import Floats, Ints

FARTHEST = 1e12  # what a study file takes as a bound
_SUSPECTS = (0, 9, 77, 88, 99, 777, 888, 999, 7777, 8888, 9999, 99999)
_ROOM, _STEPS = 0.05, 20


def tidy_range(low: float, high: float) -> tuple[float, float]:
    """Return bounds of 1, 2, 2.5 or 5 x 10^k steps with some room, so that neither is a patient's value.

    Zero is kept as the lower bound of what is never negative.
    """
    room = max(_ROOM * (high - low), 1e-6 * max(abs(low), abs(high)))
    step, exponent = _step((high - low + 2 * room) / _STEPS)
    bounds = []
    for value, outward, direction in ((low - room, math.floor, -1), (high + room, math.ceil, 1)):
        count = outward(value / (step * 10.0**exponent))
        bound = float(f"{count * step}e{exponent}")
        if bound in (low, high):
            bound = float(f"{(count + direction) * step}e{exponent}")
        bounds.append(min(max(bound, -FARTHEST), FARTHEST))
    return (max(bounds[0], 0.0) if low >= 0 else bounds[0]), bounds[1]


def _step(least: float) -> tuple[float, int]:
    """Return the smallest of 1, 2, 2.5, 5 x 10^k that is no smaller than ``least``, as factor and k."""
    exponent = math.floor(math.log10(least))
    for factor in (1, 2, 2.5, 5):
        if factor * 10.0**exponent >= least:
            return factor, exponent
    return 1, exponent + 1


def missing_codes(values: Floats) -> list[float]:
    """Return numbers that stand apart as codes for missing do, such as a cholesterol of 0, or -9, or 999.

    ``values``: the different numbers of a column, ascending. Negative codes are those of a column that
    otherwise has none; 0 and codes of nines must lie well outside of all other numbers.
    """
    found: list[float] = []
    rest = values
    while len(rest) > 2:
        low, high = float(rest[0]), float(rest[-1])
        if low < 0 and rest[1] >= 0 and _is_suspect(-low):
            found, rest = [*found, low], rest[1:]
        elif high > 0 and _is_suspect(high) and high - rest[-2] > 0.5 * (rest[-2] - rest[0]):
            found, rest = [*found, high], rest[:-1]
        elif low <= 0 and _is_suspect(-low) and rest[1] - low > 0.1 * (high - rest[1]):
            found, rest = [*found, low], rest[1:]
        else:
            break
    return found


def _is_suspect(value: float) -> bool:
    return value in _SUSPECTS or value == 1


def missing_levels(values: Floats) -> list[float]:
    """Return codes that stand apart from a category's other codes, such as 9 beside 1 and 2."""
    found: list[float] = []
    rest = values
    while len(rest) > 2:
        if rest[0] < 0 and rest[1] >= 0 and _is_suspect(-float(rest[0])):
            found, rest = [*found, float(rest[0])], rest[1:]
        elif rest[-1] > 0 and _is_suspect(float(rest[-1])) and rest[-1] - rest[-2] >= 3:
            found, rest = [*found, float(rest[-1])], rest[:-1]
        else:
            break
    return found


def spike(values: Floats, counts: Ints) -> float | None:
    """Return the largest number if it may be a code for missing and is far more frequent than those near."""
    if len(values) < 5 or not _is_suspect(float(values[-1])):
        return None
    return float(values[-1]) if counts[-1] >= 11 and counts[-1] > 5 * np.max(counts[-5:-1]) else None
