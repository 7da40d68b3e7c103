"""The summary keeps the contract, and equals pandas' description of the pooled table."""

from __future__ import annotations

from typing import ClassVar

import numpy as np
import pytest

from tests.analyses.contract import AnalysisContract, driven
from tests.support import VARIABLES, cohort_of, drive, patients, published, study_of
from wardround_common.study import Study


class TestSummary(AnalysisContract):
    studies: ClassVar = {
        "all variables": study_of({"kind": "summary"}),
        "some variables": study_of({"kind": "summary", "variables": ["cp", "chol"]}),
        "rows of a predicate": study_of(
            {"kind": "summary"},
            cohort={"where": "age >= 40 AND (chol > 200 OR chol IS NULL)"},
            privacy={"min_rows": 1},
        ),
        "no numbers": study_of({"kind": "summary", "variables": ["sex", "cp"]}),
    }

    def test_equals_the_description_of_the_pooled_table(self, study: Study) -> None:
        frame = patients()
        if study.cohort.where is not None:
            frame = frame[(frame["age"] >= 40) & ((frame["chol"] > 200) | frame["chol"].isna())]
        shown = published(study, driven(study).findings)["analyses"]["summary"]
        assert shown["n"] == len(frame)
        assert list(shown["variables"]) == list(study.analyses[0].variables or VARIABLES)
        for name, found in shown["variables"].items():
            values, variable = frame[name].dropna(), VARIABLES[name]
            if variable["kind"] == "category":
                codes = range(2) if name == "disease" else map(int, variable["levels"])
                assert list(found["levels"].values()) == [(values == code).sum() for code in codes]
                assert list(found["levels"]) == list(variable["levels"])
                assert found["missing"] == len(frame) - len(values)
                continue
            span = variable["range"][1] - variable["range"][0]
            assert found["mean"] == pytest.approx(values.mean(), abs=1e-9 * span)
            assert found["sd"] == pytest.approx(values.std(), abs=1e-9 * span)
            assert list(found["quantiles"]) == ["0.05", "0.25", "0.5", "0.75", "0.95"]
            for q, value in found["quantiles"].items():
                around = [values.quantile(float(q), interpolation=way) for way in ("lower", "higher")]
                assert around[0] - span / 4096 <= value <= around[1] + span / 4096
            if name == "bmi" and len(values) > len(frame) - 11:
                assert (found["n"], found["missing"]) == (None, None)
            else:
                assert (found["n"], found["missing"]) == (len(values), len(frame) - len(values))


def test_quantiles_with_fewer_than_min_cell_rows_on_a_side_are_not_shown() -> None:
    study = study_of({"kind": "summary", "variables": ["age"]})
    found = drive(study, cohort_of(study, patients().head(100))).findings
    shown = published(study, found)["analyses"]["summary"]["variables"]["age"]
    assert list(shown["quantiles"]) == ["0.25", "0.5", "0.75"]


def test_a_variable_that_too_few_hospitals_observe_is_refused() -> None:
    study = study_of({"kind": "summary"})
    frame = patients().copy()
    frame["bmi"] = np.nan
    shown = published(study, drive(study, cohort_of(study, frame)).findings)["analyses"]["summary"]
    assert shown["variables"]["bmi"]["state"] == "refused"
    assert "mean" not in shown["variables"]["bmi"]


def test_a_rare_level_takes_a_second_cell_with_it() -> None:
    study = study_of({"kind": "summary", "variables": ["cp"]})
    frame = patients().copy()
    frame["cp"] = np.select([frame.index < 5, frame.index < 35], [3, 2], 1)
    shown = published(study, drive(study, cohort_of(study, frame)).findings)["analyses"]["summary"]
    levels = shown["variables"]["cp"]["levels"]
    assert levels == {"1": 565, "2": None, "3": None, "4": 0}
    assert shown["variables"]["cp"]["suppressed"] == 2
