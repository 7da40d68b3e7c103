"""How a hospital comes into a network: the invitation, the enrolment in answer, and what HTTPS carries.

    coordinator                                   hospital
    Invite (one-time token, CA to pin)   ────▶    makes its two keys
    EnrolmentRequest (enrolment, token)  ◀────    over HTTPS, or the Enrolment's file on another way
    EnrolmentReply                       ────▶    admitted, or a fixed code

An enrolment binds a hospital's name, its identity and its node key (with which it logs in to Flower): each
key signs the name and the other key, so nobody enrols a key that is not theirs. Its digest is over these
three alone, since ECDSA signatures of the same keys differ each time. The words that are read out stand for
name and identity, which signs the node key: a hospital reads the same ones to its coordinator and to other
hospitals. Nothing here reads files or opens connections.
"""

from __future__ import annotations

import hashlib
import ipaddress
import json
import re
import unicodedata
from base64 import b64decode, b64encode
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from importlib.metadata import version
from typing import Any, Final

import rfc8785
from cryptography import x509
from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat, load_pem_public_key

from wardround_common.errors import ProtocolError, WardroundError
from wardround_common.sealing.identity import Identity, verify
from wardround_common.sealing.roster import fingerprint
from wardround_common.wire import joined
from wardround_common.words import words

PROTOCOL: Final = 2  # of all that coordinator and hospitals say; any change of it is a new number

PROTOCOL_HEADER: Final = (
    "wardround-protocol"  # of each request of a node, so that another version is told early
)

IDENTITY_SIGNS: Final = "wardround enrolment v1"
NODE_KEY_SIGNS: Final = b"wardround enrolment v1 node key"
FINGERPRINT: Final = b"wardround enrolment v1 fingerprint"

LATEST: Final = 253402300799  # the last second of the year 9999
_MOST_INVITE: Final = 16 << 10
_MOST_PEM: Final = 8 << 10  # so that an invitation of any certificate that is allowed stays within its limit
MOST_JSON: Final = 8 << 10
_HEADING: Final = "wardround invite "
_TOKEN: Final = re.compile(r"[A-Za-z0-9_-]{22,128}")  # 22 letters are 128 bits
_HOST: Final = re.compile(r"(?=.{1,253}\Z)[A-Za-z0-9]([A-Za-z0-9-]{0,61}[A-Za-z0-9])?"
                          r"(\.[A-Za-z0-9]([A-Za-z0-9-]{0,61}[A-Za-z0-9])?)*")  # fmt: skip

REFUSALS: Final[Mapping[str, str]] = {
    "token_unknown": "the coordinator does not know this invitation (any more); ask it for a new one",
    "token_used": "the invitation was used, with other keys or by a hospital that has left or was revoked; "
    "ask the coordinator for a new one, and call it if that was not you",
    "token_expired": "the invitation has expired; ask the coordinator for a new one",
    "name_other": "the invitation is for a hospital of another name; use the name in the invitation",
    "name_taken": "a hospital of this name is admitted with other keys; "
    "if it has lost them, the coordinator has to revoke it first",
    "key_taken": "a key of this enrolment is, or was, another entry's; make new keys and enrol again",
    "protocol": "coordinator and hospital speak other versions of Wardround's protocol; update the older one",
    "bad_signature": "the enrolment is not signed by the keys in it; make it again",
}


class EnrolmentRefused(WardroundError):
    """The coordinator does not admit a hospital; ``code`` is one of ``REFUSALS`` and all that it is told."""

    def __init__(self, code: str) -> None:
        super().__init__(code)
        self.code = code

    def __str__(self) -> str:
        return REFUSALS[self.code]


def check_name(name: str) -> None:
    """Raise WardroundError unless a hospital, or a coordinator, may be called so.

    Names stand in files' names, in lists joined by commas, and on screens, where two that look the same must
    be the same.
    """
    fault = _name_fault(name)
    if fault:
        raise WardroundError(fault)


def _name_fault(name: str) -> str:
    if not 1 <= len(name) <= 64:
        return f"a name has 1 to 64 characters, not {len(name)}"
    rules = {
        "characters that can't be printed": not name.isprintable(),
        "a slash or backslash": "/" in name or "\\" in name,
        "a comma": "," in name,
        "a blank at its start or end": name != name.strip(),
        "letters and accents apart (write it in composed form, NFC)": not unicodedata.is_normalized(
            "NFC", name
        ),
    }
    broken = [what for what, is_so in rules.items() if is_so]
    return f"the name {ascii(name) if not name.isprintable() else name!r} holds {broken[0]}" if broken else ""


