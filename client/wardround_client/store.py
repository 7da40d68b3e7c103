"""node.db: what a node must still know after it was killed.

SQLite, since every answer is one small durable commit (a column store such as DuckDB, which holds the
patients' tables, is not made for those). A sealed answer, its ledger charge and its audit entry are
committed together before a byte is sent; the sealed bytes are sent again when asked again.
"""

from __future__ import annotations

import os
import sqlite3
import threading
import time
import weakref
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from wardround_common.errors import WardroundError

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


_FIRST_TABLES = {"answers", "ledger", "audit"}  # a database from before it was marked as ours has these
_STUDY = "digest, name, manifest, offered_at, approved_at, signature, masking, roster, epoch"


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
    encoded, the last ones that this hospital signed.
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

    def __repr__(self) -> str:
        return f"StudyRecord({self.name!r}, ...)"


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
        if self._db.execute("pragma application_id").fetchone()[0] == _APPLICATION:
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
        self._db.execute("commit")

    def _rows(self, statement: str, *values: object) -> list[tuple[Any, ...]]:
        try:
            with self._lock:
                return self._db.execute(statement, values).fetchall()
        except sqlite3.Error as error:
            raise WardroundError(
                f"{self._label}: cannot be read ({error}); restore it from your back-up"
            ) from None

    def answer(self, binding: bytes, epoch: bytes, analysis: str, index: int) -> tuple[bytes, bytes] | None:
        """Return (query context, sealed bytes) of an answer that was given before, or None."""
        rows = self._rows(
            "select context, sealed from answers "
            "where binding = ? and epoch = ? and analysis = ? and idx = ?",
            *(binding, epoch, analysis, index),
        )
        return (rows[0][0], rows[0][1]) if rows else None

    def keep(self, epoch: bytes, context: bytes, sealed: bytes, charge: Charge, study: str) -> None:
        """Charge, store and audit one release in one transaction. WardroundError if it can't be kept."""
        now = time.time()
        key = (charge.binding, charge.analysis, charge.index)
        try:
            with self._lock:
                self._db.execute("begin immediate")
                try:
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
                    self._db.execute("commit")
                except BaseException:
                    if self._db.in_transaction:  # where the disk is full, SQLite has rolled back itself
                        self._db.execute("rollback")
                    raise
        except sqlite3.Error as error:
            raise WardroundError(
                f"{self._label}: an answer cannot be kept ({error}), so nothing was sent; "
                "make room and start the study again"
            ) from None

    def studies(self) -> list[StudyRecord]:
        """Return all studies that were offered or approved, oldest first."""
        rows = self._rows(f"select {_STUDY} from studies order by offered_at")  # noqa: S608 (our own words)
        return [StudyRecord(*row) for row in rows]

    def study(self, digest: bytes) -> StudyRecord | None:
        """Return a study by its digest."""
        rows = self._rows(f"select {_STUDY} from studies where digest = ?", digest)  # noqa: S608 (our own words)
        return StudyRecord(*rows[0]) if rows else None

    def offer(self, digest: bytes, name: str, manifest: bytes) -> None:
        """Note that a study was offered; one that is known already stays as it is."""
        self._change(
            "insert or ignore into studies (digest, name, manifest, offered_at) values (?, ?, ?, ?)",
            (digest, name, manifest, time.time()),
        )

    def approve(self, digest: bytes, signature: bytes, masking: bytes) -> None:
        """Note that an offered study was approved, with a new masking key: roster and epoch begin anew."""
        self._change(
            "update studies set approved_at = ?, signature = ?, masking = ?, roster = null, epoch = null "
            "where digest = ?",
            (time.time(), signature, masking, digest),
        )

    def withdraw(self, digest: bytes) -> None:
        """Take an approval back, and forget its masking key."""
        self._change(
            "update studies set approved_at = null, signature = null, masking = null, roster = null, "
            "epoch = null where digest = ?",
            (digest,),
        )

    def judge(self, binding: bytes, analysis: str, asked: bytes) -> None:
        """Note the last evaluation on held-out rows, encoded, on which a statement may be made."""
        self._change("insert or replace into judged values (?, ?, ?)", (binding, analysis, asked))

    def judged(self, binding: bytes, analysis: str) -> bytes | None:
        """Return the evaluation that ``judge`` noted."""
        statement = "select asked from judged where binding = ? and analysis = ?"
        return next((row[0] for row in self._rows(statement, binding, analysis)), None)

    def signed_roster(self, digest: bytes, roster: bytes) -> None:
        """Note the roster, encoded, that this hospital signed."""
        self._change("update studies set roster = ? where digest = ?", (roster, digest))

    def signed_epoch(self, digest: bytes, epoch: bytes) -> None:
        """Note the epoch, encoded, that this hospital signed."""
        self._change("update studies set epoch = ? where digest = ?", (epoch, digest))

    def _change(self, statement: str, values: tuple[object, ...]) -> None:
        try:
            with self._lock:
                self._db.execute(statement, values)
        except sqlite3.Error as error:
            raise WardroundError(
                f"{self._label}: cannot be written ({error}); make room and start again"
            ) from None

    def audit(self, event: str, study: str, detail: str) -> None:
        """Append an entry: who did what, by name and digest, never a value. WardroundError if it can't."""
        try:
            with self._lock:
                self._audit(time.time(), event, study, detail)
        except sqlite3.Error as error:
            raise WardroundError(
                f"{self._label}: the audit log cannot be written ({error}); make room and start again"
            ) from None

    def _audit(self, at: float, event: str, study: str, detail: str) -> None:
        self._db.execute(
            "insert into audit (at, event, study, detail) values (?, ?, ?, ?)", (at, event, study, detail)
        )

    def ledger(self) -> list[Charge]:
        """Return all charges, oldest first."""
        found = self._rows(
            "select binding, analysis, idx, kind, numbers, rows, hospitals from ledger order by seq"
        )
        return [
            Charge(binding, analysis, index, kind, numbers, rows, tuple(hospitals.split(",")))
            for binding, analysis, index, kind, numbers, rows, hospitals in found
        ]

    def entries(self) -> list[tuple[str, str, str]]:
        """Return the audit log as (event, study, detail), oldest first."""
        found = self._rows("select event, study, detail from audit order by seq")
        return [(event, study, detail) for event, study, detail in found]

    def close(self) -> None:
        """Close the database."""
        self._db.close()
