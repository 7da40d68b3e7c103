"""What a column of a table looks like: its different values and how often each stands there.

Texts are compared by their hash. A text itself is read only where a column has few different ones, since
only those may become codes of a study file. Where an id repeats, a person counts once per text: eleven
visits of one patient are no eleven patients.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from wardround_client.cells import CANONICAL, NUMBER, QUICKLY_TRIMMED, TRIMMED, number_text
from wardround_client.sources.table import Numbers, Table
from wardround_common.typing import Array, Bools, Floats, Ints

MOST_TEXTS = 50
_DATE = r"(\d{1,4}[-./]\d{1,2}[-./]\d{1,4}|\d{1,2}[- ][A-Za-z]{3,9}[- ]\d{2,4})([ T].*)?"
_PADDED = r"[+-]?0[0-9].*"


@dataclass(frozen=True, repr=False)
class Profile:
    """One column, of one table or of several.

    ``values`` are its different numbers, ascending, and ``counts`` their cells. ``words`` counts the cells
    that are no numbers by their text, ``codes`` all cells; each is None if there are more than MOST_TEXTS
    texts. ``different`` texts stand in the column; ``dates`` cells look like a date, ``padded`` ones like a
    number with leading zeros, ``sequence`` tells of whole numbers that run on without a gap or a repetition.
    """

    rows: int
    empty: int
    values: Floats
    counts: Ints
    words: Mapping[str, int] | None
    codes: Mapping[str, int] | None
    different: int
    dates: int
    padded: int
    sequence: bool

    @property
    def observed(self) -> int:
        """Cells that are not empty."""
        return self.rows - self.empty

    @property
    def numbers(self) -> int:
        """Cells that are numbers."""
        return int(self.counts.sum())


def people(table: Table) -> Ints | None:
    """Return which person each row is of, by its column `id`; None if all differ or there is none."""
    if "id" not in table.columns:
        return None
    position = table.columns.index("id")
    stored = table.numbers(position)
    ids = stored.values if stored else _hashes(table, position, _trimmed(table, position))["hash"]
    different, person = np.unique(ids, return_inverse=True)
    return None if len(different) == table.rows else person.astype(np.int64)


def profile(table: Table, position: int, person: Ints | None) -> Profile:
    """Look at one column; ``person`` is what ``people`` returned. DataError if it cannot be read."""
    stored = table.numbers(position)
    if stored is None:
        return _of_texts(table, position, person)
    return _of_numbers(stored, person)


def merged(profiles: list[Profile]) -> Profile:
    """Return the profile of several tables' columns as if they were one."""
    values, where = np.unique(np.concatenate([one.values for one in profiles]), return_inverse=True)
    cells = np.concatenate([one.counts for one in profiles])
    counts = np.bincount(where, cells, len(values)).astype(np.int64)
    codes = _added([one.codes for one in profiles])
    return Profile(
        sum(one.rows for one in profiles),
        sum(one.empty for one in profiles),
        values,
        counts,
        _added([one.words for one in profiles]),
        codes,
        max(one.different for one in profiles) if codes is None else len(codes),
        sum(one.dates for one in profiles),
        sum(one.padded for one in profiles),
        any(one.sequence for one in profiles),
    )


def _added(parts: list[Mapping[str, int] | None]) -> Mapping[str, int] | None:
    total: dict[str, int] = {}
    for part in parts:
        if part is None:
            return None
        for text, count in part.items():
            total[text] = total.get(text, 0) + count
    return total if len(total) <= MOST_TEXTS else None


def _trimmed(table: Table, position: int) -> str:
    """Return the SQL that trims a column's cells: the slow one only if a cell holds more than plain ASCII."""
    found = table.texts(position, "cell", "coalesce(regexp_full_match(cell, '[ -~]*'), TRUE) AS plain")
    return QUICKLY_TRIMMED if found["plain"].all() else TRIMMED


