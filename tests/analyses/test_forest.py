"""A forest keeps the contract, is the slow one node for node, and predicts as well as scikit-learn's."""

from __future__ import annotations

from bisect import bisect_right
from typing import Any, ClassVar

import numpy as np
import pandas as pd
import pytest
from sklearn.ensemble import RandomForestClassifier, RandomForestRegressor
from sklearn.metrics import r2_score, roc_auc_score

from tests.analyses import slow_forest
from tests.analyses.contract import AnalysisContract, cohorts, driven, pooled
from tests.support import (
    VARIABLES,
    cohort_of,
    drive,
    federate,
    layout_of,
    patients,
    published,
    study_data,
    study_of,
)
from wardround_common.analyses import forest as analysis
from wardround_common.analyses.forest import OUTCOME_BITS, ForestFit
from wardround_common.bootstrap import weights
from wardround_common.cohort import Cohort
from wardround_common.errors import FitError, StudyError
from wardround_common.growing import Growing
from wardround_common.plan import Findings
from wardround_common.study import Study, parse_study
from wardround_common.trees import Bins

FOREST = {"kind": "forest", "trees": 5, "depth": 3, "bins": 8}
YEARS = {str(age): [age] for age in range(18, 80)}
MANY = {
    **VARIABLES,
    "year": {"kind": "category", "column": "age", "levels": {**YEARS, "80+": list(range(80, 101))}},
}
CHOL = {"outcome": "chol", "predictors": ["age", "bmi", "sex", "cp", "disease"]}


def forest(**changes: Any) -> dict[str, Any]:
    return {**FOREST, **changes}


class TestForest(AnalysisContract):
    studies: ClassVar = {
        "imputed": study_of(forest()),
        "dropped, rows held out": study_of(
            forest(depth=2, trees=3),
            missing="drop",
            split={"column": "fold", "test": "0"},
            privacy={"min_rows": 1},
        ),
        "all features, subgroups": study_of(
            forest(features="all", depth=2, bins=4, leaf=30, trees=3, subgroups={"sex": []}, threshold=0.4)
        ),
        "a number": study_of(forest(**CHOL, trees=3)),
        "many levels": parse_study(
            study_data([forest(predictors=["year", "chol", "cp"], trees=3)], variables=MANY)
        ),
    }

    def test_equals_the_slow_forest_node_for_node(self, study: Study) -> None:
        fit = fitted(study, pooled(study))
        rows = rows_of(study, pooled(study), fit)
        assert fit.n == len(rows)
        for tree in range(fit.model.trees.count):
            slow = slow_forest.grow(rows, tree, settings_of(study, fit))
            same(slow, tree, study, fit)
            assert all(leaf.rows >= fit.leaf for leaf in slow_forest.leaves(slow))

    def test_predictions_equal_a_walk_of_each_row_through_the_slow_trees(self, study: Study) -> None:
        fit = fitted(study, pooled(study))
        rows = rows_of(study, pooled(study), fit)
        trees = [
            slow_forest.grow(rows, tree, settings_of(study, fit)) for tree in range(fit.model.trees.count)
        ]
        everyone = rows_of(study, pooled(study), fit, everyone=True)
        (block,) = pooled(study).blocks()
        offset, unit = unit_of(study)
        walked = [
            float(sum(slow_forest.predict(tree, row.bins) for tree in trees) / len(trees)) for row in everyone
        ]
        found = fit.model.output(block)
        np.testing.assert_allclose(found, offset + unit * np.array(walked), rtol=1e-12, atol=1e-15)
        if fit.model.classifies:
            np.testing.assert_array_equal(fit.model.risk(found), found)
            clipped = np.clip(found, 2.0**-10, 1 - 2.0**-10)
            np.testing.assert_allclose(
                fit.model.log_odds(found), np.log(clipped / (1 - clipped)), rtol=1e-12, atol=1e-12
            )
            assert np.abs(fit.model.log_odds(found)).max() <= fit.model.log_odds_bound

    def test_what_is_published_is_the_size_of_the_forest(self, study: Study) -> None:
        fit, (spec,) = fitted(study, pooled(study)), study.analyses
        shown = published(study, driven(study).findings)["analyses"]["forest"]
        assert (shown["trees"], shown["depth"]) == (spec.trees, spec.depth)
        assert shown["leaf"] == max(spec.leaf or 0, 11)
        assert shown["features"] == {"sqrt": int(len(spec.predictors) ** 0.5)}.get(
            spec.features, len(spec.predictors)
        )
        assert shown["leaves"] == fit.model.trees.variable.tolist().count(-1)
        assert shown["model_sha256"] == fit.model.sha256
        assert shown["rounds"] >= 1 + 1 + 1


