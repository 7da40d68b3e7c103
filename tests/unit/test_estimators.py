"""The estimators: scikit-learn's own checks, the study's bits, and raw variables as people hold them."""

from __future__ import annotations

import copy
import inspect
import pickle
import re
from typing import Any

import numpy as np
import pandas as pd
import pytest
from sklearn.base import clone
from sklearn.model_selection import cross_val_score
from sklearn.utils.estimator_checks import check_estimator

from tests.support import VARIABLES, cohort_of, drive, federate, patients, study_of, tables_of
from wardround_common.alone import alone
from wardround_common.analysis import ModelSpec, Rows
from wardround_common.dictionary import Dictionary, NumberVariable
from wardround_common.errors import FitError
from wardround_common.estimators import (
    ESTIMATORS,
    FederatedForestClassifier,
    FederatedForestRegressor,
    FederatedLogisticRegression,
    FederatedMLPClassifier,
    FederatedModel,
    FederatedSGDClassifier,
    FederatedSGDRegressor,
    estimator_of,
)
from wardround_common.estimators.base import SHARED
from wardround_common.estimators.cells import converted
from wardround_common.moments import MomentsQuery
from wardround_common.program import ask
from wardround_common.rowkey import row_keys
from wardround_common.study import KINDS, Study, study_key

NAMES = ["age", "chol", "bmi", "sex", "cp"]


def names_of(estimator: type[FederatedModel]) -> str:
    return estimator.__name__


@pytest.mark.parametrize("estimator", ESTIMATORS, ids=names_of)
def test_scikit_learns_own_checks_pass(estimator: type[FederatedModel]) -> None:
    fewer = {"rounds": 20} if estimator is FederatedMLPClassifier else {}  # its 50 take ten seconds
    done = check_estimator(estimator(**fewer), on_skip=None)
    assert {one["check_name"] for one in done if one["status"] != "passed"} <= {"check_array_api_input"}
    assert len(done) > 50


@pytest.mark.parametrize("estimator", ESTIMATORS, ids=names_of)
def test_a_parameters_default_is_that_of_the_study_file(estimator: type[FederatedModel]) -> None:
    spec = KINDS[estimator.kind].spec
    resolved = {"hidden": (16,), "activation": "relu"}  # of the perceptron; written down by the study
    for name, parameter in inspect.signature(estimator).parameters.items():
        if name not in SHARED and name != "ridge":
            assert parameter.default == resolved.get(name, spec.model_fields[name].default), name
    assert inspect.signature(FederatedLogisticRegression).parameters["ridge"].default == 1.0


@pytest.mark.parametrize(
    ("estimator", "analysis"),
    [
        (FederatedLogisticRegression, {"kind": "logistic", "ridge": 1.0, "predictors": [*NAMES, "age:sex"]}),
        (FederatedForestClassifier, {"kind": "forest", "trees": 5, "depth": 4}),
        (
            FederatedForestRegressor,
            {"kind": "forest", "trees": 5, "outcome": "chol", "predictors": ["age", "cp"]},
        ),
    ],
)
def test_a_fit_to_one_table_has_the_bits_of_the_federation(
    estimator: type[FederatedModel], analysis: dict[str, Any]
) -> None:
    study = study_of(analysis)
    tables = tables_of(4)
    findings = federate(study, {name: cohort_of(study, table, name) for name, table in tables.items()})
    table = pd.concat(tables.values())
    spec = study.analyses[0]
    assert isinstance(spec, ModelSpec)
    parameters = {name: getattr(spec, name) for name in ("outcome", "predictors")}
    own = {name: value for name, value in analysis.items() if name in ("ridge", "trees", "depth")}
    alone_ = estimator(dictionary=study.dictionary, min_cell=11, **parameters, **own)
    keys = row_keys(study_key(study), "", map(str, table["id"]))
    alone_.fit(table, table[spec.outcome], row_keys=keys)
    federated = findings.analyses[spec.label].result.model  # type: ignore[union-attr]
    assert alone_.model_.sha256 == federated.sha256


