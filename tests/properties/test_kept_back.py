"""What is hidden stays unknown beside all that is shown, in one table and over all metrics of a study.

The oracle is integer programming: all that is shown are equations over the counts behind it, and what is
hidden must keep a wide interval of solutions.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from itertools import accumulate, combinations
from typing import Any

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.optimize import LinearConstraint, milp

from wardround_common.disclosure import Cuts, Figures, KeptBack, RowsOf, Rules, kept_back

LEAST = 5
PLACES = 8
Equation = tuple[Sequence[float], float]


def interval(what: Sequence[float], equations: Sequence[Equation]) -> tuple[float, float]:
    """Return the least and the greatest value of a sum of counts that the equations allow."""
    left = np.array([row for row, _ in equations], np.float64)
    right = np.array([value for _, value in equations], np.float64)
    ends = []
    for sign in (1.0, -1.0):
        found = milp(
            sign * np.array(what),
            constraints=LinearConstraint(left, right, right),
            integrality=np.ones(len(what)),
        )
        assert found.success
        ends.append(sign * found.fun)
    return ends[0], ends[1]


def unit(i: int, size: int) -> list[float]:
    return [float(i == j) for j in range(size)]


@given(st.lists(st.integers(0, 20), min_size=2, max_size=5))
@settings(deadline=None)
def test_each_hidden_count_of_a_row_may_be_anything_up_to_min_cell(counts: list[int]) -> None:
    """Also beside the row's total; a row of zeros but for one small count shows its total alone."""
    size = len(counts)
    shown = Rules(LEAST).counts(counts)
    equations = [(unit(i, size), float(one)) for i, one in enumerate(shown) if one is not None]
    equations.append(([1.0] * size, float(sum(counts))))
    hidden = [i for i, one in enumerate(shown) if one is None]
    for i in hidden if len(hidden) > 1 and sum(counts) >= LEAST else []:
        low, high = interval(unit(i, size), equations)
        assert high - low >= LEAST


# --- all metrics of a study ---


@st.composite
def rows(draw: st.DrawFn) -> np.ndarray:
    """Counts by outcome and cell of a line, often small ones."""
    of = draw(st.sampled_from([[0, 0, 0, 0, 0, 0, 1], [0, 0, 0, 3], [0, 1, 6, 9], [9]]))
    cells = st.lists(st.sampled_from(of), min_size=PLACES, max_size=PLACES)
    return np.array([draw(cells), draw(cells)])


def below(cells: np.ndarray, place: int) -> tuple[int, int]:
    few, many = cells[:, :place].sum(axis=1).tolist()
    return few, many


def cuts_at(cells: np.ndarray, places: Sequence[int]) -> tuple[Cuts, Cuts]:
    few, many = (
        {**{float(place): int(row[:place].sum()) for place in places}, math.inf: int(row.sum())}
        for row in cells
    )
    return few, many


NEEDED = [frozenset({"ill"}), frozenset({"ill", "crp"})]


@given(rows(), st.lists(st.integers(1, PLACES - 1), min_size=1, max_size=4))
def test_no_two_thresholds_of_a_model_have_few_rows_between_them(cells: np.ndarray, at: list[int]) -> None:
    of = RowsOf("test", "ill", NEEDED[0])
    figures = [Figures(of, "m", place / 10, below(cells, PLACES), below(cells, place)) for place in at]
    kept = kept_back(figures, LEAST)
    told = [one.below for one, its in zip(figures, kept, strict=True) if not its.calls]
    assert told and told[0] == figures[0].below
    for one, other in combinations(told, 2):
        assert all(abs(x - y) not in range(1, LEAST) for x, y in zip(one, other, strict=True))
    for one, its in zip(figures, kept, strict=True):
        others = {
            x.below
            for x, k in zip(figures, kept, strict=True)
            if not k.calls and x.threshold != one.threshold
        }
        assert its.beside == others
        assert its.curves is (one.threshold != figures[0].threshold)


