"""The bootstrap's weights are Poisson's, the best cut is the best of all, and what is no tree is refused."""

from __future__ import annotations

from dataclasses import replace
from fractions import Fraction
from itertools import combinations
from math import exp, factorial

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import chisquare

from tests.analyses import slow_forest
from wardround_common import bootstrap
from wardround_common.bootstrap import MOST_WEIGHT, weights
from wardround_common.growing import Growing, Histograms, best_cuts, cuts_of
from wardround_common.rowkey import draws, row_keys
from wardround_common.trees import Bins, Trees

KEYS = row_keys(bytes(32), "", map(str, range(4096)))


def test_weights_have_poisson_frequencies() -> None:
    keys = draws(np.arange(1_000_000, dtype=np.uint64), "keys")
    shares = [exp(-1) / factorial(k) for k in range(MOST_WEIGHT)]
    expected = 1_000_000 * np.array([*shares, 1 - sum(shares)])
    found = [np.bincount(weights(keys, tree, 5), minlength=MOST_WEIGHT + 1) for tree in range(3)]
    for one in found:
        assert one.sum() == 1_000_000 and len(one) == MOST_WEIGHT + 1
        assert chisquare(one, expected).pvalue > 1e-3
    together = np.bincount(8 * weights(keys, 0, 5) + weights(keys, 1, 5), minlength=64).reshape(8, 8)
    independent = np.outer(found[0], found[1]) / 1_000_000
    large = independent > 20
    assert (
        chisquare(together[large], independent[large] * together[large].sum() / independent[large].sum())[1]
        > 1e-3
    )


def test_the_thresholds_are_the_distribution_function_in_exact_fractions() -> None:
    assert tuple(bootstrap._THRESHOLDS.tolist()) == slow_forest.thresholds()


@given(st.integers(0, 2**64 - 1), st.integers(0, 1999), st.integers(0, 2**53 - 1))
def test_a_weight_is_the_number_of_thresholds_at_or_below_the_draw(key: int, tree: int, seed: int) -> None:
    assert weights(np.array([key], np.uint64), tree, seed)[0] == slow_forest.weight(key, tree, seed)


def test_a_weight_depends_on_the_key_tree_and_seed_alone() -> None:
    whole = weights(KEYS, 3, 1)
    assert weights(KEYS[::-1], 3, 1)[::-1].tolist() == whole.tolist()
    assert np.concatenate([weights(KEYS[:9], 3, 1), weights(KEYS[9:], 3, 1)]).tolist() == whole.tolist()
    for other in (weights(KEYS, 4, 1), weights(KEYS, 3, 2)):
        assert abs(np.corrcoef(other, whole)[0, 1]) < 0.05


Bin = tuple[int, int, int]


@st.composite
def bins(draw: st.DrawFn) -> list[Bin]:
    """Return up to six bins, missing last: rows, weight and outcome."""
    found = []
    for rows in draw(st.lists(st.integers(0, 30), min_size=2, max_size=6)):
        weight = draw(st.integers(rows, 3 * rows))
        found.append((rows, weight, draw(st.integers(0, weight))))
    return found


@settings(max_examples=max(200, settings().max_examples))
@given(bins(), st.booleans(), st.integers(1, 12))
def test_the_best_cut_is_the_best_of_all(found: list[Bin], is_category: bool, leaf: int) -> None:
    leaf = 1 if is_category else leaf  # with larger leaves Breiman's theorem says nothing
    held = [i for i, one in enumerate(found) if one[0]]
    ways: list[set[int]]
    if is_category:
        ways = [set(one) for k in range(1, len(held)) for one in combinations(held, k)]
    else:
        below = [set(range(k)) for k in range(len(found))]
        ways = [*below, *({*one, len(found) - 1} for one in below)]
    allowed = {
        gain(found, one)
        for one in ways
        if min(rows(found, one), rows(found, set(range(len(found))) - one)) >= leaf
    }
    best = max(allowed, default=Fraction(0))
    cuts = cuts_from(found, is_category, leaf)
    if best == 0:
        assert not cuts.found[0]
        return
    assert cuts.found[0]
    left = {b for b in range(len(found)) if int(cuts.goes_left[0]) >> b & 1}
    assert float(gain(found, left) / best) == pytest.approx(1, abs=1e-12)
    for side, chosen in ((cuts.left, left), (cuts.right, set(range(len(found))) - left)):
        sums = [sum(found[b][i] for b in chosen) for i in range(3)]
        assert [side.rows[0], side.weight[0], side.outcome[0]] == sums
        assert sums[0] >= leaf


def cuts_from(found: list[Bin], is_category: bool, leaf: int):
    arrays = [np.array([[[one[i] for one in found]]]) for i in range(3)]
    return best_cuts(Histograms(*arrays), np.array([[is_category]]), leaf)


def rows(found: list[Bin], left: set[int]) -> int:
    return sum(found[b][0] for b in left)


def gain(found: list[Bin], left: set[int]) -> Fraction:
    """Return how much of the squared error a cut explains; 0 where it is none."""
    sides = [[one for b, one in enumerate(found) if (b in left) is side] for side in (True, False)]
    sums = [(sum(one[1] for one in side), sum(one[2] for one in side)) for side in sides]
    weight, outcome = (sum(pair) for pair in zip(*sums, strict=True))
    if not all(pair[0] for pair in sums):
        return Fraction(0)
    return sum((Fraction(y * y, w) for w, y in sums), -Fraction(outcome * outcome, weight))


