"""node.db: what a node must still know after it was killed.

SQLite, since every answer is one small durable commit (a column store such as DuckDB, which holds the
patients' tables, is not made for those). A sealed answer, its ledger charge and its audit entry are
committed together before a byte is sent; the sealed bytes are sent again when asked again.
"""

from __future__ import annotations

import hashlib
import os
import sqlite3
import threading
import time
import weakref
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import UnionType
from typing import Any, NamedTuple

from wardround_common.errors import WardroundError
from wardround_common.sealing.epoch import LEAVES, AuditHead
from wardround_common.sealing.leaving import Group
from wardround_common.wire import encode, joined

_APPLICATION = 0x57524F4E  # "WRON" in the file's header, so that another program's database is told
_SCHEMA = """
create table if not exists answers (
    binding blob, epoch blob, analysis text, idx integer, context blob not null, sealed blob not null,
    primary key (binding, epoch, analysis, idx)) without rowid;
create table if not exists ledger (
    seq integer primary key, at real not null, binding blob not null, analysis text not null,
    idx integer not null, kind text not null, numbers integer not null, rows integer not null,
    hospitals text not null);
create table if not exists studies (
    digest blob primary key, name text not null, manifest blob not null, offered_at real not null,
    approved_at real, signature blob, masking blob, roster blob, epoch blob) without rowid;
create table if not exists judged (
    binding blob, analysis text, asked blob not null, primary key (binding, analysis)) without rowid;
create table if not exists audit (
    seq integer primary key, at real not null, event text not null, study text not null,
    detail text not null);
"""
# What sealed sums need besides, since version 2: a study's sums verified so far, its epochs that were opened,
# sets of hospitals that were summed over, what others showed, and what the officer says of them.
_SEALING = """
alter table studies add column steps integer not null default 0;
alter table studies add column head blob not null default x'';
alter table studies add column cohort blob;
update studies set roster = null, epoch = null;
alter table audit add column head blob;
create table opened (
    study blob, number integer, epoch blob not null, computes integer not null,
    primary key (study, number)) without rowid;
create table groups (
    binding blob, leaves blob, sets blob, at real not null,
    primary key (binding, leaves, sets)) without rowid;
create table heads (
    identity blob primary key, audit blob not null, epoch blob not null, leave text not null,
    signature blob not null) without rowid;
create table forgiven (audit blob primary key) without rowid;
create table members (
    name text, identity blob, seen_at real not null, primary key (name, identity)) without rowid;
create table officers (fingerprint blob primary key, name text not null, says text not null) without rowid;
"""
_VERSION = 2


_FIRST_TABLES = {"answers", "ledger", "audit"}  # a database from before it was marked as ours has these
_STUDY = (
    "digest, name, manifest, offered_at, approved_at, signature, masking, roster, epoch, steps, head, cohort"
)
_Columns = tuple[type | UnionType, ...]
_BLOB = bytes | None
_STUDY_COLUMNS: _Columns = (
    *(bytes, str, bytes, float, float | None),
    *(_BLOB, _BLOB, _BLOB, _BLOB, int, bytes, _BLOB),
)


@dataclass(frozen=True)
class Charge:
    """What a release is entered with: how many numbers about how many rows went to which hospitals' sum."""

    binding: bytes
    analysis: str
    index: int
    kind: str
    numbers: int
    rows: int
    hospitals: tuple[str, ...]


@dataclass(frozen=True, repr=False)
class StudyRecord:
    """A study that was offered here, and how far this hospital went along with it.

    ``signature`` is the approval, ``masking`` the private key made for it; ``roster`` and ``epoch`` are
    encoded, the last ones that this hospital signed; ``steps`` and ``head`` what it verified of the sums;
    ``cohort`` the digest of the pinned rows.
    """

    digest: bytes
    name: str
    manifest: bytes
    offered_at: float
    approved_at: float | None = None
    signature: bytes | None = None
    masking: bytes | None = None
    roster: bytes | None = None
    epoch: bytes | None = None
    steps: int = 0
    head: bytes = b""
    cohort: bytes | None = None

    def __repr__(self) -> str:
        return f"StudyRecord({self.name!r}, ...)"


