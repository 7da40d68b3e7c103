"""The check lane is a linear function that nobody without the group secret can foretell, and is exact."""

from __future__ import annotations

import numpy as np
import pytest
from cryptography.hazmat.primitives.ciphers import Cipher
from cryptography.hazmat.primitives.ciphers.algorithms import AES
from cryptography.hazmat.primitives.ciphers.modes import CTR
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDFExpand
from hypothesis import given
from hypothesis import strategies as st

from wardround_common.errors import ProtocolError, Refused
from wardround_common.sealing.lane import lane, pad, unwrap, wrap
from wardround_common.sealing.mask import LANE_BYTES, MODULUS, MaskingKey, query_context, seal, unseal
from wardround_common.sealing.participant import check_lane
from wardround_common.sealing.record import Opened

GROUP, CONTEXT = bytes(range(32)), query_context(b"binding", b"epoch", "logistic", 3, b"query")
EPOCH = bytes([9] * 32)
LEAST, MOST = -(2**63), 2**63 - 1
INT64 = st.integers(LEAST, MOST)
VECTORS = st.lists(INT64, max_size=40)
BLOCK = 8192
AROUND = [0, 1, BLOCK - 1, BLOCK, BLOCK + 1, 2 * BLOCK, 20_000]


def slow_lane(vector: list[int], group: bytes = GROUP, context: bytes = CONTEXT) -> int:
    """Return <r, vector> mod 2^128 with Python's integers and libraries that the lane does not use."""
    key = HKDFExpand(SHA256(), 32, context).derive(group)
    r = Cipher(AES(key), CTR(bytes(16))).encryptor().update(bytes(16 * len(vector)))
    return (
        sum(int.from_bytes(r[16 * k : 16 * k + 16], "little") * one for k, one in enumerate(vector)) % MODULUS
    )


def of(vector: list[int] | np.ndarray) -> int:
    return lane(np.array(vector, np.int64), GROUP, CONTEXT)


@given(VECTORS)
def test_the_lane_is_the_product_in_pythons_integers(vector: list[int]) -> None:
    assert of(vector) == slow_lane(vector)


@pytest.mark.parametrize("size", AROUND)
@pytest.mark.parametrize("extreme", [LEAST, MOST, -1, 1 << 47, (1 << 48) - 1])
def test_it_is_exact_for_the_largest_words_and_at_the_ends_of_blocks(size: int, extreme: int) -> None:
    vector = [extreme] * size
    assert of(vector) == slow_lane(vector)


@pytest.mark.parametrize("size", AROUND)
def test_it_is_exact_for_many_different_words(size: int) -> None:
    vector = np.random.default_rng(size).integers(LEAST, MOST, size, np.int64, endpoint=True)
    assert of(vector) == slow_lane(vector.tolist())


@given(VECTORS, st.data())
def test_lanes_add_up_as_vectors_do(first: list[int], data: st.DataObject) -> None:
    other = [data.draw(st.integers(max(LEAST, LEAST - a), min(MOST, MOST - a))) for a in first]
    both = [a + b for a, b in zip(first, other, strict=True)]
    assert (of(first) + of(other)) % MODULUS == of(both)


@given(st.integers(2, 5), st.integers(1, 6), st.data())
def test_the_sum_of_sealed_answers_fits_the_sum_of_their_lanes(
    members: int, size: int, data: st.DataObject
) -> None:
    names = "abcde"[:members]
    keys = {name: MaskingKey.from_bytes(bytes([i + 1] * 32)) for i, name in enumerate(names)}
    column = st.lists(st.integers(-(2**60), 2**60), min_size=size, max_size=size)
    answers = []
    for name, own in keys.items():
        vector = np.array(data.draw(column), np.int64)
        secrets = {other: own.shared_with(keys[other].public) for other in names if other != name}
        answers.append(seal(vector, lane(vector, GROUP, CONTEXT), name, secrets, CONTEXT))
    total, lanes = unseal(answers)
    assert lane(total, GROUP, CONTEXT) == lanes
    check_lane(opened(total, lanes), GROUP, CONTEXT)


def opened(vector: np.ndarray, lanes: int) -> Opened:
    """Return a sum with what its lanes add up to, the first hospital's pad among them."""
    told = (lanes + pad(GROUP, CONTEXT)) % MODULUS
    return Opened("logistic", 3, b"query", vector, told.to_bytes(LANE_BYTES, "little"))


@pytest.mark.parametrize("size", [1, 7, BLOCK + 3])
def test_a_change_of_any_element_by_any_power_of_two_is_noticed(size: int) -> None:
    vector = np.random.default_rng(4).integers(-(2**61), 2**61, size)
    right = of(vector)
    check_lane(opened(vector, right), GROUP, CONTEXT)
    places = range(size) if size < 10 else (0, BLOCK - 1, BLOCK, size - 1)
    for place in places:
        for k in range(64):
            changed = vector.view(np.uint64).copy()
            changed[place : place + 1] += np.uint64(1 << k)  # an array wraps without a warning
            with pytest.raises(Refused, match="not the members' own") as refused:
                check_lane(opened(changed.view(np.int64), right), GROUP, CONTEXT)
            assert refused.value.code == "false_sum"


def test_a_change_of_every_single_element_is_noticed() -> None:
    vector = np.arange(300, dtype=np.int64)
    right = of(vector)
    for place in range(len(vector)):
        changed = vector.copy()
        changed[place] ^= 1 << place % 63
        assert of(changed) != right


