"""Evaluation keeps the contract, and equals scikit-learn's and statsmodels' metrics of the same scores."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from itertools import pairwise
from typing import Any, ClassVar

import numpy as np
import pandas as pd
import pytest
import statsmodels.api as sm
from hypothesis import example, given, settings
from hypothesis import strategies as st
from scipy.optimize import linprog
from sklearn.metrics import (
    brier_score_loss,
    confusion_matrix,
    mean_absolute_error,
    mean_squared_error,
    r2_score,
    recall_score,
    roc_auc_score,
    roc_curve,
)

from tests.analyses import oracle
from tests.analyses.contract import AnalysisContract, driven, pooled
from tests.support import (
    VARIABLES,
    bands_of,
    cohort_of,
    drive,
    federate,
    patients,
    published,
    study_of,
    tables_of,
)
from wardround_common.analyses.evaluate import Evaluation
from wardround_common.disclosure import Rules
from wardround_common.errors import StudyError
from wardround_common.evaluation.bands import MOST_STEPS, Band, Bands, Step, curves, cut
from wardround_common.evaluation.scores import CELLS
from wardround_common.evaluation.subgroups import Division, Subgroup
from wardround_common.plan import Findings
from wardround_common.study import Study

PREDICTORS = ["age", "chol", "sex", "cp"]
LOGISTIC = {"kind": "logistic", "predictors": PREDICTORS}
FOREST = {"kind": "forest", "trees": 2, "depth": 2, "bins": 8}


class TestEvaluate(AnalysisContract):
    studies: ClassVar = {
        "held-out rows, imputed": study_of(
            LOGISTIC,
            {"kind": "evaluate", "model": "logistic", "threshold": 0.3},
            split={"column": "fold", "test": "0"},
        ),
        "held-out rows, dropped": study_of(
            LOGISTIC,
            {"kind": "evaluate", "model": "logistic", "threshold": 0.3},
            split={"column": "fold", "test": "0"},
            missing="drop",
            privacy={"min_rows": 1},
        ),
        "drawn rows, another threshold": study_of(
            {**LOGISTIC, "ridge": 2, "threshold": 0.6},
            {"kind": "evaluate", "name": "again", "model": "logistic", "threshold": 0.2, "part": "train"},
            split={"test": 0.4, "seed": 9},
        ),
        "subgroups": study_of(
            {**LOGISTIC, "ridge": 1, "subgroups": {"sex": []}},
            {"kind": "evaluate", "model": "logistic", "part": "train", "subgroups": {"chol": [250, 400]}},
        ),
    }

    def test_equals_metrics_that_other_libraries_compute_from_the_scores(self, study: Study) -> None:
        findings = driven(study).findings
        results = published(study, findings)["analyses"]
        assert list(results["logistic"]["metrics"]) == list(parts_of(study))
        for spec in study.analyses[1:]:
            assert set(results[spec.label]["metrics"]) == {spec.part}
        for label, found in results.items():
            for part, shown in found["metrics"].items():
                alone = evaluation_of(findings, label, part).published(Rules(11))
                check(alone, *scores(study, part))
                figures = {key: one for key, one in shown.items() if isinstance(one, int | float)}
                assert figures == {key: alone[key] for key in figures} and "auc" in figures

    def test_curves_are_those_of_scikit_learn_at_their_thresholds(self, study: Study) -> None:
        for label, found in driven(study).findings.analyses.items():
            for part in [one.part for one in found.evaluations]:
                evaluation = evaluation_of(driven(study).findings, label, part)
                own = steps_of(evaluation.bands)
                check_curves(evaluation.published(Rules(11))["curves"], own, *scores(study, part))
                for steps in own:
                    assert 5 <= len(steps) <= MOST_STEPS
                    assert all(step.count >= 11 for step in steps)

    def test_subgroups_equal_those_that_pandas_makes(self, study: Study) -> None:
        results = published(study, driven(study).findings)["analyses"]
        for spec in study.analyses:
            for part, shown in results[spec.label]["metrics"].items():
                assert list(shown["subgroups"]) == sorted(spec.subgroups)
                for name, groups in shown["subgroups"].items():
                    cuts, at = spec.subgroups[name], shown["threshold"]
                    check_subgroups(groups, name, cuts, at, *scores(study, part))


class TestEvaluateNumber(AnalysisContract):
    studies: ClassVar = {
        "a number": study_of(
            {**FOREST, "outcome": "chol", "predictors": ["age", "bmi", "sex", "disease"]},
            {"kind": "evaluate", "model": "forest", "part": "train"},
            split={"column": "fold", "test": "0"},
        )
    }

    def test_equals_metrics_that_other_libraries_compute_from_the_predictions(self, study: Study) -> None:
        found = driven(study).findings
        (block,) = pooled(study).blocks()
        predicted = found.analyses["forest"].result.model.output(block)
        results = published(study, found)["analyses"]
        for part, shown in [*results["forest"]["metrics"].items(), *results["evaluate"]["metrics"].items()]:
            rows = patients()["chol"].notna() & ((patients()["fold"] == 0) == (part == "test"))
            y, f = patients()["chol"][rows], predicted[rows]
            line = sm.OLS(y, sm.add_constant(f)).fit().params
            assert shown == {
                "n": rows.sum(),
                "rmse": pytest.approx(np.sqrt(mean_squared_error(y, f)), rel=1e-9),
                "mae": pytest.approx(mean_absolute_error(y, f), rel=1e-9),
                "r2": pytest.approx(r2_score(y, f), rel=1e-9, abs=1e-9),
                "calibration_intercept": pytest.approx(line["const"], rel=1e-9, abs=1e-9),
                "calibration_slope": pytest.approx(line["x1"], rel=1e-9, abs=1e-9),
            }

    def test_rows_of_one_hospital_or_of_few_are_refused(self, study: Study) -> None:
        few = patients().copy()
        held_out = np.flatnonzero((few["fold"] == 0) & few["chol"].notna())
        few.loc[few.index[held_out[10:]], "fold"] = 1
        shown = published(study, drive(study, cohort_of(study, few)).findings)["analyses"]["forest"][
            "metrics"
        ]
        assert (shown["test"]["state"], shown["test"]["n"]) == ("refused", None)
        assert shown["train"]["r2"] is not None
        alone = {name: table.assign(fold=1) for name, table in tables_of(4).items()}
        alone["h03"] = tables_of(4)["h03"]
        shown = metrics(study, federate(study, {n: cohort_of(study, t, n) for n, t in alone.items()}))
        assert shown["test"]["state"] == "refused"

    def test_an_outcome_and_predictions_that_do_not_vary_have_no_r2_and_no_line(self, study: Study) -> None:
        frame = patients()
        frame = frame.assign(chol=frame["chol"].where((frame["fold"] > 0) | frame["chol"].isna(), 300.0))
        for name in ("age", "bmi"):
            frame[name] = frame[name].where(frame["fold"] > 0, 40.0)
        frame = frame.assign(**{name: frame[name].where(frame["fold"] > 0, 0) for name in ("sex", "disease")})
        shown = published(study, drive(study, cohort_of(study, frame)).findings)["analyses"]["forest"][
            "metrics"
        ]
        assert shown["test"]["r2"] is None
        assert shown["test"]["calibration_intercept"] is None and shown["test"]["calibration_slope"] is None
        assert shown["test"]["rmse"] == pytest.approx(shown["test"]["mae"], rel=1e-9)


def metrics(study: Study, findings: Findings) -> dict[str, Any]:
    """Return the published figures of the study's model, by part."""
    found: dict[str, Any] = published(study, findings)["analyses"][study.analyses[0].label]["metrics"]
    return found


