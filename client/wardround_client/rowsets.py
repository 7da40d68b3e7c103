"""Row sets: which of a table's rows each analysis of each study uses here, and whether few would be told.

Kept in node.db as bits over the rows of a table, whose rows are known again by keyed hashes: of the `id`,
else of all their cells. What an approved study, or one that released anything, may use is held against what
a new one would use (``exposure``); a study is refused for what it adds, not for what is told already.

The flow's sets are held against other flows' alone: it counts rows and missing cells, and no other analysis
sums those over the same rows. So a lone missing outcome, by which flow and model differ, tells no value; two
flows over cohorts that are one patient apart would tell what that patient's record lacks. A held-out part
that the study's seed draws is no choice of anybody's and may be small; what other sets would tell of it is
refused like everything else.

Two studies over one cohort that was closed by one day differ by corrections that came later: that is noted
and allowed. It is one cohort if all that decides on its rows is the same: column and day, predicate, needed
variables and their definitions, rows out of range, part and split.
"""

from __future__ import annotations

import hashlib
import json
import time
import zlib
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any, Final

import numpy as np

from wardround_client.database import Database, Statement
from wardround_client.exposure import Exposure, exposures
from wardround_client.people import aligned, is_repeated, numbered
from wardround_client.reader import Reading
from wardround_client.rowclasses import Classes, classes_of
from wardround_common.analyses.flow import LABEL
from wardround_common.analysis import OnModelSpec, Part
from wardround_common.predicate import variables_of
from wardround_common.study import SeedSplit, Study
from wardround_common.typing import Bools, Words

SCHEMA: Final = (
    "create table row_tables (digest blob primary key, people blob not null)",
    """create table row_sets (
    study blob, cohort blob, label text, part text, name text not null, bits blob not null,
    people blob, rule text not null, primary key (study, cohort, people, label, part)) without rowid""",
    """create table accepted (
    study blob, exposure text, told text not null, persons integer not null, who text not null,
    at real not null, primary key (study, exposure)) without rowid""",
)
COUNTED: Final = "counted"  # the part of the flow's set, so that an analysis of its label is none
DRAWN: Final = "drawn"


@dataclass(frozen=True, repr=False)
class RowSet:
    """The rows (rows,) of the table that one part of an analysis uses, and the rule that chose them."""

    study: str
    label: str
    part: str
    rows: Bools
    rule: str
    digest: bytes = b""  # of the study's manifest

    def __repr__(self) -> str:
        return f"RowSet({self.name}, ...)"

    @property
    def name(self) -> str:
        """How it is named to the officer."""
        return f"`{self.study}` {self.label}" + (f" ({self.part})" if self.part in ("train", "test") else "")

    @property
    def is_flow(self) -> bool:
        """Whether only rows and missing cells are counted over it."""
        return self.part == COUNTED

    @property
    def is_drawn(self) -> bool:
        """Whether the study's seed chose it, and nobody can choose it to be small."""
        return json.loads(self.rule).get(DRAWN) is True

    def is_later(self, other: RowSet) -> bool:
        """Tell whether both are one cohort that was closed by the same day: they differ by corrections."""
        return self.rule == other.rule and json.loads(self.rule).get("closed") is not None


@dataclass(frozen=True, repr=False)
class RowSets:
    """A study's sets over one table, of which ``people`` (rows,) says whose each row is."""

    people: Words
    sets: tuple[RowSet, ...]

    def __repr__(self) -> str:
        return "RowSets(...)"

    @cached_property
    def digest(self) -> bytes:
        """SHA-256 of ``people``."""
        return hashlib.sha256(self.people.tobytes()).digest()


@dataclass(frozen=True)
class Near:
    """Sets that together tell of few persons; ``accepted``: that is no reason to refuse.

    ``others``: the other studies among them; ``is_correction``: they are one cohort, closed by one day;
    ``exposure``: a keyed digest of the rows that are told, and by which sets.
    """

    study: str
    sets: tuple[str, ...]
    others: tuple[str, ...]
    persons: int
    accepted: bool = False
    is_correction: bool = False
    exposure: str = ""

    @property
    def names(self) -> str:
        """The sets, in words."""
        return " and ".join(filter(None, (", ".join(self.sets[:-1]), self.sets[-1])))

    def is_among(self, accept: Sequence[str]) -> bool:
        """Tell whether an officer accepts it who names these studies."""
        return set(self.others or (self.study,)) <= set(accept)