def test_missing_values_alone_go_one_way_and_all_others_the_other() -> None:
    """A value that was not seen in the node goes where values went, not where their lack went."""
    for found in (
        [(0, 0, 0), (20, 20, 2), (0, 0, 0), (20, 20, 19)],
        [(0, 0, 0), (20, 20, 19), (0, 0, 0), (20, 20, 2)],
    ):
        assert int(cuts_from(found, False, 11).goes_left[0]) == 0b0111


@pytest.mark.parametrize(("heavier", "left"), [(2, 0b0001), (0, 0b1011)])
def test_a_level_that_was_not_seen_goes_where_more_weight_goes(heavier: int, left: int) -> None:
    found = [(20, 20, 0), (0, 0, 0), (20, 20, 20), (0, 0, 0)]
    found[heavier] = (20, 30, 30 if heavier == 2 else 0)
    assert int(cuts_from(found, True, 11).goes_left[0]) == left


@given(st.lists(st.integers(0, 40), min_size=1, max_size=40), st.integers(2, 63), st.integers(1, 30))
def test_bins_hold_min_cell_rows_and_end_between_occupied_cells(
    sizes: list[int], most: int, min_cell: int
) -> None:
    cells = np.array(sizes)
    cuts = cuts_of(cells, most, min_cell)
    assert len(cuts) < most and np.all(np.diff(cuts) > 0)
    if not len(cuts):
        return
    held = np.bincount(np.searchsorted(cuts, np.arange(len(cells)) + 0.5), cells)
    assert len(held) == len(cuts) + 1
    assert held.min() >= min_cell
    for cut in cuts:
        assert cells[: int(np.floor(cut))].sum() + cells[int(np.ceil(cut)) :].sum() == cells.sum()


def stump(**changes: object) -> Trees:
    arrays = {
        "tree": np.array([0, 1, 0, 0]),
        "variable": np.array([0, -1, -1, -1]),
        "goes_left": np.array([1, 0, 0, 0], np.uint64),
        "left": np.array([2, 0, 0, 0]),
        "value": np.array([0.5, 0.2, 0.1, 0.9]),
    }
    return Trees(**{**arrays, **changes})


def test_a_row_goes_left_where_its_bin_has_a_bit() -> None:
    binned = np.array([[0, 1, 2, 63]], np.uint8)
    assert stump().count == 2
    assert stump().leaves(np.array([0, 1]), binned).tolist() == [[2, 3, 3, 3], [1, 1, 1, 1]]
    all_bits = stump(goes_left=np.array([1 << 63, 0, 0, 0], np.uint64))
    assert all_bits.leaves(np.array([0]), binned).tolist() == [[3, 3, 3, 2]]


@pytest.mark.parametrize(
    "changes",
    [
        {"left": np.array([0, 0, 0, 0])},
        {"left": np.array([3, 0, 0, 0])},
        {"left": np.array([-1, 0, 0, 0])},
        {"value": np.zeros(3)},
        {"tree": np.array([1, 0, 0, 0])},
        {"tree": np.array([0, 2, 0, 0])},
        {"tree": np.array([-1, -1, -1, -1])},
        {name: np.zeros(0, np.uint64 if name == "goes_left" else np.int64) for name in vars(stump())},
    ],
)
def test_trees_whose_nodes_do_not_belong_together_are_refused(changes: dict[str, np.ndarray]) -> None:
    with pytest.raises(ValueError, match=r"trees (whose|without)"):
        stump(**changes)


def test_a_node_that_asks_for_a_variable_that_there_is_not_is_refused() -> None:
    with pytest.raises(IndexError):
        stump(variable=np.array([7, -1, -1, -1])).leaves(np.array([0]), np.zeros((2, 3), np.uint8))


@pytest.mark.parametrize(
    "changes",
    [
        {"starts": np.array([0, 2])},
        {"starts": np.array([0, 1, 3])},
        {"starts": np.array([1, 2, 2])},
        {"starts": np.array([0, 3, 2])},
        {"levels": np.array([0, 64])},
        {"levels": np.array([-1, 2])},
        {"names": ()},
    ],
)
def test_bins_that_do_not_belong_to_their_variables_are_refused(changes: dict[str, object]) -> None:
    good = Bins(("a", "b"), np.array([1.0, 2.0]), np.array([0, 2, 2]), np.array([0, 3]))
    assert good.counts.tolist() == [3, 3] and good.missing == 3
    with pytest.raises(ValueError, match="bins"):
        replace(good, **changes)


def test_parts_hold_each_active_node_once_tree_by_tree() -> None:
    growing = Growing(
        Bins(("a", "b"), np.array([1.0, 2.0]), np.array([0, 2, 2]), np.array([0, 3])), 50, 2, 11, 4
    )
    for limit in (1, 8, 30, 10**6):
        parts = growing.parts(limit)
        nodes = [part.first + int(part.trees.tree[node]) for part in parts for node in part.nodes]
        assert nodes == list(range(50))
        assert max(part.features.size * 4 for part in parts) <= max(limit, 8)
        assert len({tuple(part.features[0]) for part in growing.parts(8)}) == 2, "variables never differ"
