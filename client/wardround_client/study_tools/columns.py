"""The columns of example tables, brought together over the files and each decided on."""

from __future__ import annotations

import unicodedata
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import numpy as np

from wardround_client.sources import Table
from wardround_client.study_tools.decide import Decision, Drafted, decide, kind_of
from wardround_client.study_tools.profile import Profile, merged, people, profile
from wardround_client.study_tools.small import SMALL
from wardround_common.dictionary import CategoryVariable, NumberVariable, check_name
from wardround_common.errors import listed

D = TypeVar("D", bound=Decision)


@dataclass(frozen=True)
class Seen:
    """What the tables look like, by file and column. ``many``: an id repeats in one of them."""

    files: Mapping[str, Mapping[str, Profile]]
    rows: int
    many: bool


@dataclass(frozen=True)
class Column:
    """A column of one name over the files, what became of it, and where; ``name`` is the variable's."""

    column: str
    name: str
    decision: Decision
    seen: Profile
    observed_at: int  # files in which it has a value
    notes: tuple[str, ...]

    @property
    def binary(self) -> bool:
        """Tell whether it can be a logistic model's outcome."""
        variable = self.decision.variable if isinstance(self.decision, Drafted) else None
        return isinstance(variable, CategoryVariable) and len(variable.levels) == 2

    @property
    def varied(self) -> bool:
        """Tell whether so many rows differ from the most frequent value that a model can learn from them."""
        counts = [] if not isinstance(self.decision, Drafted) else _counts(self.seen, self.decision.variable)
        return sum(counts) - max(counts, default=0) >= SMALL


def look(tables: Iterable[Table], observe: Callable[[str], None] = lambda step: None) -> Seen:
    """Profile all named columns, one table at a time. ``observe`` is told what is being read."""
    files: dict[str, Mapping[str, Profile]] = {}
    rows, many = 0, False
    for table in tables:
        label, person = _unlike(Path(table.label).name, files), people(table)
        many, rows = many or person is not None, rows + table.rows
        columns: dict[str, Profile] = {}
        for position, column in enumerate(table.columns):
            if column.strip():
                observe(f"{label}: column {position + 1} of {len(table.columns)}")
                columns[column] = profile(table, position, person)
        files[label] = columns
    return Seen(files, rows, many)


def columns_of(seen: Seen) -> list[Column]:
    """Bring together what is one column over the files, under its most frequent spelling."""
    found: list[Column] = []
    for spellings in _groups(seen.files):
        column = spellings.most_common(1)[0][0]
        parts = {
            label: next(columns[one] for one in spellings if one in columns)
            for label, columns in seen.files.items()
            if not spellings.keys().isdisjoint(columns)
        }
        whole = merged(list(parts.values()))
        name = _unlike(_clean(column, len(found) + 1), [one.name for one in found])
        decision = decide(column, whole)
        empty = [label for label, part in parts.items() if not _has_values(part, decision)]
        notes = tuple(_differences(column, seen.files, parts, empty))
        found.append(Column(column, name, decision, whole, len(parts) - len(empty), notes))
    return found


def _groups(files: Mapping[str, Collection[str]]) -> list[Counter[str]]:
    """Group the columns' names that differ in case or blanks only, unless one file has two such columns."""
    folded = {column: column.strip().casefold() for columns in files.values() for column in columns}
    twins = {
        key
        for columns in files.values()
        for key, count in Counter(folded[column] for column in columns).items()
        if count > 1
    }
    groups: dict[str, Counter[str]] = {}
    for columns in files.values():
        for column in columns:
            key = column if folded[column] in twins else folded[column]
            groups.setdefault(key, Counter())[column] += 1
    return list(groups.values())


def _differences(
    column: str, files: Mapping[str, Collection[str]], parts: Mapping[str, Profile], empty: list[str]
) -> Iterator[str]:
    """Say in which files the column is absent, named otherwise, empty, or of another kind."""
    absent = [label for label in files if label not in parts]
    if absent:
        yield f"no such column in {listed(absent, 4)}"
    for label in parts:
        if column not in files[label]:
            yield f"named otherwise in {label} (case or blanks): rename it there, a study knows one name"
    if empty and len(empty) < len(parts):
        yield f"without a value in {listed(empty, 4)}"
    kinds = {label: kind_of(part) for label, part in parts.items()}
    texts = [label for label, kind in kinds.items() if kind == "texts"]
    if texts and "numbers" in kinds.values():
        yield f"texts in {listed(texts, 4)}, numbers elsewhere"


def _has_values(part: Profile, decision: Decision) -> bool:
    return bool(_counts(part, decision.variable)) if isinstance(decision, Drafted) else part.observed > 0


def _counts(seen: Profile, variable: NumberVariable | CategoryVariable) -> list[int]:
    """Return how often each value of a variable stands in a column, without codes for missing."""
    if isinstance(variable, CategoryVariable):
        return [count for text, count in (seen.codes or {}).items() if text in variable.levels]
    missing = [code for code in variable.missing if not isinstance(code, str)]
    counts: list[int] = seen.counts[~np.isin(seen.values, missing)].tolist()
    return counts


def of_kind(columns: Iterable[Column], kind: type[D]) -> list[tuple[Column, D]]:
    """Return the columns that were decided on in one way, each with its decision."""
    return [(one, one.decision) for one in columns if isinstance(one.decision, kind)]


def _clean(column: str, number: int) -> str:
    """Return a column's name if it can be a variable's, else what is left of it."""
    try:
        return check_name(column)
    except ValueError:
        kept = "".join(" " if unicodedata.category(c)[0] == "C" or c in ":=\"`'" else c for c in column)
        name = "_".join(kept.split())[:60].rstrip("_")
        return f"{name or f'column_{number}'}{'_' if name == 'intercept' else ''}"


def _unlike(name: str, taken: Collection[str]) -> str:
    """Return a name that is not taken yet."""
    names = (name, *(f"{name}_{i}" for i in range(2, len(taken) + 2)))
    return next(one for one in names if one not in taken)
