"""`wardround predict`: a hospital applies a study's model to its own table; nothing leaves the hospital.

The table is read as its node reads it, by the dictionary that the model carries.
"""

from __future__ import annotations

import csv
import json
import os
import sys
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import IO, TYPE_CHECKING, Annotated

import numpy as np
import typer

from wardround_client.cells import texts
from wardround_client.reader import Reading, read
from wardround_client.sources import Table, open_table
from wardround_common.errors import DataError, WardroundError, did_you_mean, listed
from wardround_common.files import write_files
from wardround_common.study import Study, parse_study
from wardround_common.typing import Floats, Ints

if TYPE_CHECKING:
    from wardround_common.estimators import FederatedModel

MOST_BYTES = 512 << 20
_FARTHEST = 1e12  # the widest range that a dictionary may declare
_OTHERS = {".onnx": "is for ONNX", ".json": "is to be read", ".md": "is the card"}


def predict_command(
    model: Annotated[Path, typer.Argument(metavar="MODEL", help="A study's model, NAME.skops.")],
    file: Annotated[Path, typer.Argument(metavar="FILE", help="A CSV or Parquet table.")],
    out: Annotated[
        Path | None, typer.Option(metavar="FILE.csv", help="Write there instead of printing.")
    ] = None,
    identity: Annotated[
        str | None, typer.Option("--id", metavar="COLUMN", help="Name rows by this column, not by number.")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Write JSON instead of CSV.")] = False,
) -> None:
    """Apply a study's model to a table of one's own.

    MODEL is the .skops file that a study wrote; FILE a table with the study's variables. For each row comes
    its risk, or the predicted number, and how many predictors it lacked.

    Examples:
      wardround predict stroke.skops patients.csv --out risks.csv

      wardround predict stroke.skops patients.parquet --id case --json
    """
    if out is not None and any(_same(out, other) for other in (model, file)):
        raise WardroundError(f"{out}: would be overwritten; choose another place with `--out`")
    estimator = _loaded(model)
    table = open_table(file)
    names = None if identity is None else _names(table, identity)
    reading = _read(table, estimator)
    predicted = _predicted(estimator, reading, names)
    write = predicted.write_json if as_json else predicted.write_csv
    if out is None:
        write(sys.stdout)
    else:
        write_files({out: write})
    for line in predicted.summary(reading, table.label):
        sys.stderr.write(f"{line}\n")


@dataclass(frozen=True, repr=False)
class Predicted:
    """One line a row: its number or id, the value, and how many predictors it lacks; ``of`` says what of."""

    ids: list[str] | None
    value: str
    values: Floats
    missing: Ints
    of: dict[str, str]

    @property
    def _head(self) -> tuple[str, str, str]:
        return "row" if self.ids is None else "id", self.value, "missing"

    def _lines(self) -> Iterator[tuple[int | str, float, int]]:
        names = range(1, len(self.values) + 1) if self.ids is None else self.ids
        return zip(names, self.values.tolist(), self.missing.tolist(), strict=True)

    def write_csv(self, file: IO[str]) -> None:
        """Write a header and a line a row; numbers keep all their digits."""
        rows = csv.writer(file, lineterminator="\n")
        rows.writerow(self._head)
        rows.writerows(self._lines())

    def write_json(self, file: IO[str]) -> None:
        """Write one object."""
        rows = [dict(zip(self._head, line, strict=True)) for line in self._lines()]
        json.dump({**self.of, "rows": rows}, file, ensure_ascii=False, indent=1)
        file.write("\n")

    def summary(self, reading: Reading, label: str) -> Iterator[str]:
        """Yield what a person should know."""
        if reading.absent:
            yield f"note: {label} has no column for {listed(reading.absent)}: read as missing"
        gaps = int(np.count_nonzero(self.missing))
        target = f"of {self.of['outcome']}" + (f" = {self.of['level']}" if "level" in self.of else "")
        mean = float(self.values.mean())
        yield (
            f"{len(self.values)} rows, mean {self.value} {target} {mean:.4g}; "
            f"{gaps} lack a predictor; model {self.of['model_sha256'][:12]}"
        )


def _same(one: Path, other: Path) -> bool:
    return one.exists() and other.exists() and one.samefile(other)


def _loaded(path: Path) -> FederatedModel:
    """Read a model. WardroundError for any other file."""
    if path.suffix.lower() in _OTHERS:
        raise WardroundError(f"{path}: {_OTHERS[path.suffix.lower()]}; give the .skops file beside it")
    try:
        with path.open("rb") as file:
            size = os.fstat(file.fileno()).st_size
            data = file.read(min(size, MOST_BYTES) + 1)
    except FileNotFoundError:
        raise WardroundError(f"{path}: there is no such file") from None
    except OSError as error:
        raise WardroundError(f"{path}: cannot be read ({error.strerror})") from None
    if len(data) > MOST_BYTES:
        raise WardroundError(f"{path}: larger than {MOST_BYTES >> 20} MiB; is this a model?")
    # scikit-learn takes a second to import, which no other command should wait for
    from wardround_common.estimators import load_estimator

    return load_estimator(data, str(path))


def _names(table: Table, column: str) -> list[str]:
    if column not in table.columns:
        raise DataError(
            f"{table.label}: no column `{column}`{did_you_mean(column, table.columns)}; see `--id`"
        )
    return texts(table, table.columns.index(column))


def _read(table: Table, estimator: FederatedModel) -> Reading:
    """Read the model's variables, out of range as missing; DataError if the table has none of them."""
    study = _study(estimator)
    used = {variable.column or name for name, variable in study.variables.items()}
    reading = read(_without_ids(table, used), study, "", b"")
    if len(reading.absent) == len(reading.cohort.dictionary):
        raise DataError(
            f"{table.label}: has no column of the model's, which reads {listed(reading.absent)}"
            f"{did_you_mean(reading.absent[0], table.columns)}"
        )
    return reading


def _without_ids(table: Table, used: set[str]) -> Table:
    """Hide a column of ids from the reader, who would have each row name a person."""
    hidden = [name not in used and name.strip().casefold() == "id" for name in table.columns]
    kept = ["" if hide else name for name, hide in zip(table.columns, hidden, strict=True)]
    return replace(table, columns=tuple(kept))


def _study(estimator: FederatedModel) -> Study:
    """Return a study of the predictors alone, by whose dictionary the table is read.

    Ranges that nobody declared, but were taken from the rows of a fit, bound nothing.
    """
    variables = {name: estimator.dictionary_[name] for name in estimator.model_.variables}
    if estimator.inferred_:
        widest = {"range": (-_FARTHEST, _FARTHEST)}
        variables = {name: variable.model_copy(update=widest) for name, variable in variables.items()}
    return parse_study(
        {
            "wardround": 1,
            "name": "predict",
            "variables": variables,
            "rows": "many",
            "max_rows": 2**31,
            "analyses": [{"kind": "summary"}],
        }
    )


def _predicted(estimator: FederatedModel, reading: Reading, names: list[str] | None) -> Predicted:
    cohort, outcome = reading.cohort, estimator.outcome_
    missing = np.zeros(cohort.rows, np.int64)
    for variable in cohort.dictionary:
        missing += ~cohort.observed(variable)
    of = {"model_sha256": estimator.model_.sha256, "outcome": outcome}
    if estimator.classifies:
        of["level"] = estimator.dictionary_.category(outcome).levels[1]
    return Predicted(
        names, "risk" if estimator.classifies else "prediction", estimator.values_of(cohort), missing, of
    )
