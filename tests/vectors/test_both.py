"""Both implementations agree on whatever hypothesis makes up."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.vectors.leaving import refused, who
from tests.vectors.reading import raw, slow_group, vectors
from tests.vectors.slow import leaving
from tests.vectors.slow import sealing as slow
from tests.vectors.slow.curves import ed25519_public, x25519_public
from tests.vectors.slow.encoding import Array, Malformed, decode, encode
from wardround_common import messages as say
from wardround_common import wire
from wardround_common.errors import ProtocolError
from wardround_common.sealing.identity import Identity
from wardround_common.sealing.lane import lane, pad, unwrap, wrap
from wardround_common.sealing.mask import MaskingKey, query_context, seal, unseal

WORDS = st.integers(-(2**63), 2**63 - 1)
KEYS = st.binary(min_size=32, max_size=32)
NAMES = st.lists(
    st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=3), min_size=2, max_size=4
)


@given(KEYS, KEYS, st.binary(max_size=80))
def test_both_agree_on_keys_and_signatures(private: bytes, other: bytes, text: bytes) -> None:
    identity = Identity.from_bytes(private)
    assert ed25519_public(private) == identity.public
    signature = slow.sign(private, "a label", text)
    assert signature == identity.sign("a label", text)
    assert slow.is_signed(identity.public, signature, "a label", text)
    assert not slow.is_signed(identity.public, signature, "a labe", text)
    masking = MaskingKey.from_bytes(private)
    assert x25519_public(private) == masking.public
    public = MaskingKey.from_bytes(other).public
    assert slow.pair_secret(private, public) == masking.shared_with(public)
    assert slow.group_secret(private, other) == masking.group_secret(other)


@given(KEYS)
def test_both_agree_on_points_that_nobody_made(public: bytes) -> None:
    try:
        shared = MaskingKey.from_bytes(b"k" * 32).shared_with(public)
    except ProtocolError:
        shared = None
    assert slow.pair_secret(b"k" * 32, public) == shared


@given(KEYS, KEYS, KEYS)
def test_both_agree_on_wrapping(secret: bytes, shared: bytes, epoch: bytes) -> None:
    wrapped = wrap(secret, shared, epoch)
    assert slow.wrap(secret, shared, epoch) == wrapped
    assert slow.unwrap(wrapped, shared, epoch) == secret
    changed = bytes([wrapped[0] ^ 1]) + wrapped[1:]
    assert slow.unwrap(changed, shared, epoch) is None
    with pytest.raises(ProtocolError):
        unwrap(changed, shared, epoch)


@given(st.data(), NAMES.map(set), st.integers(0, 20), KEYS, KEYS)
def test_both_agree_on_sealing(
    data: st.DataObject, names: set[str], size: int, key: bytes, group: bytes
) -> None:
    context = slow.query_context(key, group, "any", size, key)
    assert slow.pad(group, context) == pad(group, context)
    assert context == query_context(key, group, "any", size, key)
    sealed, sums = [], np.zeros(size, np.int64)
    for own in sorted(names):
        vector = data.draw(st.lists(WORDS, min_size=size, max_size=size))
        array = np.array(vector, np.int64)
        secrets = {one: slow.digest("".join(sorted((one, own))).encode() + key) for one in names - {own}}
        own_lane = slow.lane(vector, group, context)
        assert own_lane == lane(array, group, context)
        sealed.append(seal(array, own_lane, own, secrets, context))
        assert slow.seal(vector, own_lane, own, secrets, context) == sealed[-1]
        sums += array
    total, lanes = unseal(sealed)
    assert slow.unseal(sealed) == (total.tolist(), lanes)
    assert total.tolist() == sums.tolist()


SETS = st.lists(
    st.text("abcdefg", min_size=1, max_size=7).map(lambda one: "".join(sorted(set(one)))), min_size=1
)


@given(SETS, st.integers(2, 4))
def test_both_agree_on_whom_sums_expose(sets: list[str], least: int) -> None:
    found = leaving.exposed(sets, least)
    assert sorted("".join(sorted(one)) for one in found) == who(sets, least)


LEAVES = st.dictionaries(
    st.sampled_from("abcdef"), st.sampled_from(["allow", "allow", "group", "never"]), min_size=3
)


@st.composite
def groups(draw: st.DrawFn) -> dict[str, Any]:
    """Return an epoch's hospitals, with the sets of two of its analyses at most."""
    leaves = draw(LEAVES)
    some = st.sets(st.sampled_from(sorted(leaves)), min_size=2).map(sorted)
    return {
        "study": draw(st.sampled_from(["this", "another"])),
        "leaves": leaves,
        "sets": draw(st.just([sorted(leaves)]) | st.lists(some, min_size=1, max_size=2)),
    }


@given(st.lists(groups(), max_size=4), groups(), st.integers(2, 4), st.integers(0, 3))
def test_both_agree_on_which_sets_may_come(
    before: list[dict[str, Any]], after: dict[str, Any], least: int, most: int
) -> None:
    every = [slow_group(one) for one in (*before, after)]
    case = {"before": before, "after": after, "min_hospitals": least, "max_epochs": most}
    assert leaving.refused(every[:-1], every[-1], least, most) == refused(case)


ENCODED = st.recursive(
    st.none()
    | st.booleans()
    | WORDS
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text()
    | st.binary(),
    lambda each: st.lists(each, max_size=4).map(tuple),
    max_leaves=12,
)


@given(ENCODED)
def test_both_agree_on_encodings(value: Any) -> None:
    data = wire.encode(value)
    assert encode(decode(data)) == data
    assert encode(value) == data


@given(st.lists(WORDS, max_size=9))
def test_both_agree_on_encodings_of_arrays(values: list[int]) -> None:
    data = wire.encode(np.array(values, np.int64))
    assert encode(Array(2, (len(values),), tuple(values))) == data
    assert decode(data) == Array(2, (len(values),), tuple(values))


@given(st.data())
def test_both_refuse_the_same_changed_bytes(data: st.DataObject) -> None:
    said = data.draw(st.sampled_from(vectors("epoch")["messages"]))
    body = bytearray(raw(said["bytes"]))
    at = data.draw(st.integers(0, len(body) - 1))
    body[at] ^= data.draw(st.integers(1, 255))
    try:
        found = say.MESSAGES.decode(bytes(body), object)
    except ProtocolError:
        found = None
    try:
        read = decode(bytes(body))
    except Malformed:
        read = None
    if found is not None:  # the second knows no types of fields, so it may read more
        assert read is not None
        assert wire.encode(found) == encode(read) == bytes(body)
    elif read is not None:
        assert encode(read) == bytes(body)