def split_address(address: str) -> tuple[str, int]:
    """Return host and port of ``host:port``, an IPv6 host in brackets. WardroundError if it is none."""
    host, _, digits = address.rpartition(":")
    bare = host[1:-1] if host.startswith("[") and host.endswith("]") else None
    try:
        port = int(digits) if re.fullmatch("[1-9][0-9]{0,4}", digits) else 0
        if not 1 <= port <= 65535:
            raise ValueError
        if bare is not None:
            ipaddress.IPv6Address(bare)
        elif re.fullmatch(r"[0-9.]+", host):
            ipaddress.IPv4Address(host)
        elif not _HOST.fullmatch(host):
            raise ValueError
    except ValueError:
        raise WardroundError(
            f"{address[:300]!r} is no address; write host:port, as in example.org:443"
        ) from None
    return (host if bare is None else bare), port


@dataclass(frozen=True)
class Invite:
    """What a coordinator gives one hospital to enrol with; whoever holds it can enrol under that name."""

    coordinator: str
    address: str  # host:port that the hospital dials
    ca_pem: str = field(repr=False)  # the coordinator's CA certificate, the only one the hospital will trust
    hospital: str
    token: str = field(repr=False)
    expires: int  # unix seconds
    protocol: int = PROTOCOL

    def __post_init__(self) -> None:
        """Raise WardroundError for values that no hospital could use."""
        for name in (self.coordinator, self.hospital):
            check_name(name)
        split_address(self.address)
        _check_ca(self.ca_pem)
        if not _TOKEN.fullmatch(self.token):
            raise WardroundError(
                "the invitation's token has another form than Wardround's; make a new invitation"
            )
        if not 0 < self.expires <= LATEST:
            raise WardroundError("the invitation's date of expiry is no date; make a new invitation")
        if self.protocol != PROTOCOL:
            raise EnrolmentRefused("protocol")

    def check(self, now: float) -> None:
        """Raise WardroundError if the invitation has expired at ``now`` (unix seconds)."""
        if now >= self.expires:
            on = datetime.fromtimestamp(self.expires, UTC)
            raise WardroundError(
                f"the invitation of {self.hospital} expired on {on:%Y-%m-%d at %H:%M} UTC "
                f"by this machine's clock; ask {self.coordinator} for a new one"
            )

    def to_text(self) -> str:
        """Return the invitation as a text file: a heading, then base64, which survives mail programs."""
        data = b64encode(rfc8785.dumps(vars(self))).decode()
        return "\n".join([f"{_HEADING}1", *(data[at : at + 76] for at in range(0, len(data), 76)), ""])

    @classmethod
    def from_text(cls, text: str | bytes) -> Invite:
        """Read what ``to_text`` wrote, whatever became of its line ends. WardroundError for all else."""
        if len(text) > _MOST_INVITE:
            raise WardroundError(
                f"this is no Wardround invitation: it has more than {_MOST_INVITE >> 10} KiB"
            )
        try:
            whole = text.decode() if isinstance(text, bytes) else text
        except UnicodeDecodeError:
            raise WardroundError("this is no Wardround invitation: it is not text") from None
        heading, *lines = whole.removeprefix("\N{ZERO WIDTH NO-BREAK SPACE}").split("\n")
        if not heading.startswith(_HEADING):
            raise WardroundError(
                f"this is no Wardround invitation: it does not start with `{_HEADING.strip()}`"
            )
        if heading.rstrip() != f"{_HEADING}1":
            raise WardroundError("the invitation is of another version of Wardround; update this one")
        try:
            data = _unbase64("".join("".join(lines).split()))
            found = _record(_parsed(data, _MOST_INVITE), _INVITE, "the invitation")
        except ProtocolError:
            raise WardroundError(
                "the invitation is damaged or cut off; ask for the file itself, not a copy of its text"
            ) from None
        return cls(**found)


_INVITE: Final[Mapping[str, type]] = {
    "coordinator": str, "address": str, "ca_pem": str, "hospital": str, "token": str, "expires": int,
    "protocol": int,
}  # fmt: skip


_BAD_CERTIFICATE: Final = (
    ValueError, UnsupportedAlgorithm, x509.DuplicateExtension, x509.ExtensionNotFound, x509.InvalidVersion,
    x509.UnsupportedGeneralNameType,
)  # fmt: skip


def _check_ca(pem: str) -> None:
    """Raise WardroundError unless the text is one CA certificate in PEM, without a key or a chain."""
    fault = "the coordinator's CA certificate is not one PEM certificate of a CA"
    if len(pem) > _MOST_PEM:
        raise WardroundError(f"{fault}: it has more than {_MOST_PEM >> 10} KiB")
    try:
        found = x509.load_pem_x509_certificate(pem.encode())
        is_ca = found.extensions.get_extension_for_class(x509.BasicConstraints).value.ca
        whole = found.public_bytes(Encoding.PEM).decode().split() == pem.split()
    except _BAD_CERTIFICATE:
        raise WardroundError(fault) from None
    if not (is_ca and whole):
        raise WardroundError(fault)


