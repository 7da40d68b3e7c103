"""pandas frames: number columns are read where they lie, all else as text. pandas itself is not imported."""

from __future__ import annotations

from typing import Any

import numpy as np

from wardround_client.sources.table import Numbers, Table, fetched, private_connection
from wardround_common.errors import DataError
from wardround_common.typing import Array

_STORED: dict[str, tuple[type[np.generic], Any]] = {
    "f": (np.float64, np.nan),
    "i": (np.int64, 0),
    "u": (np.uint64, 0),
    "b": (np.bool_, False),
}


def of_frame(frame: Any, label: str) -> Table:
    """Return a pandas DataFrame as a table; its index is not read, its float64 columns are not copied.

    DataError if it is no frame, has no rows, or has a column's name twice.
    """
    if not (hasattr(frame, "iloc") and hasattr(frame, "columns")):
        raise DataError(f"{label}: expected a pandas DataFrame")
    columns = tuple(str(name) for name in frame.columns)
    for i, name in enumerate(columns):
        if name in columns[:i]:
            raise DataError(f"{label}: columns {columns.index(name) + 1} and {i + 1} have the same name")
    if len(frame) == 0:
        raise DataError(f"{label}: has no rows")
    return Table(label, columns, len(frame), "rows", FrameSource(frame))


class FrameSource:
    """Reads the columns of a frame; texts go through a private DuckDB, as those of a file do."""

    def __init__(self, frame: Any) -> None:
        self._frame = frame
        self._connection: Any = None  # opened once, at the first column of texts: it takes 25 ms

    def numbers(self, position: int) -> Numbers | None:
        """Return a column of a number dtype, or of objects that are all bool; None for other dtypes."""
        series = self._frame.iloc[:, position]
        kind = getattr(series.dtype, "kind", "O")
        if kind not in _STORED:
            return _booleans(series) if kind == "O" and series.dtype == object else None
        stored, filler = _STORED[kind]
        if isinstance(series.dtype, np.dtype):
            return Numbers(series.to_numpy().astype(stored, copy=False), None)
        empty = series.isna().to_numpy(bool)
        return Numbers(np.asarray(series.to_numpy(stored, na_value=filler)), empty if empty.any() else None)

    def texts(self, position: int, cell: str, select: str) -> dict[str, Array]:
        """Evaluate ``select`` over ``cell``, itself SQL over the column as VARCHAR."""
        cells = _cells(self._frame.iloc[:, position])
        if self._connection is None:
            self._connection = private_connection()
        self._connection.register("data", {"cell": cells})
        inner = "SELECT CAST(cell AS VARCHAR) AS cell FROM data"
        query = f"SELECT {select} FROM (SELECT {cell} AS cell FROM ({inner}))"  # noqa: S608
        try:
            return fetched(self._connection, query)
        finally:
            self._connection.unregister("data")


def _booleans(series: Any) -> Numbers | None:
    """Return a column of True, False and empty cells, as pandas makes of booleans with gaps."""
    empty = series.isna().to_numpy(bool)
    observed = series.to_numpy()[~empty]
    if not len(observed) or not all(isinstance(cell, (bool, np.bool_)) for cell in observed):
        return None
    values = np.zeros(len(series), bool)
    values[~empty] = observed.astype(bool)
    return Numbers(values, empty)


def _cells(series: Any) -> Array:
    """Return a column as an array of str, None where empty."""
    if series.dtype.type is str:
        return np.asarray(series.to_numpy(object, na_value=None))
    values = series.to_numpy(object)
    if all(type(value) is str or value is None for value in values):
        return np.asarray(values)
    empty = series.isna().to_numpy(bool)
    cells = np.empty(len(values), object)
    cells[:] = [None if gap else _text(value) for value, gap in zip(values, empty, strict=True)]
    return cells


def _text(value: Any) -> str:
    """Return a cell as a CSV file would hold it, whole numbers without a decimal point."""
    if isinstance(value, (float, np.floating)):
        number = float(value)
        return str(int(number)) if number.is_integer() else repr(number)
    return value if type(value) is str else str(value)
