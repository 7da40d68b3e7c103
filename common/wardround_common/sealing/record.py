"""What a study's course is recorded as: epochs and opened sums, in order.

The coordinator keeps these records (its transcript) and sends each member those that it lacks, so that a
member can check every sum and follow the program. The head of the sums is a chain of digests: who has
verified it has verified all sums up to there.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass

from wardround_common.sealing.epoch import Epoch, Membership, Opening
from wardround_common.typing import Ints
from wardround_common.wire import encode, joined


@dataclass(frozen=True)
class EpochRecord:
    """An epoch begins, signed by all of its hospitals."""

    epoch: Epoch
    opening: Opening


@dataclass(frozen=True)
class Opened:
    """One query's sum: ``question`` is the SHA-256 of the query's bytes, ``vector`` the layout's int64s.

    ``proof``: the sum of the check lanes, 16 bytes. Of an unsealed query, ``vector`` holds the hospitals'
    vectors one behind the other, and ``proof`` their signatures.
    """

    analysis: str
    index: int
    question: bytes
    vector: Ints
    proof: bytes


@dataclass(frozen=True)
class StepRecord:
    """The sums of one step, under the epoch of this number."""

    epoch: int
    sums: tuple[Opened, ...]


COURSE = (EpochRecord, Epoch, Membership, Opening, StepRecord, Opened)  # for decoders


def first_head(binding: bytes) -> bytes:
    """Return the head before there is a sum."""
    return hashlib.sha256(joined(b"wardround transcript v1", binding)).digest()


def next_head(head: bytes, epoch: bytes, record: StepRecord) -> bytes:
    """Return the head after a step under the epoch of this digest."""
    return hashlib.sha256(joined(b"wardround step v1", head, epoch, encode(record))).digest()


def position(binding: bytes, course: Sequence[EpochRecord | StepRecord]) -> tuple[int, bytes]:
    """Return how many steps a course has, and its head."""
    steps, head, epoch = 0, first_head(binding), b""
    for record in course:
        if isinstance(record, EpochRecord):
            epoch = record.epoch.digest
        else:
            steps, head = steps + 1, next_head(head, epoch, record)
    return steps, head