def _hashes(table: Table, position: int, trimmed: str) -> dict[str, Array]:
    select = f"""hash(coalesce({CANONICAL}, '')) AS hash, coalesce(cell, '') = '' AS empty,
        coalesce(CASE WHEN isfinite({NUMBER}) THEN {NUMBER} END, 'nan'::DOUBLE) AS value,
        coalesce(regexp_full_match(cell, '{_DATE}'), FALSE) AS date,
        coalesce(regexp_full_match(cell, '{_PADDED}'), FALSE) AS padded"""
    return table.texts(position, trimmed, select)


def _of_texts(table: Table, position: int, person: Ints | None) -> Profile:
    trimmed = _trimmed(table, position)
    found = _hashes(table, position, trimmed)
    filled, number = ~found["empty"], ~np.isnan(found["value"])
    values, counts = np.unique(found["value"][number], return_counts=True)
    different, codes = _counted(table, position, trimmed, found["hash"], filled, person)
    words = _counted(table, position, trimmed, found["hash"], filled & ~number, person)[1]
    return Profile(
        table.rows,
        int(np.count_nonzero(~filled)),
        values,
        counts,
        words,
        codes,
        different,
        int(np.count_nonzero(found["date"])),
        int(np.count_nonzero(found["padded"] & number)),
        _runs_on(values, counts),
    )


def _counted(
    table: Table, position: int, trimmed: str, hashes: Array, cells: Bools, person: Ints | None
) -> tuple[int, Mapping[str, int] | None]:
    """Return how many different texts some cells hold and, if these are few, how often each stands there."""
    at = np.flatnonzero(cells)
    _, first, which = np.unique(hashes[at], return_index=True, return_inverse=True)
    if len(first) > MOST_TEXTS or not len(first):
        return len(first), None if len(first) else {}
    rows = at[first]
    wanted = ", ".join(str(row + 1) for row in rows.tolist())
    select = f"CASE WHEN row_number() OVER () IN ({wanted}) THEN {CANONICAL} END AS text"
    texts = table.texts(position, trimmed, select)["text"][rows].tolist()
    counts = _per_person(which, None if person is None else person[at])
    return len(first), dict(zip(texts, counts, strict=True))


def _of_numbers(stored: Numbers, person: Ints | None) -> Profile:
    empty = np.zeros(len(stored.values), bool) if stored.empty is None else stored.empty
    infinite = False
    if stored.values.dtype.kind == "f":
        empty = empty | np.isnan(stored.values)
        infinite = bool(np.isinf(stored.values).any())
    at = np.flatnonzero(~empty & np.isfinite(stored.values))
    different, which, counts = np.unique(stored.values[at], return_inverse=True, return_counts=True)
    codes: dict[str, int] | None = None
    if len(different) <= MOST_TEXTS:
        texts = [_code(value) for value in different.tolist()]
        codes = dict(zip(texts, _per_person(which, None if person is None else person[at]), strict=True))
    boolean = stored.values.dtype.kind == "b"
    values = np.empty(0) if boolean else different.astype(np.float64)
    cells = np.empty(0, np.int64) if boolean else counts
    return Profile(
        len(stored.values),
        int(np.count_nonzero(empty)),
        values,
        cells,
        codes if boolean else None if infinite else {},
        None if infinite else codes,
        len(different),
        0,
        0,
        _runs_on(values, cells),
    )


def _code(value: Any) -> str:
    if isinstance(value, bool):
        return str(value).lower()
    return str(value) if isinstance(value, int) else number_text(value)


def _per_person(which: Ints, person: Ints | None) -> list[int]:
    """Return how many rows, or different persons, have each text."""
    if person is not None and len(which):
        which = np.unique(which * (int(person.max()) + 1) + person) // (int(person.max()) + 1)
    counts: list[int] = np.bincount(which).tolist()
    return counts


def _runs_on(values: Floats, counts: Ints) -> bool:
    return len(values) > 1 and bool((counts == 1).all()) and bool(values[-1] - values[0] == len(values) - 1)
