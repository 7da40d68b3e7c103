"""coordinator.db: which hospitals were invited and admitted, with which keys.

A token admits one enrolment, whoever races for it; only its SHA-256 is kept. A key that was ever admitted
stays with its entry: a revoked one never comes back, under whatever name. Each change has its entry in the
audit log.
"""

from __future__ import annotations

import hashlib
import secrets
import sqlite3
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Final, Literal

from wardround_common.audit.log import SCHEMA
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
from wardround_server.database import COORDINATOR, Database

State = Literal["admitted", "revoked", "left"]

_FIRST: Final = (
    """create table invitations (
        token_hash blob primary key, hospital text not null, made_at integer not null,
        expires integer not null, used_by blob) without rowid""",
    """create table hospitals (
        seq integer primary key, name text not null, identity blob not null unique,
        node_key blob not null unique, state text not null, node_id integer unique,
        admitted_at integer not null, stock integer not null)""",
    # A name may have many entries, one for each pair of keys, but one that is admitted.
    "create unique index one_admitted on hospitals (name) where state = 'admitted'",
)
_SECOND: Final = (
    """create table users (
        name text primary key, role text not null, token_hash blob not null unique, made_at integer not null,
        expires integer not null, revoked_at integer) without rowid""",
    *SCHEMA,
)
_VERSIONS: Final = (_FIRST, _SECOND)
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


class Registry(Database):
    """One coordinator's coordinator.db. ``busy_s`` is how long to wait while another process writes."""

    def __init__(self, path: Path, busy_s: float = 10.0, actor: str = COORDINATOR) -> None:
        super().__init__(path, _VERSIONS, busy_s, actor)

    def invite(self, hospital: str, expires: int, now: float, again: bool = False) -> str:
        """Return a new one-time token, 256 bits, for a hospital's name; only its hash is kept.

        WardroundError if the name is admitted or invited already, unless ``again``: then an open invitation
        is replaced, and a hospital that is admitted may enrol again with the keys it has.
        """
        check_name(hospital)
        if not now < expires <= LATEST:
            raise WardroundError("an invitation has to expire in the future, before the year 10000")
        token = secrets.token_urlsafe(32)
        with self.transaction() as db:
            if not again:
                self._check_free(db, hospital, now)
            db.execute("delete from invitations where hospital = ? and used_by is null", (hospital,))
            db.execute(
                "insert into invitations (token_hash, hospital, made_at, expires) values (?, ?, ?, ?)",
                (hashed(token), hospital, int(now), expires),
            )
            self.note("invite", detail=f"{hospital}, until {day(expires)}")
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
        with self.transaction() as db:
            invitation = db.execute(
                "select hospital, expires, used_by from invitations where token_hash = ?", (hashed(token),)
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
            record = _admit(db, enrolment, now, stock=False)
            self.note("enrol", detail=_named(record), actor=f"hospital:{hospital}")
            return record

    def admit(self, enrolment: Enrolment, now: float, stock: bool = False) -> HospitalRecord:
        """Admit a hospital whose words an officer has compared. EnrolmentRefused as in ``enrol``.

        An open invitation of that name then counts as used by these keys.
        """
        with self.transaction() as db:
            record = _admit(db, enrolment, now, stock)
            self.note("admit", detail=_named(record))
            return record

    def revoke(self, name: str) -> None:
        """Bar a hospital's keys for good and withdraw its invitation. WardroundError for an unknown name."""
        with self.transaction() as db:
            self._check_known(db, name)
            db.execute("update hospitals set state = 'revoked' where name = ?", (name,))
            db.execute("delete from invitations where hospital = ? and used_by is null", (name,))
            self.note("revoke", detail=name)

    def leave(self, name: str) -> None:
        """Note that an admitted hospital has left; invited again, it may come back with the same keys."""
        with self.transaction() as db:
            self._check_known(db, name)
            db.execute("update hospitals set state = 'left' where name = ? and state = 'admitted'", (name,))
            db.execute("delete from invitations where hospital = ? and used_by is null", (name,))
            self.note("leave", detail=name)

    def set_node_id(self, name: str, node_id: int | None) -> None:
        """Note under which number Flower knows an admitted hospital's node. WardroundError if none is."""
        if node_id is not None and not 0 <= node_id < 2**64:
            raise ValueError("a node's number has 64 bits")
        with self.transaction() as db:
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
        with self.transaction("deferred") as db:
            return _records(db, "order by name, seq")

    def by_node_id(self, node_id: int) -> HospitalRecord | None:
        """Return the entry of a node's number, in whatever state, or None."""
        if not 0 <= node_id < 2**64:
            return None
        with self.transaction("deferred") as db:
            return next(iter(_records(db, "where node_id = ?", _signed(node_id))), None)

    def invitations(self) -> list[Invitation]:
        """Return the invitations that nobody has used, also those that have expired, by name."""
        with self.transaction("deferred") as db:
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


def _named(record: HospitalRecord) -> str:
    return f"{record.name} {record.digest.hex()}{', stock SuperNode' if record.stock else ''}"


def day(at: int) -> str:
    """Return the day, in UTC, of unix seconds."""
    return f"{datetime.fromtimestamp(at, UTC):%Y-%m-%d}"


def hashed(token: str) -> bytes:
    """Return what is kept of a token."""
    # A token is 256 random bits: its plain hash can't be searched, and a lookup's time tells nothing.
    return hashlib.sha256(token.encode(errors="surrogatepass")).digest()