def parts_of(study: Study) -> tuple[str, ...]:
    return ("train",) if study.split is None else ("train", "test")


def evaluation_of(findings: Findings, label: str, part: str) -> Evaluation:
    (found,) = [one for one in findings.analyses[label].evaluations if one.part == part]
    assert isinstance(found, Evaluation)
    return found


def scores(study: Study, part: str) -> tuple[pd.Series, np.ndarray]:
    """Return outcome and linear predictor of the rows of a part, from the published coefficients."""
    frame = patients()
    held_out = pooled(study).part("test")
    if study.missing == "drop":
        frame = frame[frame[PREDICTORS].notna().all(axis=1)]
    test = held_out[frame.index]
    shown = published(study, driven(study).findings)["analyses"]["logistic"]["coefficients"]
    value = pd.Series({term: found["value"] for term, found in shown.items()})
    train = frame[~test]
    terms = oracle.columns(frame[test] if part == "test" else train, train, PREDICTORS)
    return oracle.outcome(frame.loc[terms.index]), value["intercept"] + terms @ value[terms.columns]


def check(shown: dict[str, Any], y: pd.Series, eta: np.ndarray) -> None:
    p = 1 / (1 + np.exp(-eta))
    called = p >= shown["threshold"]
    assert shown["n"] == len(y)
    assert shown["auc"] == pytest.approx(roc_auc_score(y, eta), abs=1e-4)
    assert shown["prevalence"] == pytest.approx(y.mean(), abs=1e-12)
    assert shown["accuracy"] == pytest.approx(np.mean(called == (y == 1)), abs=1e-12)
    assert shown["brier"] == pytest.approx(brier_score_loss(y, p), abs=1e-9)
    table = confusion_matrix(y, called)
    if 0 < table.min() < 11:
        assert shown["sensitivity"] is None and shown["specificity"] is None
    else:
        assert shown["sensitivity"] == pytest.approx(called[y == 1].mean(), abs=1e-12)
        assert shown["specificity"] == pytest.approx((~called)[y == 0].mean(), abs=1e-12)
    line = sm.Logit(y, sm.add_constant(eta.rename("eta"))).fit(method="newton", tol=1e-14, disp=False).params
    assert shown["calibration_intercept"] == pytest.approx(line["const"], rel=1e-8, abs=1e-8)
    assert shown["calibration_slope"] == pytest.approx(line["eta"], rel=1e-8, abs=1e-8)
    check_table(shown["calibration"], y, p)


