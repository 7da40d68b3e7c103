"""coordinator.db: which hospitals were invited and admitted, with which keys.

SQLite in WAL, since the listener and the officer's commands open it at the same time. Each change is one
transaction that takes the write lock before it reads, so a token admits one enrolment whoever races for it.
Of tokens only SHA-256 is kept. A key that was ever admitted stays with its entry: a revoked one never comes
back, under whatever name.
"""

from __future__ import annotations

import hashlib
import os
import secrets
import sqlite3
import stat
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Literal

from wardround_common.enrolment import (
    LATEST,
    PROTOCOL,
    Enrolment,
    EnrolmentRefused,
    check_name,
    enrolment_digest,
)
from wardround_common.errors import ProtocolError, WardroundError, did_you_mean
from wardround_common.sealing.roster import fingerprint
from wardround_common.words import words

State = Literal["admitted", "revoked", "left"]

_APPLICATION: Final = 0x57524F43  # "WROC" in the file's header, so that another program's database is told
_VERSION: Final = 1
_SCHEMA: Final = (
    """create table invitations (
        token_hash blob primary key, hospital text not null, made_at integer not null,
        expires integer not null, used_by blob) without rowid""",
    """create table hospitals (
        seq integer primary key, name text not null, identity blob not null unique,
        node_key blob not null unique, state text not null, node_id integer unique,
        admitted_at integer not null, stock integer not null)""",
    # A name may have many entries, one for each pair of keys, but one that is admitted.
    "create unique index one_admitted on hospitals (name) where state = 'admitted'",
    f"pragma application_id = {_APPLICATION}",
    f"pragma user_version = {_VERSION}",
)
_SELECT: Final = "select name, identity, node_key, state, node_id, admitted_at, stock from hospitals"


@dataclass(frozen=True)
class Invitation:
    """An invitation that nobody has used; times are unix seconds. It may have expired."""

    hospital: str
    made_at: int
    expires: int


@dataclass(frozen=True)
class HospitalRecord:
    """One pair of keys that was admitted under a name. A name that was revoked and came back has several."""

    name: str
    identity: bytes  # Ed25519, 32 bytes
    node_key: bytes  # P-384, PEM
    state: State
    node_id: int | None  # Flower's, unsigned 64-bit; None until the node is known to Flower
    admitted_at: int  # unix seconds
    words: tuple[str, ...]
    stock: bool = False  # a stock flower-supernode, which needs get-fab

    @property
    def digest(self) -> bytes:
        """The digest of the enrolment that was admitted."""
        return enrolment_digest(self.name, self.identity, self.node_key)


