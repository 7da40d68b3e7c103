"""Words that are read out on the telephone can be told apart, and stay what they are."""

from __future__ import annotations

import hashlib
import re
from itertools import combinations

import pytest

from wardround_common.words import WORDS, words

PINNED = "20009356d19b6e480eec1d88ece1d76f8f7dd0222fbd447f938543960564c237"
SOUNDS = {letter: str(code) for code, letters in enumerate(("bfpv", "cgjkqsxz", "dt", "l", "mn", "r"), 1)
          for letter in letters}  # fmt: skip


def soundex(word: str) -> str:
    code, last = word[0], SOUNDS.get(word[0], "")
    for letter in word[1:]:
        sound = SOUNDS.get(letter, "")
        code += sound if sound != last else ""
        last = last if letter in "hw" else sound
    return code


def one_edit_apart(a: str, b: str) -> bool:
    short, long = sorted((a, b), key=len)
    if len(long) - len(short) > 1:
        return False
    if len(short) == len(long):
        return sum(x != y for x, y in zip(short, long, strict=True)) <= 1
    return any(long[:at] + long[at + 1 :] == short for at in range(len(long)))


def test_there_is_one_short_word_for_every_byte() -> None:
    assert len(WORDS) == len(set(WORDS)) == 256
    assert all(re.fullmatch("[a-z]{3,7}", word) for word in WORDS)
    assert list(WORDS) == sorted(WORDS)


def test_no_two_words_can_be_taken_for_each_other() -> None:
    alike = [(a, b) for a, b in combinations(WORDS, 2) if one_edit_apart(a, b) or soundex(a) == soundex(b)]
    assert not alike
    assert len({word[:4] for word in WORDS}) == 256


@pytest.mark.parametrize(
    ("a", "b", "near"),
    [("cart", "card", True), ("cart", "car", True), ("car", "scar", True), ("cart", "dart", True),
     ("cart", "cork", False), ("cart", "carpet", False)],
)  # fmt: skip
def test_the_measure_of_nearness_itself(a: str, b: str, near: bool) -> None:
    assert one_edit_apart(a, b) is near


def test_the_list_is_the_one_that_the_other_side_holds() -> None:
    """With another list or order, honest hospitals would read other words: it changes with PROTOCOL only."""
    assert hashlib.sha256(" ".join(WORDS).encode()).hexdigest() == PINNED


def test_a_word_stands_for_a_byte_in_order() -> None:
    assert words(bytes(range(256)), 256) == WORDS
    assert words(b"\x00\x01\xff" + bytes(29), 3) == ("acorn", "airport", "zigzag")
    assert len(words(bytes(32))) == 10


def test_digests_that_differ_in_their_first_80_bits_have_other_words() -> None:
    digest = hashlib.sha256(b"a").digest()
    for bit in range(80):
        other = (int.from_bytes(digest) ^ 1 << (255 - bit)).to_bytes(32)
        assert words(other) != words(digest)


@pytest.mark.parametrize(
    ("digest", "count"), [(b"", 1), (bytes(9), 10), (bytes(32), 33), (bytes(32), 0), (b"a", -1)]
)
def test_a_digest_is_never_padded(digest: bytes, count: int) -> None:
    with pytest.raises(ValueError, match="words of a digest"):
        words(digest, count)