def test_a_sum_that_wraps_is_noticed() -> None:
    parts = [np.array([5, 1 << 62], np.int64)] * 2
    total = parts[0] + parts[1]
    assert total[1] == LEAST
    with pytest.raises(Refused, match="not the members' own"):
        check_lane(opened(total, 2 * of(parts[0]) % MODULUS), GROUP, CONTEXT)


@given(VECTORS.filter(lambda vector: len(set(vector)) > 1), st.data())
def test_elements_that_change_places_are_noticed(vector: list[int], data: st.DataObject) -> None:
    i = data.draw(st.integers(0, len(vector) - 1))
    j = data.draw(st.sampled_from([k for k, one in enumerate(vector) if one != vector[i]] or [i]))
    swapped = vector.copy()
    swapped[i], swapped[j] = vector[j], vector[i]
    assert (of(swapped) == of(vector)) == (swapped == vector)


@given(st.integers(0, 127))
def test_a_changed_bit_of_the_lanes_sum_is_refused(bit: int) -> None:
    vector = np.arange(5, dtype=np.int64)
    with pytest.raises(Refused, match="not the members' own"):
        check_lane(opened(vector, of(vector) ^ 1 << bit), GROUP, CONTEXT)


@pytest.mark.parametrize("vector", [[], [0, 0], [1, -1]])
def test_no_sum_fits_its_lane_without_the_pad_not_even_nothing(vector: list[int]) -> None:
    bare = Opened("logistic", 3, b"query", np.array(vector, np.int64), of(vector).to_bytes(16, "little"))
    with pytest.raises(Refused, match="not the members' own"):
        check_lane(bare, GROUP, CONTEXT)


def test_every_query_and_group_has_a_pad_of_its_own_that_is_none_of_the_coefficients() -> None:
    other = query_context(b"binding", b"epoch", "logistic", 4, b"query")
    pads = {pad(group, context) for group in (GROUP, bytes(32)) for context in (CONTEXT, other)}
    assert len(pads) == 4 and max(pads) < MODULUS
    unit = np.eye(8, dtype=np.int64)
    assert pads.isdisjoint({lane(one, GROUP, CONTEXT) for one in unit})


@pytest.mark.parametrize("size", [0, 15, 17, 32])
def test_a_lane_of_another_length_is_refused(size: int) -> None:
    one = Opened("logistic", 3, b"query", np.zeros(2, np.int64), bytes(size))
    with pytest.raises(ProtocolError, match="without its check lane"):
        check_lane(one, GROUP, CONTEXT)


def test_another_group_or_query_has_other_coefficients() -> None:
    vector = np.arange(1, 9, dtype=np.int64)
    other = query_context(b"binding", b"epoch", "logistic", 4, b"query")
    found = {lane(vector, group, context) for group in (GROUP, bytes(32)) for context in (CONTEXT, other)}
    assert len(found) == 4


def test_a_lane_does_not_care_how_a_vector_lies_in_memory() -> None:
    wide = np.arange(64, dtype=np.int64)
    assert of(wide[::2]) == of(wide[::2].copy())


# --- the group secret, wrapped for each member ---

KEYS = [MaskingKey.from_bytes(bytes([i] * 32)) for i in (1, 2, 3)]
PAIR = KEYS[0].shared_with(KEYS[1].public)


@given(st.binary(min_size=32, max_size=32), st.binary(min_size=32, max_size=32))
def test_what_the_leader_wraps_its_member_unwraps(secret: bytes, epoch: bytes) -> None:
    wrapped = wrap(secret, PAIR, epoch)
    assert len(wrapped) == 48 and secret not in wrapped
    assert unwrap(wrapped, KEYS[1].shared_with(KEYS[0].public), epoch) == secret
    assert wrap(secret, PAIR, epoch) == wrapped


def test_any_changed_byte_is_refused() -> None:
    wrapped = wrap(GROUP, PAIR, EPOCH)
    for i in range(len(wrapped)):
        for flip in (1, 128, 255):
            changed = bytearray(wrapped)
            changed[i] ^= flip
            with pytest.raises(ProtocolError, match="not wrapped for this hospital"):
                unwrap(bytes(changed), PAIR, EPOCH)


@pytest.mark.parametrize("size", [0, 1, 15, 16, 47, 49])
def test_another_length_is_refused(size: int) -> None:
    wrapped = (wrap(GROUP, PAIR, EPOCH) + bytes(1))[:size]
    with pytest.raises(ProtocolError, match="not wrapped for this hospital"):
        unwrap(wrapped, PAIR, EPOCH)


def test_another_epochs_or_pairs_is_refused() -> None:
    wrapped = wrap(GROUP, PAIR, EPOCH)
    for shared, epoch in (
        (PAIR, bytes(32)),
        (KEYS[0].shared_with(KEYS[2].public), EPOCH),
        (KEYS[1].shared_with(KEYS[2].public), EPOCH),
    ):
        with pytest.raises(ProtocolError, match="not wrapped for this hospital"):
            unwrap(wrapped, shared, epoch)


def test_a_leaders_secret_is_the_same_again_and_another_in_each_epoch_and_for_each_leader() -> None:
    assert KEYS[0].group_secret(EPOCH) == MaskingKey.from_bytes(KEYS[0].to_bytes()).group_secret(EPOCH)
    assert len({key.group_secret(epoch) for key in KEYS for epoch in (EPOCH, bytes(32))}) == 6