class Registry:
    """One coordinator's coordinator.db. ``busy_s`` is how long to wait while another process writes."""

    def __init__(self, path: Path, busy_s: float = 10.0) -> None:
        self._path = path
        self._lock = threading.Lock()
        _make(path)
        deadline = time.monotonic() + busy_s
        while True:
            try:
                self._db = _opened(path, busy_s)
                return
            except sqlite3.Error as error:
                # Two processes that turn a new file to WAL at once are told "locked" without waiting.
                if _code(error) != sqlite3.SQLITE_BUSY or time.monotonic() > deadline:
                    raise _failed(path, _code(error), error) from None
                time.sleep(0.02)

    def __repr__(self) -> str:
        return "Registry(...)"

    def close(self) -> None:
        """Close the database."""
        with self._lock:
            self._db.close()

    def invite(self, hospital: str, expires: int, now: float, again: bool = False) -> str:
        """Return a new one-time token, 256 bits, for a hospital's name; only its hash is kept.

        WardroundError if the name is admitted or invited already, unless ``again``: then an open invitation
        is replaced, and a hospital that is admitted may enrol again with the keys it has.
        """
        check_name(hospital)
        if not now < expires <= LATEST:
            raise WardroundError("an invitation has to expire in the future, before the year 10000")
        token = secrets.token_urlsafe(32)
        with self._transaction() as db:
            if not again:
                self._check_free(db, hospital, now)
            db.execute("delete from invitations where hospital = ? and used_by is null", (hospital,))
            db.execute(
                "insert into invitations (token_hash, hospital, made_at, expires) values (?, ?, ?, ?)",
                (_hashed(token), hospital, int(now), expires),
            )
        return token

    def _check_free(self, db: sqlite3.Connection, hospital: str, now: float) -> None:
        if _admitted(db, hospital):
            raise WardroundError(
                f"{hospital} is admitted already; to admit it with new keys, revoke it first, "
                "or add --again for it to enrol once more with those it has"
            )
        found = db.execute(
            "select 1 from invitations where hospital = ? and used_by is null and expires > ?",
            (hospital, now),
        ).fetchone()
        if found:
            raise WardroundError(f"{hospital} has an open invitation; add --again to replace that one")

    def enrol(self, enrolment: Enrolment, token: str, now: float) -> HospitalRecord:
        """Admit a hospital that shows its token. EnrolmentRefused says by its code why not.

        The same keys with the same token are admitted again without a change, for the reply may have been
        lost on its way; a refusal leaves the token as it was.
        """
        with self._transaction() as db:
            invitation = db.execute(
                "select hospital, expires, used_by from invitations where token_hash = ?", (_hashed(token),)
            ).fetchone()
            if invitation is None:
                raise EnrolmentRefused("token_unknown")
            hospital, expires, used_by = invitation
            if enrolment.hospital != hospital:
                raise EnrolmentRefused("name_other")
            if used_by is not None:
                record = _admitted(db, hospital)
                if record is None or not record.digest == used_by == enrolment.digest:
                    raise EnrolmentRefused("token_used")
                return record
            if now >= expires:
                raise EnrolmentRefused("token_expired")
            return _admit(db, enrolment, now, stock=False)

    def admit(self, enrolment: Enrolment, now: float, stock: bool = False) -> HospitalRecord:
        """Admit a hospital whose words an officer has compared. EnrolmentRefused as in ``enrol``.

        An open invitation of that name then counts as used by these keys.
        """
        with self._transaction() as db:
            return _admit(db, enrolment, now, stock)

    def revoke(self, name: str) -> None:
        """Bar a hospital's keys for good and withdraw its invitation. WardroundError for an unknown name."""
        with self._transaction() as db:
            self._check_known(db, name)
            db.execute("update hospitals set state = 'revoked' where name = ?", (name,))
            db.execute("delete from invitations where hospital = ? and used_by is null", (name,))

    def leave(self, name: str) -> None:
        """Note that an admitted hospital has left; invited again, it may come back with the same keys."""
        with self._transaction() as db:
            self._check_known(db, name)
            db.execute("update hospitals set state = 'left' where name = ? and state = 'admitted'", (name,))
            db.execute("delete from invitations where hospital = ? and used_by is null", (name,))

    def set_node_id(self, name: str, node_id: int | None) -> None:
        """Note under which number Flower knows an admitted hospital's node. WardroundError if none is."""
        if node_id is not None and not 0 <= node_id < 2**64:
            raise ValueError("a node's number has 64 bits")
        with self._transaction() as db:
            self._check_known(db, name)
            try:
                changed = db.execute(
                    "update hospitals set node_id = ? where name = ? and state = 'admitted'",
                    (None if node_id is None else _signed(node_id), name),
                ).rowcount
            except sqlite3.IntegrityError:
                raise WardroundError(f"{name}: its node's number is another hospital's") from None
            if not changed:
                raise WardroundError(f"{name} is not admitted any more; invite it again")

    def hospitals(self) -> list[HospitalRecord]:
        """Return all entries by name, those of one name in the order in which they were made."""
        with self._transaction("deferred") as db:
            return _records(db, "order by name, seq")

    def by_node_id(self, node_id: int) -> HospitalRecord | None:
        """Return the entry of a node's number, in whatever state, or None."""
        if not 0 <= node_id < 2**64:
            return None
        with self._transaction("deferred") as db:
            return next(iter(_records(db, "where node_id = ?", _signed(node_id))), None)

    def invitations(self) -> list[Invitation]:
        """Return the invitations that nobody has used, also those that have expired, by name."""
        with self._transaction("deferred") as db:
            rows = db.execute(
                "select hospital, made_at, expires from invitations where used_by is null order by hospital"
            ).fetchall()
        return [Invitation(*row) for row in rows]

    def _check_known(self, db: sqlite3.Connection, name: str) -> None:
        known = {
            row[0] for row in db.execute("select name from hospitals union select hospital from invitations")
        }
        if name not in known:
            raise WardroundError(f"no hospital is named {ascii(name)[:80]}{did_you_mean(name, known)}")

    @contextmanager
    def _transaction(self, kind: str = "immediate") -> Iterator[sqlite3.Connection]:
        """Commit what is done within, or nothing of it. WardroundError if the database fails."""
        with self._lock:
            try:
                self._db.execute(f"begin {kind}")
                try:
                    yield self._db
                    self._db.execute("commit")
                except BaseException:
                    if self._db.in_transaction:  # where the disk is full, SQLite has rolled back itself
                        self._db.execute("rollback")
                    raise
            except sqlite3.Error as error:
                raise _failed(self._path, _code(error), error) from None


