"""Elementary functions with the same bits on every processor.

numpy's and the C library's exp, log and erfc choose among kernels by processor, and their last bits
differ. A different last bit can round a row to another grid point, so everything that enters a sum, or
steers a program, uses these: additions, multiplications, divisions and roots only, which IEEE 754 rounds
alike everywhere. Errors are below 2 units in the last place (exp, log) and 1e-12 relative (the normal
tail).
"""

from __future__ import annotations

import math
from typing import Final

import numpy as np

from wardround_common.typing import Floats

_LN2_HIGH: Final = float.fromhex("0x1.62e42fee00000p-1")
_LN2_LOW: Final = float.fromhex("0x1.a39ef35793c76p-33")
_LOG2_E: Final = float.fromhex("0x1.71547652b82fep+0")
_EXP_TERMS: Final = [1.0 / math.factorial(k) for k in range(13, -1, -1)]  # |r| <= ln2/2: rest < 2^-58


def exp(x: Floats) -> Floats:
    """Return e^x for |x| <= 700 (clipped beyond), by reduction to |r| <= ln(2)/2 and Taylor's series."""
    x = np.clip(x, -700.0, 700.0)
    k = np.rint(x * _LOG2_E)
    r = (x - k * _LN2_HIGH) - k * _LN2_LOW
    y = np.full_like(r, _EXP_TERMS[0])
    for term in _EXP_TERMS[1:]:
        y *= r
        y += term
    return np.ldexp(y, k.astype(np.int64))


def log(x: Floats) -> Floats:
    """Return the natural logarithm of positive finite ``x``, by 2 artanh((m - 1) / (m + 1))."""
    m, k = np.frexp(x)
    small = m < math.sqrt(0.5)
    m = np.where(small, m * 2.0, m)
    k = k - small
    s = (m - 1.0) / (m + 1.0)
    z = s * s
    y = np.full_like(s, 1.0 / 23.0)
    for odd in range(21, 1, -2):
        y *= z
        y += 1.0 / odd
    return k * _LN2_HIGH + (2.0 * s + (2.0 * s * z * y + k * _LN2_LOW))


def logistic(x: Floats) -> Floats:
    """Return 1 / (1 + e^-x)."""
    e = exp(-np.abs(x))
    return np.where(x >= 0, 1.0, e) / (1.0 + e)


def tanh(x: Floats) -> Floats:
    """Return (1 - e^-2x) / (1 + e^-2x)."""
    e = exp(-2.0 * np.abs(x))
    return np.copysign((1.0 - e) / (1.0 + e), x)


def log1p_exp(x: Floats) -> Floats:
    """Return log(1 + e^x), the softplus function."""
    e = exp(-np.abs(x))
    one = 1.0 + e
    # log(1 + e) with the rounding of 1 + e given back (Goldberg 1991, theorem 4)
    small = np.where(one > 1.0, log(one) * (e / np.where(one > 1.0, one - 1.0, 1.0)), e)
    return np.maximum(x, 0.0) + small


def binary_deviance(y: Floats, eta: Floats) -> Floats:
    """Return each row's -2 log-likelihood of an outcome 0 or 1 under log-odds ``eta``."""
    deviance: Floats = 2.0 * log1p_exp(np.where(y > 0, -eta, eta))
    return deviance


def normal_tail(z: float) -> float:
    """Return P(|Z| > |z|) of a standard normal: erfc(|z| / sqrt 2).

    By its series below 2 (Abramowitz and Stegun 7.1.6) and its continued fraction beyond (7.1.14).
    """
    x = abs(z) / math.sqrt(2.0)
    if math.isnan(x):
        return math.nan
    scale = float(exp(np.array([-x * x]))[0]) if x < 26 else 0.0
    root_pi = 1.7724538509055159
    if x < 2.0:
        term = total = x
        for n in range(1, 80):
            term = term * (2.0 * x * x) / (2 * n + 1)
            total = total + term
        return 1.0 - 2.0 / root_pi * scale * total
    rest = x
    for n in range(120, 0, -1):
        rest = x + (n / 2.0) / rest
    return scale / (rest * root_pi)
