"""The audit log: entries in a table of a SQLite database, as the leaves of a Merkle tree that only grows.

Whoever holds an earlier head of it (the other hospitals of each epoch, whoever was given a signed checkpoint)
notices any entry that was changed, taken out or put in between. The caller holds lock and transaction.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from itertools import islice
from typing import Any, Final, Protocol

import rfc8785

from wardround_common.audit.check import Mark, Progress, recomputed
from wardround_common.audit.entry import Entry
from wardround_common.audit.merkle import HASH_BYTES, Tree, leaf_hash, new_node, peaks, root
from wardround_common.audit.note import Origin, read_checkpoint
from wardround_common.errors import ProtocolError, WardroundError
from wardround_common.sealing.epoch import AuditHead

SCHEMA: Final = (
    "create table audit_entries (seq integer primary key, entry blob not null, node blob not null)",
    "create table checkpoints (size integer primary key, note text not null)",
    *(
        f"""create trigger {table}_are_not_{what}d before {what} on {table}
        begin select raise(abort, 'the audit log only grows'); end"""
        for table in ("audit_entries", "checkpoints")
        for what in ("update", "delete")
    ),
    # `insert or replace` deletes without asking the triggers above
    """create trigger audit_entries_follow before insert on audit_entries
    when new.seq is not (select coalesce(max(seq), 0) + 1 from audit_entries)
    begin select raise(abort, 'the audit log only grows'); end""",
    """create trigger checkpoints_stay before insert on checkpoints
    when exists (select 1 from checkpoints where size = new.size)
    begin select raise(ignore); end""",
)
_CHUNK: Final = 20_000  # entries read at once: a node that wants to write waits no longer than for these
_LEAST: Final = -(1 << 63)  # SQLite's first number: what should not be there is read too


@contextmanager
def transaction(db: Connection, kind: str = "immediate") -> Iterator[None]:
    """Commit what is done within, or nothing of it; `immediate`: nobody else writes meanwhile."""
    db.execute(f"begin {kind}")
    try:
        yield
        db.execute("commit")
    except BaseException:
        if db.in_transaction:  # where the disk is full, SQLite has rolled back itself
            db.execute("rollback")
        raise


class Rows(Protocol):
    """What a statement gives."""

    def __iter__(self) -> Iterator[Any]:
        """Return the rows."""

    def fetchone(self) -> Any:
        """Return the next row, or None."""


class Connection(Protocol):
    """A connection to SQLite, as sqlite3 has them, in autocommit mode."""

    @property
    def in_transaction(self) -> bool:
        """Whether a transaction is under way."""

    def execute(self, statement: str, values: Sequence[Any] = ..., /) -> Rows:
        """Execute a statement."""


class AuditLog:
    """The log in a database that has ``SCHEMA``. A damaged one raises WardroundError."""

    def __init__(self, db: Connection) -> None:
        self._db = db
        self._tree = Tree(self._node, lambda number: leaf_hash(self._entry(number)))

    def append(self, entry: Entry) -> int:
        """Append an entry; return its number, from 1."""
        data, number = entry.encoded(), self.size + 1
        node = new_node(number, leaf_hash(data), self._node)
        self._db.execute("insert into audit_entries values (?, ?, ?)", (number, data, node))
        return number

    @property
    def size(self) -> int:
        """How many entries there are."""
        row = self._db.execute("select max(seq) from audit_entries").fetchone()
        if row[0] is not None and (not isinstance(row[0], int) or row[0] < 1):
            raise WardroundError("the audit log is damaged: its last entry has no number")
        return row[0] or 0

    def head(self) -> AuditHead:
        """Return how the log stands."""
        return self._head(self.size)

    def head_at(self, count: int) -> AuditHead | None:
        """Return how the log stood with so many entries, None if it never had them."""
        return self._head(count) if 0 <= count <= self.size else None

    def had(self, head: AuditHead) -> bool:
        """Tell whether the log once stood so."""
        return self.head_at(head.count) == head

    def entries(self, after: int = 0, most: int | None = None) -> list[tuple[int, Entry]]:
        """Return entries with their numbers, oldest first."""
        return [(number, _decoded(number, data)) for number, data in self.encoded(after, most)]

    def last(self, most: int, study: str | None = None) -> list[tuple[int, Entry]]:
        """Return the last entries, of one study if it is named, with their numbers, oldest first."""
        mark = b"" if study is None else b'"study":' + rfc8785.dumps(study)  # no text holds a bare quote
        return list(islice(self.backwards(mark), most))[::-1]

    def backwards(self, mark: bytes) -> Iterator[tuple[int, Entry]]:
        """Yield the entries whose bytes hold ``mark``, with their numbers, newest first."""
        end = self.size
        while end > 0:
            begin = max(0, end - _CHUNK)
            for number, data in reversed(list(self.encoded(begin, end - begin))):
                if mark in data:
                    yield number, _decoded(number, data)
            end = begin

    def encoded(self, after: int = 0, most: int | None = None) -> Iterator[tuple[int, bytes]]:
        """Yield entries as they are kept, oldest first."""
        statement = "select seq, entry from audit_entries where seq > ? order by seq limit ?"
        for number, data in self._db.execute(statement, (after, -1 if most is None else most)):
            if not isinstance(data, bytes):
                raise _damaged(number)
            yield number, data

    def subtrees(self, count: int) -> list[bytes]:
        """Return the hashes of the complete subtrees of the first ``count`` entries, the largest first."""
        return [self._node(end) for end in peaks(self._within(count))]

    def inclusion(self, number: int, count: int) -> list[bytes]:
        """Return the path that proves an entry to be among the first ``count``.

        WardroundError if it is not.
        """
        if not 1 <= number <= self._within(count):
            raise WardroundError(f"there is no entry {number} among the first {count:,} of the audit log")
        return self._tree.inclusion(number, count)

    def consistency(self, first: int, second: int) -> list[bytes]:
        """Return the path that proves the log of ``first`` entries to be how that of ``second`` began.

        WardroundError if there never was such a log.
        """
        if not 0 <= first <= self._within(second):
            raise WardroundError(f"an audit log of {second:,} entries did not begin with {first:,}")
        return self._tree.consistency(first, second)

    def keep(self, note: str, size: int) -> None:
        """Keep a signed checkpoint; of each size the first."""
        self._db.execute("insert or ignore into checkpoints values (?, ?)", (size, note))

    def checkpoints(self) -> list[tuple[int, str]]:
        """Return all signed checkpoints by size."""
        found = list(self._db.execute("select size, note from checkpoints order by size"))
        if not all(isinstance(size, int) and isinstance(note, str) for size, note in found):
            raise WardroundError("the audit log is damaged: a checkpoint cannot be read")
        return found

    def verify(
        self,
        public: bytes,
        origin: Origin | None = None,
        heads: Sequence[AuditHead] = (),
        progress: Progress | None = None,
    ) -> AuditHead:
        """Recompute the tree from the entries; return its head.

        WardroundError says where the log does not fit its nodes, a checkpoint, or one of ``heads``, or which
        checkpoint ``public`` did not sign (of ``origin``'s log, if that is given).
        """
        marks = [_mark(size, note, public, origin) for size, note in self.checkpoints()]
        marks += [Mark(head, f"the head of {head.count:,} that was given") for head in heads]
        return recomputed(self._chunks(), marks, progress=progress)

    def _chunks(self) -> Iterator[list[Any]]:
        statement = "select seq, entry, node from audit_entries where seq >= ? order by seq limit ?"
        begin = _LEAST
        while chunk := list(self._db.execute(statement, (begin, _CHUNK))):
            yield chunk
            begin = chunk[-1][0] + 1

    def _within(self, count: int) -> int:
        if not 0 <= count <= self.size:
            raise WardroundError(f"the audit log has {self.size:,} entries, and never had {count:,}")
        return count

    def _head(self, count: int) -> AuditHead:
        return AuditHead(count, root(self.subtrees(count)))

    def _node(self, number: int) -> bytes:
        row = self._db.execute("select node from audit_entries where seq = ?", (number,)).fetchone()
        if row is None or not isinstance(row[0], bytes) or len(row[0]) != HASH_BYTES:
            raise _damaged(number)
        return row[0]

    def _entry(self, number: int) -> bytes:
        row = self._db.execute("select entry from audit_entries where seq = ?", (number,)).fetchone()
        if row is None or not isinstance(row[0], bytes):
            raise _damaged(number)
        return row[0]


def _mark(size: int, note: str, public: bytes, origin: Origin | None) -> Mark:
    try:
        found = read_checkpoint(note)
        found.verify(public)
        if found.head.count != size or (origin is not None and found.origin != origin):
            raise ProtocolError("a checkpoint of another log, or another size")
    except ProtocolError as error:
        raise WardroundError(f"the audit log's signed checkpoint at entry {size:,}: {error}") from None
    return Mark(found.head, f"the signed checkpoint of {size:,}")


def _decoded(number: int, data: bytes) -> Entry:
    try:
        return Entry.decode(data)
    except ProtocolError:
        raise _damaged(number) from None


def _damaged(number: object) -> WardroundError:
    where = f" at entry {number}" if isinstance(number, int) else ""
    return WardroundError(f"the audit log is damaged{where}; see wardround audit verify")
