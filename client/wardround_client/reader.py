"""The only reader of rows: turns a hospital's table into the cohort that a study describes.

All variables are converted (`cells`), then the study's predicate selects rows, then rows out of range are
dropped or refused where the study says so; ids and folds follow the rows. Columns are read one at a time.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np

from wardround_client.cells import (
    TRIMMED,
    Column,
    Fault,
    absent,
    categories,
    complaint,
    numbers,
    refuse,
    spellings,
    texts,
)
from wardround_client.people import people_of
from wardround_client.sources.table import Table, fetched, private_connection, quietly, quoted
from wardround_common.cohort import Cohort, Flow, RowKeys
from wardround_common.dictionary import CategoryVariable, Dictionary, NumberVariable
from wardround_common.errors import DataError
from wardround_common.predicate import check_predicate, variables_of
from wardround_common.rowkey import chosen
from wardround_common.study import Closed, ColumnSplit, Study
from wardround_common.typing import Array, Bools, Words


@dataclass(frozen=True)
class Reading:
    """A hospital's cohort, and the variables for which its table has no column (read as all missing).

    ``kept`` (rows of the table,): which are in the cohort, None for all; ``people`` (rows of the table,):
    a keyed hash of whose row each is, empty where no key was given.
    """

    cohort: Cohort
    absent: tuple[str, ...]
    kept: Bools | None = field(default=None, repr=False)
    people: Words = field(default_factory=lambda: np.zeros(0, np.uint64), repr=False)


def read(
    table: Table,
    study: Study,
    hospital: str,
    study_key: bytes,
    fault: Fault = refuse,
    row_key: bytes | None = None,
) -> Reading:
    """Read a table as the study's cohort.

    ``hospital`` is the namespace of its ids, ``study_key`` the secret of the row keys (64 bytes of it are
    used). ``fault`` is told by a DataError, which never quotes a cell, where the table does not hold what
    the dictionary promises; by default it is raised. DataError too where the table cannot be read at all.
    ``row_key``: the secret under which rows are told apart between studies.
    """
    if table.rows > study.max_rows:
        fault(DataError(f"{table.label}: {table.rows} rows, and the study's `max_rows` is {study.max_rows}"))
    dictionary = study.dictionary
    positions = {
        name: _column_of(table, name, variable.column, fault) for name, variable in dictionary.items()
    }
    keep_outside = study.out_of_range != "missing"
    columns = {
        name: _converted(table, positions[name], name, variable, keep_outside, fault)
        for name, variable in dictionary.items()
    }
    members = _in_cohort(table, columns, dictionary, study.cohort.where)
    if study.cohort.closed is not None:
        early = _closed(table, study.cohort.closed, members, fault)
        members = early if members is None else members & early
    kept = members
    if study.out_of_range == "refuse":
        _tell_outside(table, positions, columns, dictionary, members, fault)
    elif study.out_of_range == "drop":
        kept = _inside(columns, members)
    in_cohort, rows = (table.rows if m is None else int(np.count_nonzero(m)) for m in (members, kept))
    flow = Flow(
        read=table.rows,
        not_in_cohort=table.rows - in_cohort,
        out_of_range=in_cohort - rows,
        variables={name: column.counts(kept) for name, column in columns.items()},
    )
    keys = _keys(table, study, hospital, study_key, kept, fault)
    held_out = _held_out(table, study, keys, kept, fault)
    # Popped one by one, so that at most one column is held twice.
    values = {name: _rows_of(columns.pop(name).values, kept) for name in dictionary}
    cohort = Cohort(dictionary, values, rows, keys, held_out, flow)
    people = np.zeros(0, np.uint64) if row_key is None else people_of(table, row_key)
    return Reading(cohort, tuple(name for name in dictionary if positions[name] is None), kept, people)


def _column_of(table: Table, name: str, column: str | None, fault: Fault) -> int | None:
    remedy = "rename it" if column is not None else "rename it or set `column: {}`"
    wanted = name if column is None else column
    return _position(table, wanted, f"{remedy} under `variables.{name}`", fault)


def _position(table: Table, wanted: str, remedy: str, fault: Fault) -> int | None:
    """Return a column's position, None if there is none. One almost of that name is a fault."""
    if wanted and wanted in table.columns:
        return table.columns.index(wanted)
    for other in table.columns:
        if wanted.strip() and other.strip().casefold() == wanted.strip().casefold():
            there = f"there is `{other}`; {remedy.replace('{}', other)}"
            fault(DataError(f"{table.label}: no column `{wanted}`; {there}"))
            break
    return None


def _converted(
    table: Table,
    position: int | None,
    name: str,
    variable: NumberVariable | CategoryVariable,
    keep_outside: bool,
    fault: Fault,
) -> Column:
    if position is None:
        return absent(variable, table.rows)
    if isinstance(variable, NumberVariable):
        return numbers(table, position, name, variable, keep_outside, fault)
    return categories(table, position, name, variable, fault)


def _in_cohort(
    table: Table, columns: Mapping[str, Column], dictionary: Dictionary, where: str | None
) -> Bools | None:
    """Return the rows for which the predicate is true; None means all of them."""
    if where is None:
        return None
    used = {name: columns[name].values for name in variables_of(where, dictionary)}
    message = f"{table.label}: `cohort.where` cannot be evaluated"
    members = quietly(lambda: satisfied(where, dictionary, used, table.rows), message)
    return None if members.all() else members


