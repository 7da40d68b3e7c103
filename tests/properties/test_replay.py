"""What follows from a study's recorded sums, and what a change of its hospitals means for each analysis."""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.analyses.contract import cohorts
from tests.properties.truth import BINDING, Course, direct
from tests.support import exact, study_data, study_of
from wardround_common.analyses.logistic import LogisticFit, NewtonStep
from wardround_common.cohort import Cohort
from wardround_common.errors import ProtocolError, ReplayDiverged, StudyError
from wardround_common.models import LogisticModel
from wardround_common.plan import Findings
from wardround_common.replay import Due, Replay
from wardround_common.sealing.record import EpochRecord, Opened, StepRecord, first_head, position
from wardround_common.strategies import installed
from wardround_common.study import Study, parse_study
from wardround_common.wire import encode

LOGISTIC = {"kind": "logistic", "predictors": ["age", "sex"]}
SUMMARY = {"kind": "summary", "variables": ["age", "sex"]}
FOREST = {"kind": "forest", "predictors": ["age", "sex"], "trees": 4, "depth": 3, "bins": 8}
STUDY = study_of(LOGISTIC, SUMMARY)
FORESTS = study_of(FOREST, SUMMARY)
EVERYONE = ("h00", "h01", "h02", "h03", "h04")
FEWER = ("h00", "h01", "h03", "h04")


def those(study: Study, names: tuple[str, ...]) -> dict[str, Cohort]:
    return {name: one for name, one in cohorts(study, 5).items() if name in names}


def course(study: Study = STUDY, hospitals: tuple[str, ...] = EVERYONE) -> Course:
    return Course(study, cohorts(study, 5)).begin(hospitals)


def kinds(asked: list[tuple[Due, ...]]) -> list[str]:
    return [due.kind for step in asked for due in step]


def coefficients(found: Findings, label: str = "logistic") -> np.ndarray:
    result = found.analyses[label].result
    assert isinstance(result, LogisticFit)
    both = [(one.value, one.se) for one in result.coefficients.values()]
    return np.array(both)


# --- one set of hospitals ---


@pytest.mark.parametrize("study", [STUDY, FORESTS], ids=["logistic", "forest"])
def test_what_is_due_is_what_the_studys_program_asks(study: Study) -> None:
    run = course(study)
    found = run.finish()
    expected, steps = direct(study, cohorts(study, 5))
    assert [[encode(due.asked) for due in step] for step in run.asked] == [
        [encode(asked) for asked in step] for step in steps
    ]
    for step, asked in zip(run.asked, steps, strict=True):
        assert [(due.analysis, due.kind) for due in step] == [(one.analysis, one.query.kind) for one in asked]
    numbers = {due.analysis: [] for step in run.asked for due in step}
    for due in (due for step in run.asked for due in step):
        numbers[due.analysis].append(due.index)
    assert all(one == list(range(len(one))) for one in numbers.values())
    assert exact(study, found) == exact(study, expected)
    assert run.replay.due == ()


def test_a_recorded_course_leads_to_the_same_place_from_wherever_it_is_cut() -> None:
    run = course().advance(3).begin(FEWER).advance(2).begin(FEWER)
    run.finish()
    again = Replay(STUDY, installed, BINDING)
    assert (again.steps, again.head, again.due) == (0, first_head(BINDING), ())
    asked = iter(run.asked)
    for i, record in enumerate(run.records):
        if isinstance(record, EpochRecord):
            again.begin(record.epoch)
        else:
            assert [due.query for due in again.due] == [due.query for due in next(asked)]
            again.take(record, again.open(record))
        assert (again.steps, again.head) == position(BINDING, run.records[: i + 1])
    assert again.findings is not None and run.replay.findings is not None
    assert exact(STUDY, again.findings) == exact(STUDY, run.replay.findings)


@pytest.mark.parametrize("study", [STUDY, FORESTS], ids=["logistic", "forest"])
def test_epochs_with_the_same_hospitals_change_nothing(study: Study) -> None:
    run, plain = course(study), course(study)
    expected = plain.finish()
    while run.replay.findings is None:
        before = run.replay.due
        run.begin(EVERYONE)
        assert run.replay.due is before
        run.advance()
    assert [[due.query for due in step] for step in run.asked] == [
        [due.query for due in step] for step in plain.asked
    ]
    assert exact(study, run.replay.findings) == exact(study, expected)
    assert run.replay.head != plain.replay.head


def test_a_change_after_the_end_changes_nothing() -> None:
    run = course()
    found = run.finish()
    run.begin(FEWER)
    assert run.replay.due == () and run.replay.findings is found


def record_of(run: Course, **changes: Any) -> StepRecord:
    """Return the true next record with its first sum changed."""
    record = run.step()
    return dataclasses.replace(
        record, sums=(dataclasses.replace(record.sums[0], **changes), *record.sums[1:])
    )


