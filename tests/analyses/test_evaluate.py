"""Evaluation keeps the contract, and equals scikit-learn's and statsmodels' metrics of the same scores."""

from __future__ import annotations

from typing import Any, ClassVar

import numpy as np
import pandas as pd
import pytest
import statsmodels.api as sm
from sklearn.metrics import brier_score_loss, confusion_matrix, roc_auc_score

from tests.analyses import oracle
from tests.analyses.contract import AnalysisContract, driven, pooled
from tests.support import patients, published, study_of
from wardround_common.study import Study

PREDICTORS = ["age", "chol", "sex", "cp"]
LOGISTIC = {"kind": "logistic", "predictors": PREDICTORS}


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
    }

    def test_equals_metrics_that_other_libraries_compute_from_the_scores(self, study: Study) -> None:
        results = published(study, driven(study).findings)["analyses"]
        for part in ("train", "test"):
            check(results["logistic"]["metrics"][part], *scores(study, part))
        for spec in study.analyses[1:]:
            assert set(results[spec.label]["metrics"]) == {spec.part}
            check(results[spec.label]["metrics"][spec.part], *scores(study, spec.part))


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
        assert min(y[rows].sum(), (1 - y[rows]).sum()) >= 11
        start += group["n"]


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
