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
from wardround_common.sealing.mask import (
    LANE_BYTES,
    MODULUS,
    Keystream,
    MaskingKey,
    query_context,
    seal,
    unseal,
)

NAMES = ("a", "b", "c", "d", "e")
PRIVATE = [X25519PrivateKey.from_private_bytes(bytes([i] * 32)) for i in range(5)]
KEYS = {name: MaskingKey(key) for name, key in zip(NAMES, PRIVATE, strict=True)}
CONTEXT = query_context(b"binding", b"epoch", "logistic", 3, b"query")
INT64 = st.integers(-(2**63), 2**63 - 1)
LANES = st.integers(0, MODULUS - 1)
SIZES = [0, 1, 16_383, 16_384, 16_385, 32_768, 40_000]  # a block is 16,384 words


def secrets_of(name: str, hospitals: tuple[str, ...]) -> dict[str, bytes]:
    return {other: KEYS[name].shared_with(KEYS[other].public) for other in hospitals if other != name}


def sealed(
    vectors: dict[str, np.ndarray], context: bytes = CONTEXT, lanes: dict[str, int] | None = None
) -> dict[str, bytes]:
    hospitals, lanes = tuple(vectors), lanes or dict.fromkeys(vectors, 0)
    return {
        name: seal(vector, lanes[name], name, secrets_of(name, hospitals), context)
        for name, vector in vectors.items()
    }


def words(one: bytes) -> np.ndarray:
    """Return the vector's part of a sealed answer."""
    return np.frombuffer(one[:-LANE_BYTES], "<u8")


def lane_of(one: bytes) -> int:
    return int.from_bytes(one[-LANE_BYTES:], "little")


@given(st.integers(2, 5), st.integers(0, 40), st.data())
def test_masks_cancel_modulo_two_to_the_64(members: int, size: int, data: st.DataObject) -> None:
    column = st.lists(INT64, min_size=size, max_size=size)
    vectors = {name: np.array(data.draw(column), np.int64) for name in NAMES[:members]}
    expected = [sum(map(int, row)) for row in zip(*(v.tolist() for v in vectors.values()), strict=True)]
    opened, _ = unseal(list(sealed(vectors).values()))
    assert opened.dtype == np.int64
    assert [int(x) % 2**64 for x in opened] == [x % 2**64 for x in expected]


@given(st.integers(2, 5), st.integers(0, 3), st.data())
def test_masks_of_lanes_cancel_modulo_two_to_the_128(members: int, size: int, data: st.DataObject) -> None:
    lanes = {name: data.draw(LANES) for name in NAMES[:members]}
    masked = sealed({name: np.zeros(size, np.int64) for name in lanes}, lanes=lanes)
    assert unseal(list(masked.values()))[1] == sum(lanes.values()) % MODULUS
    assert all(lane_of(masked[name]) != one for name, one in lanes.items())


@pytest.mark.parametrize("size", SIZES)
def test_masks_cancel_over_several_blocks_and_differ_in_each(size: int) -> None:
    vectors = {name: np.full(size, i, np.int64) for i, name in enumerate(NAMES)}
    masked = sealed(vectors)
    opened, lanes = unseal(list(masked.values()))
    assert (opened == 10).all() and len(opened) == size and lanes == 0
    for one in masked.values():
        assert len(one) == 8 * size + LANE_BYTES
        assert len(np.unique(words(one))) == size
    assert all((vector == i).all() for i, vector in enumerate(vectors.values()))


def test_a_mask_goes_on_over_the_ends_of_blocks() -> None:
    longest = sealed({name: np.arange(SIZES[-1], dtype=np.int64) for name in NAMES})["b"]
    for size in SIZES:
        one = sealed({name: np.arange(size, dtype=np.int64) for name in NAMES})["b"]
        assert (words(one) == words(longest)[:size]).all()


def test_any_sum_but_that_of_all_stays_masked() -> None:
    vectors = {name: np.zeros(1000, np.int64) for name in NAMES}
    masked = sealed(vectors)
    for few in (part for size in range(1, 5) for part in combinations(NAMES, size)):
        opened, lanes = unseal([masked[name] for name in few])
        assert len(np.unique(opened)) == 1000
        assert (opened.view(np.uint64) >> np.uint64(63)).mean() == pytest.approx(0.5, abs=0.08)
        assert lanes != 0


def test_the_lanes_mask_is_none_of_the_vectors() -> None:
    for one in sealed({name: np.zeros(1000, np.int64) for name in NAMES[:2]}).values():
        beside = np.frombuffer(one[-LANE_BYTES:], "<u8")
        assert not np.isin(beside, words(one)).any()