def check_table(shown: list[dict[str, float]], y: pd.Series, p: pd.Series) -> None:
    """The groups are runs of rows in order of risk, each with min_cell rows of either outcome."""
    in_order = np.argsort(p.to_numpy(), kind="stable")
    y, p = y.to_numpy()[in_order], p.to_numpy()[in_order]
    assert sum(group["n"] for group in shown) == len(y)
    start = 0
    for group in shown:
        rows = slice(start, start + group["n"])
        assert group["observed"] == pytest.approx(y[rows].mean(), abs=1e-12)
        assert group["predicted"] == pytest.approx(p[rows].mean(), abs=1e-9)
        assert {y[rows].sum(), (1 - y[rows]).sum()}.isdisjoint(range(1, 11))
        start += group["n"]


def steps_of(bands: Bands) -> tuple[list[Step], list[Step]]:
    """Return the steps of rows without and with the outcome, from the lowest risk up."""
    without, with_outcome = ([step for band in bands.bands for step in band.steps[i]] for i in (0, 1))
    return without, with_outcome


def check_curves(
    shown: dict[str, list[float]], own: tuple[list[Step], list[Step]], y: pd.Series, eta: pd.Series
) -> None:
    """At an outcome's own thresholds its rate is scikit-learn's, elsewhere it lies between the nearest."""
    y, p = y.to_numpy(), 1 / (1 + np.exp(-eta.to_numpy()))
    fpr, tpr, at = roc_curve(y, p, drop_intermediate=False)
    assert len({len(column) for column in shown.values()}) == 1 and shown["threshold"]
    assert np.all(np.diff(shown["threshold"]) < 0)
    exact = [{step.low for step in steps if step.low > 0} for steps in own]
    assert set(shown["threshold"]) == exact[0] | exact[1]
    for t, true, false, precision, benefit in zip(*shown.values(), strict=True):
        assert t * CELLS == pytest.approx(round(t * CELLS), abs=1e-6), "not the end of a cell"
        assert np.abs(p - t).min() > 1e-9, "the two sides of the threshold are in doubt"
        vertex = np.flatnonzero(at >= t)[-1]
        for rate, expected, known in ((false, fpr, exact[0]), (true, tpr, exact[1])):
            if t in known:
                assert rate == pytest.approx(expected[vertex], rel=1e-12, abs=1e-12)
            assert rate == pytest.approx(expected[vertex], abs=0.1)
        tp, fp = true * (y == 1).sum(), false * (y == 0).sum()
        assert precision == pytest.approx(tp / (tp + fp), rel=1e-12)
        assert benefit == pytest.approx(tp / len(y) - fp / len(y) * t / (1 - t), rel=1e-12, abs=1e-12)