@pytest.mark.parametrize(
    ("changes", "match"),
    [
        ({"analysis": "summary"}, "`logistic` asks where `summary` was recorded"),
        ({"index": 1}, "was recorded"),
        ({"question": bytes(32)}, "asks another query 0"),
    ],
)
def test_a_sum_of_something_else_diverges_and_changes_nothing(changes: dict[str, Any], match: str) -> None:
    run = course().advance()
    with pytest.raises(ReplayDiverged, match=match):
        run.replay.open(record_of(run, **changes))
    untouched(run)


@pytest.mark.parametrize("size", [0, 1, -1])
def test_a_sum_of_another_length_is_refused(size: int) -> None:
    run = course().advance()
    vector = run.step().sums[0].vector
    wrong = vector[:size] if size < 1 else np.append(vector, 0)
    with pytest.raises(ProtocolError, match="another length than its query asks"):
        run.replay.open(record_of(run, vector=wrong))
    untouched(run)


def test_more_fewer_or_reordered_sums_and_other_epochs_diverge() -> None:
    run = course().advance()
    record = run.step()
    two = record.sums[:2]
    for sums in ((), two[:1], (*two, two[0]), two[::-1]):
        with pytest.raises(ReplayDiverged):
            run.replay.open(StepRecord(record.epoch, sums))
    with pytest.raises(ReplayDiverged, match="under another epoch"):
        run.replay.open(StepRecord(record.epoch + 1, record.sums))
    untouched(run)


def untouched(run: Course) -> None:
    expected, _ = direct(run.study, cohorts(run.study, 5))
    assert exact(run.study, run.finish()) == exact(run.study, expected)


def test_nothing_can_be_opened_before_an_epoch_or_after_the_end() -> None:
    record = StepRecord(1, (Opened("flow", 0, bytes(32), np.zeros(1, np.int64), bytes(16)),))
    with pytest.raises(ReplayDiverged, match="another epoch"):
        Replay(STUDY, installed, BINDING).open(record)
    run = course()
    run.finish()
    with pytest.raises(ReplayDiverged, match="the program has ended"):
        run.replay.open(record)


# --- other hospitals than before ---


@pytest.mark.parametrize("after", [EVERYONE, FEWER], ids=["one returns", "one leaves"])
@pytest.mark.parametrize("steps", range(1, 8))
def test_a_fit_that_goes_on_ends_where_a_fit_of_the_new_hospitals_ends(
    steps: int, after: tuple[str, ...]
) -> None:
    before = FEWER if after == EVERYONE else EVERYONE
    found = course(STUDY, before).advance(steps).begin(after).finish()
    expected, _ = direct(STUDY, those(STUDY, after))
    assert coefficients(found) == pytest.approx(coefficients(expected), rel=1e-8, abs=1e-8)
    mine, other = found.analyses["logistic"].result, expected.analyses["logistic"].result
    assert isinstance(mine, LogisticFit) and isinstance(other, LogisticFit)
    assert (mine.n, mine.df) == (other.n, other.df)
    assert mine.deviance == pytest.approx(other.deviance, rel=1e-10)


@pytest.mark.parametrize("steps", [4, 5, 6])
def test_after_a_small_change_a_fit_takes_fewer_steps_than_from_zero(steps: int) -> None:
    study, after = study_of({**LOGISTIC, "predictors": ["age", "sex", "chol"]}), EVERYONE[1:]
    run = course(study).advance(steps).begin(after)
    run.finish()
    _, fresh = direct(study, those(study, after))
    from_zero = [one.query.kind for step in fresh for one in step].count("logistic.newton")
    assert kinds(run.asked[steps:]).count("logistic.newton") < from_zero


def test_a_fit_goes_on_from_the_coefficients_that_it_reached() -> None:
    run = course().advance(5)
    reached = newton_of(run)
    run.begin(FEWER).advance(3)
    begun = newton_of(run)
    slopes = begun.beta[1:]
    assert slopes.tolist() == reached.beta[1:].tolist() and slopes.any()
    own_units = [one.design.own_units(one.beta) for one in (begun, reached)]
    assert own_units[0] == pytest.approx(own_units[1], rel=1e-12)


def newton_of(run: Course) -> LogisticModel:
    """Return the model at which the Newton step that is due is asked."""
    (query,) = (due.asked.query for due in run.replay.due if due.kind == "logistic.newton")
    assert isinstance(query, NewtonStep)
    return query.model


def test_a_fit_that_says_restart_begins_at_zero() -> None:
    study = study_of({**LOGISTIC, "on_change": "restart"}, SUMMARY)
    run = Course(study, cohorts(study, 5)).begin(EVERYONE).advance(5).begin(FEWER)
    found = run.finish()
    expected, _ = direct(study, those(study, FEWER))
    assert encode(found.analyses["logistic"].result.model) == encode(  # type: ignore[union-attr]
        expected.analyses["logistic"].result.model  # type: ignore[union-attr]
    )
    assert coefficients(found).tolist() == coefficients(expected).tolist()