def fitted(study: Study, cohort: Cohort) -> ForestFit:
    """Return the study's forest over a cohort."""
    found = driven(study) if cohort is pooled(study) else drive(study, cohort)
    result = found.findings.analyses["forest"].result
    assert isinstance(result, ForestFit)
    return result


def categories_of(study: Study) -> frozenset[str]:
    return frozenset(name for name, one in study.dictionary.items() if one.kind == "category")


def unit_of(study: Study) -> tuple[float, float]:
    """Return offset and size of the unit in which the outcome is summed."""
    outcome = study.analyses[0].outcome
    if outcome in categories_of(study):
        return 0.0, 1.0
    low, high = study.dictionary.number(outcome).range
    return low, (high - low) / 2**OUTCOME_BITS


def settings_of(study: Study, fit: ForestFit) -> slow_forest.Settings:
    spec, bins = study.analyses[0], fit.model.bins
    return slow_forest.Settings(
        bins.names, categories_of(study), bins.missing, fit.tried, fit.leaf, spec.depth, spec.seed
    )


def rows_of(study: Study, cohort: Cohort, fit: ForestFit, everyone: bool = False) -> list[slow_forest.Row]:
    """Return the training rows, or ``everyone``, one by one as the slow forest takes them."""
    bins, spec = fit.model.bins, study.analyses[0]
    edges = {name: bins.edges_of(i).tolist() for i, name in enumerate(bins.names)}
    offset, unit = unit_of(study)
    found = []
    for i, key in enumerate(cohort.keys.values.tolist()):
        cells = {name: column[i].item() for name, column in cohort.columns.items()}
        lacks = {name for name, cell in cells.items() if cell != cell or cell == -1}
        held_out = cohort.held_out is not None and bool(cohort.held_out[i])
        if not everyone and (held_out or lacks & set(spec.needed())):
            continue
        own = {}
        for name in bins.names:
            place = cells[name] if name in categories_of(study) else bisect_right(edges[name], cells[name])
            own[name] = bins.missing if name in lacks else place
        y = 0 if spec.outcome in lacks else round((cells[spec.outcome] - offset) / unit)
        found.append(slow_forest.Row(key, own, y))
    return found


def same(slow: slow_forest.Node, node: int, study: Study, fit: ForestFit) -> None:
    """Check a node and all below it, but for what is below a tie that was broken the other way."""
    trees, bins = fit.model.trees, fit.model.bins
    offset, unit = unit_of(study)
    assert trees.value[node] == offset + unit * float(slow.value)
    if slow.variable is None:
        assert trees.variable[node] == -1
        return
    variable, goes_left = bins.names[trees.variable[node]], int(trees.goes_left[node])
    left = {b for b in range(64) if goes_left >> b & 1}
    if (variable, left) != (slow.variable, slow.left) and slow.ties:
        assert any((variable, left & cut.seen) == (cut.variable, cut.left & cut.seen) for cut in slow.ties)
        return
    assert (variable, left) == (slow.variable, slow.left)
    same(slow.children[0], int(trees.left[node]), study, fit)
    same(slow.children[1], int(trees.left[node]) + 1, study, fit)