def check_subgroups(
    shown: list[dict[str, Any]], name: str, cuts: list[float], at: float, y: pd.Series, eta: pd.Series
) -> None:
    """Figures are those of the rows of a group, by the one library or the other, and none is kept back."""
    rows = patients().loc[y.index].assign(y=y, p=1 / (1 + np.exp(-eta)))
    if cuts:
        low, high = map(round, cuts)
        labels = [f"below {low}", f"{low} to {high}", f"{high} and above"]
        group = pd.cut(rows[name], [-np.inf, *cuts, np.inf], right=False, labels=labels)
    else:
        group = rows[name].map(lambda code: f"{code:.0f}", na_action="ignore")
        labels = list(VARIABLES[name]["levels"])
    assert [one["group"] for one in shown] == labels
    found = dict(list(rows.groupby(group, observed=False)))
    for one in shown:
        own = found[one["group"]]
        called = own["p"] >= at
        assert {key: one[key] for key in ("n", "events")} == {"n": len(own), "events": own["y"].sum()}
        in_cells = np.floor(own["p"] * CELLS)
        assert one["auc"] == pytest.approx(roc_auc_score(own["y"], in_cells), abs=1e-12)
        assert one["auc"] == pytest.approx(roc_auc_score(own["y"], own["p"]), abs=1e-3)
        assert one["brier"] == pytest.approx(brier_score_loss(own["y"], own["p"]), abs=1e-9)
        assert one["observed"] == pytest.approx(own["y"].mean(), abs=1e-12)
        assert one["predicted"] == pytest.approx(own["p"].mean(), abs=1e-9)
        if one["sensitivity"] is not None:
            assert one["sensitivity"] == pytest.approx(recall_score(own["y"], called), abs=1e-12)
            assert one["specificity"] == pytest.approx(recall_score(own["y"], called, pos_label=0), abs=1e-12)


def exact_points(shown: dict[str, Any], y: pd.Series, eta: np.ndarray) -> list[tuple[int, int]]:
    """Return outcome and rows of it above each threshold of a curve that tells them exactly."""
    p, found = 1 / (1 + np.exp(-np.asarray(eta))), []
    for t, *rates in zip(*(shown[key] for key in ("threshold", "fpr", "tpr")), strict=True):
        for outcome, rate in enumerate(rates):
            own = p[(y == outcome).to_numpy()]
            above = int((own >= t).sum())
            if abs(rate * len(own) - above) < 1e-6:
                found.append((outcome, above))
    return found


@pytest.mark.parametrize(("at", "told"), [(0.4, True), (0.3, True), (0.49, False), (0.2, False)])
def test_curves_keep_away_from_the_threshold_of_another_entry(at: float, told: bool) -> None:
    """An entry with a threshold too near to another's, or with few rows of a call, tells no calls."""
    again = {"kind": "evaluate", "model": "logistic", "threshold": at, "part": "train"}
    study = study_of(LOGISTIC, again, split={"column": "fold", "test": "0"})
    findings, (y, eta) = driven(study).findings, scores(study, "train")
    shown = published(study, findings)["analyses"]
    ours, other = (shown[label]["metrics"]["train"] for label in ("logistic", "evaluate"))
    p = 1 / (1 + np.exp(-np.asarray(eta)))
    above = [int((p[(y == outcome).to_numpy()] >= at).sum()) for outcome in (0, 1)]

    def near(curve: dict[str, Any]) -> list[int]:
        return [rows for outcome, rows in exact_points(curve, y, eta) if 0 < abs(rows - above[outcome]) < 11]

    alone = evaluation_of(findings, "logistic", "train").published(Rules(11))
    assert near(alone["curves"]), "alone, its curve has points near to the other threshold"
    assert (other["accuracy"] is not None) is (other["sensitivity"] is not None) is told
    assert (ours == alone) is not told
    assert ours["curves"]["threshold"] and (not told or not near(ours["curves"]))
    assert sum(group["n"] for group in ours["calibration"]) == ours["n"]
    assert other["curves"]["threshold"] == [] and other["calibration"] == []


def test_an_unpenalised_fit_is_calibrated_on_its_own_rows() -> None:
    study = TestEvaluate.studies["held-out rows, imputed"]
    shown = published(study, driven(study).findings)["analyses"]["logistic"]["metrics"]["train"]
    assert shown["calibration_intercept"] == pytest.approx(0, abs=1e-8)
    assert shown["calibration_slope"] == pytest.approx(1, abs=1e-8)


