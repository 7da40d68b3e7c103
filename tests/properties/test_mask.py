"""Masks cancel in the sum and only there, and are what RFC 5869 and RFC 7748 say they are."""

from __future__ import annotations

from itertools import combinations

import numpy as np
import pytest
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey, X25519PublicKey
from cryptography.hazmat.primitives.ciphers import Cipher
from cryptography.hazmat.primitives.ciphers.algorithms import AES
from cryptography.hazmat.primitives.ciphers.modes import CTR
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF
from hypothesis import given
from hypothesis import strategies as st

from wardround_common.errors import ProtocolError
from wardround_common.sealing.mask import MaskingKey, add_masks, open_masks, query_context

NAMES = ("a", "b", "c", "d", "e")
PRIVATE = [X25519PrivateKey.from_private_bytes(bytes([i] * 32)) for i in range(5)]
KEYS = {name: MaskingKey(key) for name, key in zip(NAMES, PRIVATE, strict=True)}
CONTEXT = query_context(b"binding", b"epoch", "logistic", 3, b"query")
INT64 = st.integers(-(2**63), 2**63 - 1)


def secrets_of(name: str, hospitals: tuple[str, ...]) -> dict[str, bytes]:
    return {other: KEYS[name].shared_with(KEYS[other].public) for other in hospitals if other != name}


def sealed(vectors: dict[str, np.ndarray], context: bytes = CONTEXT) -> dict[str, np.ndarray]:
    hospitals = tuple(vectors)
    return {name: add_masks(v, name, secrets_of(name, hospitals), context) for name, v in vectors.items()}


@given(st.integers(2, 5), st.integers(0, 40), st.data())
def test_masks_cancel_modulo_two_to_the_64(members: int, size: int, data: st.DataObject) -> None:
    column = st.lists(INT64, min_size=size, max_size=size)
    vectors = {name: np.array(data.draw(column), np.int64) for name in NAMES[:members]}
    expected = [sum(map(int, row)) for row in zip(*(v.tolist() for v in vectors.values()), strict=True)]
    opened = open_masks(list(sealed(vectors).values()))
    assert [int(x) % 2**64 for x in opened] == [x % 2**64 for x in expected]


@pytest.mark.parametrize("size", [0, 1, 16_383, 16_384, 16_385, 40_000])
def test_masks_cancel_over_several_blocks_and_differ_in_each(size: int) -> None:
    vectors = {name: np.full(size, i, np.int64) for i, name in enumerate(NAMES)}
    masked = sealed(vectors)
    assert (open_masks(list(masked.values())) == 10).all()
    for vector in masked.values():
        assert len(np.unique(vector)) == size
    assert all((vector == i).all() for i, vector in enumerate(vectors.values()))


def test_any_sum_but_that_of_all_stays_masked() -> None:
    vectors = {name: np.zeros(1000, np.int64) for name in NAMES}
    masked = sealed(vectors)
    for few in (part for size in range(1, 5) for part in combinations(NAMES, size)):
        opened = open_masks([masked[name] for name in few]).view(np.uint64)
        assert len(np.unique(opened)) == 1000
        assert (opened >> np.uint64(63)).mean() == pytest.approx(0.5, abs=0.08)


@pytest.mark.parametrize("part", range(5))
def test_every_part_of_the_context_changes_the_mask(part: int) -> None:
    parts: list[tuple[bytes, bytes, str, int, bytes]] = [(b"b", b"e", "a", 1, b"q")]
    changed = [b"B", b"E", "A", 2, b"Q"]
    parts.append((*parts[0][:part], changed[part], *parts[0][part + 1 :]))
    contexts = [query_context(*one) for one in parts]
    vector = {"a": np.zeros(64, np.int64), "b": np.zeros(64, np.int64)}
    first, other = (sealed(vector, context)["a"] for context in contexts)
    assert contexts[0] != contexts[1]
    assert not (first == other).any()


def test_bytes_cannot_move_from_one_part_of_the_context_to_the_next() -> None:
    assert query_context(b"ab", b"c", "d", 0, b"") != query_context(b"a", b"bc", "d", 0, b"")
    assert query_context(b"", b"", "ab", 0, b"c") != query_context(b"", b"", "a", 0, b"bc")


def test_the_same_question_has_the_same_mask() -> None:
    vector = {"a": np.arange(9), "b": np.arange(9)}
    assert (sealed(vector)["a"] == sealed(vector)["a"]).all()


def test_a_mask_is_aes_ctr_under_the_hkdf_of_the_shared_secret() -> None:
    private = X25519PrivateKey.from_private_bytes(bytes([7] * 32))
    shared = private.exchange(X25519PublicKey.from_public_bytes(KEYS["b"].public))
    key = HKDF(SHA256(), 32, b"wardround pairwise mask v1", CONTEXT).derive(shared)
    stream = Cipher(AES(key), CTR(bytes(16))).encryptor().update(bytes(8 * 20_000))
    secret = MaskingKey(private).shared_with(KEYS["b"].public)
    vector = np.arange(20_000, dtype=np.int64)
    plus = add_masks(vector, "a", {"b": secret}, CONTEXT)
    minus = add_masks(vector, "c", {"b": secret}, CONTEXT)
    mask = np.frombuffer(stream, "<u8")
    assert (plus - vector.view(np.uint64) == mask).all()
    assert (vector.view(np.uint64) - minus == mask).all()


def test_both_ends_share_one_secret_and_no_third() -> None:
    a, b, c = (KEYS[name] for name in "abc")
    assert a.shared_with(b.public) == b.shared_with(a.public)
    assert a.shared_with(b.public) != a.shared_with(c.public)


LOW_ORDER = [
    bytes(32),
    b"\x01" + bytes(31),
    bytes.fromhex("e0eb7a7c3b41b8ae1656e3faf19fc46ada098deb9c32b1fd866205165f49b800"),
    bytes.fromhex("5f9c95bca3508c24b1d0b1559c83ef5b04445cc4581c8e86d8224eddd09f1157"),
    bytes.fromhex("ecffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff7f"),
    bytes.fromhex("edffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff7f"),
    bytes.fromhex("eeffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff7f"),
]


@pytest.mark.parametrize("public", [*LOW_ORDER, b"", bytes(31), bytes(33)], ids=bytes.hex)
def test_a_low_order_or_malformed_point_is_refused(public: bytes) -> None:
    with pytest.raises(ProtocolError, match="X25519"):
        KEYS["b"].shared_with(public)


def test_keys_print_as_their_name_only() -> None:
    assert f"{KEYS['a']!r} {KEYS['a']}" == "MaskingKey(...) MaskingKey(...)"
