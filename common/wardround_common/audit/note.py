"""Signed checkpoints: how an audit log stood, as a text that its owner signed.

C2SP's tlog-checkpoint (origin, size, root) in its signed-note form with Ed25519 (algorithm 0x01), which tools
for transparency logs read. Ours have one signature, and no extensions or foreign signatures beside it.
https://c2sp.org/tlog-checkpoint and https://c2sp.org/signed-note
"""

from __future__ import annotations

import hashlib
import re
from base64 import b64decode, b64encode
from dataclasses import dataclass
from typing import Final
from urllib.parse import quote, unquote

from wardround_common.audit.merkle import HASH_BYTES
from wardround_common.enrolment import check_name
from wardround_common.errors import ProtocolError, WardroundError
from wardround_common.sealing.epoch import AuditHead
from wardround_common.sealing.identity import Identity, verify_note

HOSPITAL: Final = "hospital"
COORDINATOR: Final = "coordinator"
MOST_NOTE: Final = 2048  # characters; a name of 64 can become 768
_ED25519: Final = b"\x01"
_NOTE: Final = re.compile(
    r"(?P<origin>wardround/(?:hospital|coordinator)/[A-Za-z0-9%_.~-]+)\n"
    r"(?P<size>0|[1-9][0-9]{0,18})\n"
    r"(?P<root>[A-Za-z0-9+/]{43}=)\n"
    r"\n"
    r"— (?P<name>\S+) (?P<signature>[A-Za-z0-9+/]{91}=)\n"
)


@dataclass(frozen=True)
class Origin:
    """Whose log it is: ``side`` is `hospital` or `coordinator`, ``name`` its name in the network."""

    side: str
    name: str

    def __str__(self) -> str:
        """Return the origin line, with what a key's name may not hold (blanks, plus) in percent signs."""
        return f"wardround/{self.side}/{quote(self.name, safe='')}"

    @classmethod
    def of(cls, line: str) -> Origin:
        """Take up an origin line. ProtocolError for one that we don't write."""
        try:
            _, side, name = line.split("/")
            found = cls(side, unquote(name, errors="strict"))
            check_name(found.name)
        except (ValueError, WardroundError):
            found = cls("", "")
        if found.side not in (HOSPITAL, COORDINATOR) or str(found) != line:
            raise ProtocolError("a checkpoint of a log that is none of ours")
        return found


@dataclass(frozen=True)
class Checkpoint:
    """What a note said, and whose key it names by its hash, 4 bytes; checked by ``verify``."""

    origin: Origin
    head: AuditHead
    key_hash: bytes
    signature: bytes

    def verify(self, public: bytes) -> None:
        """Raise ProtocolError unless this key signed it."""
        if self.key_hash != _key_hash(self.origin, public):
            raise ProtocolError("a checkpoint is signed with another key")
        verify_note(public, self.signature, _text(self.origin, self.head))


def sign_checkpoint(identity: Identity, origin: Origin, head: AuditHead) -> str:
    """Return the note with which a log's owner signs how it stands."""
    text = _text(origin, head)
    signed = _key_hash(origin, identity.public) + identity.sign_note(text)
    return f"{text.decode()}\n— {origin} {b64encode(signed).decode()}\n"


def read_checkpoint(note: str) -> Checkpoint:
    """Take a note apart. ProtocolError for any text but one that ``sign_checkpoint`` could have written."""
    found = _NOTE.fullmatch(note) if len(note) <= MOST_NOTE else None
    if found is None or found["name"] != found["origin"]:
        raise ProtocolError("a checkpoint that cannot be read")
    origin, size = Origin.of(found["origin"]), int(found["size"])
    root, signed = _decoded(found["root"]), _decoded(found["signature"])
    if size >= 1 << 63 or len(root) != HASH_BYTES:
        raise ProtocolError("a checkpoint that cannot be read")
    return Checkpoint(origin, AuditHead(size, root), signed[:4], signed[4:])


def _text(origin: Origin, head: AuditHead) -> bytes:
    return f"{origin}\n{head.count}\n{b64encode(head.head).decode()}\n".encode()


def _key_hash(origin: Origin, public: bytes) -> bytes:
    return hashlib.sha256(str(origin).encode() + b"\n" + _ED25519 + public).digest()[:4]


def _decoded(text: str) -> bytes:
    """Return the bytes of base64 in its one canonical form: the bits that are over must be zero."""
    data = b64decode(text, validate=True)
    if b64encode(data).decode() != text:
        raise ProtocolError("a checkpoint that cannot be read")
    return data