@pytest.mark.parametrize("outcome", [{}, CHOL], ids=["two levels", "a number"])
@pytest.mark.parametrize("seed", [1, 2, 3])
def test_deep_trees_equal_the_slow_ones_whichever_way_missing_values_go(
    outcome: dict[str, Any], seed: int
) -> None:
    study = study_of(forest(**outcome, trees=3, depth=6, bins=20, seed=seed, features=3))
    cohort = cohort_of(study, patients(500, seed))
    fit = fitted(study, cohort)
    rows = rows_of(study, cohort, fit)
    ways = set()
    for tree in range(3):
        slow = slow_forest.grow(rows, tree, settings_of(study, fit))
        same(slow, tree, study, fit)
        for node in inner_of(slow):
            kind = "category" if node.variable in categories_of(study) else "number"
            ways.add((kind, "left" if fit.model.bins.missing in node.left else "right"))
    assert len(ways) == 4, "some way was not tried"


def inner_of(node: slow_forest.Node) -> list[slow_forest.Node]:
    """Return the nodes that are cut."""
    if node.variable is None:
        return []
    return [node, *(one for child in node.children for one in inner_of(child))]


@pytest.mark.parametrize("leaf", [11, 40])
def test_every_leaf_holds_enough_distinct_rows_of_its_sample(leaf: int) -> None:
    study = study_of(forest(trees=10, depth=10, bins=30, leaf=leaf))
    fit = fitted(study, pooled(study))
    (block,) = pooled(study).blocks()
    binned, trees = fit.model.bins.of(block), fit.model.trees
    fullest = 0
    for tree in range(10):
        drawn = weights(block.keys, tree, 0) > 0
        ends, rows = np.unique(trees.leaves(np.array([tree]), binned)[0][drawn], return_counts=True)
        assert set(ends) == set(np.flatnonzero((trees.tree == tree) & (trees.variable < 0)))
        assert rows.min() >= leaf
        fullest = max(fullest, rows.max())
    assert fullest > leaf


def test_bins_hold_min_cell_rows_and_are_near_equal() -> None:
    study = study_of(forest(bins=20))
    fit = fitted(study, pooled(study))
    bins = fit.model.bins
    (block,) = pooled(study).blocks()
    binned = bins.of(block)
    for i, name in enumerate(bins.names):
        rows = np.bincount(binned[i][block.observed(name)], minlength=bins.counts[i])
        assert len(rows) == bins.counts[i]
        assert rows.min() >= 11
        if bins.levels[i] == 0:
            assert 15 <= len(rows) <= 20
            assert rows.max() <= 2 * len(block.keys) / 20
        assert set(binned[i][~block.observed(name)]) <= {bins.missing}


def test_a_value_on_an_edge_is_in_the_bin_above() -> None:
    study = study_of(forest())
    bins = fitted(study, pooled(study)).model.bins
    edges = bins.edges_of(bins.names.index("chol"))
    for shift, places in ((0.0, range(1, len(edges) + 1)), (-1e-9, range(len(edges)))):
        (block,) = cohort_of(study, patients().head(len(edges)).assign(chol=edges + shift)).blocks()
        assert bins.of(block)[bins.names.index("chol")].tolist() == list(places)


def test_a_forest_is_one_whatever_a_query_may_hold(monkeypatch: pytest.MonkeyPatch) -> None:
    study = study_of(forest(trees=7, depth=6, bins=12))
    whole = drive(study, pooled(study))
    least = fitted(study, pooled(study)).tried * (fitted(study, pooled(study)).model.bins.missing + 1)
    for cells in (1, least, 5 * least + 1):
        monkeypatch.setattr(analysis, "MOST_CELLS", cells)
        parts = drive(study, pooled(study))
        rounds = [one.findings.analyses["forest"].rounds for one in (parts, whole)]
        assert rounds[0] > rounds[1], "a level takes several rounds where it is large"
        assert without_rounds(study, parts.findings) == without_rounds(study, whole.findings)
        sizes = [layout_of(study, one).size for one in parts.asked if one.query.kind == "forest.splits"]
        assert max(sizes) <= 3 * max(cells, least)
        assert len(sizes) > sum(one.query.kind == "forest.splits" for one in whole.asked)


def without_rounds(study: Study, findings: Findings) -> dict[str, Any]:
    shown = published(study, findings)
    shown["analyses"]["forest"]["rounds"] = None
    return shown


