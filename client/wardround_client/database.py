"""What node.db needs as a SQLite file: opened by its owner alone, changed all or nothing, read with checks.

SQLite, since every answer is one small durable commit (a column store such as DuckDB, which holds the
patients' tables, is not made for those). What a table holds is its module's: ``store``, ``ledger``,
``rowsets``.
"""

from __future__ import annotations

import os
import sqlite3
import threading
import time
import weakref
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import UnionType
from typing import Any, TypeVar

from wardround_common.audit.entry import Entry
from wardround_common.audit.log import AuditLog, transaction
from wardround_common.audit.note import HOSPITAL, Origin, sign_checkpoint
from wardround_common.errors import WardroundError
from wardround_common.sealing.epoch import AuditHead
from wardround_common.sealing.identity import Identity

T = TypeVar("T")
Columns = tuple[type | UnionType, ...]
Statement = tuple[str, tuple[object, ...]]
NODE = "node"  # who does what no person has said at this moment
_APPLICATION = 0x57524F4E  # "WRON" in the file's header, so that another program's database is told
_PAGE_BYTES = 32768
_FIRST_TABLES = {"answers", "ledger", "audit"}  # a database from before it was marked as ours has these


class Database:
    """A SQLite file with the audit log in it; ``path`` None keeps it in memory, for simulations.

    ``versions``: the statements that make each version's tables out of the one before. ``actor`` is who
    stands in the audit log for what is done by way of this object.
    """

    def __init__(self, path: Path | None, versions: tuple[tuple[str, ...], ...], actor: str = NODE) -> None:
        self.actor = actor
        self._lock = threading.Lock()
        self._versions = versions
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
                if path is not None:  # large answers take half the time; one that has tables keeps its own
                    self._db.execute(f"pragma page_size = {_PAGE_BYTES}")
                self._take_up()
                self._db.execute("pragma synchronous = full")
            except BaseException:
                self._db.close()
                raise
        except sqlite3.Error as error:
            remedy = (
                "make room, and see that it can be written"
                if isinstance(error, sqlite3.OperationalError)
                else "restore it from your back-up"
            )
            raise WardroundError(
                f"{path}: the node's database cannot be opened ({error}); {remedy}"
            ) from None
        self._log = AuditLog(self._db)
        weakref.finalize(self, self._db.close)  # a simulated hospital ends when nobody holds it any more

    def __repr__(self) -> str:
        return f"{type(self).__name__}(...)"

    def _take_up(self) -> None:
        """Make the tables in a new database. WardroundError if it is another program's."""
        if self._version() == len(self._versions) and self._is_ours():
            return
        self._db.execute("begin immediate")
        application = self._db.execute("pragma application_id").fetchone()[0]
        tables = {name for (name,) in self._db.execute("select name from sqlite_master where type = 'table'")}
        known = application == _APPLICATION  # else another process may have been faster
        if not known and (application or (tables and not tables >= _FIRST_TABLES)):
            raise WardroundError(
                f"{self._label}: this is another program's database; choose the hospital's own home"
            )
        if self._version() > len(self._versions):
            raise WardroundError(
                f"{self._label}: made by a later version of Wardround; install that, or an older back-up"
            )
        self._db.execute(f"pragma application_id = {_APPLICATION}")
        for number in range(self._version() if known else 0, len(self._versions)):
            for statement in self._versions[number]:
                self._db.execute(statement)
        self._db.execute(f"pragma user_version = {len(self._versions)}")
        self._move_entries()
        self._db.execute("commit")

    def _version(self) -> int:
        return int(self._db.execute("pragma user_version").fetchone()[0])

    def _is_ours(self) -> bool:
        return bool(self._db.execute("pragma application_id").fetchone()[0] == _APPLICATION)

    def _move_entries(self) -> None:
        """Take the entries of an audit log from before it was a tree into the tree."""
        if not self._db.execute("select 1 from sqlite_master where name = 'audit'").fetchone():
            return
        log = AuditLog(self._db)
        for at, event, study, detail in self._db.execute(
            "select at, event, study, detail from audit order by seq"
        ).fetchall():
            log.append(Entry(int(at * 1000), "", event, study, detail))
        self._db.execute("drop table audit")

    @contextmanager
    def transaction(self) -> Iterator[sqlite3.Connection]:
        """Do all or nothing, and nobody else writes meanwhile."""
        with self._lock, transaction(self._db):
            yield self._db

    def rows(self, statement: str, columns: Columns, *values: object) -> list[tuple[Any, ...]]:
        """Return rows, whose ``columns`` have these types: SQLite itself keeps anything anywhere."""
        try:
            with self._lock:
                rows = self._db.execute(statement, values).fetchall()
        except sqlite3.Error as error:
            raise self.damaged(str(error)) from None
        if not all(all(map(isinstance, row, columns)) for row in rows):
            raise self.damaged("a value is none that was written there")
        return rows

    def damaged(self, why: str) -> WardroundError:
        """Return the error of a database that holds what was never written there."""
        return WardroundError(f"{self._label}: cannot be read ({why}); restore it from your back-up")

    def change(self, *statements: Statement, audit: tuple[str, str, str] | None = None) -> None:
        """Change all or nothing, with its audit entry. WardroundError if it can't be written."""
        with self._written():
            for statement, values in statements:
                self._db.execute(statement, values)
            if audit is not None:
                self.note(*audit)

    @contextmanager
    def _written(self) -> Iterator[None]:
        try:
            with self.transaction():
                yield
        except sqlite3.Error as error:
            raise WardroundError(
                f"{self._label}: cannot be written ({error}); make room and start again"
            ) from None

    # --- the audit log ---

    def audit(self, event: str, study: str, detail: str) -> None:
        """Append an entry: who did what, by name and digest, never a value. WardroundError if it can't."""
        self.change(audit=(event, study, detail))

    def note(self, event: str, study: str, detail: str) -> None:
        """Append an entry within a transaction that is under way."""
        self._log.append(Entry(time.time_ns() // 1_000_000, self.actor, event, study, detail))

    def log(self, look: Callable[[AuditLog], T]) -> T:
        """Return what ``look`` finds in the audit log. WardroundError where it can't be read."""
        try:
            with self._lock:
                return look(self._log)
        except sqlite3.Error as error:
            raise self.damaged(str(error)) from None

    def checkpoint(self, identity: Identity, hospital: str) -> None:
        """Sign how the audit log stands, and keep that. WardroundError if it can't be written."""
        with self._written():
            head = self._log.head()
            self._log.keep(sign_checkpoint(identity, Origin(HOSPITAL, hospital), head), head.count)

    def audit_head(self) -> AuditHead:
        """Return how the audit log stands."""
        return self.log(lambda log: log.head())

    def entries(self) -> list[tuple[str, str, str]]:
        """Return the audit log as (event, study, detail), oldest first."""
        return [(one.event, one.study, one.detail) for _, one in self.log(lambda log: log.entries())]

    def close(self) -> None:
        """Close the database."""
        self._db.close()