@given(rows(), rows(), st.data())
def test_no_count_between_the_groups_of_two_analyses_is_small(
    kept_rows: np.ndarray, dropped: np.ndarray, data: st.DataObject
) -> None:
    """The rows of one lack those that the other drops; what both tell is told by any two of their cuts."""
    studied = data.draw(
        st.lists(
            st.tuples(st.integers(0, 1), st.sets(st.integers(1, PLACES - 1), min_size=1, max_size=3)),
            min_size=2,
            max_size=4,
        )
    )
    figures = []
    for i, (drops, places) in enumerate(studied):
        cells = kept_rows if drops else kept_rows + dropped
        groups = {"age": cuts_at(cells, sorted(places))}
        of = RowsOf("test", "ill", NEEDED[drops])
        figures.append(Figures(of, f"m{i}", 0.5, below(cells, PLACES), None, groups))
    told = [
        (one, drops)
        for one, its, (drops, _) in zip(figures, kept_back(figures, LEAST), studied, strict=True)
        if not its.outcomes and "age" not in its.groups
    ]
    assert told
    for (one, drops), (other, also) in combinations(told, 2):
        if drops == also and one.groups != other.groups:
            for mine, others in zip(one.groups["age"], other.groups["age"], strict=True):
                gaps = {
                    abs(x - y)
                    for place, x in mine.items()
                    for at, y in others.items()
                    if math.inf not in (place, at)
                }
                assert gaps.isdisjoint(range(1, LEAST))
        if drops != also:
            common = sorted(set(one.groups["age"][0]) & set(other.groups["age"][0]))
            ends = [0, *(PLACES if place == math.inf else int(place) for place in common)]
            for low, high in combinations(ends, 2):
                single = [dropped[i, low:high].sum() for i in (0, 1)]
                if ends.index(high) == ends.index(low) + 1:
                    assert all(not 0 < count < LEAST for count in single)


@given(rows(), rows())
def test_outcomes_that_differ_by_few_rows_are_told_of_one_analysis_alone(
    all_rows: np.ndarray, dropped: np.ndarray
) -> None:
    whole = Figures(RowsOf("test", "ill", NEEDED[0]), "a", outcomes=below(all_rows + dropped, PLACES))
    less = Figures(RowsOf("test", "ill", NEEDED[1]), "b", outcomes=below(all_rows, PLACES))
    for first, second in ((whole, less), (less, whole)):
        kept = kept_back([first, second], LEAST)
        few = [0 < count < LEAST for count in below(dropped, PLACES)]
        assert [one.outcomes for one in kept] == [False, any(few)]


def test_other_parts_other_outcomes_and_rows_of_neither_within_the_other_are_left_alone() -> None:
    of = RowsOf("test", "ill", frozenset({"ill", "crp"}))
    apart = [
        of,
        of._replace(part="train"),
        of._replace(outcome="dead"),
        of._replace(needed=frozenset({"ill", "age"})),
    ]
    figures = [Figures(one, "m", 0.5, (50 + i, 60), (20 + i, 30)) for i, one in enumerate(apart)]
    assert kept_back(figures, LEAST) == [KeptBack()] * 4


def test_the_same_threshold_and_groups_again_tell_nothing_new() -> None:
    groups: Mapping[str, Any] = {"age": tuple({1.0: 3, math.inf: total} for total in (40, 50))}
    one = Figures(RowsOf("test", "ill", NEEDED[0]), "m", 0.5, (40, 50), (20, 30), groups)
    assert kept_back([one, one], LEAST) == [KeptBack()] * 2
    other = list(kept_back([one, Figures(one.rows, "m2", 0.4, (40, 50), (20, 31), groups)], LEAST))
    assert other == [KeptBack()] * 2, "another model's risks are another line"


@given(st.lists(st.integers(0, 12), min_size=2, max_size=6))
def test_a_group_told_by_another_analysis_is_not_cut_in_two(counts: list[int]) -> None:
    """A band of which one entry's cut leaves few rows to another's is refused as a whole."""
    ends = list(accumulate(counts))
    cuts: tuple[Cuts, Cuts] = ({1.0: ends[0], math.inf: ends[-1]}, {1.0: 0, math.inf: 0})
    moved: tuple[Cuts, Cuts] = ({2.0: ends[1], math.inf: ends[-1]}, {2.0: 0, math.inf: 0})
    of = RowsOf("test", "ill", NEEDED[0])
    kept = kept_back([Figures(of, m, groups={"age": one}) for m, one in (("a", cuts), ("b", moved))], LEAST)
    assert kept[1].groups == (frozenset({"age"}) if 0 < counts[1] < LEAST else frozenset())


def test_groups_of_rows_that_one_analysis_lacks_are_no_small_counts() -> None:
    whole: tuple[Cuts, Cuts] = ({1.0: 30, math.inf: 70}, {1.0: 30, math.inf: 70})
    less: tuple[Cuts, Cuts] = ({1.0: 28, math.inf: 60}, {1.0: 20, math.inf: 60})
    figures = [
        Figures(RowsOf("test", "ill", needed), "m", 0.5, (total, total), groups={"age": groups})
        for needed, total, groups in zip(NEEDED, (70, 60), (whole, less), strict=True)
    ]
    assert [one.groups for one in kept_back(figures, LEAST)] == [frozenset(), frozenset({"age"})]
    assert [one.groups for one in kept_back(figures, 2)] == [frozenset(), frozenset()]