def test_no_query_of_splits_is_larger_than_16_mebibytes() -> None:
    growing = Growing(bins_wide(), 2000, 64, 11, 0)
    parts = growing.parts(analysis.MOST_CELLS)
    assert sum(len(part.nodes) for part in parts) == 2000
    sizes = [part.features.size * (bins_wide().missing + 1) * 3 * 8 for part in parts]
    assert len(parts) > 5 and max(sizes) <= 16 << 20


def bins_wide() -> Bins:
    """Return the bins of 64 categories of 63 levels."""
    names = tuple(f"v{i}" for i in range(64))
    return Bins(names, np.zeros(0), np.zeros(65, np.int64), np.full(64, 63))


def test_rounds_grow_with_depth_and_not_with_trees() -> None:
    def levels(**changes: Any) -> int:
        study, seen = study_of(forest(**changes)), []
        federate(study, cohorts(study, 3), observe=seen.append)
        return sum(("forest", "forest.splits") in one.kinds for one in seen)

    assert levels(trees=2) == levels(trees=40) == 3
    assert levels(trees=2, depth=5) == 5


def test_trees_differ_and_another_seed_gives_others() -> None:
    one = fitted(study := study_of(forest()), pooled(study)).model.trees
    two = fitted(study := study_of(forest(seed=1)), pooled(study)).model.trees
    assert len(set(one.value[:5].tolist())) == 5
    assert len({*one.value[:5].tolist(), *two.value[:5].tolist()}) == 10


def test_adding_trees_leaves_those_before_as_they_were() -> None:
    few = fitted(study := study_of(forest(trees=3)), pooled(study)).model
    more = fitted(study := study_of(forest(trees=6)), pooled(study)).model
    (block,) = pooled(study).blocks()
    binned = few.bins.of(block)
    for tree in range(3):
        np.testing.assert_array_equal(
            few.trees.value[few.trees.leaves(np.array([tree]), binned)],
            more.trees.value[more.trees.leaves(np.array([tree]), binned)],
        )


