"""A hospital's long-lived identity: an Ed25519 key that signs, and per study an X25519 key that masks.

Every signature is over a label and length-prefixed parts, so that one made for one purpose cannot serve
another. Private keys live in files of mode 0600 and print as their name only.
"""

from __future__ import annotations

from functools import lru_cache

from cryptography.exceptions import InternalError, InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    PublicFormat,
    load_pem_private_key,
)

from wardround_common.errors import ProtocolError
from wardround_common.wire import joined


class Identity:
    """An Ed25519 signing key."""

    def __init__(self, key: Ed25519PrivateKey) -> None:
        self._key = key
        self.public = key.public_key().public_bytes(Encoding.Raw, PublicFormat.Raw)

    def __repr__(self) -> str:
        return "Identity(...)"

    @classmethod
    def generate(cls) -> Identity:
        """Make a new identity from the system's randomness."""
        return cls(Ed25519PrivateKey.generate())

    @classmethod
    def from_bytes(cls, seed: bytes) -> Identity:
        """Take up a key by its seed, 32 bytes (RFC 8032, section 5.1.5). ProtocolError for another length."""
        try:
            return cls(Ed25519PrivateKey.from_private_bytes(seed))
        except ValueError:
            raise ProtocolError("an identity's seed has the wrong length") from None

    @classmethod
    def from_pem(cls, pem: bytes) -> Identity:
        """Load a key written by ``to_pem``. ProtocolError if it is none."""
        try:
            key = load_pem_private_key(pem, password=None)
        except (ValueError, TypeError, UnsupportedAlgorithm, InternalError):
            raise ProtocolError("the identity key is not a PEM private key") from None
        if not isinstance(key, Ed25519PrivateKey):
            raise ProtocolError("the identity key is not an Ed25519 key")
        return cls(key)

    def to_pem(self) -> bytes:
        """Return the private key as PKCS #8 PEM, unencrypted: for a file of mode 0600 only."""
        return self._key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())

    def sign(self, label: str, *parts: bytes) -> bytes:
        """Return the signature, 64 bytes, over label and parts."""
        return self._key.sign(joined(label.encode(), *parts))

    def sign_note(self, text: bytes) -> bytes:
        """Return the signature, 64 bytes, over a text as it stands, as C2SP's signed notes want it.

        What ``sign`` signs begins with a label's length in four bytes, of which a label has at least two
        that are zero. A note has no zero byte, so neither can be taken for the other. ProtocolError for a
        text that is none.
        """
        _check_note(text)
        return self._key.sign(text)


def verify(public: bytes, signature: bytes, label: str, *parts: bytes) -> None:
    """Raise ProtocolError unless ``signature`` is ``public``'s over label and parts."""
    if not _valid(public, signature, joined(label.encode(), *parts)):
        raise ProtocolError(f"a signature ({label}) is not valid")


def verify_note(public: bytes, signature: bytes, text: bytes) -> None:
    """Raise ProtocolError unless ``signature`` is ``public``'s over a note's text."""
    _check_note(text)
    if not _valid(public, signature, text):
        raise ProtocolError("a note's signature is not valid")


def _check_note(text: bytes) -> None:
    if not text.endswith(b"\n") or any(byte < 0x20 and byte != 0x0A for byte in text):
        raise ProtocolError("a note is lines of text without control characters")


@lru_cache(maxsize=4096)  # a pure function; in one process many nodes check the same signatures
def _valid(public: bytes, signature: bytes, message: bytes) -> bool:
    try:
        Ed25519PublicKey.from_public_bytes(public).verify(signature, message)
    except (InvalidSignature, ValueError):
        return False
    return True
