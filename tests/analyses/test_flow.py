"""The cohort flow keeps the contract, and counts each row and cell once, by what became of it."""

from __future__ import annotations

from typing import ClassVar

import pytest

from tests.analyses.contract import AnalysisContract, driven
from tests.support import VARIABLES, cohort_of, drive, patients, published, study_data
from wardround_common.study import Study, parse_study

NARROW = {
    **VARIABLES,
    "age": {"kind": "number", "range": [18, 90]},
    "chol": {"kind": "number", "range": [80, 620], "missing": [200.5, 300.5]},
}
SUMMARY = {"kind": "summary", "variables": ["sex"]}


def flow_study(**changes: object) -> Study:
    return parse_study(study_data([SUMMARY], variables=NARROW, privacy={"min_rows": 1}, **changes))


class TestFlow(AnalysisContract):
    studies: ClassVar = {
        "everyone": flow_study(),
        "out of range dropped": flow_study(out_of_range="drop", cohort={"where": "bmi < 45"}),
        "out of range missing": flow_study(cohort={"where": "bmi < 45"}),
    }

    def test_counts_equal_those_of_the_pooled_table(self, study: Study) -> None:
        frame = patients()
        inside = frame[frame["bmi"] < 45] if study.cohort.where else frame
        old = inside["age"] > 90
        kept = inside[~old] if study.out_of_range == "drop" else inside
        shown = published(study, driven(study).findings)["flow"]
        assert shown["rows"] == len(kept)
        assert shown["excluded"] == {
            "not_in_cohort": len(frame) - len(inside),
            "out_of_range": len(inside) - len(kept),
        }
        coded = kept["chol"].isin([200.5, 300.5]).sum()
        found = driven(study).findings.flow
        assert found.variables["chol"] == (
            kept["chol"].notna().sum() - coded,
            kept["chol"].isna().sum(),
            coded,
            0,
        )
        outside = int(old.sum()) if study.out_of_range == "missing" else 0
        assert found.variables["age"] == (len(kept) - outside, 0, 0, outside)


def test_usable_rows_are_counted_by_part_and_by_what_an_analysis_needs() -> None:
    spec = {"kind": "logistic", "predictors": ["age", "chol"], "missing": "drop"}
    study = parse_study(study_data([spec], split={"column": "fold", "test": "0"}))
    frame = patients()
    usable = drive(study, cohort_of(study, frame)).findings.flow.usable["logistic"]
    test, lacks = frame["fold"] == 0, frame["chol"].isna()
    assert (usable.train, usable.test) == ((~test & ~lacks).sum(), (test & ~lacks).sum())
    assert usable.dropped == (~test & lacks).sum()


@pytest.mark.parametrize("outside", [0, 3, 40])
def test_a_lone_small_exclusion_cannot_be_found_by_subtraction(outside: int) -> None:
    study = flow_study(cohort={"where": "sex = '0' OR sex = '1'"})
    frame = patients().copy()
    frame["sex"] = frame["sex"].where(frame.index >= outside)
    shown = published(study, drive(study, cohort_of(study, frame)).findings)["flow"]
    known = shown["read"], shown["excluded"]["not_in_cohort"]
    assert known == ((None, None) if outside == 3 else (len(frame), outside))
    assert shown["rows"] == len(frame) - outside
