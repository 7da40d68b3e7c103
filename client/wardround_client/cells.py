"""What the cells of one column mean: a value, empty, a code for missing, or out of the variable's range.

What is none of these is a fault: a DataError with the column, the count and the first line, never the
cell. Whoever reads is told and says what then: to raise it, as a study must, or to note it and read on.
Texts are converted by DuckDB, numbers where they lie; a float64 column in which every cell is a value is
shared with its frame, not copied.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from wardround_client.sources.table import Numbers, Table, quoted
from wardround_common.dictionary import CategoryVariable, NumberVariable
from wardround_common.errors import DataError
from wardround_common.typing import Array, Bools, Floats

OBSERVED, EMPTY, CODED, OUT_OF_RANGE, WRONG = range(5)
States = NDArray[np.int8]
Levels = NDArray[np.int16]
Fault = Callable[[DataError], None]  # if it returns, what does not fit counts as missing

_BLANKS = "".join(c for c in map(chr, range(0x3001)) if c.isspace()) + "\ufeff"
# Trimming all that Unicode calls blank takes seven times as long, so it is tried second.
QUICKLY_TRIMMED, TRIMMED = "trim(cell)", f"trim(cell, {quoted(_BLANKS)})"
# DuckDB would read 1_000 as a number.
NUMBER = "CASE WHEN contains(cell, '_') THEN NULL ELSE TRY_CAST(cell AS DOUBLE) END"
_WHOLE = re.compile(r"-?[0-9]+\.0+")
CANONICAL = (
    f"CASE WHEN regexp_full_match(cell, '{_WHOLE.pattern}') THEN split_part(cell, '.', 1) ELSE cell END"
)
_PLAIN = re.compile(r"-?(0|[1-9][0-9]*)(\.[0-9]+)?")
_TRUE, _FALSE = ("1", "true", "True", "TRUE"), ("0", "false", "False", "FALSE")
_MISSING, _UNKNOWN = -1, -2
_DIGITS_LOST = 2.0**53


@dataclass(frozen=True, repr=False)
class Column:
    """A variable's values, and what became of each cell; ``states`` is None where every cell is a value.

    ``values`` is float64 or, for a category, int16 positions in ``levels``; both of shape (rows,).
    """

    values: Array
    states: States | None

    def out_of_range(self) -> Bools | None:
        """Return which cells are out of range; None means none."""
        return None if self.states is None else self.states == OUT_OF_RANGE

    def counts(self, rows: Bools | None) -> tuple[int, int, int, int]:
        """Return how many of the rows are observed, empty, coded missing and out of range.

        Cells at fault are none of these.
        """
        if self.states is None:
            return (len(self.values) if rows is None else int(np.count_nonzero(rows)), 0, 0, 0)
        found = np.bincount(self.states if rows is None else self.states[rows], minlength=4)
        return (int(found[0]), int(found[1]), int(found[2]), int(found[3]))


def refuse(error: DataError) -> None:
    """Stop at the first fault."""
    raise error


def absent(variable: NumberVariable | CategoryVariable, rows: int) -> Column:
    """Return the column of a variable that the table does not have: every cell is empty."""
    number = isinstance(variable, NumberVariable)
    values: Array = np.full(rows, np.nan) if number else np.full(rows, -1, np.int16)
    return _frozen(values, np.full(rows, EMPTY, np.int8))


def numbers(
    table: Table,
    position: int,
    name: str,
    variable: NumberVariable,
    keep_outside: bool,
    fault: Fault = refuse,
) -> Column:
    """Read a column as the number variable ``name``; NaN where missing.

    With ``keep_outside`` a value out of range stays what it is, for the caller to drop or refuse its row;
    otherwise it becomes NaN. A cell that is no finite number and no declared code is a fault.
    """
    stored = table.numbers(position)
    if stored is None:
        values, states = _parsed(table, position, [c.strip() for c in variable.missing if isinstance(c, str)])
    elif stored.values.dtype.kind == "b":
        column = table.columns[position]
        fault(
            DataError(
                f"{table.label}: column `{column}` holds true and false, no numbers; "
                f"write 0 and 1, or make `variables.{name}` a category"
            )
        )
        return absent(variable, table.rows)
    else:
        values, states = _stored(stored)
    for code in variable.missing:
        states[(values == _as_number(code)) & (states == OBSERVED)] = CODED
    remedy = f"correct them, or declare the code under `variables.{name}.missing`"
    _tell_wrong(table, position, states, ("not a number", "not numbers"), remedy, fault)
    low, high = variable.range
    states[((values < low) | (values > high)) & (states == OBSERVED)] = OUT_OF_RANGE
    if not states.any():
        return _frozen(np.ascontiguousarray(values), None)
    gaps = (states != OBSERVED) & (states != OUT_OF_RANGE) if keep_outside else states != OBSERVED
    return _frozen(np.where(gaps, np.nan, values), states)


def categories(
    table: Table, position: int, name: str, variable: CategoryVariable, fault: Fault = refuse
) -> Column:
    """Read a column as the category ``name``: positions in its levels, -1 where missing.

    A code may be written as a number, 1 or 1.0 for "1", or be the true or false of a boolean column for
    "1" or "true", "0" or "false". A cell that is none of the codes is a fault.
    """
    meanings = {code: level for level, codes in enumerate(variable.codes) for code in codes}
    meanings |= {code: _MISSING for code in variable.missing if code}
    for code, meaning in list(meanings.items()):
        meanings.setdefault(_canonical(code), meaning)
    stored = table.numbers(position)
    if stored is None:
        values, empty = _levels_of_texts(table, position, meanings)
    else:
        values, empty = _levels_of_numbers(stored, meanings)
    states = np.zeros(table.rows, np.int8)
    states[values == _UNKNOWN] = WRONG
    states[values == _MISSING] = CODED
    states[empty] = EMPTY
    remedy = (
        f"correct them, or declare the code under `variables.{name}.levels` or `variables.{name}.missing`"
    )
    _tell_wrong(table, position, states, ("none of the dictionary's levels",), remedy, fault)
    if not states.any():
        return _frozen(values, None)
    values[states != OBSERVED] = -1
    return _frozen(values, states)


def texts(table: Table, position: int) -> list[str]:
    """Return a column's cells as trimmed texts, empty where missing, whole numbers without decimals.

    DataError if they are floating-point numbers so large that different ones may have become the same.
    """
    stored = table.numbers(position)
    if stored is None:
        cells: list[str] = table.texts(position, TRIMMED, f"coalesce({CANONICAL}, '') AS cell")[
            "cell"
        ].tolist()
        return cells
    values = stored.values
    if values.dtype.kind == "f":
        if (np.abs(values[np.isfinite(values)]) > _DIGITS_LOST).any():
            raise DataError(
                f"{table.label}: column `{table.columns[position]}` holds floating-point numbers above 2^53, "
                "which have lost digits; store them as integers or texts"
            )
        cells = [number_text(value) for value in values.tolist()]
    else:
        cells = [str(value).lower() for value in values.tolist()]
    if stored.empty is not None:
        cells = ["" if gap else cell for cell, gap in zip(cells, stored.empty, strict=True)]
    return cells


def spellings(text: str) -> set[str]:
    """Return how `texts` may spell the cell that a study file writes as ``text``."""
    text = _canonical(text.strip())
    return {text} | ({"true"} if text in _TRUE else set()) | ({"false"} if text in _FALSE else set())


def complaint(table: Table, position: int, cells: Bools, what: tuple[str, ...], remedy: str) -> str:
    """Say how many cells of a column are ``what`` (or its plural), where the first is, and what to do."""
    count, first = int(np.count_nonzero(cells)), table.place(int(cells.argmax()))
    are = f"1 cell is {what[0]}" if count == 1 else f"{count} cells are {what[-1]}"
    return f"{table.label}: column `{table.columns[position]}`: {are} (first in {first}); {remedy}"


def _frozen(values: Array, states: States | None) -> Column:
    values = values.view()
    values.flags.writeable = False
    return Column(values, states)


def _stored(stored: Numbers) -> tuple[Floats, States]:
    values: Floats = stored.values.astype(np.float64, copy=False)
    states = np.zeros(len(values), np.int8)
    if stored.values.dtype.kind == "f":
        states[np.isinf(values)] = WRONG
        states[np.isnan(values)] = EMPTY
    if stored.empty is not None:
        states[stored.empty] = EMPTY
    return values, states


def _parsed(table: Table, position: int, codes: list[str]) -> tuple[Floats, States]:
    coded = f"WHEN cell IN ({', '.join(map(quoted, codes))}) THEN {CODED}" if codes else ""
    # NaN is what some programs write where there is nothing.
    select = f"""coalesce({NUMBER}, 'nan'::DOUBLE) AS value,
        CAST(CASE WHEN cell IS NULL OR cell = '' OR lower(cell) = 'nan' THEN {EMPTY} {coded}
        WHEN isfinite({NUMBER}) THEN {OBSERVED} ELSE {WRONG} END AS TINYINT) AS state"""
    for trim in (QUICKLY_TRIMMED, TRIMMED):
        found = table.texts(position, trim, select)
        states: States = found["state"]
        if not (states == WRONG).any():
            break
    return found["value"], states


def _as_number(code: float | str) -> float:
    """Return the number that a code for missing stands for, NaN (which equals nothing) for a text."""
    try:
        return math.nan if "_" in str(code) else float(code)
    except ValueError:
        return math.nan


def _canonical(code: str) -> str:
    return code.partition(".")[0] if _WHOLE.fullmatch(code) else code


def number_text(value: float) -> str:
    """Return a number as a code is written: whole ones without a decimal point, NaN as nothing."""
    if math.isnan(value):
        return ""
    return str(int(value)) if value.is_integer() else repr(value)


def _levels_of_texts(table: Table, position: int, meanings: Mapping[str, int]) -> tuple[Levels, Bools]:
    codes = ", ".join(map(quoted, meanings))
    positions = np.array([*meanings.values(), _UNKNOWN], np.int16)
    exact, canonical = (f"enum_code(TRY_CAST({text} AS ENUM({codes})))" for text in ("cell", CANONICAL))
    for trim, code in ((QUICKLY_TRIMMED, exact), (TRIMMED, f"{exact}, {canonical}")):
        select = f"coalesce({code}, {len(meanings)})::INTEGER AS code, coalesce(cell = '', TRUE) AS empty"
        found = table.texts(position, trim, select)
        values, empty = positions[found["code"]], found["empty"]
        if not ((values == _UNKNOWN) & ~empty).any():
            break
    return values, empty


def _levels_of_numbers(stored: Numbers, meanings: Mapping[str, int]) -> tuple[Levels, Bools]:
    values = stored.values
    empty = np.zeros(len(values), bool) if stored.empty is None else stored.empty
    if values.dtype.kind == "b":
        yes, no = (
            next((meanings[code] for code in codes if code in meanings), _UNKNOWN)
            for codes in (_TRUE, _FALSE)
        )
        return np.where(values, yes, no).astype(np.int16), empty
    if values.dtype.kind == "f":
        empty = empty | np.isnan(values)
    known = _number_codes(meanings, values.dtype)
    if not known:
        return np.full(len(values), _UNKNOWN, np.int16), empty
    codes = np.array(sorted(known), values.dtype)
    levels = np.array([known[code] for code in sorted(known)], np.int16)
    nearest = np.searchsorted(codes, values).clip(max=len(codes) - 1)
    return np.where(codes[nearest] == values, levels[nearest], np.int16(_UNKNOWN)), empty


def _number_codes(meanings: Mapping[str, int], dtype: np.dtype[Any]) -> dict[Any, int]:
    """Return the codes that a column of this type can hold. 01 is none: as a text it is not 1 either."""
    known: dict[Any, int] = {}
    for code in sorted(meanings, key=lambda code: code != _canonical(code)):
        if not _PLAIN.fullmatch(code):
            continue
        if dtype.kind == "f":
            fits = abs(float(code)) <= _DIGITS_LOST
        else:
            fits = "." not in code and np.iinfo(dtype).min <= int(code) <= np.iinfo(dtype).max
        if fits:
            known.setdefault(float(code) if dtype.kind == "f" else int(code), meanings[code])
    return known


def _tell_wrong(
    table: Table, position: int, states: States, what: tuple[str, ...], remedy: str, fault: Fault
) -> None:
    wrong = states == WRONG
    if wrong.any():
        fault(DataError(complaint(table, position, wrong, what, remedy)))
