"""Raw cells as the dictionary knows them: a column of any array-like becomes numbers, or a category's levels.

The rules are those by which a hospital's table is read, without its database. Errors are ValueErrors, as
scikit-learn's are; they never quote a cell.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from wardround_common.dictionary import CategoryVariable, NumberVariable
from wardround_common.typing import Array, Bools, Floats

MISSING = -1
_UNKNOWN = -2
_WHOLE = re.compile(r"-?[0-9]+\.0+")
_TRUE, _FALSE = ("1", "true", "True", "TRUE"), ("0", "false", "False", "FALSE")


def converted(cells: Any, name: str, variable: NumberVariable | CategoryVariable) -> Array:
    """Return a column as a cohort holds it: float64, or int16 positions in the levels; shape (rows,)."""
    array = np.asarray(cells)
    if array.ndim != 1:
        raise ValueError(f"`{name}`: expected one column of cells, not an array of {array.ndim} dimensions")
    if isinstance(variable, NumberVariable):
        return _numbers(array, name, variable)
    return _levels(array, name, variable)


def meanings(variable: CategoryVariable) -> dict[str, int]:
    """Return which level each text stands for, MISSING for a code of missing: codes, and levels by name."""
    found = {code: level for level, codes in enumerate(variable.codes) for code in codes}
    found |= {code: MISSING for code in variable.missing if code}
    for code, meaning in [*found.items(), *((name, i) for i, name in enumerate(variable.levels))]:
        found.setdefault(code, meaning)
        found.setdefault(_canonical(code), meaning)
    return found


def missing_numbers(variable: NumberVariable) -> tuple[float, ...]:
    """Return the numbers that mean missing; codes that are texts are left out."""
    return tuple(number for code in variable.missing if not math.isnan(number := _number(code)))


def _numbers(array: Array, name: str, variable: NumberVariable) -> Floats:
    if array.dtype.kind == "b":
        raise ValueError(
            f"`{name}`: the column holds true and false, no numbers; give 0 and 1, or make it a category"
        )
    if array.dtype.kind in "fiu":
        values: Floats = array.astype(np.float64)
        wrong = np.isinf(values)
    else:
        absent = {code.strip() for code in variable.missing if isinstance(code, str)} | {""}
        values = np.fromiter(
            (math.nan if _absent(cell, absent) else _number(cell) for cell in array), np.float64, len(array)
        )
        gaps = np.fromiter((_absent(cell, absent) for cell in array), bool, len(array))
        wrong = ~np.isfinite(values) & ~gaps
    _tell(name, wrong, ("not a finite number", "not finite numbers"), f"`{name}.missing`")
    low, high = variable.range
    gone = (values < low) | (values > high)
    for code in missing_numbers(variable):
        gone |= values == code
    return np.where(gone, np.nan, values)


def _levels(array: Array, name: str, variable: CategoryVariable) -> NDArray[np.int16]:
    known = meanings(variable)
    if array.dtype.kind == "b":
        yes, no = (_first(known, codes) for codes in (_TRUE, _FALSE))
        levels = np.where(array, yes, no).astype(np.int16)
    elif array.dtype.kind in "fiu":
        values, inverse = np.unique(array, return_inverse=True)
        found = [MISSING if math.isnan(value) else known.get(_text(value), _UNKNOWN) for value in values]
        levels = np.array(found, np.int16)[inverse.reshape(-1)]
    else:
        cells = (MISSING if _absent(cell, {""}) else _meaning(cell, known) for cell in array)
        levels = np.fromiter(cells, np.int16, len(array))
    _tell(
        name, levels == _UNKNOWN, ("none of the dictionary's levels",), f"`{name}.levels` or `{name}.missing`"
    )
    return levels


def _tell(name: str, wrong: Bools, what: tuple[str, ...], where: str) -> None:
    """Raise ValueError if a cell is ``what``, of which the last says it of several."""
    if wrong.any():
        count = int(np.count_nonzero(wrong))
        are = f"1 cell is {what[0]}" if count == 1 else f"{count} cells are {what[-1]}"
        raise ValueError(
            f"`{name}`: {are} (first in row {int(wrong.argmax()) + 1}); "
            f"correct them, or declare the code under {where}"
        )


def _absent(cell: Any, texts: set[str]) -> bool:
    """Tell whether an object means that there is nothing: None, NaN, pandas' NA, or one of the texts."""
    if cell is None:
        return True
    if isinstance(cell, str):
        return cell.strip() in texts or cell.strip().lower() == "nan"
    try:
        return bool(cell != cell)
    except TypeError:
        return True  # pandas.NA does not say whether it does


def _meaning(cell: Any, known: Mapping[str, int]) -> int:
    if isinstance(cell, (bool, np.bool_)):
        return _first(known, _TRUE if cell else _FALSE)
    text = cell.strip() if isinstance(cell, str) else _text(cell)
    return known.get(text, known.get(_canonical(text), _UNKNOWN))


def _first(known: Mapping[str, int], codes: Iterable[str]) -> int:
    return next((known[code] for code in codes if code in known), _UNKNOWN)


def _number(cell: Any) -> float:
    """Return a cell as a number; NaN where it is none."""
    try:
        return math.nan if isinstance(cell, bool) or "_" in str(cell) else float(cell)
    except (TypeError, ValueError):
        return math.nan


def _text(value: Any) -> str:
    """Return a number as a code is written: whole ones without a decimal point."""
    if isinstance(value, (float, np.floating)):
        number = float(value)
        return str(int(number)) if number.is_integer() else repr(number)
    return str(value)


def _canonical(code: str) -> str:
    return code.partition(".")[0] if _WHOLE.fullmatch(code) else code
