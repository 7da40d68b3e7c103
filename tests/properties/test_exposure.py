"""What sums over row sets tell, against all combinations of few persons in exact arithmetic."""

from __future__ import annotations

from itertools import combinations

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from tests.properties.truth import rank
from wardround_client.exposure import exposures
from wardround_client.rowclasses import classes_of
from wardround_common.errors import Refused

Sets = list[list[bool]]
Told = dict[frozenset[int], int]  # persons, and how many independent sums over their rows


def all_told(sets: Sets, people: list[int], least: int) -> Told:
    """Return the smallest groups that some combination tells of: without them the sets' rank is less."""
    whole, found = rank(sets), dict[frozenset[int], int]()
    for size in range(1, least):
        for group in map(frozenset, combinations(sorted(set(people)), size)):
            if any(fewer < group for fewer in found):
                continue
            others = [
                [value and who not in group for value, who in zip(one, people, strict=True)] for one in sets
            ]
            if ways := whole - rank(others):
                found[group] = ways
    return found


def told(sets: Sets, people: list[int], least: int) -> Told:
    arrays = [np.array(one) for one in sets]
    repeated = len(set(people)) < len(people)
    classes = classes_of(arrays, np.array(people, np.uint64) if repeated else None)
    found: Told = {}
    for one in exposures(classes, least):
        group = frozenset(np.array(people)[classes.rows(one.classes)].tolist())
        assert len(group) == one.persons and group not in found
        found[group] = one.ways
        # those sets alone tell it already
        assert group in all_told([sets[i] for i in one.sets], people, least)
    return found


@st.composite
def universes(draw: st.DrawFn, several: bool) -> tuple[Sets, list[int], int]:
    rows = draw(st.integers(1, 8))
    people = list(range(rows))
    if several:
        people = draw(st.lists(st.integers(0, rows // 2), min_size=rows, max_size=rows))
    row = st.lists(st.booleans(), min_size=rows, max_size=rows)
    return draw(st.lists(row, min_size=1, max_size=6)), people, draw(st.integers(2, 5))


@settings(max_examples=300, deadline=None)
@given(universes(several=False))
def test_all_that_is_told_of_few_rows_is_found_and_nothing_else(case: tuple[Sets, list[int], int]) -> None:
    assert told(*case) == all_told(*case)


@pytest.mark.parametrize(
    ("least", "sets"),
    [
        (4, ["100011010", "110100010", "000101011", "010010100"]),
        (4, ["0111111110", "1100100100", "1010011001", "0110110111", "0111010111", "0001110110"]),
        (5, ["110011010000", "010010001101", "001111010110", "101110101110"]),
    ],
)
def test_what_only_a_mixture_of_several_sets_tells_is_found(least: int, sets: list[str]) -> None:
    members = [[digit == "1" for digit in one] for one in sets]
    people = list(range(len(members[0])))
    found = told(members, people, least)
    assert found and found == all_told(members, people, least)


@settings(max_examples=300, deadline=None)
@given(universes(several=True))
def test_persons_are_counted_not_their_rows(case: tuple[Sets, list[int], int]) -> None:
    assert told(*case) == all_told(*case)


@settings(max_examples=100, deadline=None)
@given(universes(several=False), st.randoms(use_true_random=False))
def test_it_depends_on_no_order_and_what_is_told_stays_told(
    case: tuple[Sets, list[int], int], chance: object
) -> None:
    sets, people, least = case
    found = told(sets, people, least)
    shuffled = sets[:]
    chance.shuffle(shuffled)  # type: ignore[attr-defined]
    assert told(shuffled, people, least) == found
    for fewer in told(sets[:-1], people, least) if len(sets) > 1 else ():
        assert any(group <= fewer for group in found)
    for group in told(sets, people, least - 1) if least > 2 else ():
        assert group in found


@settings(max_examples=25, deadline=None)
@given(
    st.integers(0, 2**32 - 1),
    st.integers(200, 3000),
    st.integers(2, 70),
    st.lists(st.integers(0, 199), min_size=0, max_size=3, unique=True),
)
def test_patients_told_by_a_difference_are_found_among_many_sets(
    seed: int, rows: int, sets: int, planted: list[int]
) -> None:
    assume(sets * 6 < rows)  # so many sets of few rows tell of some by themselves
    chance = np.random.default_rng(seed)
    found = [chance.random(rows) < chance.uniform(0.3, 0.7) for _ in range(sets)]
    for number, row in enumerate(planted):
        near = found[number % sets].copy()
        near[row] = not near[row]
        found.append(near)
    chance.shuffle(found)
    classes = classes_of(found)
    lone = {int(np.flatnonzero(classes.rows(one.classes))[0]) for one in exposures(classes, 2)}
    assert lone == set(planted)


def test_more_ways_than_can_be_compared_are_refused() -> None:
    chance = np.random.default_rng(1)
    with pytest.raises(Refused, match="more ways than can be compared") as caught:
        exposures(classes_of([chance.random(40) < 0.5 for _ in range(35)]), 11)
    assert caught.value.code == "differencing"
