"""Parquet files: read column by column from the file itself, in the types that it declares."""

from __future__ import annotations

from pathlib import Path

import duckdb

from wardround_client.sources.table import (
    DuckSource,
    Table,
    checked_file,
    literal_path,
    private_connection,
    quietly,
    quoted,
)
from wardround_common.errors import DataError

_MAGIC = b"PAR1"


def open_parquet(path: str | Path) -> Table:
    """Open a Parquet file as a table. DataError if it is none, or has no rows or a column's name twice."""
    file, label = checked_file(path), str(path)
    with file.open("rb") as raw:
        head = raw.read(4)
        raw.seek(-min(4, file.stat().st_size), 2)
        whole = head == _MAGIC and raw.read(4) == _MAGIC
    if not whole:
        raise DataError(f"{label}: is not a Parquet file, or is not whole")
    connection = private_connection(file)
    columns, source = quietly(lambda: _view(connection, file), f"{label}: cannot be read as Parquet")
    for i, name in enumerate(columns):
        if name in columns[:i]:
            raise DataError(f"{label}: columns {columns.index(name) + 1} and {i + 1} have the same name")
    rows = quietly(source.rows, f"{label}: cannot be read as Parquet")
    if rows == 0:
        raise DataError(f"{label}: has no rows")
    return Table(label, columns, rows, "rows", source)


def _view(connection: duckdb.DuckDBPyConnection, file: Path) -> tuple[tuple[str, ...], DuckSource]:
    pattern = quoted(literal_path(file))
    tree = connection.execute(
        f"SELECT name, coalesce(num_children, 0) FROM parquet_schema({pattern})"  # noqa: S608
    ).fetchall()
    columns = _top_level([(str(name), int(children)) for name, children in tree])
    names = ", ".join(f"c{i}" for i in range(len(columns)))
    connection.execute(
        f"CREATE VIEW data AS SELECT * FROM read_parquet({pattern}, hive_partitioning = false) AS t({names})"  # noqa: S608
    )
    return columns, DuckSource(connection)


def _top_level(tree: list[tuple[str, int]]) -> tuple[str, ...]:
    """Return the names of the root's children in a depth-first list of (name, number of children)."""
    names = []
    open_nodes = [tree[0][1]]
    for name, children in tree[1:]:
        while open_nodes[-1] == 0:
            open_nodes.pop()
        open_nodes[-1] -= 1
        if len(open_nodes) == 1:
            names.append(name)
        open_nodes.append(children)
    return tuple(names)
