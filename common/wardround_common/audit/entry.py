"""An entry of an audit log: who did what, when, about which study. Names and digests; never a value."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass

import rfc8785

from wardround_common.errors import ProtocolError

MOST_BYTES = 8 << 10
_MOST_MS = 1 << 53  # RFC 8785 knows no larger integers


@dataclass(frozen=True)
class Entry:
    """``at``: unix milliseconds; ``actor``: a person or the node; ``study``: its name, or empty."""

    at: int
    actor: str
    event: str
    study: str
    detail: str

    def encoded(self) -> bytes:
        """Return the canonical JSON (RFC 8785) that is the tree's leaf. ProtocolError if that is too long.

        Halves of characters, which UTF-8 does not know, become question marks.
        """
        if type(self.at) is not int or not 0 <= self.at < _MOST_MS:
            raise ProtocolError("an audit entry of a time that there is not")
        told = {key: value if key == "at" else _whole(value) for key, value in asdict(self).items()}
        found: bytes = rfc8785.dumps(told)
        if len(found) > MOST_BYTES:
            raise ProtocolError("an audit entry is too long")
        return found

    @classmethod
    def decode(cls, data: bytes) -> Entry:
        """Take up what ``encoded`` gave. ProtocolError for anything else."""
        try:
            if len(data) > MOST_BYTES:
                raise ValueError
            found = json.loads(data)
            if not isinstance(found, dict):
                raise ValueError
            entry = cls(**found)
            texts = (entry.actor, entry.event, entry.study, entry.detail)
            if not all(isinstance(one, str) for one in texts) or entry.encoded() != data:
                raise ValueError
        except (ValueError, TypeError, RecursionError, ProtocolError):
            raise ProtocolError("an audit entry that cannot be read") from None
        return entry


def _whole(text: str) -> str:
    return text.encode("utf-8", "replace").decode()