def node_key_bytes(key: ec.EllipticCurvePublicKey) -> bytes:
    """Return a public key in the bytes by which Flower knows a node: SubjectPublicKeyInfo in PEM."""
    return key.public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)


def _node_key(data: bytes) -> ec.EllipticCurvePublicKey:
    """Load a node's public key. ProtocolError unless it is P-384 in the very bytes that Flower would write.

    One key must have one form: a revoked key in other bytes would be another key to whoever compares them.
    """
    try:
        key = load_pem_public_key(data) if len(data) <= 512 else None
    except (ValueError, UnsupportedAlgorithm):
        key = None
    if not isinstance(key, ec.EllipticCurvePublicKey) or not isinstance(key.curve, ec.SECP384R1):
        raise ProtocolError("the enrolment's node key is not a P-384 public key in PEM")
    if node_key_bytes(key) != data:
        raise ProtocolError("the enrolment's node key is not written as Flower writes it")
    return key


def enrolment_digest(hospital: str, identity: bytes, node_key: bytes) -> bytes:
    """Return the SHA-256 that stands for a hospital's name and keys."""
    return hashlib.sha256(joined(FINGERPRINT, hospital.encode(), identity, node_key)).digest()


@dataclass(frozen=True)
class Enrolment:
    """A hospital's name and public keys, each key vouching for the other. ``version`` is for people only."""

    hospital: str
    identity: bytes  # Ed25519, 32 bytes
    node_key: bytes  # ECDSA P-384, PEM as Flower writes it
    version: str  # of Wardround, not signed
    protocol: int
    identity_signature: bytes  # over hospital and node key, 64 bytes
    node_key_signature: bytes  # ECDSA with SHA-256 in DER, over hospital and identity

    def __post_init__(self) -> None:
        """Raise ProtocolError for what could not even be shown or compared; signatures are ``verify``'s."""
        fault = _name_fault(self.hospital)
        if fault:
            raise ProtocolError(fault)
        if (
            len(self.identity) != 32
            or len(self.identity_signature) != 64
            or len(self.node_key_signature) > 128
        ):
            raise ProtocolError("a key or signature of the enrolment has the wrong length")
        if not (1 <= len(self.version) <= 64 and self.version.isprintable()):
            raise ProtocolError("the enrolment's version of Wardround is no version")
        _node_key(self.node_key)

    @property
    def digest(self) -> bytes:
        """SHA-256 over name and keys: the same for every enrolment of the same keys."""
        return enrolment_digest(self.hospital, self.identity, self.node_key)

    @property
    def words(self) -> tuple[str, ...]:
        """Ten words, 80 bits, for name and identity, that officers compare on the telephone."""
        return words(fingerprint(self.hospital, self.identity))

    def verify(self) -> None:
        """Raise ProtocolError unless both keys signed the name and each other."""
        name = self.hospital.encode()
        verify(self.identity, self.identity_signature, IDENTITY_SIGNS, name, self.node_key)
        message = joined(NODE_KEY_SIGNS, name, self.identity)
        try:
            _node_key(self.node_key).verify(self.node_key_signature, message, ec.ECDSA(hashes.SHA256()))
        except InvalidSignature:
            raise ProtocolError("a signature (the node key's on an enrolment) is not valid") from None

    def to_json(self) -> bytes:
        """Return canonical JSON (RFC 8785), bytes as base64: the enrolment file."""
        return rfc8785.dumps(self._plain())

    @classmethod
    def from_json(cls, data: bytes) -> Enrolment:
        """Read an enrolment. ProtocolError if it is none; EnrolmentRefused if of another protocol."""
        return cls._of(_parsed(data, MOST_JSON))

    def _plain(self) -> dict[str, Any]:
        return {k: b64encode(v).decode() if isinstance(v, bytes) else v for k, v in vars(self).items()}

    @classmethod
    def _of(cls, plain: object) -> Enrolment:
        return cls(**_record(plain, _ENROLMENT, "the enrolment"))


_ENROLMENT: Final[Mapping[str, type]] = {
    "hospital": str, "identity": bytes, "node_key": bytes, "version": str, "protocol": int,
    "identity_signature": bytes, "node_key_signature": bytes,
}  # fmt: skip


