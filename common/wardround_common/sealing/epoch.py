"""Epochs: the set of hospitals that compute together, signed by each before it answers anything."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property

from wardround_common.errors import ProtocolError
from wardround_common.sealing.identity import Identity, verify
from wardround_common.sealing.roster import Roster
from wardround_common.wire import encode, joined

EPOCH = "wardround epoch v1"


@dataclass(frozen=True)
class Membership:
    """The hospitals of one analysis: those of the epoch with enough usable rows for it."""

    analysis: str
    hospitals: tuple[str, ...]


@dataclass(frozen=True)
class Epoch:
    """``binding`` is H(manifest, roster); ``previous`` the digest of the epoch before, empty at the first."""

    binding: bytes
    number: int
    hospitals: tuple[str, ...]
    analyses: tuple[Membership, ...]
    previous: bytes

    @cached_property
    def digest(self) -> bytes:
        """What members sign and masks are bound to."""
        return hashlib.sha256(joined(EPOCH.encode(), encode(self))).digest()

    def of(self, analysis: str) -> tuple[str, ...]:
        """Return the hospitals of an analysis. ProtocolError if the epoch does not name it."""
        for membership in self.analyses:
            if membership.analysis == analysis:
                return membership.hospitals
        raise ProtocolError("an analysis that the epoch does not name")

    def abstaining(self, roster: Roster) -> dict[str, tuple[str, ...]]:
        """Return, for each analysis in which some of the roster take no part, who they are."""
        left_out = {
            membership.analysis: tuple(name for name in roster.names if name not in membership.hospitals)
            for membership in self.analyses
        }
        return {analysis: names for analysis, names in left_out.items() if names}

    def verify(self, roster: Roster, min_hospitals: int) -> None:
        """Raise ProtocolError unless the sets are within the roster, ordered, and large enough."""
        if self.binding != roster.digest:
            raise ProtocolError("the epoch is of another study or roster")
        sets = [(self.hospitals, roster.names)]
        sets += [(membership.hospitals, self.hospitals) for membership in self.analyses]
        for names, within in sets:
            if list(names) != sorted(set(names)) or not set(names) <= set(within):
                raise ProtocolError("the epoch's hospitals are not a sorted subset")
            if len(names) < min_hospitals:
                raise ProtocolError("the epoch has fewer hospitals than min_hospitals")


def sign_epoch(identity: Identity, epoch: Epoch) -> bytes:
    """Return a member's signature under an epoch."""
    return identity.sign(EPOCH, epoch.digest)


def verify_signatures(epoch: Epoch, roster: Roster, signatures: Mapping[str, bytes]) -> None:
    """Raise ProtocolError unless every hospital of the epoch signed it."""
    for name in epoch.hospitals:
        verify(roster.member(name).identity, signatures.get(name, b""), EPOCH, epoch.digest)
