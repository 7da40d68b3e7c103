"""node.db: what a node must still know after it was killed.

A sealed answer, its ledger charge and its audit entry are committed together before a byte is sent; the
sealed bytes are sent again when asked again.
"""

from __future__ import annotations

import sqlite3
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final, NamedTuple

from wardround_client import ledger, rowsets
from wardround_client.database import NODE, Columns, Database, Statement
from wardround_client.ledger import Charge
from wardround_common.audit.log import SCHEMA as AUDIT_LOG
from wardround_common.audit.merkle import EMPTY
from wardround_common.errors import WardroundError
from wardround_common.sealing.epoch import LEAVES, AuditHead
from wardround_common.sealing.leaving import Group
from wardround_common.study import Study

_FIRST: Final = (
    """create table if not exists answers (
    binding blob, epoch blob, analysis text, idx integer, context blob not null, sealed blob not null,
    primary key (binding, epoch, analysis, idx)) without rowid""",
    """create table if not exists ledger (
    seq integer primary key, at real not null, binding blob not null, analysis text not null,
    idx integer not null, kind text not null, numbers integer not null, rows integer not null,
    hospitals text not null)""",
    """create table if not exists studies (
    digest blob primary key, name text not null, manifest blob not null, offered_at real not null,
    approved_at real, signature blob, masking blob, roster blob, epoch blob) without rowid""",
    """create table if not exists judged (
    binding blob, analysis text, asked blob not null, primary key (binding, analysis)) without rowid""",
)
# What sealed sums need besides: a study's sums verified so far, its epochs that were opened, sets of
# hospitals that were summed over, what others showed, and what the officer says of them.
_SEALING: Final = (
    "alter table studies add column steps integer not null default 0",
    "alter table studies add column head blob not null default x''",
    "alter table studies add column cohort blob",
    "update studies set approved_at = null, signature = null, masking = null, roster = null, epoch = null",
    """create table opened (
    study blob, number integer, epoch blob not null, computes integer not null,
    primary key (study, number)) without rowid""",
    """create table groups (
    binding blob, leaves blob, sets blob, at real not null,
    primary key (binding, leaves, sets)) without rowid""",
    """create table heads (
    identity blob primary key, audit blob not null, epoch blob not null, leave text not null,
    signature blob not null) without rowid""",
    "create table forgiven (audit blob primary key) without rowid",
    """create table members (
    name text, identity blob, seen_at real not null, primary key (name, identity)) without rowid""",
    """create table officers (
    fingerprint blob primary key, name text not null, says text not null) without rowid""",
)
# What the officer decides: on studies, and on releases that wait.
_DECIDING: Final = (
    "alter table studies add column says text not null default ''",
    "alter table studies add column why text not null default ''",
    "alter table studies add column pin blob",
    """create table held (
    study blob, context blob, analysis text not null, idx integer not null, asked blob not null,
    at real not null, says text not null, primary key (study, context)) without rowid""",
)
_VERSIONS: Final = (_FIRST, (*_SEALING, *_DECIDING, *ledger.SCHEMA, *rowsets.SCHEMA, *AUDIT_LOG))
OFFERED, APPROVED, REJECTED, WITHDRAWN = "offered", "approved", "rejected", "withdrawn"
WAITS, RELEASED, REFUSED = "", "released", "refused"  # what the officer says of a release

_STUDY = (
    "digest, name, manifest, offered_at, approved_at, signature, masking, roster, epoch, steps, head, "
    "cohort, says, why, pin"
)
_BLOB = bytes | None
_STUDY_COLUMNS: Columns = (
    *(bytes, str, bytes, float, float | None),
    *(_BLOB, _BLOB, _BLOB, _BLOB, int, bytes, _BLOB),
    *(str, str, _BLOB),
)


