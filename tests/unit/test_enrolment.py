"""Invitations and enrolments: what is written is read again, and nothing else is."""

from __future__ import annotations

import base64
import datetime as dt
import json
from dataclasses import replace
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat, PublicFormat
from cryptography.x509.oid import NameOID
from flwr.supercore.primitives.asymmetric import bytes_to_public_key, public_key_to_bytes, verify_signature
from hypothesis import given
from hypothesis import strategies as st

from wardround_common.enrolment import (
    NODE_KEY_SIGNS,
    PROTOCOL,
    REFUSALS,
    Enrolment,
    EnrolmentRefused,
    EnrolmentReply,
    EnrolmentRequest,
    Invite,
    check_name,
    make_enrolment,
    split_address,
)
from wardround_common.errors import ProtocolError, WardroundError
from wardround_common.sealing.identity import Identity
from wardround_common.sealing.roster import fingerprint
from wardround_common.wire import joined
from wardround_common.words import words

TOKEN = "Zm9vYmFyYmF6cXV4cXV1eGNvcmdl"


def certificate(is_ca: bool = True, padding: int = 0) -> str:
    key, name = ec.generate_private_key(ec.SECP256R1()), [x509.NameAttribute(NameOID.COMMON_NAME, "CA")]
    start = dt.datetime(2026, 1, 1, tzinfo=dt.UTC)
    built = (
        x509.CertificateBuilder()
        .subject_name(x509.Name(name))
        .issuer_name(x509.Name(name))
        .public_key(key.public_key())
        .serial_number(1)
        .not_valid_before(start)
        .not_valid_after(start + dt.timedelta(days=3650))
        .add_extension(x509.BasicConstraints(ca=is_ca, path_length=None), critical=True)
    )
    if padding:
        names = [x509.DNSName("a" * 60 + ".example") for _ in range(padding)]
        built = built.add_extension(x509.SubjectAlternativeName(names), critical=False)
    return built.sign(key, hashes.SHA256()).public_bytes(Encoding.PEM).decode()


CA = certificate()
INVITE = Invite("Heart Registry", "wardround.example.org:443", CA, "Zürich", TOKEN, 1_800_000_000)
NODE = ec.generate_private_key(ec.SECP384R1())
IDENTITY = Identity.generate()
ENROLMENT = make_enrolment("Zürich", IDENTITY, NODE)
PRIVATE = NODE.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()).decode()


def plain(**changes: Any) -> dict[str, Any]:
    return {**json.loads(ENROLMENT.to_json()), **changes}


def dumped(value: Any) -> bytes:
    return json.dumps(value).encode()


def invite_text(**changes: Any) -> str:
    fields = {**vars(INVITE), **changes}
    return "wardround invite 1\n" + base64.b64encode(dumped(fields)).decode()


# names and addresses


@pytest.mark.parametrize("name", ["a", "Zürich", "St. Mary's (North)", "x" * 64, "東京大学病院", "A & B"])
def test_a_name_that_people_would_write_is_one(name: str) -> None:
    check_name(name)


@pytest.mark.parametrize(
    "name",
    ["", " ", "x" * 65, " a", "a ", "a/b", "a\\b", "a,b", "a\nb", "a\tb", "a\0b", "a\x1b[31mb", "a\u202eb",
     "a\u200bb", "\u00a0a", "a\u2028b", "\ud800", "Zu\u0308rich"],
)  # fmt: skip
def test_a_name_that_could_be_mistaken_or_break_a_list_is_refused(name: str) -> None:
    with pytest.raises(WardroundError) as caught:
        check_name(name)
    assert str(caught.value).isprintable()
    with pytest.raises(ProtocolError):
        make_enrolment(name, IDENTITY, NODE)
    with pytest.raises(WardroundError):
        replace(INVITE, hospital=name)
    with pytest.raises(WardroundError):
        replace(INVITE, coordinator=name)


@given(st.text(max_size=70))
def test_any_text_is_a_name_or_refused_in_one_printable_line(name: str) -> None:
    try:
        check_name(name)
    except WardroundError as error:
        assert str(error).isprintable()
    else:
        assert name.isprintable()
        assert name == name.strip()