@pytest.mark.parametrize("part", range(5))
def test_every_part_of_the_context_changes_the_mask(part: int) -> None:
    parts: list[tuple[bytes, bytes, str, int, bytes]] = [(b"b", b"e", "a", 1, b"q")]
    changed = [b"B", b"E", "A", 2, b"Q"]
    parts.append((*parts[0][:part], changed[part], *parts[0][part + 1 :]))
    contexts = [query_context(*one) for one in parts]
    vector = {"a": np.zeros(64, np.int64), "b": np.zeros(64, np.int64)}
    first, other = (sealed(vector, context)["a"] for context in contexts)
    assert contexts[0] != contexts[1]
    assert not (words(first) == words(other)).any()
    assert lane_of(first) != lane_of(other)


def test_bytes_cannot_move_from_one_part_of_the_context_to_the_next() -> None:
    assert query_context(b"ab", b"c", "d", 0, b"") != query_context(b"a", b"bc", "d", 0, b"")
    assert query_context(b"", b"", "ab", 0, b"c") != query_context(b"", b"", "a", 0, b"bc")


def test_the_same_question_has_the_same_mask() -> None:
    vector = {"a": np.arange(9), "b": np.arange(9)}
    assert sealed(vector) == sealed(vector)


@pytest.mark.parametrize("size", [0, 1, 16_384, 20_000])
def test_a_mask_is_aes_ctr_under_the_hkdf_of_the_shared_secret(size: int) -> None:
    private = X25519PrivateKey.from_private_bytes(bytes([7] * 32))
    shared = private.exchange(X25519PublicKey.from_public_bytes(KEYS["b"].public))
    key = HKDF(SHA256(), 32, b"wardround pairwise mask v1", CONTEXT).derive(shared)
    stream = Cipher(AES(key), CTR(bytes(16))).encryptor().update(bytes(8 * size + LANE_BYTES))
    secret = MaskingKey(private).shared_with(KEYS["b"].public)
    vector, own = np.arange(size, dtype=np.int64), 1 << 100
    plus = seal(vector, own, "a", {"b": secret}, CONTEXT)
    minus = seal(vector, own, "c", {"b": secret}, CONTEXT)
    mask = np.frombuffer(stream, "<u8", size)
    assert (words(plus) - vector.view(np.uint64) == mask).all()
    assert (vector.view(np.uint64) - words(minus) == mask).all()
    beside = int.from_bytes(stream[8 * size :], "little")
    assert lane_of(plus) == (own + beside) % MODULUS
    assert lane_of(minus) == (own - beside) % MODULUS


PIECES = [1, 31, 32, 33, 131_072]  # bytes; 32 are two blocks, 131,072 the most at a time


def taken(key: bytes, pieces: list[int], *, by_gcm: bool) -> bytes:
    """Return a keystream as it comes in pieces of these lengths."""
    stream, found = Keystream(key, by_gcm=by_gcm), b""
    for size in pieces:
        buffer = bytearray(size + 16)
        stream.into(memoryview(buffer), size)
        found += buffer[:size]
    return found


@pytest.mark.parametrize("by_gcm", [False, True], ids=["ctr", "gcm"])
@pytest.mark.parametrize("size", PIECES)
def test_a_keystream_is_aes_ctr_in_pieces_of_whatever_length(size: int, by_gcm: bool) -> None:
    pieces = [size] * (3 if size > 1000 else 100)
    plain = Cipher(AES(CONTEXT), CTR(bytes(16))).encryptor().update(bytes(sum(pieces)))
    assert taken(CONTEXT, pieces, by_gcm=by_gcm) == plain


@given(
    st.binary(min_size=32, max_size=32), st.lists(st.sampled_from(PIECES) | st.integers(0, 100), max_size=6)
)
def test_both_ways_to_a_keystream_give_the_same_bytes(key: bytes, pieces: list[int]) -> None:
    assert taken(key, pieces, by_gcm=True) == taken(key, pieces, by_gcm=False)


@pytest.mark.parametrize("change", [-16, -8, -1, 1, 8])
@pytest.mark.parametrize("who", [0, 2])
def test_sealed_answers_of_unequal_lengths_are_refused(who: int, change: int) -> None:
    masked = list(sealed({name: np.zeros(4, np.int64) for name in "abc"}).values())
    masked[who] = masked[who][:change] if change < 0 else masked[who] + bytes(change)
    with pytest.raises(ProtocolError, match="other lengths"):
        unseal(masked)


@pytest.mark.parametrize("size", [0, 8, 15, 17, 23, 28])
def test_answers_that_are_no_words_with_a_lane_are_refused(size: int) -> None:
    with pytest.raises(ProtocolError, match="lengths"):
        unseal([bytes(size)] * 3)


@given(st.integers(0, 20))
def test_sealing_does_not_care_how_a_vector_lies_in_memory(size: int) -> None:
    wide = np.arange(2 * size, dtype=np.int64)
    beside, secrets = wide[::2], secrets_of("a", ("a", "b"))
    assert seal(beside, 5, "a", secrets, CONTEXT) == seal(beside.copy(), 5, "a", secrets, CONTEXT)


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
