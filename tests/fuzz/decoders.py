"""Decoders of bytes that come from elsewhere: the wire, keys, enrolments, texts."""

from __future__ import annotations

import json
from collections.abc import Callable
from functools import lru_cache
from typing import Any

import numpy as np
from cryptography.hazmat.primitives.asymmetric import dsa, ec, ed25519, rsa, x25519
from cryptography.hazmat.primitives.serialization import (
    BestAvailableEncryption,
    Encoding,
    NoEncryption,
    PrivateFormat,
)

from tests.fuzz.edits import Script, edited_json
from tests.fuzz.target import scripted, target
from tests.fuzz.world import VICTIM, small, trusted, wide
from tests.support import VARIABLES
from wardround_client.home import _node_key
from wardround_client.reader import satisfied
from wardround_client.session import KEPT
from wardround_common.checkup import read_hello
from wardround_common.enrolment import (
    PROTOCOL,
    Enrolment,
    EnrolmentRefused,
    EnrolmentReply,
    EnrolmentRequest,
    Invite,
    make_enrolment,
)
from wardround_common.envelope import unwrapped, wrapped
from wardround_common.errors import ProtocolError, StudyError, WardroundError
from wardround_common.estimators.state import RECORDS as MODEL_RECORDS
from wardround_common.messages import MESSAGES, Refusal, Statement
from wardround_common.plan import QUERY_RECORDS
from wardround_common.predicate import check_predicate
from wardround_common.sealing.epoch import AuditHead
from wardround_common.sealing.identity import Identity
from wardround_common.sealing.lane import unwrap, wrap
from wardround_common.sealing.mask import MaskingKey, unseal
from wardround_common.sealing.participant import OpenEpoch
from wardround_common.sealing.record import EpochRecord
from wardround_common.study import parse_study, read_manifest
from wardround_common.wire import Registry, encode
from wardround_server.certificates import expires, make_ca, make_server, server_fault
from wardround_server.publish import models
from wardround_server.transcript import _RECORDS, Approvals, Stated, StatementsRecord

_SMALL = 6 << 10  # bytes of a seed: a fuzzer tries small ones oftener


# --- the wire ---


def _canonical(registry: Registry) -> Callable[[bytes], None]:
    def run(data: bytes) -> None:
        assert encode(registry.decode(data, object)) == data

    return run


def _kinds(values: list[Any]) -> list[bytes]:
    """Return the shortest encoding of each type of record."""
    found: dict[str, bytes] = {}
    for value in values:
        data = encode(value)
        name = type(getattr(value, "query", value)).__name__
        if len(data) < len(found.get(name, bytes(_SMALL))):
            found[name] = data
    return list(found.values())


def messages() -> list[bytes]:
    """Return a message of each kind."""
    said = [one for world in (small(), trusted()) for *_, body, reply in world.said for one in (body, reply)]
    values = [MESSAGES.decode(one, object) for one in said if len(one) < _SMALL]
    return _kinds([*values, Statement("logistic", 120, 0.75), Refusal("protocol")])


def queries() -> list[bytes]:
    """Return a query of each kind."""
    asked: list[Any] = []
    for _, action, body, _ in trusted().said:
        if action in ("ask", "train", "evaluate"):
            step: Any = MESSAGES.decode(body, object)
            asked += [QUERY_RECORDS.decode(one.asked, object) for one in step.questions]
    return _kinds(asked)


def kept() -> list[bytes]:
    """Return what a hospital keeps of what it signed."""
    world = small()
    first = next(one for one in world.record if isinstance(one, EpochRecord))
    opened = OpenEpoch(first.epoch, first.opening, world.group)
    return [encode(one) for one in (world.roster, world.epoch, opened, world.record[1])]


def records() -> list[Any]:
    """Return a transcript's records, those of large sums left out."""
    world = small()
    approvals = Approvals(world.study.manifest(), world.roster, (bytes(64),) * 4)
    stated = StatementsRecord((Stated(VICTIM, Statement("logistic", 120, 0.75)),))
    return [approvals, *world.record[:6], stated]


