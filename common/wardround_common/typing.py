"""Array types that are named once, and the dtype that each stands for."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

Array = NDArray[Any]
Floats = NDArray[np.float64]
Ints = NDArray[np.int64]
Words = NDArray[np.uint64]
Bools = NDArray[np.bool_]

# An alias looks different to introspection in each version of Python; looking it up does not.
DTYPES: dict[Any, np.dtype[Any]] = {
    Floats: np.dtype(np.float64),
    Ints: np.dtype(np.int64),
    Words: np.dtype(np.uint64),
}
