"""What is published keeps small cells back, and tells values, suppressed and refused figures apart."""

from __future__ import annotations

import json
import resource
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.support import bands_of, cohort_of, drive, patients, published, study_of
from wardround_common.analyses.evaluate import Evaluation, published_all
from wardround_common.analyses.logistic import Coefficient
from wardround_common.disclosure import Rules
from wardround_common.errors import WardroundError
from wardround_common.evaluation.bands import Bands
from wardround_common.files import write_file
from wardround_server.publish import models, to_json

RULES = Rules(11)


@pytest.mark.parametrize(("count", "shown"), [(0, 0), (1, None), (10, None), (11, 11), (500, 500)])
def test_a_small_count_is_not_shown(count: int, shown: int | None) -> None:
    assert RULES.count(count) == shown


@pytest.mark.parametrize(
    ("counts", "hospitals", "shown"),
    [
        ([20, 30, 40], None, [20, 30, 40]),
        ([5, 30, 40], None, [None, None, 40]),
        ([5, 40, 30], None, [None, 40, None]),
        ([5, 6, 40], None, [None, None, 40]),
        ([5, 0, 40], None, [None, 0, None]),
        ([5, 0, 0], None, [None, 0, 0]),
        ([0, 0, 0], [0, 0, 0], [0, 0, 0]),
        ([200, 30, 40], [1, 3, 3], [None, None, 40]),
        ([200, 30, 40], [1, 1, 3], [None, None, 40]),
        ([200, 30, 0], [1, 3, 0], [None, None, 0]),
        ([1, 1, 400], None, [None, None, None]),
        ([3, 4, 20, 400], None, [None, None, None, 400]),
    ],
)
def test_a_lone_suppressed_count_takes_the_next_smallest_with_it(
    counts: list[int], hospitals: list[int] | None, shown: list[int | None]
) -> None:
    assert RULES.counts(counts, hospitals) == shown


@given(st.lists(st.integers(0, 60), min_size=1, max_size=6), st.data())
def test_no_suppressed_count_follows_from_the_total(counts: list[int], data: st.DataObject) -> None:
    hospitals = data.draw(st.lists(st.integers(1, 4), min_size=len(counts), max_size=len(counts)))
    shown = RULES.counts(counts, hospitals)
    for count, number, value in zip(counts, hospitals, shown, strict=True):
        assert value in (None, count)
        assert value is None or count == 0 or (count >= 11 and number >= 2)
    hidden = [count for count, value in zip(counts, shown, strict=True) if value is None]
    if hidden and any(shown):
        assert len(hidden) > 1 and sum(hidden) >= 11


def evaluation(confusion: tuple[tuple[int, int], tuple[int, int]], hospitals: tuple[int, int]) -> Evaluation:
    bands = bands_of(confusion, min(hospitals))
    return Evaluation("test", 0.5, confusion, hospitals, 0.8, 0.2, (0.1, 0.9), bands, (), 3)


def test_metrics_are_refused_on_few_rows_or_rows_of_few_hospitals() -> None:
    for few in (evaluation(((3, 2), (3, 2)), (3, 3)), evaluation(((30, 20), (30, 20)), (2, 2))):
        shown = published_all(RULES, [few])["test"]
        assert shown["state"] == "refused" and shown["n"] is None
        assert not {"auc", "accuracy", "brier", "calibration"} & set(shown)


@pytest.mark.parametrize(
    ("confusion", "hospitals"), [(((30, 20), (4, 6)), (3, 3)), (((30, 20), (30, 20)), (3, 1))]
)
def test_metrics_of_a_small_outcome_class_are_suppressed(
    confusion: tuple[tuple[int, int], tuple[int, int]], hospitals: tuple[int, int]
) -> None:
    shown = published_all(RULES, [evaluation(confusion, hospitals)])["test"]
    assert shown["n"] == sum(map(sum, confusion))
    for name in ("auc", "sensitivity", "specificity", "calibration_slope", "calibration_intercept"):
        assert shown[name] is None, name


@pytest.mark.parametrize("confusion", [((30, 20), (30, 4)), ((300, 1), (40, 50)), ((3, 50), (40, 50))])
def test_sensitivity_and_specificity_need_four_cells_that_can_be_shown(
    confusion: tuple[tuple[int, int], tuple[int, int]],
) -> None:
    shown = published_all(RULES, [evaluation(confusion, (3, 3))])["test"]
    assert shown["sensitivity"] is None and shown["specificity"] is None
    assert shown["auc"] == 0.8


def test_sensitivity_and_specificity_are_shown_where_all_cells_are() -> None:
    shown = published_all(RULES, [evaluation(((30, 20), (15, 45)), (3, 3))])["test"]
    assert (shown["sensitivity"], shown["specificity"]) == (0.75, 0.6)


def test_a_calibration_group_holds_no_row_or_min_cell_rows_of_either_outcome() -> None:
    shown = published_all(RULES, [evaluation(((30, 20), (20, 30)), (3, 3))])["test"]
    groups = [{"n": 50, "predicted": 0.5, "observed": share} for share in (0.4, 0.6)]
    assert shown["calibration"] == groups
    small = published_all(RULES, [evaluation(((30, 20), (5, 45)), (3, 3))])["test"]
    assert small["calibration"] == [{"n": 100, "predicted": 0.5, "observed": 0.5}]