def test_leaf_is_never_below_min_cell() -> None:
    for leaf, least in ((1, 20), (19, 20), (25, 25), (None, 20)):
        study = study_of(forest(leaf=leaf), privacy={"min_cell": 20})
        assert fitted(study, pooled(study)).leaf == least


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"predictors": ["age", "chol", "age:chol"]}, r"predictors\[2\]: `age:chol` is an interaction"),
        ({"features": 6}, "features: there are 5 predictors only"),
        ({"features": "half"}, "features"),
        ({"outcome": "cp"}, "outcome: `cp` must be a category of two levels or a number"),
        ({"outcome": "chol", "threshold": 0.5}, "threshold: `chol` is a number"),
        ({"outcome": "chol", "subgroups": {"sex": []}}, "subgroups: `chol` is a number"),
        ({"predictors": []}, "predictors: a forest model needs at least one"),
        ({"bins": 64}, r"analyses\[0\].bins"),
        ({"bins": 1}, r"analyses\[0\].bins"),
        ({"depth": 33}, r"analyses\[0\].depth"),
        ({"trees": 0}, r"analyses\[0\].trees"),
        ({"feature": 2}, "unknown key.*did you mean `features`"),
    ],
)
def test_a_forest_that_cannot_be_is_refused_by_key(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(StudyError, match=message):
        study_of(forest(**changes))


def test_a_category_may_have_63_levels_and_no_more() -> None:
    for levels, fits in ((63, True), (64, False)):
        ward = {"kind": "category", "levels": [f"w{i}" for i in range(levels)]}
        data = study_data([forest(predictors=["ward"])], variables={**VARIABLES, "ward": ward})
        if fits:
            parse_study(data)
            continue
        with pytest.raises(StudyError, match=r"predictors\[0\]: `ward` has more than 63 levels; gather some"):
            parse_study(data)


def test_rows_of_one_outcome_teach_nothing() -> None:
    frame = patients().assign(disease=0)
    study = study_of(forest())
    with pytest.raises(FitError, match="all 600 training rows have the same outcome `disease`"):
        drive(study, cohort_of(study, frame))
    study = study_of(forest(**CHOL))
    with pytest.raises(FitError, match="same outcome `chol`"):
        drive(study, cohort_of(study, patients().assign(chol=200.0)))


def test_ten_rows_a_predictor_are_needed() -> None:
    study = study_of(forest())
    with pytest.raises(StudyError, match=r"5 predictors for 49 training rows.*name fewer `predictors`"):
        drive(study, cohort_of(study, patients().head(49)))
    assert fitted(study, cohort_of(study, patients().head(50))).n == 50


def test_a_variable_without_any_order_in_its_values_is_no_error() -> None:
    """A number of one value, one that is always missing, and a level that never occurs have no cut."""
    frame = patients().assign(bmi=20.0, chol=np.nan)
    study = study_of(forest(features="all"), privacy={"min_hospitals": 2})
    with pytest.raises(StudyError, match="observed at too few hospitals: `chol`"):
        drive(study, cohort_of(study, frame))
    frame["chol"] = np.where(frame["id"] == 0, 300.0, np.nan)
    fit = fitted(study, cohort_of(study, frame))
    assert fit.model.bins.counts.tolist() == [8, 1, 1, 2, 4]
    used = set(fit.model.trees.variable.tolist()) - {-1}
    assert used <= {0, 3, 4}


def test_an_outcome_that_fills_little_of_its_range_is_learned_too() -> None:
    """A gain is small beside the square of the mean, and yet no rounding."""
    frame = patients().assign(bmi=lambda one: 499_995.0 + 10 * (one["age"] > 60))
    variables = {**VARIABLES, "bmi": {"kind": "number", "range": [0, 1e6]}}
    spec = forest(outcome="bmi", predictors=["age", "chol"], features="all")
    study = parse_study(study_data([spec], variables=variables))
    cohort = cohort_of(study, frame)
    (block,) = cohort.blocks()
    found = fitted(study, cohort).model.output(block)
    assert found[frame["age"] < 50].max() < 499_997
    assert found[frame["age"] > 70].min() > 500_003


NUMBERS = ["age", "chol", "bmi", "sex", "cp"]


@pytest.mark.parametrize("of_number", [False, True], ids=["two levels", "a number"])
def test_predicts_held_out_rows_as_well_as_scikit_learn(of_number: bool) -> None:
    ours, theirs = [], []
    for seed in range(3):
        train, test = (with_signal(patients(1500, part + seed)) for part in (20, 40))
        spec = forest(trees=60, depth=7, bins=32, seed=seed, features="third")
        if of_number:
            spec |= {"outcome": "ldl", "predictors": NUMBERS, "features": "all"}
        variables = {**VARIABLES, "ldl": {"kind": "number", "range": [0, 400]}}
        study = parse_study(study_data([spec], predictors=NUMBERS, variables=variables))
        (block,) = cohort_of(study, test).blocks()
        found = fitted(study, cohort_of(study, train)).model.output(block)
        kind = RandomForestRegressor if of_number else RandomForestClassifier
        other = kind(
            60, max_depth=7, min_samples_leaf=11, max_features=None if of_number else 1, random_state=seed
        )
        outcome = "ldl" if of_number else "disease"
        other.fit(train[NUMBERS], train[outcome])
        if of_number:
            ours.append(r2_score(test[outcome], found))
            theirs.append(r2_score(test[outcome], other.predict(test[NUMBERS])))
        else:
            ours.append(roc_auc_score(test[outcome], found))
            theirs.append(roc_auc_score(test[outcome], other.predict_proba(test[NUMBERS])[:, 1]))
    assert min(theirs) > 0.6, "no signal"
    np.testing.assert_allclose(ours, theirs, atol=0.02)
    assert np.mean(ours) == pytest.approx(np.mean(theirs), abs=0.01)


def with_signal(frame: pd.DataFrame) -> pd.DataFrame:
    """Add a number that follows from age, chol and sex, and from whether chol is missing."""
    chol = frame["chol"].fillna(450)
    wave = 60 * np.abs(np.arange(len(frame)) % 7 - 3) / 3
    return frame.assign(ldl=frame["age"] + chol / 5 + 30 * (frame["sex"] * (frame["age"] > 60)) + wave)
