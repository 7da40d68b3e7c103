"""A fit that the data do not determine says which terms are at fault, and what to do about it."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
import pytest
import statsmodels.api as sm
from scipy.special import expit

from tests.analyses import oracle
from tests.support import cohort_of, drive, patients, published, study_of
from wardround_common.errors import FitError, StudyError
from wardround_common.newton import Diverged, Slope, newton


def fit(frame: pd.DataFrame, predictors: list[str], **changes: Any) -> dict[str, Any]:
    study = study_of({"kind": "logistic", "predictors": predictors, **changes})
    found: dict[str, Any] = published(study, drive(study, cohort_of(study, frame)).findings)
    return found["analyses"]["logistic"]


def with_column(name: str, values: Any) -> pd.DataFrame:
    return patients().assign(**{name: values})


SICK = patients()["disease"] == 1
AGE = patients()["age"]


def test_a_perfect_predictor_is_named_and_ridge_suggested() -> None:
    frame = with_column("bmi", np.where(SICK, 40, 20) + patients().index % 7)
    with pytest.raises(FitError, match=r"perfectly separated by `bmi`, .* set `ridge: 1`"):
        fit(frame, ["age", "bmi", "sex"])
    shown = fit(frame, ["age", "bmi", "sex"], ridge=1)
    assert shown["metrics"]["train"]["auc"] == 1.0
    assert shown["metrics"]["train"]["calibration_slope"] is None


def test_a_category_that_decides_the_outcome_is_named() -> None:
    with pytest.raises(FitError, match="perfectly separated by `sex=1`"):
        fit(with_column("sex", SICK.astype(int)), ["age", "sex"])


def test_a_level_whose_patients_all_have_the_outcome_is_named() -> None:
    """Quasi-complete separation: one coefficient grows without bound, the others converge."""
    frame = with_column("cp", np.where(SICK & (patients().index % 3 == 0), 3, 1))
    with pytest.raises(FitError, match="separated by `cp=3`"):
        fit(frame, ["age", "cp"], missing="drop")


def test_a_combination_that_separates_is_named() -> None:
    score = AGE / 2 + np.where(SICK, 22, -22) + 35
    with pytest.raises(FitError, match=r"separated by .*`chol`"):
        fit(with_column("chol", 80 + 4 * (score - score.min())), ["age", "chol"])


@pytest.mark.parametrize("twin", [AGE / 2 + 20, 90 - AGE / 4])
def test_a_predictor_that_is_a_line_of_another_is_named_with_it(twin: pd.Series) -> None:
    frame = with_column("chol", 4 * twin)
    with pytest.raises(FitError, match=r"`chol` is collinear with `age`; .* set `ridge: 1`"):
        fit(frame, ["age", "sex", "chol"])
    assert fit(frame, ["age", "sex", "chol"], ridge=1)["coefficients"]["chol"]["se"] > 0


def test_a_category_that_repeats_another_is_named_with_it() -> None:
    frame = with_column("cp", 1 + patients()["sex"])
    with pytest.raises(FitError, match="`cp` is collinear with `sex=1`"):
        fit(frame, ["age", "sex", "cp"])


@pytest.mark.parametrize(("name", "value"), [("bmi", 30.0), ("bmi", 15.0), ("sex", 0), ("sex", 1), ("cp", 3)])
def test_a_constant_predictor_is_named(name: str, value: float) -> None:
    with pytest.raises(FitError, match=f"`{name}` is constant over the training rows"):
        fit(with_column(name, value), ["age", name])


def test_a_level_that_never_occurs_is_left_out_and_said_so() -> None:
    frame = with_column("cp", patients()["cp"].replace(2, 1))
    found = fit(frame, ["age", "cp"])["coefficients"]
    assert found["cp=2"] == dict.fromkeys(("value", "se", "p", "low", "high")) | {"aliased": True}
    assert found["cp=3"]["se"] > 0
    y, train = oracle.outcome(frame), frame
    terms = oracle.columns(frame, train, ["age", "cp"]).drop(columns="cp=2")
    expected = oracle.maximum_likelihood(terms, y)
    for term in expected.value.index:
        assert found[term]["value"] == pytest.approx(expected.value[term], rel=1e-8, abs=1e-8)


def test_one_outcome_class_says_so() -> None:
    with pytest.raises(FitError, match="all 600 training rows have the same outcome `disease`"):
        fit(with_column("disease", 1), ["age"])


def test_more_than_one_term_per_ten_rows_is_refused() -> None:
    with pytest.raises(StudyError, match="5 terms for 49 training rows; a model may have one term per ten"):
        fit(patients().head(49), ["age", "sex", "cp"])
    assert fit(patients().head(50), ["age", "sex", "cp"])["n"] == 50


def test_a_nearly_collinear_predictor_is_still_fitted_as_statsmodels_does() -> None:
    wobble = np.where(patients().index % 2, 0.05, -0.05)
    frame = with_column("chol", np.round(4 * AGE + wobble + 100, 6))
    terms = frame[["age", "chol"]]
    found, expected = fit(frame, ["age", "chol"]), oracle.maximum_likelihood(terms, oracle.outcome(frame))
    for term in ("age", "chol"):
        assert found["coefficients"][term]["value"] == pytest.approx(expected.value[term], rel=1e-6)
        assert found["coefficients"][term]["se"] == pytest.approx(expected.se[term], rel=1e-6)


def run(beta: np.ndarray, columns: np.ndarray, y: np.ndarray) -> tuple[np.ndarray, int]:
    """Drive Newton's method with sums of plain numpy; return the optimum and how often it asked."""

    def slope(at: np.ndarray) -> Slope:
        eta = columns @ at
        p = expit(eta)
        deviance = 2 * float(np.logaddexp(0, np.where(y > 0, -eta, eta)).sum())
        return Slope(len(y), deviance, columns.T @ (y - p), (columns.T * (p * (1 - p))) @ columns)

    def ask(at: np.ndarray) -> Any:
        return (yield at)

    scale = np.concatenate([[1.0], columns[:, 1:].std(axis=0)])
    program: Any = newton(beta, slope(beta), ask, np.zeros(len(beta)), scale)
    asked, sums = 0, None
    while True:
        try:
            at = next(program) if sums is None else program.send(sums)
        except StopIteration as stop:
            return stop.value.beta, asked
        asked, sums = asked + 1, slope(at)


@pytest.mark.parametrize("start", [0.0, 1.0, -6.0])
def test_steps_that_overshoot_are_halved_until_the_fit_is_found(start: float) -> None:
    rng = np.random.default_rng(3)
    columns = np.column_stack([np.ones(300), rng.normal(size=(300, 2))])
    y = (columns @ [0.2, 1.5, -1.0] + rng.logistic(size=300) > 0).astype(float)
    beta, asked = run(np.full(3, start), columns, y)
    expected = sm.Logit(y, columns).fit(method="newton", tol=1e-14, disp=False).params
    np.testing.assert_allclose(beta, expected, rtol=1e-9)
    assert asked < 40


def test_no_finite_maximum_names_the_columns_that_grow() -> None:
    rng = np.random.default_rng(4)
    columns = np.column_stack([np.ones(300), rng.normal(size=(300, 2))])
    with pytest.raises(Diverged) as error:
        run(np.zeros(3), columns, (columns[:, 2] > 0).astype(float))
    assert error.value.which == (2,)
