"""The roster: who takes part in a study, with which keys. Approving signs H(manifest, roster)."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from functools import cached_property, lru_cache

from wardround_common.errors import ProtocolError
from wardround_common.sealing.identity import Identity, verify
from wardround_common.wire import encode, joined

MEMBER = "wardround member v1"
APPROVAL = "wardround approval v1"
RUNTIMES = ("node", "supernode")


@dataclass(frozen=True)
class Member:
    """A hospital's entry: its name and identity, and a masking key made for this study and signed by it.

    ``runtime`` is `node` where Wardround's own process holds the keys, `supernode` where Flower's does, which
    runs what code the coordinator sends: such a member's keys are the coordinator's for the taking.
    """

    name: str
    runtime: str
    identity: bytes  # Ed25519, 32 bytes
    masking: bytes  # X25519, 32 bytes
    signature: bytes

    def verify(self, study: bytes) -> None:
        """Raise ProtocolError unless the owner signed its masking key for the study of this digest."""
        if len(self.identity) != 32 or len(self.masking) != 32:
            raise ProtocolError("a member's key has the wrong length")
        if self.runtime not in RUNTIMES:
            raise ProtocolError("a member runs on something unknown")
        parts = (study, self.name.encode(), self.runtime.encode(), self.masking)
        verify(self.identity, self.signature, MEMBER, *parts)


@lru_cache(maxsize=4096)  # a pure function, asked of every member at every step
def fingerprint(name: str, identity: bytes) -> bytes:
    """Return the SHA-256 that stands for a hospital, 32 bytes; officers read its first ten out as words."""
    return hashlib.sha256(joined(b"wardround hospital v1", name.encode(), identity)).digest()


def enter(identity: Identity, study: bytes, name: str, masking: bytes, runtime: str = RUNTIMES[0]) -> Member:
    """Return the entry of a hospital in the roster of the study of this digest."""
    signature = identity.sign(MEMBER, study, name.encode(), runtime.encode(), masking)
    return Member(name, runtime, identity.public, masking, signature)


@dataclass(frozen=True)
class Roster:
    """The members, sorted by name. ``study`` is the manifest's SHA-256."""

    study: bytes
    members: tuple[Member, ...]

    @property
    def names(self) -> tuple[str, ...]:
        """The members' names, in order."""
        return tuple(member.name for member in self.members)

    def member(self, name: str) -> Member:
        """Return an entry by name. ProtocolError if there is none."""
        found = self._by_name.get(name)
        if found is None:
            raise ProtocolError("a name that is not in the roster")
        return found

    @cached_property
    def _by_name(self) -> dict[str, Member]:
        return {member.name: member for member in self.members}

    @cached_property
    def digest(self) -> bytes:
        """H(manifest, roster): what approvals sign and what everything later is bound to."""
        return hashlib.sha256(joined(b"wardround study and roster v1", self.study, encode(self))).digest()

    def verify(self) -> None:
        """Raise ProtocolError unless names and keys are unique, in order, and all signed by their owners."""
        if list(self.names) != sorted(set(self.names)):
            raise ProtocolError("the roster's names are not unique and sorted")
        owners: dict[bytes, str] = {}
        for member in self.members:
            for key in (b"identity" + member.identity, b"masking" + member.masking):
                if owners.setdefault(key, member.name) != member.name:
                    raise ProtocolError(f"`{owners[key]}` and `{member.name}` of the roster share a key")
        for member in self.members:
            member.verify(self.study)


def approve(identity: Identity, roster: Roster) -> bytes:
    """Return a hospital's signature under study and roster."""
    return identity.sign(APPROVAL, roster.digest)
