"""coordinator.db as a SQLite file: opened by several processes, changed all or nothing, the audit log in it.

SQLite in WAL, since the listener and the commands open it at the same time. Each change is one transaction
that takes the write lock before it reads, with its entry of the audit log. What a table holds is its
module's: ``registry``, ``access``.
"""

from __future__ import annotations

import os
import sqlite3
import stat
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

from wardround_common.audit.entry import Entry
from wardround_common.audit.log import AuditLog, transaction
from wardround_common.errors import WardroundError

COORDINATOR: Final = "coordinator"  # who does what no person has said at this moment
_APPLICATION: Final = 0x57524F43  # "WROC" in the file's header, so that another program's database is told
Versions = tuple[tuple[str, ...], ...]


class Database:
    """A SQLite file with the audit log in it; ``busy_s`` is how long to wait while another process writes.

    ``versions``: the statements that make each version's tables out of the one before. ``actor`` is who
    stands in the audit log for what is done by way of this object.
    """

    def __init__(
        self, path: Path, versions: Versions, busy_s: float = 10.0, actor: str = COORDINATOR
    ) -> None:
        self.actor = actor
        self._path = path
        self._lock = threading.Lock()
        _make(path)
        deadline = time.monotonic() + busy_s
        while True:
            try:
                self._db = _opened(path, versions, busy_s)
                break
            except sqlite3.Error as error:
                # Two processes that turn a new file to WAL at once are told "locked" without waiting.
                if _code(error) != sqlite3.SQLITE_BUSY or time.monotonic() > deadline:
                    raise _failed(path, _code(error), error) from None
                time.sleep(0.02)
        self._log = AuditLog(self._db)

    def __repr__(self) -> str:
        return f"{type(self).__name__}(...)"

    def close(self) -> None:
        """Close the database."""
        with self._lock:
            self._db.close()

    @contextmanager
    def transaction(self, kind: str = "immediate") -> Iterator[sqlite3.Connection]:
        """Commit what is done within, or nothing of it. WardroundError if the database fails."""
        with self._lock:
            try:
                with transaction(self._db, kind):
                    yield self._db
            except sqlite3.Error as error:
                raise _failed(self._path, _code(error), error) from None

    def note(self, event: str, study: str = "", detail: str = "", actor: str | None = None) -> None:
        """Append to the audit log within a transaction that is under way: names and digests, never a value.

        ``actor``: else whoever this object acts for.
        """
        at = time.time_ns() // 1_000_000
        self._log.append(Entry(at, self.actor if actor is None else actor, event, study, detail))

    def audit(self, event: str, study: str = "", detail: str = "", actor: str | None = None) -> None:
        """Append to the audit log. WardroundError if it can't be written, and then it must not be done."""
        with self.transaction():
            self.note(event, study, detail, actor)

    @contextmanager
    def log(self, kind: str = "deferred") -> Iterator[AuditLog]:
        """Give the audit log for one transaction. WardroundError if it can't be read or written."""
        with self.transaction(kind):
            yield self._log

    def signed(self) -> int:
        """Return the size at the last signed checkpoint, 0 if there is none; within a transaction."""
        return int(self._db.execute("select coalesce(max(size), 0) from checkpoints").fetchone()[0])


def _make(path: Path) -> None:
    """Create the file with mode 0600, or take from group and others what one that exists gives them."""
    try:
        try:
            # An existing file is not opened here: closing it would drop this process's locks on it.
            os.close(os.open(path, os.O_CREAT | os.O_EXCL | os.O_RDWR, 0o600))
        except FileExistsError:
            found = path.stat()
            is_file = stat.S_ISREG(found.st_mode)
            if is_file and 0 < found.st_size < 512:  # SQLite would take it for empty and write over it
                raise _failed(path, sqlite3.SQLITE_NOTADB) from None
            if is_file and found.st_mode & 0o077:
                path.chmod(0o600)
    except OSError as error:
        raise WardroundError(
            f"{path}: the coordinator's database cannot be opened ({error.strerror}); "
            "check the folder and who may write to it"
        ) from None


def _opened(path: Path, versions: Versions, busy_s: float) -> sqlite3.Connection:
    db = sqlite3.connect(path, timeout=busy_s, check_same_thread=False, isolation_level=None)
    try:
        db.execute("pragma synchronous = full")
        db.execute("begin")
        version = _version(db, path, len(versions))
        db.execute("commit")
        if version < len(versions):
            if not version:
                db.execute("pragma journal_mode = wal")
            db.execute("begin immediate")
            for number in range(_version(db, path, len(versions)), len(versions)):  # nobody was faster
                for statement in versions[number]:
                    db.execute(statement)
                db.execute(f"pragma application_id = {_APPLICATION}")
                db.execute(f"pragma user_version = {number + 1}")
            db.execute("commit")
    except UnicodeDecodeError:  # a schema that is no text
        db.close()
        raise _failed(path, sqlite3.SQLITE_NOTADB) from None
    except BaseException:
        db.close()
        raise
    return db


def _version(db: sqlite3.Connection, path: Path, newest: int) -> int:
    """Return the version of the database, 0 if it is empty. WardroundError unless it is one of ours.

    To be called in a transaction, so that all of it is from one moment.
    """
    application, version, tables = (
        db.execute(what).fetchone()[0]
        for what in ("pragma application_id", "pragma user_version", "select count(*) from sqlite_master")
    )
    if not (application or version or tables):
        return 0
    if application != _APPLICATION:
        raise WardroundError(
            f"{path}: this is another program's database; choose the coordinator's own folder"
        )
    if not 1 <= version <= newest:
        raise WardroundError(f"{path}: written by another version of Wardround ({version}); update this one")
    return int(version)


_ADVICE: Final = {
    sqlite3.SQLITE_BUSY: "is locked by another process; wait for that to end and try again",
    sqlite3.SQLITE_LOCKED: "is locked by another process; wait for that to end and try again",
    sqlite3.SQLITE_READONLY: "cannot be written; check who owns it and its folder",
    sqlite3.SQLITE_CANTOPEN: "cannot be opened; check who owns it and its folder",
    sqlite3.SQLITE_FULL: "cannot be written, the disk is full; make room and try again",
    sqlite3.SQLITE_NOTADB: "is no database; choose the coordinator's own folder, or restore a copy",
    sqlite3.SQLITE_CORRUPT: "is damaged; restore a copy",
}


def _code(error: sqlite3.Error) -> int:
    """Return SQLite's primary code, 0 if the error is not SQLite's own."""
    return int(getattr(error, "sqlite_errorcode", 0)) & 0xFF


def _failed(path: Path, code: int, said: object = "") -> WardroundError:
    advice = _ADVICE.get(code, f"cannot be used ({said}); check the disk and try again")
    return WardroundError(f"{path}: the coordinator's database {advice}")