def fitted() -> list[bytes]:
    """Return models of each kind."""
    return [encode(model) for model in models(wide().findings).values()]


REGISTRIES: dict[str, Registry] = {}
for _name, _registry, _seeds in (
    ("messages", MESSAGES, messages),
    ("queries", QUERY_RECORDS, queries),
    ("kept", KEPT, kept),
    ("transcript", _RECORDS, lambda: _kinds(records())),
    ("models", MODEL_RECORDS, fitted),
):
    REGISTRIES[f"wire-{_name}"] = _registry
    target(f"wire-{_name}", _seeds, ProtocolError)(_canonical(_registry))


@target("envelope", lambda: [wrapped(bytes(n)) for n in (0, 1, 112, 200, 16_400)], ProtocolError)
def _envelope(data: bytes) -> None:
    assert wrapped(bytes(unwrapped(data))) == data


# --- sealing ---

_EPOCH, _SHARED = bytes(32), b"\1" * 32


@target("group-secret", lambda: [wrap(b"\2" * 32, _SHARED, _EPOCH)], ProtocolError)
def _group_secret(data: bytes) -> None:
    assert wrap(unwrap(data, _SHARED, _EPOCH), _SHARED, _EPOCH) == data


@target("sealed-answers", lambda: [b"\1" + bytes(range(48)), b"\0" + bytes(24)], ProtocolError)
def _sealed(data: bytes) -> None:
    count = 1 + data[0] % 4 if data else 1
    size = max(1, len(data[1:]) // count)
    parts = [data[1:][i * size : (i + 1) * size] for i in range(count)]
    vector, lanes = unseal(parts)
    assert vector.dtype == np.int64
    assert 8 * len(vector) + 16 == size
    assert 0 <= lanes < 2**128


@target("audit-head", lambda: [AuditHead(7, b"\3" * 32).packed()], ProtocolError)
def _audit_head(data: bytes) -> None:
    assert AuditHead.of(data).packed() == data


@target("masking-key", lambda: [bytes(range(32))], ProtocolError)
def _masking_key(data: bytes) -> None:
    key = MaskingKey.from_bytes(data)
    assert key.to_bytes() == data
    key.shared_with(data)


# --- keys and certificates ---


@lru_cache
def _pems() -> tuple[bytes, ...]:
    keys: tuple[Any, ...] = (
        ed25519.Ed25519PrivateKey.generate(),
        x25519.X25519PrivateKey.generate(),
        ec.generate_private_key(ec.SECP384R1()),
        ec.generate_private_key(ec.SECP256R1()),
        rsa.generate_private_key(65537, 1024),
        dsa.generate_private_key(1024),
    )
    pkcs8 = [key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()) for key in keys]
    ssh = keys[2].private_bytes(Encoding.PEM, PrivateFormat.OpenSSH, NoEncryption())
    old = keys[3].private_bytes(Encoding.PEM, PrivateFormat.TraditionalOpenSSL, NoEncryption())
    locked = keys[0].private_bytes(Encoding.PEM, PrivateFormat.PKCS8, BestAvailableEncryption(b"x"))
    return (*pkcs8, old, locked, ssh)


@target("identity-key", lambda: list(_pems()), ProtocolError)
def _identity_key(data: bytes) -> None:
    identity = Identity.from_pem(data)
    assert Identity.from_pem(identity.to_pem()).public == identity.public


@target("node-key", lambda: list(_pems()[::-1]), ProtocolError)
def _node_keys(data: bytes) -> None:
    assert _node_key(data).curve.name == "secp384r1"


@lru_cache
def _authority() -> tuple[bytes, bytes, bytes]:
    key, certificate = make_ca("fuzz")
    return key, certificate, make_server(key, certificate, "localhost")[1]


@target("certificate", lambda: [*_authority(), b"\n".join(_authority())])
def _certificate(data: bytes) -> None:
    key, certificate, _ = _authority()
    server_fault(data, certificate)
    server_fault(key, data)
    for act in (
        lambda: expires(data),
        lambda: make_server(data, certificate, "localhost"),
        lambda: make_server(key, data, "localhost"),
    ):
        try:
            act()
        except WardroundError:
            continue


