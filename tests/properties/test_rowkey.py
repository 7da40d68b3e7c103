"""Row keys follow the person: not the order of rows, not the split, and nobody without the study's key."""

from __future__ import annotations

from hashlib import blake2b

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from wardround_common.rowkey import chosen, draws, row_keys

KEY = bytes(range(32))
IDS = st.lists(st.text(max_size=12), max_size=30)


@given(IDS, IDS)
def test_keys_do_not_depend_on_the_rows_beside_them(left: list[str], right: list[str]) -> None:
    together = row_keys(KEY, "north", left + right)
    assert together.tolist() == [*row_keys(KEY, "north", left), *row_keys(KEY, "north", right)]
    assert together[::-1].tolist() == row_keys(KEY, "north", (left + right)[::-1]).tolist()


@given(st.text(max_size=12), st.text(max_size=12), st.text(max_size=12), st.text(max_size=12))
def test_only_equal_namespaces_and_ids_have_equal_keys(a: str, b: str, c: str, d: str) -> None:
    same = row_keys(KEY, a, [b])[0] == row_keys(KEY, c, [d])[0]
    assert same == ((a, b) == (c, d))


def test_a_key_is_blake2b_of_the_length_prefixed_namespace_and_the_id() -> None:
    expected = blake2b(b"\x03\x00\x00\x00abcperson", digest_size=8, key=KEY).digest()
    assert row_keys(KEY, "abc", ["person"])[0] == int.from_bytes(expected, "little")


def test_another_study_key_gives_other_keys() -> None:
    ids = [str(i) for i in range(200)]
    assert not set(row_keys(KEY, "", ids)) & set(row_keys(KEY[::-1], "", ids))


@pytest.mark.parametrize("share", [0.01, 0.3, 0.5, 0.99])
def test_the_share_that_is_chosen_is_near_what_was_asked(share: float) -> None:
    keys = row_keys(KEY, "", [str(i) for i in range(20_000)])
    found = chosen(keys, "fold", 1, share)
    assert found.mean() == pytest.approx(share, abs=4 * np.sqrt(share * (1 - share) / 20_000))


def test_a_larger_share_holds_the_smaller_one() -> None:
    keys = row_keys(KEY, "", map(str, range(2000)))
    assert not (chosen(keys, "fold", 5, 0.2) & ~chosen(keys, "fold", 5, 0.4)).any()


def test_purposes_and_seeds_draw_independently() -> None:
    keys = row_keys(KEY, "", map(str, range(20_000)))
    first = draws(keys, "fold", 1) >> np.uint64(11)
    for purpose, seed in (("fold", 2), ("bootstrap", 1), ("fold", 2**63 - 1)):
        other = draws(keys, purpose, seed) >> np.uint64(11)
        assert abs(np.corrcoef(first.astype(float), other.astype(float))[0, 1]) < 0.03


@given(st.lists(st.integers(0, 2**64 - 1), max_size=20, unique=True))
def test_a_draw_is_a_bijection_of_its_key(keys: list[int]) -> None:
    words = np.array(keys, np.uint64)
    found = draws(words, "fold", 3)
    assert found.shape == words.shape
    assert len(set(found.tolist())) == len(keys)
    assert words.tolist() == keys