NOTHING = AuditHead(0, bytes(32))  # the head of an audit log without entries


def _next_head(head: bytes, at: float, event: str, study: str, detail: str) -> bytes:
    """Return the audit log's head after one more entry."""
    return hashlib.sha256(joined(b"wardround audit v1", head, encode((at, event, study, detail)))).digest()


class SeenHead(NamedTuple):
    """Another hospital's audit head, packed, and the signature under which it told it."""

    audit: bytes
    epoch: bytes
    leave: str
    signature: bytes


class NodeStore:
    """One hospital's node.db; ``path`` None keeps it in memory, for simulations."""

    def __init__(self, path: Path | None = None) -> None:
        self._lock = threading.Lock()
        self._label = "the node's database" if path is None else str(path)
        if path is not None:
            try:  # closing a database that is in use would drop its locks, so an existing one is left alone
                os.close(os.open(path, os.O_CREAT | os.O_EXCL | os.O_RDWR, 0o600))
            except FileExistsError:
                if 0 < path.stat().st_size < 512:  # SQLite would take it for empty and write over it
                    raise WardroundError(f"{path}: no database; restore it from your back-up") from None
            except OSError as error:
                raise WardroundError(
                    f"{path}: the node's database cannot be opened ({error.strerror})"
                ) from None
        try:
            self._db = sqlite3.connect(str(path or ":memory:"), check_same_thread=False, isolation_level=None)
            try:
                # the officer's commands write beside the node
                self._db.execute("pragma busy_timeout = 10000")
                self._take_up()
                self._db.execute("pragma synchronous = full")
            except BaseException:
                self._db.close()
                raise
        except sqlite3.Error as error:
            raise WardroundError(f"{path}: the node's database cannot be opened ({error})") from None
        weakref.finalize(self, self._db.close)  # a simulated hospital ends when nobody holds it any more

    def __repr__(self) -> str:
        return "NodeStore(...)"

    def _take_up(self) -> None:
        """Make the tables in a new database. WardroundError if it is another program's."""
        if self._db.execute("pragma user_version").fetchone()[0] == _VERSION and self._is_ours():
            return
        self._db.execute("begin immediate")
        application = self._db.execute("pragma application_id").fetchone()[0]
        tables = {name for (name,) in self._db.execute("select name from sqlite_master where type = 'table'")}
        if application != _APPLICATION:  # else another process was faster
            if application or (tables and not tables >= _FIRST_TABLES):
                raise WardroundError(
                    f"{self._label}: this is another program's database; choose the hospital's own home"
                )
            for statement in _SCHEMA.split(";"):
                self._db.execute(statement)
            self._db.execute(f"pragma application_id = {_APPLICATION}")
        if self._db.execute("pragma user_version").fetchone()[0] < _VERSION:
            for statement in _SEALING.split(";"):
                self._db.execute(statement)
            self._chain()
            self._db.execute(f"pragma user_version = {_VERSION}")
        self._db.execute("commit")

    def _is_ours(self) -> bool:
        return bool(self._db.execute("pragma application_id").fetchone()[0] == _APPLICATION)

    def _chain(self) -> None:
        """Give the entries of an audit log from before there were heads theirs."""
        head = NOTHING.head
        rows = self._db.execute("select seq, at, event, study, detail from audit order by seq").fetchall()
        for seq, *entry in rows:
            head = _next_head(head, *entry)
            self._db.execute("update audit set head = ? where seq = ?", (head, seq))

    @contextmanager
    def _transaction(self) -> Iterator[None]:
        """Do all or nothing, and nobody else writes meanwhile."""
        with self._lock:
            self._db.execute("begin immediate")
            try:
                yield
                self._db.execute("commit")
            except BaseException:
                if self._db.in_transaction:  # where the disk is full, SQLite has rolled back itself
                    self._db.execute("rollback")
                raise

    def _rows(self, statement: str, columns: _Columns, *values: object) -> list[tuple[Any, ...]]:
        """Return rows, whose ``columns`` have these types: SQLite itself keeps anything anywhere."""
        try:
            with self._lock:
                rows = self._db.execute(statement, values).fetchall()
        except sqlite3.Error as error:
            raise self._damaged(str(error)) from None
        if not all(all(map(isinstance, row, columns)) for row in rows):
            raise self._damaged("a value is none that was written there")
        return rows

    def _damaged(self, why: str) -> WardroundError:
        return WardroundError(f"{self._label}: cannot be read ({why}); restore it from your back-up")

    def answer(self, binding: bytes, epoch: bytes, analysis: str, index: int) -> tuple[bytes, bytes] | None:
        """Return (query context, sealed bytes) of an answer that was given before, or None."""
        rows = self._rows(
            "select context, sealed from answers "
            "where binding = ? and epoch = ? and analysis = ? and idx = ?",
            (bytes, bytes),
            *(binding, epoch, analysis, index),
        )
        return (rows[0][0], rows[0][1]) if rows else None

    def keep(self, epoch: bytes, context: bytes, sealed: bytes, charge: Charge, study: str) -> None:
        """Charge, store and audit one release in one transaction. WardroundError if it can't be kept."""
        now = time.time()
        key = (charge.binding, charge.analysis, charge.index)
        try:
            with self._transaction():
                self._db.execute(
                    "insert into ledger (at, binding, analysis, idx, kind, numbers, rows, hospitals) "
                    "values (?, ?, ?, ?, ?, ?, ?, ?)",
                    (now, *key, charge.kind, charge.numbers, charge.rows, ",".join(charge.hospitals)),
                )
                self._db.execute(
                    "insert into answers values (?, ?, ?, ?, ?, ?)",
                    (key[0], epoch, *key[1:], context, sealed),
                )
                self._audit(now, "release", study, f"{charge.analysis}/{charge.index} {context.hex()}")
        except sqlite3.Error as error:
            raise WardroundError(
                f"{self._label}: an answer cannot be kept ({error}), so nothing was sent; "
                "make room and start the study again"
            ) from None

    def studies(self) -> list[StudyRecord]:
        """Return all studies that were offered or approved, oldest first."""
        rows = self._rows(f"select {_STUDY} from studies order by offered_at", _STUDY_COLUMNS)  # noqa: S608 (our own words)
        return [StudyRecord(*row) for row in rows]

    def study(self, digest: bytes) -> StudyRecord | None:
        """Return a study by its digest."""
        rows = self._rows(f"select {_STUDY} from studies where digest = ?", _STUDY_COLUMNS, digest)  # noqa: S608 (our own words)
        return StudyRecord(*rows[0]) if rows else None

    def offer(self, digest: bytes, name: str, manifest: bytes) -> None:
        """Note that a study was offered; one that is known already stays as it is."""
        self._change(
            (
                "insert or ignore into studies (digest, name, manifest, offered_at) values (?, ?, ?, ?)",
                (digest, name, manifest, time.time()),
            )
        )

    def approve(self, digest: bytes, signature: bytes, masking: bytes, cohort: bytes = b"") -> None:
        """Note that an offered study was approved, with a new masking key: roster and epoch begin anew.

        ``cohort``: digest of the rows that were pinned, where they are kept in a file.
        """
        self._change(
            (
                "update studies set approved_at = ?, signature = ?, masking = ?, cohort = ?, "  # noqa: ISC004
                "roster = null, epoch = null, steps = 0, head = x'' where digest = ?",
                (time.time(), signature, masking, cohort, digest),
            ),
            ("delete from opened where study = ?", (digest,)),
        )

    def withdraw(self, digest: bytes) -> None:
        """Take an approval back, and forget its masking key."""
        self._change(
            (
                "update studies set approved_at = null, signature = null, masking = null, "  # noqa: ISC004
                "cohort = null, roster = null, epoch = null, steps = 0, head = x'' where digest = ?",
                (digest,),
            ),
            ("delete from opened where study = ?", (digest,)),
        )

    def judge(self, binding: bytes, analysis: str, asked: bytes) -> None:
        """Note the last evaluation on held-out rows, encoded, on which a statement may be made."""
        self._change(("insert or replace into judged values (?, ?, ?)", (binding, analysis, asked)))

    def judged(self, binding: bytes, analysis: str) -> bytes | None:
        """Return the evaluation that ``judge`` noted."""
        statement = "select asked from judged where binding = ? and analysis = ?"
        return next((row[0] for row in self._rows(statement, (bytes,), binding, analysis)), None)

    def signed_roster(self, digest: bytes, roster: bytes, study: str, detail: str) -> None:
        """Note the roster, encoded, that this hospital signed, and audit it."""
        self._change(
            ("update studies set roster = ? where digest = ?", (roster, digest)),
            audit=("roster", study, detail),
        )

    def signed_epoch(self, digest: bytes, epoch: bytes, study: str, detail: str) -> None:
        """Note the epoch, encoded, that this hospital signed, and audit it."""
        self._change(
            ("update studies set epoch = ? where digest = ?", (epoch, digest)),
            audit=("epoch", study, detail),
        )

    def verified(self, digest: bytes, steps: int, head: bytes) -> None:
        """Note how many of a study's sums this hospital has verified, and their head."""
        self._change(("update studies set steps = ?, head = ? where digest = ?", (steps, head, digest)))

    def opened_epoch(self, digest: bytes, number: int, epoch: bytes, heads: Mapping[bytes, SeenHead]) -> None:
        """Note an epoch, encoded, that all signed, and the others' audit heads by identity."""
        self._change(
            ("insert or replace into opened values (?, ?, ?, 0)", (digest, number, epoch)),
            *(
                ("insert or replace into heads values (?, ?, ?, ?, ?)", (who, *head))
                for who, head in heads.items()
            ),
        )

    def computes(self, digest: bytes, number: int, group: Group) -> None:
        """Note that this hospital begins to answer in an epoch, and which hospitals compute there."""
        order = sorted(group.leaves)
        leaves = b"".join(who + LEAVES.index(group.leaves[who]).to_bytes() for who in order)
        sets = b"".join(bytes(who in one for who in order) for one in group.sets)
        self._change(
            ("update opened set computes = 1 where study = ? and number = ?", (digest, number)),
            ("insert or ignore into groups values (?, ?, ?, ?)", (group.study, leaves, sets, time.time())),
        )

    def opened(self, digest: bytes) -> list[tuple[bytes, bool]]:
        """Return the epochs of a study, encoded, in order, and whether this hospital computed in them."""
        statement = "select epoch, computes from opened where study = ? order by number"
        found = self._rows(statement, (bytes, int), digest)
        return [(epoch, bool(computes)) for epoch, computes in found]

    def groups(self) -> list[Group]:
        """Return the sets of hospitals that sums with this hospital's rows were opened over, oldest first."""
        statement = "select binding, leaves, sets from groups order by at"
        return [self._group(*row) for row in self._rows(statement, (bytes, bytes, bytes))]

    def _group(self, binding: bytes, packed: bytes, flags: bytes) -> Group:
        members, said = [packed[i : i + 32] for i in range(0, len(packed), 33)], packed[32::33]
        leaves = {who: LEAVES[one] for who, one in zip(members, said, strict=False) if one < len(LEAVES)}
        if (
            not members
            or not len(leaves) * 33 == len(members) * 33 == len(packed)
            or len(flags) % len(leaves)
        ):
            raise self._damaged("a set of hospitals is none")
        rows = (flags[i : i + len(leaves)] for i in range(0, len(flags), len(leaves)))
        sets = (frozenset(who for who, flag in zip(leaves, row, strict=True) if flag) for row in rows)
        return Group(binding, leaves, tuple(sets))

    def seen(self) -> dict[bytes, SeenHead]:
        """Return other hospitals' audit heads, by identity, as this one last saw them signed."""
        found = self._rows(
            "select identity, audit, epoch, leave, signature from heads", (bytes, bytes, bytes, str, bytes)
        )
        return {identity: SeenHead(*head) for identity, *head in found}

    def meet(self, name: str, identity: bytes) -> None:
        """Note a member that a coordinator named, for the officer to confirm."""
        self._change(("insert or ignore into members values (?, ?, ?)", (name, identity, time.time())))

    def met(self) -> list[tuple[str, bytes]]:
        """Return all members that coordinators named, with their identities."""
        found = self._rows("select name, identity from members order by name, seen_at", (str, bytes))
        return [(name, identity) for name, identity in found]

    def say(self, name: str, fingerprint: bytes, says: str) -> None:
        """Note what the officer says of a hospital: `confirmed`, `revoked`, or nothing any more."""
        if says:
            self._change(("insert or replace into officers values (?, ?, ?)", (fingerprint, name, says)))
        else:
            self._change(("delete from officers where fingerprint = ?", (fingerprint,)))

    def officers(self) -> dict[bytes, tuple[str, str]]:
        """Return by fingerprint which hospital it is and what the officer says of it."""
        statement = "select fingerprint, name, says from officers order by name"
        found = self._rows(statement, (bytes, str, str))
        return {fingerprint: (name, says) for fingerprint, name, says in found}

    def _change(
        self, *statements: tuple[str, tuple[object, ...]], audit: tuple[str, str, str] | None = None
    ) -> None:
        """Change all or nothing, with its audit entry. WardroundError if it can't be written."""
        try:
            with self._transaction():
                for statement, values in statements:
                    self._db.execute(statement, values)
                if audit is not None:
                    self._audit(time.time(), *audit)
        except sqlite3.Error as error:
            raise WardroundError(
                f"{self._label}: cannot be written ({error}); make room and start again"
            ) from None

    def audit(self, event: str, study: str, detail: str) -> None:
        """Append an entry: who did what, by name and digest, never a value. WardroundError if it can't."""
        try:
            with self._transaction():
                self._audit(time.time(), event, study, detail)
        except sqlite3.Error as error:
            raise WardroundError(
                f"{self._label}: the audit log cannot be written ({error}); make room and start again"
            ) from None

    def _audit(self, at: float, event: str, study: str, detail: str) -> None:
        last = self._db.execute("select head from audit order by seq desc limit 1").fetchone()
        head = _next_head(NOTHING.head if last is None else last[0], at, event, study, detail)
        self._db.execute(
            "insert into audit (at, event, study, detail, head) values (?, ?, ?, ?, ?)",
            (at, event, study, detail, head),
        )

    def audit_head(self) -> AuditHead:
        """Return how the audit log stands."""
        found = self._rows("select seq, head from audit order by seq desc limit 1", (int, bytes))
        return AuditHead(*found[0]) if found else NOTHING

    def had(self, head: AuditHead) -> bool:
        """Tell whether the audit log once stood so, or the officer has forgiven that it did not."""
        if head == NOTHING or self._rows("select 1 from forgiven where audit = ?", (int,), head.packed()):
            return True
        found = self._rows("select head from audit where seq = ?", (bytes,), head.count)
        return bool(found) and found[0][0] == head.head

    def forgive(self, packed: bytes) -> None:
        """Note that this log went back behind a head that others saw, and that the officer knows."""
        self._change(("insert or ignore into forgiven values (?)", (packed,)))

    def ledger(self) -> list[Charge]:
        """Return all charges, oldest first."""
        found = self._rows(
            "select binding, analysis, idx, kind, numbers, rows, hospitals from ledger order by seq",
            (bytes, str, int, str, int, int, str),
        )
        return [
            Charge(binding, analysis, index, kind, numbers, rows, tuple(hospitals.split(",")))
            for binding, analysis, index, kind, numbers, rows, hospitals in found
        ]

    def entries(self) -> list[tuple[str, str, str]]:
        """Return the audit log as (event, study, detail), oldest first."""
        found = self._rows("select event, study, detail from audit order by seq", (str, str, str))
        return [(event, study, detail) for event, study, detail in found]

    def close(self) -> None:
        """Close the database."""
        self._db.close()