def test_nothing_is_cut_at_the_threshold_where_a_call_comes_from_one_hospital() -> None:
    confusion = ((30, 20), (15, 45))
    low, high = bands_of(confusion).bands
    bands = Bands(1, (replace(low, hospitals=(3, 1)), high))
    shown = Evaluation("test", 0.5, confusion, (3, 3), 0.8, 0.2, None, bands, (), 3).published(RULES)
    assert [group["n"] for group in shown["calibration"]] == [110]
    assert shown["sensitivity"] is None and shown["accuracy"] is None and shown["curves"]["tpr"] == []


def test_a_coefficient_without_an_error_has_a_p_of_zero_and_no_infinity() -> None:
    assert json.loads(to_json(Coefficient(1.5, 0.0).published()))["p"] == 0.0


def test_results_name_study_version_defaults_and_models() -> None:
    study = study_of({"kind": "logistic", "predictors": ["age"], "name": "risk"})
    findings = drive(study, cohort_of(study, patients())).findings
    shown = published(study, findings)
    assert shown["study_sha256"] == study.digest.hex()
    assert shown["manifest"] == json.loads(study.manifest())
    assert list(models(findings)) == ["risk"]
    assert shown["analyses"]["risk"]["model_sha256"] == models(findings)["risk"].sha256
    assert json.loads(to_json(shown)) == json.loads(json.dumps(shown))


DROPPED = {"kind": "logistic", "predictors": ["age", "bmi"], "missing": "drop"}  # bmi is missing in 6 rows


def shown_of(*analyses: dict[str, Any]) -> dict[str, Any]:
    study = study_of(*analyses)
    shown: dict[str, Any] = published(study, drive(study, cohort_of(study, patients())).findings)["analyses"]
    return shown


def test_a_summary_hides_the_outcomes_levels_that_tell_the_few_rows_that_a_model_drops() -> None:
    found = shown_of({"kind": "summary"}, DROPPED)
    disease = found["summary"]["variables"]["disease"]
    assert (disease["levels"], disease["missing"], disease["suppressed"]) == ({"no": None, "yes": None}, 0, 2)
    assert None not in found["summary"]["variables"]["sex"]["levels"].values()
    assert found["logistic"]["metrics"]["train"]["prevalence"] is not None
    assert None not in shown_of({"kind": "summary"})["summary"]["variables"]["disease"]["levels"].values()


def test_of_two_models_whose_rows_differ_by_few_the_later_tells_nothing_by_outcome() -> None:
    again = {**DROPPED, "missing": "impute", "name": "again", "subgroups": {"sex": []}}
    metrics = shown_of(DROPPED, again)["again"]["metrics"]["train"]
    for name in ("prevalence", "auc", "accuracy", "sensitivity", "specificity"):
        assert metrics[name] is None, name
    assert metrics["calibration"] == [] and metrics["curves"]["tpr"] == []
    assert [(one["n"], one["state"]) for one in metrics["subgroups"]["sex"]] == [(None, "refused")] * 2
    assert metrics["n"] == 600 and metrics["brier"] > 0
    assert shown_of(again)["again"]["metrics"]["train"]["auc"] > 0.5


def test_groups_and_their_calls_give_way_to_those_of_another_entry() -> None:
    """Ages 50 and 51 have few rows between them; 50 and 75 many, but few of some call."""
    model = {"kind": "logistic", "predictors": ["age", "sex"], "subgroups": {"age": [50]}}
    entry = {"kind": "evaluate", "model": "logistic", "part": "train"}
    near, far, same = (
        {**entry, "name": name, "subgroups": {"age": [at]}}
        for name, at in (("near", 51), ("far", 75), ("same", 50))
    )
    found = {label: one["metrics"]["train"] for label, one in shown_of(model, near, far, same).items()}
    assert all(one.get("state") == "refused" for one in found["near"]["subgroups"]["age"])
    assert all(one["n"] >= 11 and one["sensitivity"] is None for one in found["far"]["subgroups"]["age"])
    assert found["same"] == found["logistic"]


def test_numbers_keep_all_their_digits_and_what_is_no_number_is_refused() -> None:
    assert json.loads(to_json({"a": 0.1 + 0.2}))["a"] == 0.1 + 0.2
    with pytest.raises(ValueError, match="not JSON compliant"):
        to_json(float("nan"))


def test_a_file_is_replaced_whole_or_stays_as_it_was(tmp_path: Path) -> None:
    path = tmp_path / "out" / "results.json"
    write_file(path, "first")
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1000, limits[1]))
    try:
        with pytest.raises(WardroundError, match=f"{path}: cannot be written .*make room"):
            write_file(path, "x" * 5000)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert path.read_text() == "first"
    assert [file.name for file in path.parent.iterdir()] == ["results.json"]


def test_a_folder_that_cannot_be_made_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(WardroundError, match=r"file/results.json: cannot be written .*--out"):
        write_file(tmp_path / "file" / "results.json", "x")