@pytest.mark.parametrize(
    ("address", "host", "port"),
    [("example.org:443", "example.org", 443), ("localhost:1", "localhost", 1),
     ("10.0.0.1:65535", "10.0.0.1", 65535), ("[::1]:8443", "::1", 8443),
     ("a-b.c1.example:9", "a-b.c1.example", 9)],
)  # fmt: skip
def test_an_address_is_host_and_port(address: str, host: str, port: int) -> None:
    assert split_address(address) == (host, port)


@pytest.mark.parametrize(
    "address",
    ["", ":", "example.org", ":443", "example.org:", "example.org:0", "example.org:65536", "example.org:0443",
     "example.org:+443", "example.org:٤٤٣", "example.org:443/x", "https://example.org:443",
     "user@example.org:443", "exa mple.org:443", "example.org:443\n", "-a.org:443", "a-.org:443",
     "a..org:443", "::1:443", "[::1:443", "[x]:443", "300.1.1.1:443", "1.2.3:443",
     "x" * 254 + ":443", "x" * 64 + ".org:443", "example.org:443#",
     "\x1b[2J:443"],
)  # fmt: skip
def test_another_address_is_refused(address: str) -> None:
    with pytest.raises(WardroundError, match="no address") as caught:
        split_address(address)
    assert str(caught.value).isprintable()
    with pytest.raises(WardroundError):
        replace(INVITE, address=address)


# invitations


def test_an_invitation_is_read_as_it_was_written() -> None:
    text = INVITE.to_text()
    assert text.splitlines()[0] == "wardround invite 1"
    assert max(map(len, text.splitlines())) <= 76
    assert Invite.from_text(text) == Invite.from_text(text.encode()) == INVITE


@pytest.mark.parametrize(
    "sent",
    [lambda t: t.replace("\n", "\r\n"), lambda t: "\ufeff" + t, lambda t: t + "\n\n", lambda t: t.rstrip(),
     lambda t: t.replace("\n", "  \n"), lambda t: t.replace("\n", "\n\n")],
)  # fmt: skip
def test_a_mail_program_may_change_line_ends_and_blanks(sent: Any) -> None:
    assert Invite.from_text(sent(INVITE.to_text())) == INVITE


def test_a_rewrapped_invitation_is_still_one() -> None:
    heading, *lines = INVITE.to_text().splitlines()
    body = "".join(lines)
    assert (
        Invite.from_text("\n".join([heading, *(body[at : at + 40] for at in range(0, len(body), 40))]))
        == INVITE
    )


def test_an_invitation_never_shows_its_token() -> None:
    assert TOKEN not in repr(INVITE)
    assert "CERTIFICATE" not in repr(INVITE)
    assert "Zürich" in repr(INVITE)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "no Wardround invitation"),
        ("age,sex\n63,1\n", "no Wardround invitation"),
        (CA, "no Wardround invitation"),
        (b"\x00\xff\xfe", "not text"),
        (INVITE.to_text() + " " * (16 << 10), "more than 16 KiB"),
        (b"\xff" * (17 << 10), "more than 16 KiB"),
        (INVITE.to_text().replace("invite 1", "invite 2"), "another version"),
        (INVITE.to_text().replace("invite 1", "invite 11"), "another version"),
        ("wardround invite 1\n", "damaged"),
        (INVITE.to_text()[:-20], "damaged"),
        (INVITE.to_text()[:400] + "!" + INVITE.to_text()[401:], "damaged"),
        ("wardround invite 1\n" + base64.b64encode(b"[1]").decode(), "damaged"),
        ("wardround invite 1\n" + base64.b64encode(b"[" * 9000).decode(), "damaged"),
        (invite_text(more=1), "damaged"),
        (invite_text(expires="1800000000"), "damaged"),
        (invite_text(expires=1.8e9), "damaged"),
        (invite_text(expires=True), "damaged"),
        (invite_text(protocol=None), "damaged"),
        (invite_text(token=None), "damaged"),
        (invite_text(hospital=["a"]), "damaged"),
        (invite_text(protocol=PROTOCOL + 1), "protocol"),
        (invite_text(expires=0), "no date"),
        (invite_text(expires=10**15), "no date"),
        (invite_text(token="short"), "token has another form"),
        (invite_text(token=TOKEN + "\n"), "token has another form"),
        (invite_text(token="ü" * 30), "token has another form"),
        (invite_text(address="example.org"), "no address"),
        (invite_text(hospital="a,b"), "comma"),
        (invite_text(coordinator="\x1b[2J"), "can't be printed"),
        (invite_text(ca_pem=""), "PEM certificate of a CA"),
        (invite_text(ca_pem="\ud800"), "PEM certificate of a CA"),
        (invite_text(ca_pem=CA[:200]), "PEM certificate of a CA"),
        (invite_text(ca_pem=CA + CA), "PEM certificate of a CA"),
        (invite_text(ca_pem=CA + PRIVATE), "PEM certificate of a CA"),
        (invite_text(ca_pem=PRIVATE), "PEM certificate of a CA"),
        (invite_text(ca_pem=certificate(is_ca=False)), "PEM certificate of a CA"),
        (invite_text(ca_pem=certificate(padding=95)), "more than 8 KiB"),
    ],
)  # fmt: skip
def test_what_is_no_invitation_is_refused_in_one_clear_line(text: str | bytes, said: str) -> None:
    with pytest.raises(WardroundError) as caught:
        Invite.from_text(text)
    assert said in str(caught.value)
    assert str(caught.value).isprintable()
    assert TOKEN not in str(caught.value)