@dataclass(frozen=True, repr=False)
class StudyRecord:
    """A study that was offered here, and how far this hospital went along with it.

    ``signature`` is the approval, ``masking`` the private key made for it; ``roster`` and ``epoch`` are
    encoded, the last ones that this hospital signed; ``steps`` and ``head`` what it verified of the sums;
    ``cohort`` the keyed digest of the pinned rows, ``pin`` what was pinned (``approval.Pin``), encoded.
    ``says`` and ``why``: that the study was rejected or withdrawn, and for which reason.
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
    says: str = ""
    why: str = ""
    pin: bytes | None = None

    def __repr__(self) -> str:
        return f"StudyRecord({self.name!r}, ...)"

    @property
    def state(self) -> str:
        """`offered`, `approved`, `rejected` or `withdrawn`."""
        return APPROVED if self.approved_at is not None else self.says or OFFERED


NOTHING = AuditHead(0, EMPTY)  # the head of an audit log without entries


class SeenHead(NamedTuple):
    """Another hospital's audit head, packed, and the signature under which it told it."""

    audit: bytes
    epoch: bytes
    leave: str
    signature: bytes


@dataclass(frozen=True)
class Held:
    """A release that waits for a person, or did; ``says``: `released`, `refused`, or nothing yet.

    ``asked``: the query, encoded.
    """

    context: bytes
    analysis: str
    index: int
    asked: bytes
    at: float
    says: str