def make_enrolment(
    hospital: str, identity: Identity, node_private_key: ec.EllipticCurvePrivateKey
) -> Enrolment:
    """Return a hospital's enrolment with its two keys. ProtocolError for a bad name or another curve."""
    node_key, name = node_key_bytes(node_private_key.public_key()), hospital.encode(errors="replace")
    return Enrolment(
        hospital=hospital,
        identity=identity.public,
        node_key=node_key,
        version=version("wardround"),
        protocol=PROTOCOL,
        identity_signature=identity.sign(IDENTITY_SIGNS, name, node_key),
        node_key_signature=node_private_key.sign(
            joined(NODE_KEY_SIGNS, name, identity.public), ec.ECDSA(hashes.SHA256())
        ),
    )


@dataclass(frozen=True)
class EnrolmentRequest:
    """What a hospital posts to the coordinator, over TLS that ends in the certificate it has pinned."""

    enrolment: Enrolment
    token: str = field(repr=False)

    def __post_init__(self) -> None:
        """Raise ProtocolError for a token of another form."""
        if not _TOKEN.fullmatch(self.token):
            raise ProtocolError("the request's token has another form than Wardround's")

    def to_json(self) -> bytes:
        """Return canonical JSON; it holds the token, so it is for the connection only."""
        return rfc8785.dumps(
            {"enrolment": self.enrolment._plain(), "protocol": PROTOCOL, "token": self.token}
        )

    @classmethod
    def from_json(cls, data: bytes) -> EnrolmentRequest:
        """Read a request. ProtocolError if it is none; EnrolmentRefused if of another protocol."""
        kinds = {"enrolment": dict, "protocol": int, "token": str}
        found = _record(_parsed(data, MOST_JSON), kinds, "the request")
        return cls(Enrolment._of(found["enrolment"]), found["token"])


@dataclass(frozen=True)
class EnrolmentReply:
    """What the coordinator answers: the digest of what it admitted, or a code of ``REFUSALS``."""

    digest: bytes = b""
    code: str = ""

    def __post_init__(self) -> None:
        """Raise ProtocolError unless it is one of the two."""
        known = len(self.digest) == 32 if not self.code else not self.digest and self.code in REFUSALS
        if not known:
            raise ProtocolError("the coordinator's reply says neither yes nor a known no")

    def check(self, enrolment: Enrolment) -> None:
        """Raise EnrolmentRefused if the answer is no, ProtocolError if another enrolment was admitted."""
        if self.code:
            raise EnrolmentRefused(self.code)
        if self.digest != enrolment.digest:
            raise ProtocolError("the coordinator admitted other keys than were sent; call it before going on")

    def to_json(self) -> bytes:
        """Return canonical JSON."""
        return rfc8785.dumps(
            {"code": self.code, "digest": b64encode(self.digest).decode(), "protocol": PROTOCOL}
        )

    @classmethod
    def from_json(cls, data: bytes) -> EnrolmentReply:
        """Read a reply. ProtocolError if it is none; EnrolmentRefused if of another protocol."""
        kinds = {"code": str, "digest": bytes, "protocol": int}
        found = _record(_parsed(data, MOST_JSON), kinds, "the reply")
        return cls(found["digest"], found["code"])


def _parsed(data: bytes, most: int) -> object:
    """Return what JSON says. ProtocolError if it is too long, none, or says a key twice."""
    if len(data) > most:
        raise ProtocolError(f"more than {most >> 10} KiB where an enrolment was expected")
    try:
        return json.loads(data.decode(), object_pairs_hook=_unique, parse_constant=_no_constant)
    except (ValueError, RecursionError):
        raise ProtocolError("no JSON where an enrolment was expected") from None


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        raise ValueError
    return found


def _no_constant(name: str) -> None:
    raise ValueError(name)


def _record(plain: object, kinds: Mapping[str, type], what: str) -> dict[str, Any]:
    """Return the fields, bytes decoded. ProtocolError unless names and types are exactly these.

    Another protocol is said first, since the rest of what it says can't be judged here.
    """
    if not isinstance(plain, dict):
        raise ProtocolError(f"{what} is not a JSON object")
    protocol = plain.get("protocol")
    if type(protocol) is int and protocol != PROTOCOL:
        raise EnrolmentRefused("protocol")
    if plain.keys() != kinds.keys():
        raise ProtocolError(f"{what} has fields missing, or others than it should")
    found = {}
    for key, kind in kinds.items():
        value = plain[key]
        if type(value) is not (str if kind is bytes else kind):
            raise ProtocolError(f"{what}: `{key}` has the wrong type")
        found[key] = _unbase64(str(value)) if kind is bytes else value
    return found


def _unbase64(text: str) -> bytes:
    """Decode base64 of the one spelling that an encoder gives. ProtocolError for any other."""
    try:
        data = b64decode(text, validate=True)
    except ValueError:
        raise ProtocolError("no base64 where it was expected") from None
    if b64encode(data).decode() != text:
        raise ProtocolError("base64 with stray bits")
    return data