def test_the_largest_certificate_that_is_allowed_fits_into_an_invitation() -> None:
    large = replace(INVITE, ca_pem=certificate(padding=80), hospital="東" * 64, coordinator="東" * 64)
    assert 7 << 10 < len(large.ca_pem) <= 8 << 10
    assert Invite.from_text(large.to_text()) == large


@given(st.binary(max_size=300))
def test_no_bytes_do_more_than_be_refused(data: bytes) -> None:
    for tried in (data, b"wardround invite 1\n" + data, b"wardround invite 1\n" + base64.b64encode(data)):
        with pytest.raises(WardroundError):
            Invite.from_text(tried)
    for kind in (Enrolment, EnrolmentRequest, EnrolmentReply):
        with pytest.raises(WardroundError):
            kind.from_json(data)


def test_an_invitation_ends_with_the_second_of_its_expiry() -> None:
    INVITE.check(INVITE.expires - 0.5)
    with pytest.raises(WardroundError, match=r"expired on 2027-01-15 at 08:00 UTC .* ask Heart Registry"):
        INVITE.check(INVITE.expires)


# enrolments


def test_an_enrolment_is_read_as_it_was_written_and_verifies() -> None:
    data = ENROLMENT.to_json()
    assert Enrolment.from_json(data) == ENROLMENT
    assert Enrolment.from_json(data).to_json() == data
    ENROLMENT.verify()


def test_an_enrolment_file_may_be_laid_out_otherwise() -> None:
    assert Enrolment.from_json(json.dumps(plain(), indent=4).encode() + b"\n") == ENROLMENT


def test_flower_reads_the_node_key_and_its_signature() -> None:
    assert ENROLMENT.node_key == public_key_to_bytes(NODE.public_key())
    message = joined(NODE_KEY_SIGNS, "Zürich".encode(), IDENTITY.public)
    assert verify_signature(bytes_to_public_key(ENROLMENT.node_key), message, ENROLMENT.node_key_signature)


def test_the_digest_follows_from_name_and_keys_and_the_words_from_name_and_identity() -> None:
    again = make_enrolment("Zürich", IDENTITY, NODE)
    assert again.node_key_signature != ENROLMENT.node_key_signature
    assert replace(again, version="9").digest == ENROLMENT.digest
    assert ENROLMENT.words == words(fingerprint("Zürich", IDENTITY.public))
    others = (
        make_enrolment("Basel", IDENTITY, NODE),
        make_enrolment("Zürich", Identity.generate(), NODE),
        make_enrolment("Zürich", IDENTITY, ec.generate_private_key(ec.SECP384R1())),
    )
    assert len({ENROLMENT.digest, *(other.digest for other in others)}) == 4
    assert len({ENROLMENT.words, *(other.words for other in others[:2])}) == 3
    assert others[2].words == ENROLMENT.words, "other hospitals know nothing of node keys"


