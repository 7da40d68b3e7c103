"""Epochs: the set of hospitals that compute together, signed by each before it answers anything.

With its signature each member tells how its audit log stands and under which terms it may be left out of a
later epoch (``leaving.py``).
"""

from __future__ import annotations

import hashlib
import struct
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Final

from wardround_common.errors import ProtocolError
from wardround_common.sealing.identity import Identity, verify
from wardround_common.sealing.roster import Roster
from wardround_common.wire import encode, joined

EPOCH: Final = "wardround epoch v1"
MOST_NUMBER: Final = 1 << 62
LEAVES: Final = ("allow", "group", "never")
_AUDIT: Final = struct.Struct("<Q32s")


@dataclass(frozen=True)
class AuditHead:
    """How many entries a hospital's audit log has, and the root of their tree (RFC 9162), 32 bytes."""

    count: int
    head: bytes

    def packed(self) -> bytes:
        """Return the 40 bytes that are signed and sent."""
        return _AUDIT.pack(self.count, self.head)

    @classmethod
    def of(cls, packed: bytes) -> AuditHead:
        """Take up what ``packed`` gave. ProtocolError for another length."""
        if len(packed) != _AUDIT.size:
            raise ProtocolError("an audit head has the wrong length")
        count, head = _AUDIT.unpack(packed)
        if count >= 1 << 63:
            raise ProtocolError("an audit log of more entries than there can be")
        return cls(count, head)


def audits_digest(audits: Sequence[bytes]) -> bytes:
    """Return the SHA-256 of audit heads, packed, in the order of their hospitals."""
    return hashlib.sha256(joined(b"wardround audits v1", *audits)).digest()


@dataclass(frozen=True)
class Membership:
    """Those of the epoch's hospitals that have too few usable rows for an analysis and take no part in it."""

    analysis: str
    abstaining: tuple[str, ...]


@dataclass(frozen=True)
class Epoch:
    """``binding`` is H(manifest, roster); ``previous`` the digest of the epoch before, empty at the first.

    ``steps`` and ``head`` say how far the study is, as its members verified it: what they will answer next
    follows from it. ``audits``: the digest of each hospital's audit head as others last saw it.
    """

    binding: bytes
    number: int
    hospitals: tuple[str, ...]
    analyses: tuple[Membership, ...]
    previous: bytes
    steps: int
    head: bytes
    audits: bytes

    @cached_property
    def digest(self) -> bytes:
        """What members sign and masks are bound to."""
        return hashlib.sha256(joined(EPOCH.encode(), encode(self))).digest()

    @property
    def leader(self) -> str:
        """The member that makes the epoch's group secret."""
        return self.hospitals[0]

    def of(self, analysis: str) -> tuple[str, ...]:
        """Return the hospitals of an analysis. ProtocolError if the epoch does not name it."""
        found = self._taking_part.get(analysis)
        if found is None:
            raise ProtocolError("an analysis that the epoch does not name")
        return found

    @cached_property
    def _taking_part(self) -> dict[str, tuple[str, ...]]:
        return {
            one.analysis: tuple(name for name in self.hospitals if name not in one.abstaining)
            for one in self.analyses
        }

    def together(self) -> tuple[tuple[str, ...], tuple[Membership, ...]]:
        """Return who computes what together: an epoch that differs in this is a change for the program."""
        return self.hospitals, self.analyses

    def verify(self, roster: Roster, analyses: Sequence[str], min_hospitals: int) -> None:
        """Raise ProtocolError unless its sets are within the roster, ordered, large enough, and all there.

        ``analyses``: the labels that the study asks about, in the order in which an epoch names them.
        """
        if self.binding != roster.digest:
            raise ProtocolError("the epoch is of another study or roster")
        lengths = len(self.head), len(self.audits), len(self.previous) or 32
        if not 1 <= self.number <= MOST_NUMBER or self.steps < 0 or set(lengths) != {32}:
            raise ProtocolError("the epoch's numbers and digests are impossible")
        if [one.analysis for one in self.analyses] != list(analyses):
            raise ProtocolError("the epoch names other analyses than the study has")
        sets = [(self.hospitals, roster.names)]
        sets += [(one.abstaining, self.hospitals) for one in self.analyses]
        for names, within in sets:
            if list(names) != sorted(set(names)) or not set(names) <= set(within):
                raise ProtocolError("the epoch's hospitals are not a sorted subset")
        if 2 * len(self.hospitals) <= len(roster.members):  # or two epochs could be kept from each other
            raise ProtocolError("the epoch has not more than half of the roster's hospitals")
        if any(len(self.of(label)) < min_hospitals for label in analyses):
            raise ProtocolError("the epoch has fewer hospitals than min_hospitals")


@dataclass(frozen=True)
class Opening:
    """What every member of an epoch signed, in the order of its hospitals; an epoch begins with it.

    ``leaves``: under which terms each may be left out later: `allow`, in a `group` of min_hospitals, or
    `never`. ``audits``: each one's audit head, packed, after it had noted the epoch.
    """

    signatures: tuple[bytes, ...]
    leaves: tuple[str, ...]
    audits: tuple[bytes, ...]

    def verify(self, epoch: Epoch, roster: Roster) -> None:
        """Raise ProtocolError unless every hospital of the epoch signed it."""
        if not len(self.signatures) == len(self.leaves) == len(self.audits) == len(epoch.hospitals):
            raise ProtocolError("the epoch's signatures are not complete")
        every = zip(epoch.hospitals, self.signatures, self.leaves, self.audits, strict=True)
        for name, signature, leave, audit in every:
            verify_epoch(epoch, roster.member(name).identity, signature, leave, audit)


def sign_epoch(identity: Identity, epoch: Epoch, leave: str, audit: bytes) -> bytes:
    """Return a member's signature under an epoch, its terms of leaving and its audit head."""
    return identity.sign(EPOCH, epoch.digest, leave.encode(), audit)


def verify_epoch(epoch: Epoch, identity: bytes, signature: bytes, leave: str, audit: bytes) -> None:
    """Raise ProtocolError unless ``identity`` signed the epoch with these terms and this audit head."""
    verify_signed(epoch.digest, identity, signature, leave, audit)


def verify_signed(epoch: bytes, identity: bytes, signature: bytes, leave: str, audit: bytes) -> None:
    """Do the same for an epoch of which only the digest is known."""
    if leave not in LEAVES:
        raise ProtocolError("terms of leaving that there are not")
    AuditHead.of(audit)
    verify(identity, signature, EPOCH, epoch, leave.encode(), audit)