def row_sets(study: Study, reading: Reading) -> RowSets:
    """Return which rows of the table each analysis uses, by part where some are held out.

    An analysis over all parts needs no set of its own: it is the sum of its parts.
    """
    cohort, people = reading.cohort, reading.people
    found = [_set(study, reading, LABEL, COUNTED, None, ())]
    parts: tuple[Part, ...] = ("all",) if cohort.held_out is None else ("train", "test")
    for spec in study.analyses:
        needed = spec.needed()
        if isinstance(spec, OnModelSpec):  # it is asked about the rows of its model
            needed = next(one.needed() for one in study.analyses if one.label == spec.model)
        found += [
            _set(study, reading, spec.label, part, cohort.usable(part, needed), needed) for part in parts
        ]
    return RowSets(people, tuple(found))


def _rule(study: Study, part: str, needed: Sequence[str]) -> dict[str, Any]:
    """Return all that decides which rows of a table are in a set."""
    cohort, dictionary = study.cohort, study.dictionary
    deciding = {*needed, *(variables_of(cohort.where, dictionary) if cohort.where is not None else ())}
    if study.out_of_range != "missing":
        deciding = set(dictionary)
    drawn = part != "all" and isinstance(study.split, SeedSplit)
    return {
        "where": cohort.where,
        "closed": None if cohort.closed is None else cohort.closed.model_dump(),
        "needed": sorted(needed),
        "variables": {name: dictionary[name].model_dump(mode="json") for name in sorted(deciding)},
        "out_of_range": study.out_of_range,
        "part": part,
        "split": None if part == "all" or study.split is None else study.split.model_dump(),
        "keys": [study.name, study.ids] if drawn else None,  # by which the seed draws
        DRAWN: drawn and part == "test",
    }


def _set(
    study: Study, reading: Reading, label: str, part: str, usable: Bools | None, needed: Sequence[str]
) -> RowSet:
    rows = np.zeros(len(reading.people), bool)
    inside = np.flatnonzero(reading.kept) if reading.kept is not None else slice(None)
    rows[inside] = True if usable is None else usable
    rule = json.dumps(_rule(study, part, needed), sort_keys=True)
    return RowSet(study.name, label, part, rows, rule, study.digest)


def compare(database: Database, study: Study, new: RowSets, least: int) -> list[Near]:
    """Return what sums over a study's sets would tell of fewer than ``least`` persons, with earlier ones.

    Earlier: of all approved studies and of those that released anything, but what this study itself might
    have released and did not. Refused where there is more to compare than can be.
    """
    before, people = _stored(database, study, new)
    statement = "select exposure from accepted where study = ?"
    accepted = {row[0] for row in database.rows(statement, (str,), study.digest)}
    found: list[Near] = []
    for is_flow in (True, False):
        old = [one for one in before if one.is_flow is is_flow]
        mine = [_over(one, len(people)) for one in new.sets if one.is_flow is is_flow]
        found += _near(study.name, old, mine, people, least, accepted)
    return found


def _over(one: RowSet, rows: int) -> RowSet:
    """Return a set over more rows: the first are those of its own table."""
    return replace(one, rows=np.concatenate([one.rows, np.zeros(rows - len(one.rows), bool)]))


def _near(
    study: str, old: list[RowSet], mine: list[RowSet], people: Words, least: int, accepted: set[str]
) -> list[Near]:
    """Return what the sets of ``mine`` tell of few persons that those of ``old`` do not tell already."""
    before, (sets, at) = len(_distinct(old)[0]), _distinct([*old, *mine])
    if len(sets) == before:
        return []
    every = [*old, *mine]
    later = {
        (at[i], at[j])
        for i in range(len(old), len(every))
        for j in range(i)
        if min(at[i], at[j]) >= 0 and at[i] != at[j] and every[i].is_later(every[j])
    }
    classes = classes_of([one.rows for one in sets], people if is_repeated(people) else None)
    found = exposures(classes, least, sorted(later))
    if not found:
        return []
    known = {(one.classes, one.ways) for one in exposures(classes.of(range(before)), least)}
    for members, one in zip(classes.members, sets, strict=True):
        if one.is_drawn:
            known.add((frozenset(map(int, np.flatnonzero(members))), 1))
    keys = numbered(people)
    added = [one for one in found if (one.classes, one.ways) not in known]
    return [_told(study, classes, sets, one, keys, accepted) for one in added]


def _told(
    study: str, classes: Classes, sets: list[RowSet], one: Exposure, keys: Words, accepted: set[str]
) -> Near:
    """Say what is told in as few sets as there are that tell it."""
    simplest = (classes.simplest(one.classes) if one.ways == 1 else None) or one.sets
    names = tuple(sets[i].name for i in simplest)
    others = tuple(sorted({sets[i].study for i in simplest} - {study}))
    rows = np.sort(keys[classes.rows(one.classes)]).tobytes()
    exposure = hashlib.sha256(rows + json.dumps([*sorted(names), one.ways]).encode()).hexdigest()
    allowed = one.is_correction or exposure in accepted
    return Near(study, names, others, one.persons, allowed, one.is_correction, exposure)