def test_the_thresholds_of_the_model_and_of_the_evaluation_are_their_own() -> None:
    study = TestEvaluate.studies["drawn rows, another threshold"]
    found = driven(study).findings.analyses
    first, again = found["logistic"].evaluations[0], found["again"].evaluations[0]
    assert (first.part, again.part) == ("train", "train")
    assert (first.threshold, again.threshold) == (0.6, 0.2)
    assert again.confusion[1][1] > first.confusion[1][1]
    assert (first.auc, first.brier) == (again.auc, again.brier)


def test_the_area_under_the_published_curve_is_near_the_area_of_all_rows() -> None:
    for study in TestEvaluate.studies.values():
        for shown in metrics(study, driven(study).findings).values():
            tpr, fpr = ([0, *shown["curves"][name], 1] for name in ("tpr", "fpr"))
            assert np.trapezoid(tpr, fpr) == pytest.approx(shown["auc"], abs=0.02)


def test_what_is_published_by_risk_holds_min_cell_rows_of_two_hospitals() -> None:
    """One hospital has all patients at high risk, another all healthy ones at low risk."""
    study = TestEvaluate.studies["subgroups"]
    y, eta = scores(study, "train")
    p = 1 / (1 + np.exp(-eta))
    low, high = np.quantile(eta, [0.3, 0.75])
    where = np.select(
        [eta > high, (eta < low) & (patients()["disease"] == 0)], [0, 1], 2 + np.arange(600) % 2
    )
    tables = {f"h{i}": patients()[where == i] for i in range(4)}
    found = federate(study, {name: cohort_of(study, table, name) for name, table in tables.items()})
    curve = metrics(study, found)["train"]["curves"]
    whole = metrics(study, driven(study).findings)["train"]["curves"]
    assert 3 <= len(curve["threshold"]) < len(whole["threshold"])
    assert set(curve["threshold"]) < set(whole["threshold"])
    for i, rate, total in ((0, "fpr", (y == 0).sum()), (1, "tpr", (y == 1).sum())):
        above = {t: value * total for t, value in zip(curve["threshold"], curve[rate], strict=True)}
        own = [
            t for t, value in above.items() if value == pytest.approx(((p >= t) & (y == i)).sum(), abs=1e-6)
        ]
        for upper, lower in pairwise([2, *own, 0]):
            inside = y.index[(p >= lower) & (p < upper) & (y == i)]
            held = sum(bool(table.index.isin(inside).any()) for table in tables.values())
            assert not len(inside) or (len(inside) >= 11 and held >= 2)


STEPS = st.lists(st.builds(Step, st.just(0.0), st.integers(1, 30), st.integers(1, 3)), max_size=4)
BANDS = st.lists(st.tuples(STEPS, STEPS), min_size=1, max_size=6)


def banded(drawn: list[tuple[list[Step], list[Step]]]) -> tuple[Band, ...]:
    """Return bands of the given steps, each from where the last one ended."""
    found, count = [], 1 + sum(max(len(a), len(b)) for a, b in drawn)
    low = 0.0
    for pair in drawn:
        own = tuple(
            tuple(replace(step, low=low + i / count) for i, step in enumerate(steps)) for steps in pair
        )
        counted = tuple(sum(step.count for step in steps) for steps in own)
        hospitals = tuple(max((step.hospitals for step in steps), default=0) for steps in own)
        found.append(Band(counted, hospitals, 0.0, own))
        low += max(map(len, pair)) / count
    return tuple(found)


@given(BANDS, st.integers(0, 6))
def test_shown_bands_keep_all_rows_and_are_fit_to_be_shown(
    drawn: list[tuple[list[Step], list[Step]]], below: int
) -> None:
    found = Bands(min(below, len(drawn) - 1), banded(drawn))
    shown = found.shown(11)
    assert all(band.showable(11) for band in shown.bands)
    assert not shown.below or found.below
    if shown.bands:
        for i in (0, 1):
            assert sum(b.counts[i] for b in shown.bands) == sum(b.counts[i] for b in found.bands)
        drawn_curves = curves(shown, 11)
        ends = {step.low for band in found.bands for steps in band.steps for step in steps}
        assert set(drawn_curves["threshold"]) <= ends
        if all(sum(b.counts[i] for b in shown.bands) for i in (0, 1)):
            for rate in ("tpr", "fpr"):
                assert np.all(np.diff(drawn_curves[rate]) >= 0)


