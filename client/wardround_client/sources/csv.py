"""CSV files: a header row, any of four delimiters, everything as text; copied into memory once.

DuckDB parses. Python's csv module reads the header, and looks for the line at fault where DuckDB refuses
or where delimiters and rows don't add up (DuckDB forgives a delimiter too many at the end of a line).
"""

from __future__ import annotations

import codecs
import csv
import gzip
import io
import re
import zlib
from dataclasses import dataclass
from pathlib import Path
from typing import IO, cast

import duckdb

from wardround_client.sources.table import (
    DuckSource,
    Table,
    checked_file,
    literal_path,
    private_connection,
    quoted,
)
from wardround_common.errors import DataError

DELIMITERS = ",;\t|"
_CHUNK = 1 << 20
_SNIFFED_ROWS = 100
_NUMBER = re.compile(r"\s*[+-]?(\d+[.,]?\d*|[.,]\d+)([eE][+-]?\d+)?\s*")


def open_csv(path: str | Path) -> Table:
    """Open a CSV file (or one in gzip, by its suffix) as a table of texts.

    The first line names the columns; the delimiter is the one of ``, ; tab |`` that divides the first rows
    evenly. DataError names the line of what is not UTF-8, ragged or badly quoted, and says if the header
    is missing, has a name twice, or stands alone.
    """
    file, label = checked_file(path), str(path)
    content = _scanned(file, label)
    delimiter, header = _header(content.head, label)
    source = _loaded(file, delimiter, len(header), strict=True)
    rows = 0 if source is None else source.rows()
    if content.line_ends - rows not in (0, 1) or content.delimiters[delimiter] != (rows + 1) * (
        len(header) - 1
    ):
        counted = _counted(file, label, delimiter, len(header))
        if source is None:
            # Mixed line endings; outside of strict mode DuckDB would take ragged lines and stray quotes too.
            source = _loaded(file, delimiter, len(header), strict=False)
            rows = 0 if source is None else source.rows()
        if source is None or rows != counted:
            raise DataError(f"{label}: cannot be read as CSV; save it again with one kind of line ending")
    if source is None or rows == 0:
        raise DataError(f"{label}: has a header but no rows")
    return Table(label, header, rows, "lines" if content.line_ends - rows in (0, 1) else "rows", source)


@dataclass(frozen=True, repr=False)
class _Content:
    """What one pass over the bytes tells."""

    head: str
    line_ends: int
    delimiters: dict[str, int]


def _loaded(file: Path, delimiter: str, width: int, strict: bool) -> DuckSource | None:
    """Copy the file's rows into a private connection; None where DuckDB cannot."""
    connection = private_connection(file)
    columns = ", ".join(f"c{i}: 'VARCHAR'" for i in range(width))
    compression = "gzip" if _zipped(file) else "none"
    query = f"""CREATE TABLE data AS SELECT * FROM read_csv({quoted(literal_path(file))},
        delim = {quoted(delimiter)}, quote = '"', escape = '"', header = true, auto_detect = false,
        columns = {{{columns}}}, strict_mode = {strict}, compression = '{compression}')"""  # noqa: S608
    try:
        connection.execute(query)
    except duckdb.OutOfMemoryException:
        pass
    except duckdb.Error:
        return None
    else:
        return DuckSource(connection)
    raise DataError(f"{file.name}: there is not enough memory to read it")


def _zipped(file: Path) -> bool:
    return file.name.lower().endswith(".gz")


def _bytes(file: Path) -> IO[bytes]:
    if _zipped(file):
        return cast("IO[bytes]", gzip.open(file))
    return file.open("rb")


def _scanned(file: Path, label: str) -> _Content:
    """Check that the file is UTF-8, and count what the caller compares with DuckDB's reading of it."""
    decoder = codecs.getincrementaldecoder("utf-8-sig")()
    head, feeds, returns, nul = "", 0, 0, False
    delimiters = dict.fromkeys(DELIMITERS, 0)
    try:
        with _bytes(file) as raw:
            while chunk := raw.read(_CHUNK):
                text = decoder.decode(chunk)
                head = head or text
                nul = nul or b"\0" in chunk
                feeds += chunk.count(b"\n")
                returns += chunk.count(b"\r")
                for delimiter in delimiters:
                    delimiters[delimiter] += chunk.count(delimiter.encode())
        decoder.decode(b"", final=True)
    except UnicodeDecodeError as error:
        line = feeds + error.object[: error.start].count(b"\n") + 1
        fault = f"is not UTF-8 in line {line}; save it as UTF-8"
    except (OSError, EOFError, zlib.error):
        fault = "cannot be read" + (" as gzip; is it whole?" if _zipped(file) else "")
    else:
        if not nul and head.strip():
            return _Content(head, feeds or returns, delimiters)
        fault = "holds NUL bytes, as UTF-16 does; save it as UTF-8" if nul else "is empty"
    raise DataError(f"{label}: {fault}")


def _header(head: str, label: str) -> tuple[str, tuple[str, ...]]:
    """Find the delimiter, then the names of the columns."""
    samples = {delimiter: _sample(head, delimiter) for delimiter in DELIMITERS}

    def evenness(delimiter: str) -> tuple[bool, int]:
        widths = [len(row) for row in samples[delimiter]]
        return len(widths) > 0 and widths[0] > 1 and len(set(widths)) == 1, widths[0] if widths else 0

    delimiter = max(DELIMITERS, key=evenness)
    if not samples[delimiter] or head[0] in "\r\n":
        raise DataError(f"{label}: the first line must be a header that names the columns")
    header = tuple(samples[delimiter][0])
    if any(map(_NUMBER.fullmatch, header)) and all(not n or n == "?" or _NUMBER.fullmatch(n) for n in header):
        raise DataError(f"{label}: the first line holds numbers; put a header with names above it")
    for i, name in enumerate(header):
        if name and name in header[:i]:
            # Without a header these would be a patient's cells, so they are not quoted.
            raise DataError(
                f"{label}: columns {header.index(name) + 1} and {i + 1} of the header have the same name"
            )
    return delimiter, header


def _sample(head: str, delimiter: str) -> list[list[str]]:
    """Return the first rows, without the last one, which the end of the sample may have cut."""
    rows = []
    try:
        for row in csv.reader(io.StringIO(head, newline=""), delimiter=delimiter):
            if row:
                rows.append(row)
            if len(rows) > _SNIFFED_ROWS:
                break
    except csv.Error:
        pass
    return rows[:-1] if len(rows) > 1 and len(head) > _CHUNK // 8 else rows


def _counted(file: Path, label: str, delimiter: str, width: int) -> int:
    """Count the rows below the header. DataError for one of another width, or with a quote left open."""
    with _bytes(file) as raw, io.TextIOWrapper(raw, "utf-8-sig", newline="") as text:
        reader = csv.reader(text, delimiter=delimiter, strict=True)
        start, rows = 1, -1
        while True:
            try:
                row = next(reader, None)
            except csv.Error:
                break
            if row is None:
                return rows
            if row and len(row) != width:
                cells = "1 cell" if len(row) == 1 else f"{len(row)} cells"
                raise DataError(
                    f"{label}: line {start} has {cells}, the header has {width}; "
                    "correct that line, or the quotes in it"
                )
            # An empty line is an empty cell where there is one column, and no row where there are more.
            rows += bool(row) or width == 1
            start = reader.line_num + 1
    raise DataError(f"{label}: a quote in line {start} is not closed or not doubled")