@pytest.mark.parametrize(
    ("estimator", "analysis"),
    [
        (FederatedSGDClassifier, {}),
        (FederatedMLPClassifier, {"estimator": "MLPClassifier", "hidden": [4]}),
        (FederatedSGDRegressor, {"outcome": "age", "predictors": ["bmi", "cp", "sex"]}),
    ],
)
def test_training_on_one_table_is_a_federation_of_one(
    estimator: type[FederatedModel], analysis: dict[str, Any]
) -> None:
    study, table = study_of({"kind": "fedavg", "rounds": 3, **analysis}), patients()
    found = drive(study, cohort_of(study, table)).findings.analyses["fedavg"].result.model  # type: ignore[union-attr]
    spec = study.analyses[0]
    assert isinstance(spec, ModelSpec)
    own = {"hidden": (4,)} if "hidden" in analysis else {}
    fitted = estimator(
        dictionary=study.dictionary,
        outcome=spec.outcome,
        predictors=spec.predictors,
        min_cell=11,
        rounds=3,
        **own,
    )
    keys = row_keys(study_key(study), "", map(str, table["id"]))
    assert fitted.fit(table, table[spec.outcome], row_keys=keys).model_.sha256 == found.sha256


def test_keys_decide_what_is_random_and_are_checked() -> None:
    table = patients()
    estimator = FederatedForestClassifier(dictionary=VARIABLES, outcome="disease", trees=3, depth=3)

    def digest(keys: Any) -> str:
        return clone(estimator).fit(table, table["disease"], keys).model_.sha256

    keys = np.arange(len(table), dtype=np.uint64)
    assert digest(keys) == digest(keys) != digest(keys[::-1])
    with pytest.raises(ValueError, match="one uint64 for each row"):
        digest(keys[1:])
    with pytest.raises(ValueError, match="one uint64 for each row"):
        digest(keys.astype(np.int64))


def fitted(**changes: Any) -> FederatedLogisticRegression:
    return FederatedLogisticRegression(dictionary=VARIABLES, outcome="disease", **changes).fit(
        patients(), patients()["disease"]
    )


def test_columns_are_found_by_name_whatever_their_order_and_an_array_has_them_in_order() -> None:
    estimator, table = fitted(), patients()
    risk = estimator.predict_proba(table)
    assert list(estimator.feature_names_in_) == NAMES
    assert np.array_equal(risk, estimator.predict_proba(table[table.columns[::-1]]))
    assert np.array_equal(risk, estimator.predict_proba(table[NAMES].to_numpy(float)))
    assert np.array_equal(risk, estimator.predict_proba(table[NAMES].astype(object).to_numpy()))
    with pytest.raises(ValueError, match=r"X has no column `chol` \(did you mean `cholest`\?\)"):
        estimator.predict(table.rename(columns={"chol": "cholest"}))
    with pytest.raises(ValueError, match="X has 4 features; expected are `age`, `chol`"):
        estimator.predict(table[NAMES[:4]].to_numpy(float))


def test_predictions_are_named_as_y_was_and_score_compares_them() -> None:
    estimator, table = fitted(), patients()
    assert estimator.classes_.tolist() == [0, 1]
    assert estimator.score(table, table["disease"]) > 0.6
    named = clone(estimator).fit(table, np.where(table["disease"] == 1, "yes", "no"))
    assert named.classes_.tolist() == ["no", "yes"]
    assert named.model_.sha256 == estimator.model_.sha256
    gathered = {**VARIABLES, "ill": {"kind": "category", "levels": {"no": [1, 2], "yes": [3, 4]}}}
    several = FederatedLogisticRegression(dictionary=gathered, outcome="ill", predictors=["age", "bmi"])
    assert several.fit(table, table["cp"]).classes_.tolist() == ["no", "yes"]
    scores = cross_val_score(clone(estimator), table, table["disease"], cv=3)
    assert scores.min() > 0.5