def _admit(db: sqlite3.Connection, enrolment: Enrolment, now: float, stock: bool) -> HospitalRecord:
    """Enter an enrolment, once it is clear that its keys are its own and nobody else's."""
    if enrolment.protocol != PROTOCOL:
        raise EnrolmentRefused("protocol")
    try:
        enrolment.verify()
    except ProtocolError:
        raise EnrolmentRefused("bad_signature") from None
    name, keys = enrolment.hospital, (enrolment.identity, enrolment.node_key)
    record = _admitted(db, name)
    if record is not None and record.digest != enrolment.digest:
        raise EnrolmentRefused("name_taken")
    if record is None:
        earlier = _records(db, "where identity = ? or node_key = ?", *keys)
        if any(old.digest != enrolment.digest or old.state == "revoked" for old in earlier):
            raise EnrolmentRefused("key_taken")
        if earlier:  # the very same name and keys had left, and come back; Flower's node is made anew
            db.execute(
                "update hospitals set state = 'admitted', node_id = null, admitted_at = ? where identity = ?",
                (int(now), enrolment.identity),
            )
        else:
            db.execute(
                "insert into hospitals (name, identity, node_key, state, admitted_at, stock) "
                "values (?, ?, ?, 'admitted', ?, ?)",
                (name, *keys, int(now), stock),
            )
    db.execute("update hospitals set stock = ? where name = ? and state = 'admitted'", (stock, name))
    db.execute(
        "update invitations set used_by = ? where hospital = ? and used_by is null", (enrolment.digest, name)
    )
    return _records(db, "where name = ? and state = 'admitted'", name)[0]


def _admitted(db: sqlite3.Connection, name: str) -> HospitalRecord | None:
    return next(iter(_records(db, "where name = ? and state = 'admitted'", name)), None)


def _records(db: sqlite3.Connection, where: str, *values: object) -> list[HospitalRecord]:
    try:
        return [
            HospitalRecord(
                name,
                identity,
                node_key,
                state,
                None if node_id is None else node_id % 2**64,
                admitted_at,
                words(fingerprint(name, identity)),
                bool(stock),
            )
            for name, identity, node_key, state, node_id, admitted_at, stock in db.execute(
                f"{_SELECT} {where}", values
            )
        ]
    except (TypeError, ValueError, AttributeError):  # text where bytes should be, and the like
        raise WardroundError(
            "coordinator.db: an entry of a hospital is damaged; restore it from your back-up"
        ) from None


def _signed(node_id: int) -> int:
    """Return the signed number of the same 64 bits, since SQLite knows no unsigned ones."""
    return node_id - 2**64 if node_id >= 2**63 else node_id


def _hashed(token: str) -> bytes:
    # A token is 256 random bits: its plain hash can't be searched, and a lookup's time tells nothing.
    return hashlib.sha256(token.encode(errors="surrogatepass")).digest()


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


def _opened(path: Path, busy_s: float) -> sqlite3.Connection:
    db = sqlite3.connect(path, timeout=busy_s, check_same_thread=False, isolation_level=None)
    try:
        db.execute("pragma synchronous = full")
        db.execute("begin")
        new = _is_new(db, path)
        db.execute("commit")
        if new:
            db.execute("pragma journal_mode = wal")
            db.execute("begin immediate")
            if _is_new(db, path):  # nobody was faster
                for statement in _SCHEMA:
                    db.execute(statement)
            db.execute("commit")
    except UnicodeDecodeError:  # a schema that is no text
        db.close()
        raise _failed(path, sqlite3.SQLITE_NOTADB) from None
    except BaseException:
        db.close()
        raise
    return db


def _is_new(db: sqlite3.Connection, path: Path) -> bool:
    """Tell whether the database is empty. WardroundError unless it is, or is a registry of this version.

    To be called in a transaction, so that all of it is from one moment.
    """
    application, version, tables = (
        db.execute(what).fetchone()[0]
        for what in ("pragma application_id", "pragma user_version", "select count(*) from sqlite_master")
    )
    if not (application or version or tables):
        return True
    if application != _APPLICATION:
        raise WardroundError(
            f"{path}: this is another program's database; choose the coordinator's own folder"
        )
    if version != _VERSION:
        raise WardroundError(f"{path}: written by another version of Wardround ({version}); update this one")
    return False


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