def _distinct(sets: list[RowSet]) -> tuple[list[RowSet], list[int]]:
    """Return the sets that are not empty, each once, and where each is among these, -1 for an empty one.

    Sums over the same rows tell nothing by a difference.
    """
    found: dict[bytes, RowSet] = {}
    packed = [np.packbits(one.rows).tobytes() if one.rows.any() else b"" for one in sets]
    for bits, one in zip(packed, sets, strict=True):
        if bits:
            found.setdefault(bits, one)
    place = {bits: i for i, bits in enumerate(found)}
    return list(found.values()), [place.get(bits, -1) for bits in packed]


def _stored(database: Database, study: Study, new: RowSets) -> tuple[list[RowSet], Words]:
    """Return the earlier sets over the rows of all tables, and whose these rows are.

    The new study's own rows come first.
    """
    statement = """select s.study, s.name, s.label, s.part, s.bits, s.people, s.rule from row_sets s
        where exists (select 1 from ledger l where l.study = s.study)
        or (s.study != ? and exists (
            select 1 from studies t where t.digest = s.study and t.approved_at is not null))
        order by s.study, s.cohort, s.label, s.part"""
    kinds = (bytes, str, str, str, bytes, bytes, str)
    found = database.rows(statement, kinds, study.digest)
    place = {new.digest: np.arange(len(new.people), dtype=np.int64)}
    people, keys = new.people, numbered(new.people)
    for digest in dict.fromkeys(row[5] for row in found):
        if digest not in place:
            theirs = _people(database, digest)
            people, keys, place[digest] = aligned(people, keys, theirs)
    sets = []
    for owner, name, label, part, bits, digest, rule in found:
        rows = np.zeros(len(people), bool)
        at = place[digest]
        rows[at[_unpacked(database, bits, len(at))]] = True
        sets.append(RowSet(name, label, part, rows, _read(database, rule), owner))
    return sets, people


def _people(database: Database, digest: bytes) -> Words:
    found = database.rows("select people from row_tables where digest = ?", (bytes,), digest)
    if not found or hashlib.sha256(found[0][0]).digest() != digest or len(found[0][0]) % 8:
        raise database.damaged("the rows of an earlier study are not those that were kept")
    return np.frombuffer(found[0][0], np.uint64)


def _unpacked(database: Database, bits: bytes, rows: int) -> Bools:
    size, stream = (rows + 7) // 8, zlib.decompressobj()
    try:
        packed = stream.decompress(bits, size + 1)
    except zlib.error:
        raise database.damaged("a row set is none") from None
    if len(packed) != size or not stream.eof:
        raise database.damaged("a row set is of another table")
    return np.unpackbits(np.frombuffer(packed, np.uint8), count=rows).view(np.bool_)


def _read(database: Database, rule: str) -> str:
    try:
        if isinstance(json.loads(rule), dict):
            return rule
    except (ValueError, RecursionError):
        pass
    raise database.damaged("the rule of a row set is none")


def statements(study: Study, cohort: bytes, new: RowSets) -> tuple[Statement, ...]:
    """Return what keeps a study's sets, in the transaction of its approval."""
    table = "insert or ignore into row_tables values (?, ?)", (new.digest, new.people.tobytes())
    return (*forget(study.digest), table, *(_keeps(study, cohort, new, one) for one in new.sets))


def _keeps(study: Study, cohort: bytes, new: RowSets, one: RowSet) -> Statement:
    bits = zlib.compress(np.packbits(one.rows).tobytes(), 1)
    values = (study.digest, cohort, one.label, one.part, study.name, bits, new.digest, one.rule)
    return "insert or replace into row_sets values (?, ?, ?, ?, ?, ?, ?, ?)", values


def acceptance(study: Study, near: Near, who: str) -> Statement:
    """Return what enters that an officer accepts a difference."""
    statement = "insert or replace into accepted values (?, ?, ?, ?, ?, ?)"
    return statement, (study.digest, near.exposure, near.names, near.persons, who, time.time())


def forget(study: bytes) -> tuple[Statement, ...]:
    """Return what forgets the sets of a study that released nothing."""
    unused = "delete from row_tables where digest not in (select people from row_sets)"
    mine = "delete from row_sets where study = ?1 and not exists (select 1 from ledger where study = ?1)"
    return (mine, (study,)), (unused, ())


def is_cleared(database: Database, study: bytes, cohort: bytes) -> bool:
    """Tell whether a study's sets over this cohort were compared with those of others, and kept."""
    statement = "select 1 from row_sets where study = ? and cohort = ? limit 1"
    return bool(database.rows(statement, (int,), study, cohort))
