"""The transcript: every opened sum of a study, in order. The list of sums is the checkpoint.

A file of records, each `length (4 bytes) | check of the length (4 bytes) | canonical encoding | SHA-256 of
(head before, encoding)`, so a record cannot be changed without changing every head after it. A record is
synced before the next query is asked; one that was cut off by a crash is dropped when the file is opened
again. The check tells that case from a changed length, or from a file that is no transcript and must not
be cut. It holds sums with small cells and is therefore confidential: mode 0600, never published.
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
import struct
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from wardround_common.errors import ProtocolError, WardroundError
from wardround_common.messages import Statement
from wardround_common.sealing.record import COURSE, EpochRecord, StepRecord
from wardround_common.sealing.roster import Member, Roster
from wardround_common.wire import Registry, encode

MOST_RECORD = 1 << 30
_LENGTH = struct.Struct("<I")
_HEADER = 8


@dataclass(frozen=True)
class Approvals:
    """The first record: the study's manifest and who takes part, with their approvals."""

    manifest: bytes
    roster: Roster
    approvals: tuple[bytes, ...]

    def study(self) -> Any:
        """Return the manifest as an object. ProtocolError if it is none."""
        try:
            return json.loads(self.manifest)
        except ValueError:
            raise ProtocolError("the transcript's manifest is not JSON") from None


@dataclass(frozen=True)
class Proposed:
    """An epoch of this number is about to be proposed, so hospitals may have signed it."""

    number: int


@dataclass(frozen=True)
class Wrapped:
    """The group secret of the epoch of this digest, wrapped for each of its hospitals."""

    epoch: bytes
    secrets: tuple[bytes, ...]


@dataclass(frozen=True)
class Stated:
    """What one hospital told of itself."""

    hospital: str
    statement: Statement


@dataclass(frozen=True)
class StatementsRecord:
    """At the end of a study, what hospitals told of themselves, as their policies allow."""

    statements: tuple[Stated, ...]


Record = Approvals | Proposed | Wrapped | EpochRecord | StepRecord | StatementsRecord
_RECORDS = Registry(
    (Approvals, Proposed, Wrapped, StatementsRecord, Stated, Statement, Roster, Member, *COURSE)
)


class Transcript:
    """Append-only records, in a file or, with ``path`` None, in memory."""

    def __init__(self, path: Path | None = None) -> None:
        self.records: list[Record] = []
        self.head = b""
        self._fd: int | None = None
        self._path = path
        if path is not None:
            try:
                self._fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_APPEND, 0o600)
                self._take_up(self._fd, path)
            except OSError as error:
                raise WardroundError(f"{path}: the transcript cannot be opened ({error.strerror})") from None

    def _take_up(self, fd: int, path: Path) -> None:
        """Lock the file, so that no two studies write it, and read what it holds."""
        end = 0
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
            for record, head, after in _read(path):
                self.records.append(record)
                self.head, end = head, after
            os.truncate(fd, end)
        except BaseException as error:
            self.close()
            if isinstance(error, BlockingIOError):
                raise WardroundError(f"{path}: another study is writing this transcript") from None
            raise

    def append(self, record: Record) -> None:
        """Add a record and sync it. WardroundError, with nothing added, if the disk is full."""
        data = encode(record)
        head = hashlib.sha256(self.head + data).digest()
        if self._fd is not None:
            start = os.fstat(self._fd).st_size
            try:
                _write(self._fd, _header(self.head, len(data)) + data + head)
                os.fsync(self._fd)
            except OSError as error:
                os.truncate(self._fd, start)
                raise WardroundError(
                    f"{self._path}: the transcript cannot be written ({error.strerror}); nothing is lost: "
                    "make room and start the study again"
                ) from None
        self.records.append(record)
        self.head = head

    @property
    def opening(self) -> Approvals | None:
        """The first record, if there is one yet."""
        first = self.records[0] if self.records else None
        return first if isinstance(first, Approvals) else None

    @property
    def epochs(self) -> list[EpochRecord]:
        """All epochs, in order."""
        return [record for record in self.records if isinstance(record, EpochRecord)]

    @property
    def course(self) -> list[EpochRecord | StepRecord]:
        """All epochs and steps, in order."""
        return [record for record in self.records if isinstance(record, (EpochRecord, StepRecord))]

    @property
    def steps(self) -> list[StepRecord]:
        """All steps, in order."""
        return [record for record in self.records if isinstance(record, StepRecord)]

    @property
    def statements(self) -> tuple[Stated, ...] | None:
        """What hospitals told of themselves; None where they were not asked yet."""
        found = [record for record in self.records if isinstance(record, StatementsRecord)]
        return found[0].statements if found else None

    def close(self) -> None:
        """Close the file."""
        if self._fd is not None:
            os.close(self._fd)
            self._fd = None


def _write(fd: int, data: bytes) -> None:
    view = memoryview(data)
    while view:
        view = view[os.write(fd, view) :]


def _header(head: bytes, size: int) -> bytes:
    length = _LENGTH.pack(size)
    return length + hashlib.sha256(b"length" + head + length).digest()[: _HEADER - _LENGTH.size]


def _read(path: Path) -> Iterator[tuple[Any, bytes, int]]:
    """Yield (record, head, end) of every whole record of a file; stop at one that was cut off."""
    data, at, head = path.read_bytes(), 0, b""
    changed = f"{path}: the transcript was changed: a record does not follow from those before it"
    if 0 < len(data) < _HEADER:
        raise ProtocolError(f"{path}: this is no transcript")
    while len(data) - at >= _HEADER:
        size = _LENGTH.unpack_from(data, at)[0]
        start = at + _HEADER
        if data[at:start] != _header(head, size) or size > MOST_RECORD:
            raise ProtocolError(changed if at else f"{path}: this is no transcript")
        if len(data) - start < size + 32:
            return
        body = data[start : start + size]
        head = hashlib.sha256(head + body).digest()
        at = start + size + 32
        if head != data[start + size : at]:
            raise ProtocolError(changed)
        yield _RECORDS.decode(body, object), head, at


def read_transcript(path: Path) -> Transcript:
    """Read a finished transcript without opening it for writing. WardroundError if it is none."""
    transcript = Transcript()
    try:
        for record, head, _ in _read(path):
            transcript.records.append(record)
            transcript.head = head
    except OSError as error:
        raise WardroundError(f"{path}: cannot be read ({error.strerror})") from None
    if transcript.opening is None:
        raise WardroundError(f"{path}: this is no transcript")
    return transcript