@given(
    st.lists(st.integers(0, 25), min_size=2, max_size=60),
    st.integers(1, 12),
    st.integers(1, CELLS - 1),
    st.integers(0, 99),
)
def test_everything_is_cut_at_the_same_places(sizes: list[int], min_cell: int, at: int, seed: int) -> None:
    rows = np.zeros((2, CELLS), np.int64)
    places = np.random.default_rng(seed).permutation(CELLS)[: len(sizes) // 2]
    rows[:, places] = np.reshape(sizes[: 2 * (len(sizes) // 2)], (2, -1))
    below, ends, steps = cut(rows, at, min_cell)
    if rows.sum(axis=1).min() < min_cell:
        assert (below, len(ends), len(steps[0]), len(steps[1])) == (0, 0, 0, 0)
        return
    calls = np.array([rows[:, :at].sum(axis=1), rows[:, at:].sum(axis=1)])
    fit = bool(np.all((calls == 0) | (calls >= min_cell)))
    assert (below > 0) == fit
    assert ends[-1] == CELLS - 1 and np.all(np.diff(ends) > 0)
    if fit:
        assert ends[below - 1] == at - 1
    held = np.add.reduceat(rows, [0, *(ends[:-1] + 1)], axis=1)
    assert np.all((held == 0) | (held >= min_cell))
    for own, counted in zip(steps, rows, strict=True):
        assert set(ends.tolist()) <= set(own.tolist()), "a band ends where steps end"
        parts = np.add.reduceat(counted, [0, *(own[:-1] + 1)])
        assert np.all((parts == 0) | (parts >= min_cell))
        if not fit:  # nobody learns the calls from a step that ends at the threshold, or just beside it
            totals = np.cumsum(parts)[:-1]
            assert counted[:at].sum() not in totals.tolist() or len(totals) == 0 or counted[:at].sum() == 0


COUNT = st.one_of(st.just(0), st.integers(1, 14), st.integers(11, 60))
TABLE = st.tuples(st.tuples(COUNT, COUNT), st.tuples(COUNT, COUNT))


@settings(max_examples=max(60, settings().max_examples))
@given(st.lists(TABLE, min_size=1, max_size=4), TABLE, st.booleans())
@example([((30, 20), (26, 30)), ((30, 20), (4, 30))], ((0, 0), (0, 0)), False)
@example([((30, 20), (26, 30)), ((30, 20), (20, 30))], ((12, 12), (3, 20)), False)
@example([((300, 1), (2, 300)), ((300, 0), (0, 300))], ((0, 0), (0, 0)), False)
def test_no_small_count_is_shown_or_follows_from_what_is(
    tables: list[tuple[tuple[int, int], tuple[int, int]]],
    lacking: tuple[tuple[int, int], tuple[int, int]],
    complete: bool,
) -> None:
    """All that is published are equations; each small count must have more than one solution."""
    if complete:
        lacking = ((0, 0), (0, 0))
    every = np.array([*tables, lacking]).reshape(-1, 4)  # tn, fp, fn, tp
    groups = [Subgroup(str(i), one, (3, 3), 0.5, 0.1, 0.1) for i, one in enumerate([*tables, lacking])]
    whole = every.sum(axis=0).tolist()
    confusion = ((whole[0], whole[1]), (whole[2], whole[3]))
    division = Division("sex", tuple(groups[:-1]), groups[-1])
    found = Evaluation("test", 0.5, confusion, (3, 3), 0.5, 0.1, None, bands_of(confusion), (division,), 3)
    shown = found.published(Rules(11))
    if shown["n"] is None:
        return
    equations = [*whole_equations(shown, len(every))]
    for i, one in enumerate(shown["subgroups"]["sex"]):
        equations += group_equations(one, i, len(every))
    left = np.array([row for row, _ in equations]).reshape(len(equations), -1)
    right = np.array([value for _, value in equations])
    np.testing.assert_allclose(left @ every.ravel(), right, atol=1e-6)
    for what in secrets(len(every)):
        true = int(what @ every.ravel())
        if 0 < true < 11:
            low, high = (
                sign * linprog(sign * what, A_eq=left, b_eq=np.round(right), bounds=(0, None)).fun
                for sign in (1, -1)
            )
            assert high - low > 0.5, (every.tolist(), what.tolist(), shown)


Equation = tuple[np.ndarray, float]
TN, FP, FN, TP = range(4)


def cells(groups: int, which: Sequence[int], *calls: int) -> np.ndarray:
    """Return the coefficients of the sum of some cells of some groups."""
    row = np.zeros((groups, 4))
    row[np.ix_(list(which), list(calls))] = 1
    return row.ravel()


def whole_equations(shown: dict[str, Any], groups: int) -> Iterator[Equation]:
    """Yield what the figures of all rows say about the cells."""
    every, n = range(groups), shown["n"]
    yield cells(groups, every, TN, FP, FN, TP), n
    if shown["accuracy"] is not None:
        yield cells(groups, every, TN, TP), shown["accuracy"] * n
    if shown["prevalence"] is not None:
        positives = shown["prevalence"] * n
        yield cells(groups, every, FN, TP), positives
        if shown["sensitivity"] is not None:
            yield cells(groups, every, TP), shown["sensitivity"] * positives
            yield cells(groups, every, TN), shown["specificity"] * (n - positives)


def group_equations(shown: dict[str, Any], i: int, groups: int) -> Iterator[Equation]:
    """Yield what the figures of one group say about its cells."""
    n, events = shown["n"], shown["events"]
    if n is not None:
        yield cells(groups, [i], TN, FP, FN, TP), n
    if events is not None:
        yield cells(groups, [i], FN, TP), events
        if shown["sensitivity"] is not None:
            yield cells(groups, [i], TP), shown["sensitivity"] * events
        if shown["specificity"] is not None:
            yield cells(groups, [i], TN), shown["specificity"] * (n - events)


def secrets(groups: int) -> Iterator[np.ndarray]:
    """Yield every count of a group, and of all rows, that somebody might want to know."""
    kinds = [(TN,), (FP,), (FN,), (TP,), (TN, FP), (FN, TP), (FP, FN), (TN, TP), (TN, FP, FN, TP)]
    for which in ([i] for i in range(groups)):
        for kind in kinds:
            yield cells(groups, which, *kind)
    for kind in kinds[:-1]:
        yield cells(groups, range(groups), *kind)


def test_no_small_count_lies_between_the_cuts_of_curve_table_and_calls() -> None:
    """All three tell how many rows of an outcome lie above some risk; so do their differences."""
    for study in TestEvaluate.studies.values():
        found = driven(study).findings
        for label, result in published(study, found)["analyses"].items():
            for part, shown in result["metrics"].items():
                bands = evaluation_of(found, label, part).bands
                for outcome, counts in enumerate(rows_above(shown, bands)):
                    between = np.diff(sorted(counts))
                    assert np.all((between == 0) | (between >= 11)), (label, part, outcome)


def rows_above(shown: dict[str, Any], bands: Bands) -> tuple[list[int], list[int]]:
    """Return the rows without, and with, the outcome above each cut that is published of them."""
    positives = round(shown["prevalence"] * shown["n"])
    totals = shown["n"] - positives, positives
    found: tuple[list[int], list[int]] = ([0, totals[0]], [0, totals[1]])
    for i, rate in ((0, "fpr"), (1, "tpr")):
        own = {step.low for step in steps_of(bands)[i]}
        pairs = zip(shown["curves"]["threshold"], shown["curves"][rate], strict=True)
        found[i].extend(round(value * totals[i]) for t, value in pairs if t in own)
    if shown["sensitivity"] is not None:
        found[0].append(round((1 - shown["specificity"]) * totals[0]))
        found[1].append(round(shown["sensitivity"] * totals[1]))
    left = list(totals)
    for group in shown["calibration"]:
        left[0] -= round((1 - group["observed"]) * group["n"])
        left[1] -= round(group["observed"] * group["n"])
        for i in (0, 1):
            found[i].append(left[i])
    return found


def test_a_band_of_one_hospital_is_joined_to_its_neighbour() -> None:
    bands = tuple(Band((20 + i, 30 + i), (1 if i == 1 else 3, 3), 25.0, ((), ())) for i in range(4))
    shown = Evaluation("test", 0.5, ((43, 43), (63, 63)), (3, 3), 0.8, 0.2, None, Bands(2, bands), (), 3)
    published = shown.published(Rules(11))
    assert [one["n"] for one in published["calibration"]] == [50 + 52, 54, 56]
    assert published["sensitivity"] == 0.5


def test_a_variable_that_only_one_hospital_lacks_tells_nothing_about_it() -> None:
    """The rows without the variable are what the groups leave of all rows."""
    groups = [Subgroup(str(i), ((40, 30 + i), (20, 50)), (3, 3), 0.7, 9.0, 60.0) for i in range(3)]
    for hospitals in (1, 2):
        lacking = Subgroup("", ((20, 20), (20, 20)), (hospitals, hospitals), None, 0.0, 0.0)
        shown = Division("chol", tuple(groups), lacking).published(Rules(11))
        assert [one["n"] for one in shown] == [None if hospitals == 1 else 140, 141, 142]
        assert (shown[0].get("state") == "refused") is (hospitals == 1)


@pytest.mark.parametrize("lacking", [True, False])
def test_a_small_subgroup_is_kept_back_and_what_would_give_it_away_with_it(lacking: bool) -> None:
    study = study_of({**LOGISTIC, "ridge": 1, "subgroups": {"cp": []}})
    frame = patients()
    frame = frame[frame["cp"].notna() | lacking]
    frame = frame.drop(index=frame.index[frame["cp"] == 3][5:])
    shown = metrics(study, drive(study, cohort_of(study, frame)).findings)["train"]["subgroups"]["cp"]
    hidden = [one["group"] for one in shown if one["n"] is None]
    sizes = frame["cp"].value_counts()
    assert hidden == (["3"] if lacking else sorted(["3", f"{sizes.drop(3.0).idxmin():.0f}"]))
    assert all(one["state"] == "refused" and one["events"] is None for one in shown if one["n"] is None)


def test_a_subgroup_of_one_outcome_has_no_auc_and_half_a_table() -> None:
    study = study_of({**LOGISTIC, "ridge": 1, "subgroups": {"cp": []}})
    frame = patients()
    frame = frame[(frame["cp"] != 3) | (frame["disease"] == 0)]
    frame = frame[(frame["cp"] != 4) | (frame["disease"] == 1)]
    shown = metrics(study, drive(study, cohort_of(study, frame)).findings)["train"]["subgroups"]["cp"]
    for one, events, empty in ((shown[2], 0, "sensitivity"), (shown[3], shown[3]["n"], "specificity")):
        assert one["n"] > 0 and one["events"] == events
        assert one["auc"] is None and one[empty] is None


@pytest.mark.parametrize(
    ("subgroups", "message"),
    [
        ({"Chol": [250]}, r"subgroups.Chol: `Chol` is not in `variables` \(did you mean `chol`"),
        ({"chol": []}, "subgroups.chol: give rising cut points within the variable's range"),
        ({"chol": [250, 250]}, "subgroups.chol: give rising"),
        ({"chol": [400, 250]}, "subgroups.chol: give rising"),
        ({"chol": [80, 250]}, "subgroups.chol: give rising"),
        ({"chol": [250, 620]}, "subgroups.chol: give rising"),
        ({"chol": [700]}, "subgroups.chol: give rising"),
        ({"chol": [float("nan")]}, "subgroups.chol"),
        ({"cp": [2]}, "subgroups.cp: a category has a group for each level; write an empty list"),
        ({"cp": ["high"]}, "subgroups.cp"),
    ],
)
def test_subgroups_that_do_not_suit_are_refused_by_key(subgroups: dict[str, Any], message: str) -> None:
    for specs in (
        [{**LOGISTIC, "subgroups": subgroups}],
        [LOGISTIC, {"kind": "evaluate", "model": "logistic", "subgroups": subgroups}],
    ):
        with pytest.raises(StudyError, match=rf"analyses\[{len(specs) - 1}\].{message}"):
            study_of(*specs)


@pytest.mark.parametrize(("key", "value"), [("threshold", 0.5), ("subgroups", {"sex": []})])
def test_a_number_has_no_threshold_and_no_subgroups(key: str, value: Any) -> None:
    number = {**FOREST, "outcome": "chol", "predictors": ["age", "bmi"]}
    for specs in (
        [{**number, key: value}],
        [number, {"kind": "evaluate", "model": "forest", key: value}],
    ):
        with pytest.raises(StudyError, match=rf"analyses\[{len(specs) - 1}\].{key}: `chol` is a number"):
            study_of(*specs)


def test_a_model_that_is_none_and_rows_that_there_are_not_are_errors() -> None:
    with pytest.raises(StudyError, match=r"analyses\[1\].model: `logistics`.*did you mean `logistic`"):
        study_of(LOGISTIC, {"kind": "evaluate", "model": "logistics"})
    study = study_of(LOGISTIC, {"kind": "evaluate", "model": "logistic"})
    with pytest.raises(StudyError, match="analysis `evaluate`: there are no test rows"):
        drive(study, pooled(study))
