"""Where a hospital's rows come from: files and frames, opened as a `Table` that only the reader reads."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from wardround_client.sources.csv import open_csv
from wardround_client.sources.frame import of_frame
from wardround_client.sources.parquet import open_parquet
from wardround_client.sources.table import Table
from wardround_common.errors import DataError

__all__ = ["Table", "of_frame", "open_csv", "open_parquet", "open_table"]

_OPENERS: dict[str, Callable[[str | Path], Table]] = {
    ".csv": open_csv,
    ".tsv": open_csv,
    ".txt": open_csv,
    ".csv.gz": open_csv,
    ".tsv.gz": open_csv,
    ".parquet": open_parquet,
}


def open_table(path: str | Path) -> Table:
    """Open a file by its name's ending. DataError if it cannot be read, or no ending is known."""
    name = Path(path).name.lower()
    for suffix, opener in _OPENERS.items():
        if name.endswith(suffix):
            return opener(path)
    raise DataError(f"{path}: of unknown kind; a table's name ends in {', '.join(_OPENERS)}")