def test_a_study_hands_over_its_model() -> None:
    study = study_of({"kind": "logistic", "ridge": 2.0}, {"kind": "forest", "outcome": "chol", "trees": 2})
    findings = drive(study, cohort_of(study, patients())).findings
    for spec in study.analyses:
        assert isinstance(spec, ModelSpec)
        model = findings.analyses[spec.label].result.model  # type: ignore[union-attr]
        estimator = estimator_of(spec, model, study.dictionary, 11)
        assert estimator.model_ is model
        assert estimator.get_params()["min_cell"] == 11
        keys = row_keys(study_key(study), "", map(str, patients()["id"]))
        again = clone(estimator).fit(patients(), patients()[spec.outcome], row_keys=keys)
        assert again.model_.sha256 == model.sha256
    assert estimator.get_params()["trees"] == 2
    with pytest.raises(ValueError, match="cannot hold this model of kind `forest`"):
        FederatedLogisticRegression.from_model(model, study.dictionary, "disease")


def test_a_copy_and_a_pickle_predict_the_same() -> None:
    estimator, table = fitted(), patients()
    for other in (copy.deepcopy(estimator), pickle.loads(pickle.dumps(estimator))):
        assert np.array_equal(other.predict_proba(table), estimator.predict_proba(table))
        assert other.get_params() == {**estimator.get_params(), "dictionary": other.dictionary}
        assert dict(other.dictionary) == dict(estimator.dictionary_)
    assert "model_" not in vars(copy.deepcopy(clone(estimator)))


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"ridge": -1}, "FederatedLogisticRegression: analyses[0].ridge: Input should be greater"),
        ({"predictors": ["agee"]}, "`agee` is not in `variables` (did you mean `age`?)"),
        ({"outcome": None}, "outcome: say which of the dictionary's variables `y` is"),
        ({"outcome": "chol"}, "outcome: `chol` must be a category of two levels"),
        ({"min_cell": 0}, "privacy.min_cell"),
        ({"dictionary": {"age": {"kind": "number"}, "disease": VARIABLES["disease"]}}, "variables.age.range"),
    ],
)
def test_a_wrong_parameter_is_named(changes: dict[str, Any], said: str) -> None:
    estimator = FederatedLogisticRegression(**{"dictionary": VARIABLES, "outcome": "disease", **changes})
    with pytest.raises(ValueError, match=re.escape(said)):
        estimator.fit(patients(), patients()["disease"])


def test_what_the_rows_do_not_determine_is_a_value_error() -> None:
    x = np.arange(20.0)[:, None]
    with pytest.raises(ValueError, match="perfectly separated"):
        FederatedLogisticRegression(ridge=0).fit(x, x[:, 0] > 9)
    with pytest.raises(ValueError, match="one class only"):
        FederatedLogisticRegression().fit(x, np.zeros(20))
    with pytest.raises(ValueError, match="`x0` is a column of X"):
        FederatedLogisticRegression(outcome="x0").fit(x, x[:, 0] > 9)
    few = np.array([[1.0], [2.0], [3.0], [4.0]])
    FederatedLogisticRegression().fit(few, [0, 1, 0, 1])  # a study would ask for ten rows
    study = study_of({"kind": "logistic", "predictors": NAMES})
    with pytest.raises(Exception, match="one term per ten rows"):
        drive(study, cohort_of(study, patients().iloc[:40]))


def test_a_plain_table_may_lack_values_and_hold_new_extremes() -> None:
    rng = np.random.default_rng(1)
    x = rng.normal(size=(200, 3))
    y = x[:, 0] + rng.normal(size=200) > 0
    x[rng.random(x.shape) < 0.1] = np.nan
    estimator = FederatedLogisticRegression().fit(x, y)
    far = np.array([[-50.0, 0, 0], [50.0, np.nan, 0]])
    assert estimator.predict(far).tolist() == [False, True]
    assert estimator.predict_proba(far)[:, 1] == pytest.approx([0, 1], abs=1e-6)