@pytest.mark.parametrize("steps", range(1, 3))
def test_what_restarts_is_what_a_new_study_of_the_new_hospitals_finds(steps: int) -> None:
    run = course(FORESTS).advance(steps).begin(FEWER)
    expected, fresh = direct(FORESTS, those(FORESTS, FEWER))
    assert exact(FORESTS, run.finish()) == exact(FORESTS, expected)
    assert [[encode(due.asked) for due in step] for step in run.asked[steps:]] == [
        [encode(asked) for asked in step] for step in fresh
    ]


@pytest.mark.parametrize("steps", range(3, 6))
def test_what_was_finished_is_kept_and_not_asked_again(steps: int) -> None:
    run = course(FORESTS).advance(steps).begin(FEWER)
    found = run.finish()
    before, _ = direct(FORESTS, cohorts(FORESTS, 5))
    after, _ = direct(FORESTS, those(FORESTS, FEWER))
    assert {"summary", "squares"}.isdisjoint(kinds(run.asked[steps:]))
    assert "flow" in kinds(run.asked[steps:])
    assert found.analyses["summary"] == before.analyses["summary"] != after.analyses["summary"]
    mixed = Findings(after.flow, {"forest": after.analyses["forest"], "summary": before.analyses["summary"]})
    assert exact(FORESTS, found) == exact(FORESTS, mixed)


def test_numbers_within_an_analysis_go_on_over_a_change_so_none_serves_twice() -> None:
    run = course().advance(4).begin(FEWER).advance(3).begin(EVERYONE)
    run.finish()
    numbers = [(due.analysis, due.index) for step in run.asked for due in step]
    assert len(set(numbers)) == len(numbers)


def test_who_abstains_from_an_analysis_counts_as_a_change() -> None:
    run = course().advance(4)
    run.begin(EVERYONE, {"logistic": ("h02",)})
    assert kinds([run.replay.due]) == ["flow"]
    found = run.finish()
    expected, _ = direct(STUDY, cohorts(STUDY, 5), {"logistic": ("h02",)})
    assert coefficients(found) == pytest.approx(coefficients(expected), rel=1e-8, abs=1e-8)


@given(st.lists(st.tuples(st.integers(0, 4), st.sets(st.sampled_from(EVERYONE), min_size=3)), max_size=4))
def test_whatever_the_changes_every_analysis_is_of_the_hospitals_with_which_it_ended(
    changes: list[tuple[int, set[str]]],
) -> None:
    run = course()
    for steps, names in changes:
        for _ in range(steps):
            if run.replay.findings is None:
                run.advance()
        run.begin(tuple(sorted({*names, "h00", "h03", "h04"})))  # so that both outcomes occur
    found = run.finish()
    ended: dict[str, tuple[str, ...]] = {}
    epoch = None
    for record in run.records:
        if isinstance(record, EpochRecord):
            epoch = record.epoch
        else:
            assert epoch is not None
            ended.update({one.analysis: epoch.of(one.analysis) for one in record.sums})
    for label, names in ended.items():
        expected, _ = direct(STUDY, those(STUDY, names))
        if label == "logistic":
            assert coefficients(found) == pytest.approx(coefficients(expected), rel=1e-8, abs=1e-8)
        elif label == "summary":
            assert found.analyses[label] == expected.analyses[label]
        else:
            assert found.flow == expected.flow


FAILS = study_of({**SUMMARY, "on_change": "fail"}, LOGISTIC)


@pytest.mark.parametrize("steps", [0, 1, 2])
def test_an_analysis_that_says_fail_ends_the_study_and_says_what_to_do(steps: int) -> None:
    run = Course(FAILS, cohorts(FAILS, 5)).begin(EVERYONE).advance(steps)
    with pytest.raises(StudyError, match=r"analysis `summary`: .*`on_change: fail`; begin anew: .*--again"):
        run.begin(FEWER)


def test_an_analysis_that_says_fail_and_is_finished_does_not_mind() -> None:
    run = Course(FAILS, cohorts(FAILS, 5)).begin(EVERYONE).advance(3).begin(FEWER)
    before, _ = direct(FAILS, cohorts(FAILS, 5))
    assert run.finish().analyses["summary"] == before.analyses["summary"]


def test_an_analysis_that_says_fail_does_not_mind_the_same_hospitals() -> None:
    run = Course(FAILS, cohorts(FAILS, 5)).begin(EVERYONE).advance(2).begin(EVERYONE)
    assert run.finish().analyses.keys() == {"summary", "logistic"}


@pytest.mark.parametrize("spec", [FOREST, SUMMARY], ids=["forest", "summary"])
def test_continue_is_refused_for_what_cannot_go_on(spec: dict[str, Any]) -> None:
    kind = spec["kind"]
    with pytest.raises(StudyError, match=rf"on_change: a `{kind}` can't go on .* write `restart` or `fail`"):
        parse_study(study_data([{**spec, "on_change": "continue"}]))


def test_by_default_each_kind_does_what_it_can() -> None:
    assert [one.on_change for one in STUDY.analyses] == ["continue", "restart"]
    assert [one.on_change for one in FORESTS.analyses] == ["restart", "restart"]
