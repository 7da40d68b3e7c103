"""A hospital's table before the reader has seen it: its columns' names, and access to one at a time.

The rows stay in a private DuckDB connection (or the caller's frame) that writes nothing to disk, loads no
extension and, once opened, reaches no file but its own. DuckDB's own messages may quote a cell, so none of
them passes from here.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, Protocol, TypeVar

import duckdb
import numpy as np

from wardround_common.errors import DataError
from wardround_common.typing import Array, Bools

T = TypeVar("T")


@dataclass(frozen=True, repr=False)
class Numbers:
    """A column that is stored as numbers: float64, int64, uint64 or bool, of shape (rows,).

    ``empty`` marks the cells without a value; a NaN is empty too. Don't write into either.
    """

    values: Array
    empty: Bools | None


class Source(Protocol):
    """Gives a table's columns by position, in the order of its rows."""

    def numbers(self, position: int) -> Numbers | None:
        """Return a column that is stored as numbers, or None if it is stored as text."""

    def texts(self, position: int, cell: str, select: str) -> dict[str, Array]:
        """Evaluate ``select`` over ``cell``, itself SQL over the column as VARCHAR; shapes (rows,)."""


@dataclass(frozen=True, repr=False)
class Table:
    """One hospital's rows, unread.

    ``label`` is what a message calls the table; ``rows_are`` says how a message names a row: by its line in
    the file, where rows and lines go together, or by its number.
    """

    label: str
    columns: tuple[str, ...]
    rows: int
    rows_are: Literal["lines", "rows"]
    source: Source

    def __repr__(self) -> str:
        return f"Table({self.label})"

    def place(self, row: int) -> str:
        """Name the row at a position from 0: its line (the header is line 1), or its number from 1."""
        return f"line {row + 2}" if self.rows_are == "lines" else f"row {row + 1}"

    def numbers(self, position: int) -> Numbers | None:
        """Return the column at ``position`` if it is stored as numbers, else None; or raise DataError."""
        numbers = self._read(position, lambda: self.source.numbers(position))
        self._check(None if numbers is None else numbers.values)
        return numbers

    def texts(self, position: int, cell: str, select: str) -> dict[str, Array]:
        """Evaluate an SQL select list over the texts of the column at ``position``.

        ``cell`` is SQL over the column ``cell`` as it is stored, such as ``trim(cell)``; in ``select`` the
        name ``cell`` means its result. Returns one array of shape (rows,) per name of the select list,
        masked where it gives NULL. DataError if the column cannot be read.
        """
        arrays = self._read(position, lambda: self.source.texts(position, cell, select))
        for array in arrays.values():
            self._check(array)
        return arrays

    def _read(self, position: int, run: Callable[[], T]) -> T:
        return quietly(run, f"{self.label}: column `{self.columns[position]}` cannot be read")

    def _check(self, array: Array | None) -> None:
        if array is not None and len(array) != self.rows:
            raise DataError(f"{self.label}: changed while it was read; leave the file alone and try again")


_INTEGERS = ("TINYINT", "SMALLINT", "INTEGER", "BIGINT", "UTINYINT", "USMALLINT", "UINTEGER")
_STORED_AS = {
    "BOOLEAN": "BOOLEAN",
    "FLOAT": "DOUBLE",
    "DOUBLE": "DOUBLE",
    "UBIGINT": "UBIGINT",
    **dict.fromkeys(_INTEGERS, "BIGINT"),
}


class DuckSource:
    """A relation ``data`` with the columns ``c0``, ``c1`` ... in a private connection."""

    def __init__(self, connection: duckdb.DuckDBPyConnection) -> None:
        self._connection = connection
        described = connection.execute("DESCRIBE data").fetchall()
        self._types = [str(row[1]) for row in described]

    def rows(self) -> int:
        """Return the number of rows."""
        return int(self._connection.execute("SELECT count(*) FROM data").fetchall()[0][0])

    def numbers(self, position: int) -> Numbers | None:
        """Return a column of a number type as float64, int64, uint64 or bool; None for other types."""
        kind = _STORED_AS.get(self._types[position])
        if kind is None:
            return None
        column = fetched(self._connection, f"SELECT CAST(c{position} AS {kind}) AS v FROM data")["v"]  # noqa: S608
        if not isinstance(column, np.ma.MaskedArray):
            return Numbers(column, None)
        return Numbers(np.asarray(column.data), np.ma.getmaskarray(column))

    def texts(self, position: int, cell: str, select: str) -> dict[str, Array]:
        """Evaluate ``select`` over ``cell``, itself SQL over the column as VARCHAR."""
        inner = f"SELECT CAST(c{position} AS VARCHAR) AS cell FROM data"  # noqa: S608
        return fetched(self._connection, f"SELECT {select} FROM (SELECT {cell} AS cell FROM ({inner}))")  # noqa: S608


def fetched(connection: duckdb.DuckDBPyConnection, query: str) -> dict[str, Array]:
    """Return a query's result by column. The SQL is this package's own; no cell is ever part of it."""
    arrays: dict[str, Any] = connection.execute(query).fetchnumpy()
    return arrays


def private_connection(file: Path | None = None) -> duckdb.DuckDBPyConnection:
    """Return an in-memory DuckDB that spills nothing, loads nothing, and reads at most ``file``."""
    connection = duckdb.connect(
        ":memory:",
        config={
            "temp_directory": "",
            "autoload_known_extensions": False,
            "autoinstall_known_extensions": False,
            "allow_community_extensions": False,
            "python_enable_replacements": False,
            "pandas_analyze_sample": 0,
            "ieee_floating_point_ops": False,
            "error_on_division_by_zero": False,
        },
    )
    if file is not None:
        paths = ", ".join(quoted(path) for path in sorted({str(file), literal_path(file)}))
        connection.execute(f"SET allowed_paths = [{paths}]")
    connection.execute("SET enable_external_access = false")
    connection.execute("SET lock_configuration = true")
    return connection


def checked_file(path: str | Path) -> Path:
    """Return the absolute path of a regular file that can be opened and is not empty; else DataError."""
    file = Path(path).absolute()
    try:
        mode = file.stat()
        if stat.S_ISDIR(mode.st_mode):
            raise DataError(f"{path}: is a folder; name the file in it")
        if not stat.S_ISREG(mode.st_mode):
            raise DataError(f"{path}: is not a regular file")
        if mode.st_size == 0:
            raise DataError(f"{path}: is empty")
        os.close(os.open(file, os.O_RDONLY))
    except (FileNotFoundError, NotADirectoryError):
        raise DataError(f"{path}: there is no such file") from None
    except PermissionError:
        raise DataError(f"{path}: no permission to read it") from None
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or "bad name"
        raise DataError(f"{path}: cannot be read ({reason})") from None
    return file


def quietly(run: Callable[[], T], message: str) -> T:
    """Return ``run()``; where DuckDB fails, raise DataError(message) that holds no trace of its message."""
    try:
        return run()
    except duckdb.OutOfMemoryException:
        message = f"{message}: there is not enough memory"
    except (duckdb.Error, ValueError):
        pass
    raise DataError(message)


def quoted(text: object) -> str:
    """Return an SQL text literal."""
    return "'" + str(text).replace("'", "''") + "'"


def literal_path(file: Path) -> str:
    """Return the glob pattern that matches this one path, whatever characters it holds."""
    return "".join(f"[{character}]" if character in "*?[" else character for character in str(file))