CELLS: dict[str, list[Any]] = {
    "numbers": [1.0, 2.5, np.nan, -9.0, 999.0, 3.0],
    "whole": [1, 2, -9, 999, 3, 4],
    "texts": ["1", " 2.5", "", "?", "999", "nan"],
    "objects": [1, "2", None, "?", 3.5, np.nan],
    "nullable": pd.array([1, None, 3, -9, 999, 5], "Int64"),  # type: ignore[dict-item]
}
LEVELS: dict[str, list[Any]] = {
    "numbers": [0.0, 1.0, 2.0, np.nan, 9.0, 1.0],
    "whole": [0, 1, 2, 9, 1, 0],
    "texts": ["0", "1.0", " 2", "", "9", "1"],
    "objects": [0, "1", 2.0, None, "9", "1.0"],
    "truths": [True, False, True, False, True, False],
    "nullable": pd.array([0, None, 2, 9, 1, 0], "Int64"),  # type: ignore[dict-item]
}


@pytest.mark.parametrize(
    ("variable", "cells"), [*(("n", c) for c in CELLS.values()), *(("c", c) for c in LEVELS.values())]
)
def test_cells_mean_what_they_mean_to_a_hospitals_reader(variable: str, cells: Any) -> None:
    study = study_of(
        {"kind": "summary"},
        variables={
            "n": {"kind": "number", "range": [0, 100], "missing": [-9, "?"]},
            "c": {"kind": "category", "levels": {"no": [0], "yes": [1, 2]}, "missing": [9]},
        },
        outcome=None,
    )
    table = pd.DataFrame({variable: cells})
    expected = cohort_of(study, table).columns[variable]
    assert np.array_equal(
        converted(table[variable], variable, study.dictionary[variable]), expected, equal_nan=True
    )


@pytest.mark.parametrize(
    ("variable", "cells", "said"),
    [
        ("age", [1.0, np.inf], "`age`: 1 cell is not a finite number (first in row 2)"),
        ("age", ["old", "older"], "`age`: 2 cells are not finite numbers (first in row 1)"),
        ("age", ["1_000"], "not a finite number"),
        ("age", [True, False], "true and false, no numbers"),
        ("age", [[1.0]], "one column of cells"),
        ("cp", [1, 7], "`cp`: 1 cell is none of the dictionary's levels (first in row 2)"),
        ("cp", ["1", "secret"], "declare the code under `cp.levels` or `cp.missing`"),
    ],
)
def test_a_cell_that_means_nothing_is_counted_but_not_quoted(
    variable: str, cells: list[Any], said: str
) -> None:
    dictionary = study_of({"kind": "summary"}).dictionary
    with pytest.raises(ValueError, match=re.escape(said)) as caught:
        converted(cells, variable, dictionary[variable])
    assert "secret" not in str(caught.value)


def test_a_program_runs_alone_over_any_rows() -> None:
    study: Study = study_of({"kind": "logistic"})
    cohort = cohort_of(study, patients())
    found = alone(ask(MomentsQuery(Rows("train", ()), "disease", ("age",))), cohort)
    assert found.count("n") == len(patients())
    age = study.dictionary["age"]
    assert isinstance(age, NumberVariable)
    mean = age.range[0] + age.span * found.number("age sum") / found.count("n")
    assert mean == pytest.approx(patients()["age"].mean())
    assert found.contributors["positive"].tolist() == 1
    assert isinstance(study.dictionary, Dictionary)


def test_what_a_program_raises_is_raised_alone() -> None:
    def failing() -> Any:
        yield from ask(MomentsQuery(Rows("train", ()), "disease", ()))
        raise FitError("no")

    study = study_of({"kind": "logistic"})
    with pytest.raises(FitError):
        alone(failing(), cohort_of(study, patients()))