# --- coming into a network ---


@lru_cache
def enrolment() -> Enrolment:
    """Return a hospital's enrolment."""
    return make_enrolment("North", Identity.generate(), ec.generate_private_key(ec.SECP384R1()))


TOKEN = "T" * 43


@lru_cache
def _invite() -> Invite:
    return Invite("Registry", "example.org:443", _authority()[1].decode(), "North", TOKEN, 2_000_000_000)


def _other_protocol(data: bytes) -> bytes:
    return json.dumps({**json.loads(data), "protocol": PROTOCOL + 1}).encode()


@target("enrolment", lambda: [enrolment().to_json(), _other_protocol(enrolment().to_json())])
def _enrolment(data: bytes) -> None:
    found = Enrolment.from_json(data)
    assert Enrolment.from_json(found.to_json()) == found
    assert len(found.words) == 10
    found.verify()


def request(token: str = TOKEN) -> bytes:
    """Return what a hospital posts."""
    return EnrolmentRequest(enrolment(), token).to_json()


@target("enrolment-request", lambda: [request(), _other_protocol(request())])
def _request(data: bytes) -> None:
    found = EnrolmentRequest.from_json(data)
    assert EnrolmentRequest.from_json(found.to_json()) == found
    found.enrolment.verify()


@scripted("enrolment-edited")
def _request_edited(data: bytes) -> None:
    _request(edited_json(request(), Script(data)))


@target(
    "enrolment-reply",
    lambda: [
        EnrolmentReply(digest=enrolment().digest).to_json(),
        EnrolmentReply(code="token_used").to_json(),
    ],
    ProtocolError,
    EnrolmentRefused,
)
def _reply(data: bytes) -> None:
    found = EnrolmentReply.from_json(data)
    assert EnrolmentReply.from_json(found.to_json()) == found
    found.check(enrolment())


@target("invite", lambda: [_invite().to_text().encode(), _invite().to_text().replace("\n", "\r\n").encode()])
def _invited(data: bytes) -> None:
    found = Invite.from_text(data)
    assert Invite.from_text(found.to_text()) == found
    assert Invite.from_text(data.decode()) == found


@target("hello", lambda: [b'{"coordinator":"Registry","wardround":"0.1.0","protocol":2,"time":1790000000.5}'])
def _hello(data: bytes) -> None:
    found = read_hello(200, data, None)
    assert len(found.coordinator) <= 64
    assert isinstance(found.time, float)


# --- studies ---


@target("manifest", lambda: [small().study.manifest(), wide().study.manifest()], ProtocolError)
def _manifest(data: bytes) -> None:
    assert read_manifest(data).manifest() == data


@scripted("manifest-edited", StudyError)
def _manifest_edited(data: bytes) -> None:
    """A study that is accepted, as `simulate` and `launch` accept it, is one that can be sent."""
    try:
        plain = json.loads(edited_json(wide().study.manifest(), Script(data)))
    except ValueError:
        raise StudyError("no JSON") from None
    study = parse_study(plain)
    sent = study.manifest()
    assert read_manifest(sent).manifest() == sent


_PREDICATES = (
    "age >= 18 AND sex = '1'",
    "chol IS NOT NULL AND (bmi BETWEEN 18.5 AND 40 OR cp IN ('1', '2'))",
    "NOT (age / (bmi - 20) > 2e0) OR -chol < 1",
    '"age" * 2 + 1 <> 3 -- old',
)


@target("predicate", lambda: [one.encode() for one in _PREDICATES], StudyError)
def _predicate(data: bytes) -> None:
    dictionary = small().study.dictionary
    text = data.decode(errors="replace")
    normal = check_predicate(text, dictionary)
    assert check_predicate(normal, dictionary) == normal
    columns = {
        name: np.array([np.nan, 40.0]) if VARIABLES[name]["kind"] == "number" else np.array([-1, 0], np.int16)
        for name in dictionary
    }
    assert satisfied(normal, dictionary, columns, 2).shape == (2,)