def satisfied(where: str, dictionary: Dictionary, values: Mapping[str, Array], rows: int) -> Bools:
    """Return the rows for which the predicate is true, from a cohort's columns that it reads."""
    predicate = check_predicate(where, dictionary)
    arrays: dict[str, Array] = {"row": np.zeros(rows, np.int8)}
    select = []
    for i, name in enumerate(variables_of(where, dictionary)):
        variable, quoted_name = dictionary[name], '"' + name.replace('"', '""') + '"'
        arrays[f"v{i}"] = values[name]
        if isinstance(variable, CategoryVariable):
            select.append(f"[{', '.join(map(quoted, variable.levels))}][v{i} + 1] AS {quoted_name}")
        else:
            select.append(f"CASE WHEN isnan(v{i}) THEN NULL ELSE v{i} END AS {quoted_name}")
    connection = private_connection()
    connection.register("cells", arrays)
    inner = f"SELECT {', '.join(select or ['row'])} FROM cells"  # noqa: S608
    query = f"SELECT coalesce({predicate}, FALSE) AS member FROM ({inner})"  # noqa: S608
    members: Bools = fetched(connection, query)["member"]
    return members


_TIME = "[0-9]{2}:[0-9]{2}(:[0-9]{2}([.][0-9]{1,9})?)?"
_DAY = f"[0-9]{{4}}-[0-9]{{2}}-[0-9]{{2}}([ T]{_TIME})?"  # ISO 8601 without a time zone


def _closed(table: Table, closed: Closed, members: Bools | None, fault: Fault) -> Bools:
    """Return the rows that are dated by the cohort's last day at the latest; one without a date is not."""
    position = _position(table, closed.column, "rename it", fault)
    if position is None:
        fault(DataError(f"{table.label}: no column `{closed.column}`, which `cohort.closed` names"))
        return np.zeros(table.rows, bool)
    moment = f"CASE WHEN regexp_full_match(cell, '{_DAY}') THEN TRY_CAST(cell AS TIMESTAMP) END"
    found = table.texts(
        position,
        TRIMMED,  # cast first, since 24:00 is the next day
        f"coalesce(cell, '') != '' AND {moment} IS NULL AS wrong, "
        f"coalesce(CAST({moment} AS DATE) <= DATE {quoted(closed.by)}, FALSE) AS early",
    )
    wrong: Bools = found["wrong"] if members is None else found["wrong"] & members
    if wrong.any():
        remedy = "write days as in 2026-01-31, or times as in 2026-01-31T12:00:00 without a time zone"
        fault(DataError(complaint(table, position, wrong, ("not a date",), remedy)))
    early: Bools = found["early"]
    return early


def _tell_outside(
    table: Table,
    positions: Mapping[str, int | None],
    columns: Mapping[str, Column],
    dictionary: Dictionary,
    members: Bools | None,
    fault: Fault,
) -> None:
    for name, column in columns.items():
        outside, position = column.out_of_range(), positions[name]
        if outside is None or position is None:
            continue
        outside = outside if members is None else outside & members
        if outside.any():
            low, high = dictionary.number(name).range
            what = (f"outside {low:.15g} to {high:.15g}",)
            remedy = f"correct them, or see `variables.{name}.range` and `out_of_range`"
            fault(DataError(complaint(table, position, outside, what, remedy)))


def _inside(columns: Mapping[str, Column], members: Bools | None) -> Bools | None:
    """Return the members of whom no variable is out of range; None means all rows."""
    kept = members
    for column in columns.values():
        outside = column.out_of_range()
        if outside is not None and outside.any():
            kept = ~outside if kept is None else kept & ~outside
    return kept


def _keys(
    table: Table, study: Study, hospital: str, study_key: bytes, kept: Bools | None, fault: Fault
) -> RowKeys:
    position = _position(table, "id", "rename it", fault)
    if position is None:
        # Row numbers of two hospitals name different people, also where the study's ids are shared.
        numbered = table.rows if kept is None else [str(row) for row in np.flatnonzero(kept)]
        return RowKeys(study_key, hospital, numbered)
    ids = _texts_of(table, position, kept, "give each row the id of its person", fault)
    if study.rows == "one_per_person" and len(set(ids)) < len(ids):
        first: dict[str, int] = {}
        repeated = np.array([first.setdefault(one, i) != i for i, one in enumerate(ids)])
        what = ("an id that stood there before", "ids that stood there before")
        remedy = "keep one row per person, or let the study say `rows: many`"
        fault(DataError(complaint(table, position, _in_table(table, repeated, kept), what, remedy)))
    return RowKeys(study_key, hospital if study.ids == "hospital" else "", ids)


def _held_out(table: Table, study: Study, keys: RowKeys, kept: Bools | None, fault: Fault) -> Bools | None:
    split = study.split
    if split is None:
        return None
    if not isinstance(split, ColumnSplit):
        return chosen(keys.values, "fold", split.seed, split.test)
    position = _position(table, split.column, "rename it", fault)
    if position is None:
        fault(DataError(f"{table.label}: no column `{split.column}`, which `split.column` names"))
        return None
    folds = _texts_of(table, position, kept, "say of each row whether it is held out", fault)
    test = spellings(split.test)
    return np.fromiter((fold in test for fold in folds), bool, len(folds))


def _texts_of(table: Table, position: int, kept: Bools | None, remedy: str, fault: Fault) -> list[str]:
    """Return the column's texts in the kept rows. An empty one is a fault."""
    cells = texts(table, position)
    if kept is not None:
        cells = [cells[row] for row in np.flatnonzero(kept)]
    if "" in cells:
        empty = np.array([cell == "" for cell in cells])
        fault(DataError(complaint(table, position, _in_table(table, empty, kept), ("empty",), remedy)))
    return cells


def _in_table(table: Table, rows: Bools, kept: Bools | None) -> Bools:
    """Return as rows of the table what is given as rows of those kept."""
    if kept is None:
        return rows
    found = np.zeros(table.rows, bool)
    found[kept] = rows
    return found


def _rows_of(values: Array, kept: Bools | None) -> Array:
    return values if kept is None else values[kept]