class NodeStore(Database):
    """One hospital's node.db; ``path`` None keeps it in memory, for simulations."""

    def __init__(self, path: Path | None = None, actor: str = NODE) -> None:
        super().__init__(path, _VERSIONS, actor)

    def answer(self, binding: bytes, epoch: bytes, analysis: str, index: int) -> tuple[bytes, bytes] | None:
        """Return (query context, sealed bytes) of an answer that was given before, or None."""
        rows = self.rows(
            "select context, sealed from answers "
            "where binding = ? and epoch = ? and analysis = ? and idx = ?",
            (bytes, bytes),
            *(binding, epoch, analysis, index),
        )
        return (rows[0][0], rows[0][1]) if rows else None

    def keep(self, epoch: bytes, context: bytes, sealed: bytes, charge: Charge, study: str) -> None:
        """Charge, store and audit one release in one transaction. WardroundError if it can't be kept."""
        key = (charge.analysis, charge.index)
        try:
            with self.transaction() as db:
                ledger.enter(db, charge)
                db.execute(
                    "insert into answers values (?, ?, ?, ?, ?, ?)",
                    (charge.binding, epoch, *key, context, sealed),
                )
                self.note("release", study, f"{charge.analysis}/{charge.index} {context.hex()}")
        except sqlite3.Error as error:
            raise WardroundError(
                f"{self._label}: an answer cannot be kept ({error}), so nothing was sent; "
                "make room and start the study again"
            ) from None

    def studies(self) -> list[StudyRecord]:
        """Return all studies that were offered or approved, oldest first."""
        rows = self.rows(f"select {_STUDY} from studies order by offered_at", _STUDY_COLUMNS)  # noqa: S608 (our own words)
        return [StudyRecord(*row) for row in rows]

    def study(self, digest: bytes) -> StudyRecord | None:
        """Return a study by its digest."""
        rows = self.rows(f"select {_STUDY} from studies where digest = ?", _STUDY_COLUMNS, digest)  # noqa: S608 (our own words)
        return StudyRecord(*rows[0]) if rows else None

    def offer(self, digest: bytes, name: str, manifest: bytes) -> None:
        """Note that a study was offered; one that is known already stays as it is."""
        self.change(
            (
                "insert or ignore into studies (digest, name, manifest, offered_at) values (?, ?, ?, ?)",
                (digest, name, manifest, time.time()),
            )
        )

    def approve(
        self,
        digest: bytes,
        signature: bytes,
        masking: bytes,
        cohort: bytes,
        pin: bytes,
        changes: Sequence[Statement],
        audit: tuple[str, str, str],
    ) -> None:
        """Note that an offered study was approved, with a new masking key: roster and epoch begin anew.

        ``cohort``: keyed digest of the rows that were pinned, where they are kept in a file; ``pin``: what
        was pinned; ``changes``: what is noted with it or not at all.
        """
        self.change(
            (
                "update studies set approved_at = ?, signature = ?, masking = ?, cohort = ?, pin = ?, "  # noqa: ISC004
                "says = '', why = '', roster = null, epoch = null, steps = 0, head = x'' where digest = ?",
                (time.time(), signature, masking, cohort, pin, digest),
            ),
            ("delete from opened where study = ?", (digest,)),
            ("delete from held where study = ?", (digest,)),
            *changes,
            audit=audit,
        )

    def decline(
        self, digest: bytes, says: str, why: str, changes: Sequence[Statement], audit: tuple[str, str, str]
    ) -> None:
        """Note that a study is `rejected` or `withdrawn`, and forget its masking key; ``changes`` besides."""
        self.change(
            (
                "update studies set approved_at = null, signature = null, masking = null, says = ?, why = ?, "  # noqa: ISC004
                "cohort = null, pin = null, roster = null, epoch = null, steps = 0, head = x'' "
                "where digest = ?",
                (says, why, digest),
            ),
            ("delete from opened where study = ?", (digest,)),
            ("delete from held where study = ?", (digest,)),
            *changes,
            audit=audit,
        )

    def hold(self, study: Study, context: bytes, analysis: str, index: int, asked: bytes) -> str:
        """Note that a release waits for a person, once; return what the officer says of it."""
        said = self._said(study.digest, context)
        if said is not None:
            return said
        self.change(
            (
                "insert or ignore into held values (?, ?, ?, ?, ?, ?, ?)",
                (study.digest, context, analysis, index, asked, time.time(), WAITS),
            ),
            audit=("hold", study.name, f"{analysis}/{index} {context.hex()}"),
        )
        return WAITS

    def waits(self, digest: bytes, context: bytes) -> bool:
        """Tell whether a release was noted to wait, and still does."""
        return self._said(digest, context) == WAITS

    def _said(self, digest: bytes, context: bytes) -> str | None:
        statement = "select says from held where study = ? and context = ?"
        return next((row[0] for row in self.rows(statement, (str,), digest, context)), None)

    def held(self, digest: bytes) -> list[Held]:
        """Return a study's releases that wait for a person, or did, oldest first."""
        statement = "select context, analysis, idx, asked, at, says from held where study = ? order by at"
        found = self.rows(statement, (bytes, str, int, bytes, float, str), digest)
        return [Held(*row) for row in found]

    def decide(self, digest: bytes, context: bytes, says: str, audit: tuple[str, str, str]) -> None:
        """Note what the officer says of a release that waits."""
        self.change(
            (
                "update held set says = ? where study = ? and context = ? and says = ''",
                (says, digest, context),
            ),
            audit=audit,
        )

    def judge(self, binding: bytes, analysis: str, asked: bytes) -> None:
        """Note the last evaluation on held-out rows, encoded, on which a statement may be made."""
        self.change(("insert or replace into judged values (?, ?, ?)", (binding, analysis, asked)))

    def judged(self, binding: bytes, analysis: str) -> bytes | None:
        """Return the evaluation that ``judge`` noted."""
        statement = "select asked from judged where binding = ? and analysis = ?"
        return next((row[0] for row in self.rows(statement, (bytes,), binding, analysis)), None)

    def signed_roster(self, digest: bytes, roster: bytes, study: str, detail: str) -> None:
        """Note the roster, encoded, that this hospital signed, and audit it."""
        self.change(
            ("update studies set roster = ? where digest = ?", (roster, digest)),
            audit=("roster", study, detail),
        )

    def signed_epoch(self, digest: bytes, epoch: bytes, study: str, detail: str) -> None:
        """Note the epoch, encoded, that this hospital signed, and audit it."""
        self.change(
            ("update studies set epoch = ? where digest = ?", (epoch, digest)),
            audit=("epoch", study, detail),
        )

    def verified(self, digest: bytes, steps: int, head: bytes) -> None:
        """Note how many of a study's sums this hospital has verified, and their head."""
        self.change(("update studies set steps = ?, head = ? where digest = ?", (steps, head, digest)))

    def opened_epoch(self, digest: bytes, number: int, epoch: bytes, heads: Mapping[bytes, SeenHead]) -> None:
        """Note an epoch, encoded, that all signed, and the others' audit heads by identity."""
        self.change(
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
        self.change(
            ("update opened set computes = 1 where study = ? and number = ?", (digest, number)),
            ("insert or ignore into groups values (?, ?, ?, ?)", (group.study, leaves, sets, time.time())),
        )

    def opened(self, digest: bytes) -> list[tuple[bytes, bool]]:
        """Return the epochs of a study, encoded, in order, and whether this hospital computed in them."""
        statement = "select epoch, computes from opened where study = ? order by number"
        found = self.rows(statement, (bytes, int), digest)
        return [(epoch, bool(computes)) for epoch, computes in found]

    def groups(self) -> list[Group]:
        """Return the sets of hospitals that sums with this hospital's rows were opened over, oldest first."""
        statement = "select binding, leaves, sets from groups order by at"
        return [self._group(*row) for row in self.rows(statement, (bytes, bytes, bytes))]

    def _group(self, binding: bytes, packed: bytes, flags: bytes) -> Group:
        members, said = [packed[i : i + 32] for i in range(0, len(packed), 33)], packed[32::33]
        leaves = {who: LEAVES[one] for who, one in zip(members, said, strict=False) if one < len(LEAVES)}
        if (
            not members
            or not len(leaves) * 33 == len(members) * 33 == len(packed)
            or len(flags) % len(leaves)
        ):
            raise self.damaged("a set of hospitals is none")
        rows = (flags[i : i + len(leaves)] for i in range(0, len(flags), len(leaves)))
        sets = (frozenset(who for who, flag in zip(leaves, row, strict=True) if flag) for row in rows)
        return Group(binding, leaves, tuple(sets))

    def seen(self) -> dict[bytes, SeenHead]:
        """Return other hospitals' audit heads, by identity, as this one last saw them signed."""
        found = self.rows(
            "select identity, audit, epoch, leave, signature from heads", (bytes, bytes, bytes, str, bytes)
        )
        return {identity: SeenHead(*head) for identity, *head in found}

    def meet(self, name: str, identity: bytes) -> None:
        """Note a member that a coordinator named, for the officer to confirm."""
        self.change(("insert or ignore into members values (?, ?, ?)", (name, identity, time.time())))

    def met(self) -> list[tuple[str, bytes]]:
        """Return all members that coordinators named, with their identities."""
        found = self.rows("select name, identity from members order by name, seen_at", (str, bytes))
        return [(name, identity) for name, identity in found]

    def say(self, name: str, fingerprint: bytes, says: str) -> None:
        """Note what the officer says of a hospital: `confirmed`, `revoked`, or nothing any more."""
        if says:
            self.change(("insert or replace into officers values (?, ?, ?)", (fingerprint, name, says)))
        else:
            self.change(("delete from officers where fingerprint = ?", (fingerprint,)))

    def officers(self) -> dict[bytes, tuple[str, str]]:
        """Return by fingerprint which hospital it is and what the officer says of it."""
        statement = "select fingerprint, name, says from officers order by name"
        found = self.rows(statement, (bytes, str, str))
        return {fingerprint: (name, says) for fingerprint, name, says in found}

    def had(self, head: AuditHead) -> bool:
        """Tell whether the audit log once stood so, or the officer has forgiven that it did not."""
        statement = "select 1 from forgiven where audit = ?"
        return self.log(lambda log: log.had(head)) or bool(self.rows(statement, (int,), head.packed()))

    def forgive(self, packed: bytes) -> None:
        """Note that this log went back behind a head that others saw, and that the officer knows."""
        self.change(("insert or ignore into forgiven values (?)", (packed,)))

    def ledger(self) -> list[Charge]:
        """Return all charges, oldest first."""
        return ledger.charges(self)
