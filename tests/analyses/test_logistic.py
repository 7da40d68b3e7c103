"""Logistic regression keeps the contract, and equals statsmodels' and scikit-learn's pooled fits."""

from __future__ import annotations

from typing import Any, ClassVar

import numpy as np
import pandas as pd
import pytest
from scipy.stats import norm

from tests.analyses import oracle
from tests.analyses.contract import AnalysisContract, driven, pooled
from tests.support import cohort_of, drive, patients, published, study_of
from wardround_common.study import Study

NUMBERS = ["age", "chol", "bmi"]
MAIN = [*NUMBERS, "sex", "cp"]
PRODUCTS = ["age", "chol", "sex", "cp", "age:chol", "sex:age", "cp:sex"]


def logistic(predictors: list[str], ridge: float = 0.0, **changes: Any) -> Study:
    return study_of({"kind": "logistic", "predictors": predictors, "ridge": ridge}, **changes)


class TestLogistic(AnalysisContract):
    studies: ClassVar = {
        "imputed": logistic(MAIN),
        "dropped": logistic(MAIN, missing="drop", privacy={"min_rows": 1}),
        "interactions": logistic(PRODUCTS),
        "interactions of complete rows": logistic(PRODUCTS, missing="drop", privacy={"min_rows": 1}),
        "ridge": logistic(MAIN, ridge=1),
        "ridge with interactions": logistic(PRODUCTS, ridge=3.5),
        "split by seed": logistic(MAIN, ridge=0.5, split={"test": 0.3, "seed": 4}),
        "split by column": logistic(
            MAIN, split={"column": "fold", "test": "0"}, missing="drop", privacy={"min_rows": 1}
        ),
    }

    def test_equals_the_pooled_fit_of_an_independent_library(self, study: Study) -> None:
        (spec,) = study.analyses
        train = training_rows(study)
        terms = oracle.columns(train, train, spec.predictors)
        y = oracle.outcome(train)
        expected = (
            oracle.penalised(terms, y, spec.ridge) if spec.ridge else oracle.maximum_likelihood(terms, y)
        )
        found = published(study, driven(study).findings)["analyses"]["logistic"]
        assert found["n"] == len(train)
        assert found["df"] == len(train) - terms.shape[1] - 1
        assert found["deviance"] == pytest.approx(expected.deviance, rel=1e-10)
        assert set(found["coefficients"]) == set(expected.value.index)
        for term, shown in found["coefficients"].items():
            value, se = expected.value[term], expected.se[term]
            assert shown["value"] == pytest.approx(value, rel=1e-8, abs=1e-8), term
            assert shown["se"] == pytest.approx(se, rel=1e-8, abs=1e-8), term
            assert shown["p"] == pytest.approx(2 * norm.sf(abs(value / se)), rel=1e-6, abs=1e-8), term
            assert shown["low"] == pytest.approx(value - norm.ppf(0.975) * se, rel=1e-8, abs=1e-8), term
            assert shown["high"] == pytest.approx(value + norm.ppf(0.975) * se, rel=1e-8, abs=1e-8), term


def training_rows(study: Study) -> pd.DataFrame:
    frame = patients()
    if study.split is not None:
        frame = frame[~pooled(study).part("test")]
    if study.missing == "drop":
        names = {name for term in study.analyses[0].predictors for name in term.split(":")}
        frame = frame.dropna(subset=sorted(names))
    return frame


def test_an_indicator_is_made_where_min_cell_rows_lack_a_variable_and_not_below() -> None:
    study = TestLogistic.studies["imputed"]
    terms = driven(study).findings.analyses["logistic"].result.coefficients
    lacking = patients().isna().sum()
    assert lacking["chol"] >= 11 > lacking["bmi"] > 0
    assert {"chol=missing", "cp=missing"} < set(terms)
    assert "bmi=missing" not in terms


def test_rows_without_the_outcome_are_left_out_and_counted() -> None:
    frame = patients().copy()
    frame["disease"] = frame["disease"].where(frame.index % 20 > 0)
    study = logistic(["age"])
    found = published(study, drive(study, cohort_of(study, frame)).findings)["analyses"]["logistic"]
    assert (found["n"], found["n_missing"]) == (570, 30)


def test_the_model_predicts_what_its_coefficients_say() -> None:
    study = TestLogistic.studies["interactions"]
    fitted = driven(study).findings.analyses["logistic"].result
    (block,) = pooled(study).blocks()
    terms = oracle.columns(patients(), patients(), PRODUCTS)
    values = {name: found.value for name, found in fitted.coefficients.items()}
    eta = values["intercept"] + terms @ pd.Series(values)[terms.columns]
    np.testing.assert_allclose(fitted.model.output(block), eta, rtol=1e-9, atol=1e-9)