def test_no_part_can_be_put_under_the_signatures_of_another() -> None:
    other = make_enrolment("Basel", Identity.generate(), ec.generate_private_key(ec.SECP384R1()))
    for part in ("hospital", "identity", "node_key", "identity_signature", "node_key_signature"):
        with pytest.raises(ProtocolError, match="not valid"):
            replace(ENROLMENT, **{part: getattr(other, part)}).verify()


def test_a_key_that_somebody_else_holds_cannot_be_enrolled() -> None:
    mine = Identity.generate()
    stolen = make_enrolment("Basel", mine, ec.generate_private_key(ec.SECP384R1()))
    signature = mine.sign("wardround enrolment v1", b"Basel", ENROLMENT.node_key)
    with pytest.raises(ProtocolError, match="node key's"):
        replace(stolen, node_key=ENROLMENT.node_key, identity_signature=signature).verify()


@pytest.mark.parametrize("signature", [b"", b"\x30\x00", bytes(104), b"\xff" * 128])
def test_a_malformed_node_signature_is_not_valid(signature: bytes) -> None:
    with pytest.raises(ProtocolError, match="not valid"):
        replace(ENROLMENT, node_key_signature=signature).verify()


def p256() -> bytes:
    return public_key_to_bytes(ec.generate_private_key(ec.SECP256R1()).public_key())


def compressed() -> bytes:
    """The same key in another spelling, as another program would write it."""
    point = NODE.public_key().public_bytes(Encoding.X962, PublicFormat.CompressedPoint)
    prefix = bytes.fromhex("3046301006072a8648ce3d020106052b81040022033200")
    body = base64.encodebytes(prefix + point).replace(b"\n", b"")
    return b"-----BEGIN PUBLIC KEY-----\n" + body[:64] + b"\n" + body[64:] + b"\n-----END PUBLIC KEY-----\n"


@pytest.mark.parametrize(
    ("data", "said"),
    [(b"", "not a P-384"), (p256(), "not a P-384"), (PRIVATE.encode(), "not a P-384"),
     (CA.encode(), "not a P-384"),
     (ENROLMENT.node_key + b"\n", "not written as"), (b"x\n" + ENROLMENT.node_key, "not written as"),
     (ENROLMENT.node_key.replace(b"\n", b"\r\n"), "not written as"), (compressed(), "not written as"),
     (ENROLMENT.node_key * 3, "not a P-384"),
     (NODE.public_key().public_bytes(Encoding.OpenSSH, PublicFormat.OpenSSH), "not a P-384")],
)  # fmt: skip
def test_a_node_key_has_one_spelling(data: bytes, said: str) -> None:
    with pytest.raises(ProtocolError, match=said):
        replace(ENROLMENT, node_key=data)
    with pytest.raises(ProtocolError, match=said):
        Enrolment.from_json(dumped(plain(node_key=base64.b64encode(data).decode())))


@pytest.mark.parametrize(
    "data",
    [
        b"", b"null", b"[]", b"{}", b"\xff", b'"a"', b"[" * 8000, b"1" * 8000,
        ENROLMENT.to_json()[:-1], ENROLMENT.to_json() + b"{}",
        ENROLMENT.to_json() + b" " * 8192,
        ENROLMENT.to_json().decode().encode("utf-16"),
        ENROLMENT.to_json().replace(b'{"hospital"', b'{"hospital":"a","hospital"'),
        dumped(plain(more=1)), dumped({k: v for k, v in plain().items() if k != "version"}),
        dumped(plain(hospital=1)), dumped(plain(hospital=None)), dumped(plain(hospital="a,b")),
        dumped(plain(protocol=1.0)), dumped(plain(protocol=True)), dumped(plain(protocol="1")),
        dumped(plain(protocol=float("nan"))),
        dumped(plain(version="")), dumped(plain(version="x" * 65)), dumped(plain(version="\x1b[2J")),
        dumped(plain(identity="")), dumped(plain(identity=[1])), dumped(plain(identity="ü")),
        dumped(plain(identity=plain()["identity"] + "\n")), dumped(plain(identity=" " + plain()["identity"])),
        dumped(plain(identity=plain()["identity"].rstrip("="))),
        dumped(plain(identity=base64.b64encode(bytes(31)).decode())),
        dumped(plain(identity_signature=base64.b64encode(bytes(63)).decode())),
        dumped(plain(node_key_signature=base64.b64encode(bytes(129)).decode())),
    ],
)  # fmt: skip
def test_what_is_no_enrolment_is_refused(data: bytes) -> None:
    with pytest.raises(ProtocolError) as caught:
        Enrolment.from_json(data)
    assert str(caught.value).isprintable()


def test_stray_bits_in_base64_are_refused() -> None:
    """Else one enrolment could have several texts."""
    text = plain()["identity"]
    letters = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/"
    stray = text[:-2] + letters[letters.index(text[-2]) + 1] + "="
    assert base64.b64decode(stray) == IDENTITY.public
    with pytest.raises(ProtocolError, match="stray"):
        Enrolment.from_json(dumped(plain(identity=stray)))


def test_another_protocol_is_told_before_anything_else() -> None:
    with pytest.raises(EnrolmentRefused) as caught:
        Enrolment.from_json(dumped({"protocol": PROTOCOL + 1, "something": "new"}))
    assert caught.value.code == "protocol"


def test_a_private_key_of_another_curve_makes_no_enrolment() -> None:
    with pytest.raises(ProtocolError, match="P-384"):
        make_enrolment("Zürich", IDENTITY, ec.generate_private_key(ec.SECP256R1()))


# what is said over HTTPS


def test_a_request_is_read_as_it_was_written_and_hides_its_token() -> None:
    request = EnrolmentRequest(ENROLMENT, TOKEN)
    assert EnrolmentRequest.from_json(request.to_json()) == request
    assert TOKEN not in repr(request)


@pytest.mark.parametrize(
    "changes",
    [{"token": ""}, {"token": "a" * 21}, {"token": "a" * 129}, {"token": None}, {"token": TOKEN + " "},
     {"more": 1}, {"enrolment": None}, {"enrolment": "x"}, {"enrolment": {}}, {"enrolment": plain(more=1)},
     {"protocol": "1"}],
)  # fmt: skip
def test_another_request_is_refused(changes: dict[str, Any]) -> None:
    fields = {"enrolment": plain(), "protocol": PROTOCOL, "token": TOKEN}
    assert EnrolmentRequest.from_json(dumped(fields)).token == TOKEN
    with pytest.raises(ProtocolError) as caught:
        EnrolmentRequest.from_json(dumped({**fields, **changes}))
    assert TOKEN not in str(caught.value)


def test_a_reply_says_yes_to_what_was_sent_only() -> None:
    reply = EnrolmentReply.from_json(EnrolmentReply(digest=ENROLMENT.digest).to_json())
    reply.check(ENROLMENT)
    with pytest.raises(ProtocolError, match="other keys"):
        reply.check(make_enrolment("Basel", IDENTITY, NODE))


@pytest.mark.parametrize("code", sorted(REFUSALS))
def test_a_refusal_arrives_as_it_was_made(code: str) -> None:
    reply = EnrolmentReply.from_json(EnrolmentReply(code=EnrolmentRefused(code).code).to_json())
    with pytest.raises(EnrolmentRefused) as caught:
        reply.check(ENROLMENT)
    assert caught.value.code == code
    assert str(caught.value) == REFUSALS[code]


@pytest.mark.parametrize(
    "changes",
    [{"code": "perhaps"}, {"digest": ""}, {"digest": "AAAA"}, {"code": "protocol"}, {"more": 1}, {"code": 1}],
)
def test_another_reply_is_refused(changes: dict[str, Any]) -> None:
    fields = json.loads(EnrolmentReply(digest=ENROLMENT.digest).to_json())
    with pytest.raises(ProtocolError):
        EnrolmentReply.from_json(dumped({**fields, **changes}))


def test_a_reply_of_another_protocol_is_told_as_such() -> None:
    with pytest.raises(EnrolmentRefused, match="other versions"):
        EnrolmentReply.from_json(dumped({"protocol": PROTOCOL + 1}))
