"""Row sets at a hospital: what a study may not add to what earlier ones told, and what is allowed."""

from __future__ import annotations

import sqlite3
import time
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from wardround_client import ledger, rowsets
from wardround_client.ledger import Charge
from wardround_client.reader import Reading, read
from wardround_client.rowsets import Near, RowSets
from wardround_client.sources import of_frame
from wardround_client.store import NodeStore
from wardround_common.errors import StudyError, WardroundError
from wardround_common.study import Study, parse_study, study_key

KEY = b"h" * 32
LEAST = 11
APPROVED_AT = "update studies set approved_at = ? where digest = ?"
AGE = {"kind": "number", "range": [18, 100]}
SEX = {"kind": "category", "levels": ["f", "m"]}
DEAD = {"kind": "category", "levels": ["no", "yes"]}


def ward(rows: int = 200, **columns: Any) -> pd.DataFrame:
    chance = np.random.default_rng(7)
    content: dict[str, Any] = {
        "id": [f"p{i}" for i in range(rows)],
        "age": chance.integers(18, 100, rows).astype(float),
        "sex": chance.choice(["f", "m"], rows),
        "dead": chance.choice(["no", "yes"], rows),
        "seen": [f"2025-{1 + i % 12:02d}-15" for i in range(rows)],
    }
    return pd.DataFrame(content | columns)


def study_of(name: str, where: str | None = None, closed: str | None = None, **keys: Any) -> Study:
    cohort: dict[str, Any] = {"where": where}
    if closed is not None:
        cohort["closed"] = {"column": "seen", "by": closed}
    study = {"wardround": 1, "name": name, "variables": {"age": AGE, "sex": SEX, "dead": DEAD}}
    study |= {"cohort": cohort, "analyses": [{"kind": "summary"}]}
    return parse_study(study | keys)


class Hospital:
    """A node.db, and what an officer does with studies on a table."""

    def __init__(self) -> None:
        self.store = NodeStore()

    def read(self, study: Study, frame: pd.DataFrame) -> Reading:
        return read(of_frame(frame, "ward"), study, "ward", study_key(study), row_key=KEY)

    def sets(self, study: Study, frame: pd.DataFrame) -> RowSets:
        return rowsets.row_sets(study, self.read(study, frame))

    def near(self, study: Study, frame: pd.DataFrame) -> list[Near]:
        return rowsets.compare(self.store, study, self.sets(study, frame), LEAST)

    def approve(
        self, study: Study, frame: pd.DataFrame, cohort: bytes = b"c" * 32, accept: list[Near] | None = None
    ) -> None:
        entered = [rowsets.acceptance(study, one, "officer") for one in accept or []]
        kept = rowsets.statements(study, cohort, self.sets(study, frame))
        self.store.offer(study.digest, study.name, study.manifest())
        self.store.change(*kept, *entered, (APPROVED_AT, (time.time(), study.digest)))

    def release(self, study: Study) -> None:
        charge = Charge(b"b" * 32, "summary", 0, "summary", 1, 1, ("ward",), study.digest)
        with self.store.transaction() as db:
            ledger.enter(db, charge)

    def withdraw(self, study: Study) -> None:
        self.store.change((APPROVED_AT, (None, study.digest)), *rowsets.forget(study.digest))


def whose(near: list[Near]) -> list[tuple[int, tuple[str, ...]]]:
    return [(one.persons, one.sets) for one in near]


# What is refused


def test_two_predicates_one_patient_apart_are_refused_and_named() -> None:
    home, frame = Hospital(), ward()
    frame.loc[:1, "age"] = [99.0, 98.0]
    frame.loc[2:, "age"] = frame["age"][2:].clip(upper=97)
    home.approve(study_of("one", "age <= 98"), frame)
    near = home.near(study_of("other"), frame)
    assert whose(near) == [(1, ("`one` flow", "`other` flow")), (1, ("`one` summary", "`other` summary"))]
    assert not any(one.accepted for one in near)
    assert all(one.is_among(["one"]) and not one.is_among(["other"]) for one in near)


def test_predicates_that_are_min_cell_patients_apart_are_allowed() -> None:
    frame = ward(age=[30.0] * 189 + [90.0] * 11)
    for patients, refused in ((11, False), (10, True)):
        home = Hospital()
        home.approve(study_of("one"), frame[: 189 + patients])
        assert bool(home.near(study_of("other", "age < 80"), frame[: 189 + patients])) is refused


def test_a_tracker_by_overlapping_cohorts_is_refused() -> None:
    # the one man of 90 is in none of the sets alone, but in (old) + (men) - (old or men) = (old and men)
    frame = ward(age=[30.0] * 100 + [90.0] * 100, sex=["m"] * 101 + ["f"] * 99)
    home = Hospital()
    for name, where in (("old", "age > 80"), ("men", "sex = 'm'")):
        assert not home.near(study_of(name, where), frame)
        home.approve(study_of(name, where), frame)
    near = home.near(study_of("either", "age > 80 OR sex = 'm'"), frame)
    assert {one.persons for one in near} == {1}
    assert near[-1].others == ("men", "old")
    assert near[-1].sets == ("`old` summary", "`men` summary", "`either` summary")
    assert not near[-1].is_among(["men"]) and near[-1].is_among(["old", "men"])


def test_a_tracker_across_tables_is_refused() -> None:
    frame = ward(age=[30.0] * 100 + [90.0] * 100, sex=["m"] * 101 + ["f"] * 99)
    home = Hospital()
    home.approve(study_of("old", "age > 80"), frame)
    home.approve(study_of("men", "sex = 'm'"), frame.sample(frac=1, random_state=3).assign(ward="b"))
    near = home.near(study_of("either", "age > 80 OR sex = 'm'"), frame[::-1].reset_index(drop=True))
    assert {one.persons for one in near} == {1}


def test_one_study_with_analyses_that_are_one_patient_apart_is_refused_but_for_its_flow() -> None:
    frame = ward()
    frame.loc[5, "dead"] = None
    model = {"kind": "logistic", "outcome": "dead", "predictors": ["age"]}
    alone = study_of("model", analyses=[model])
    assert not Hospital().near(alone, frame)
    both = study_of("both", analyses=[{"kind": "summary"}, model])
    assert whose(Hospital().near(both, frame)) == [(1, ("`both` summary", "`both` logistic"))]


def test_an_analysis_of_a_model_is_about_the_models_rows() -> None:
    frame = ward()
    frame.loc[5, "dead"] = None
    model = {"kind": "logistic", "outcome": "dead", "predictors": ["age"]}
    importance = {"kind": "importance", "model": "logistic"}
    study = study_of("model", analyses=[model, importance], split={"test": 0.3})
    assert not Hospital().near(study, frame)


def test_an_analysis_may_not_be_named_like_the_flow() -> None:
    """It would share the flow's place among row sets and answers, and escape the comparison."""
    with pytest.raises(StudyError, match=r"analyses\[1\]\.name: `flow`"):
        study_of("hidden", analyses=[{"kind": "summary"}, {"kind": "summary", "name": "flow"}])


def test_drop_rules_that_leave_one_patient_out_are_refused() -> None:
    frame = ward()
    frame.loc[9, "age"] = 17.0
    home = Hospital()
    home.approve(study_of("kept"), frame)
    assert {one.persons for one in home.near(study_of("dropped", out_of_range="drop"), frame)} == {1}


def test_a_cohort_of_few_patients_is_refused_and_an_empty_one_tells_nothing() -> None:
    frame = ward(age=[30.0] * 195 + [90.0] * 5)
    assert whose(Hospital().near(study_of("few", "age > 80"), frame))[-1] == (5, ("`few` summary",))
    assert not Hospital().near(study_of("none", "age > 95"), frame)


def test_a_part_that_a_column_holds_out_is_refused_where_it_is_small() -> None:
    frame = ward(fold=["test"] * 3 + ["train"] * 197)
    study = study_of("split", split={"column": "fold"})
    assert whose(Hospital().near(study, frame)) == [(3, ("`split` summary (test)",))]


def test_a_drawn_part_may_be_small_but_other_sets_may_not_tell_of_few() -> None:
    frame = ward(30)
    home, study = Hospital(), study_of("drawn", split={"test": 0.2, "seed": 1})
    held_out = home.read(study, frame).cohort.held_out
    assert held_out is not None and 0 < held_out.sum() < LEAST
    assert not home.near(study, frame)
    home.approve(study, frame)
    other = study_of("by-column", split={"column": "fold"})
    folds = np.where(held_out, "test", "train")
    assert not home.near(other, frame.assign(fold=folds))
    folds[np.flatnonzero(held_out)[0]] = "train"
    assert {one.persons for one in home.near(other, frame.assign(fold=folds))} == {1, int(held_out.sum()) - 1}


def test_a_table_that_grew_by_one_patient_is_refused_once_something_was_released() -> None:
    home, study, frame = Hospital(), study_of("grows"), ward()
    home.approve(study, frame[:-1])
    assert not home.near(study, frame)
    home.release(study)
    assert whose(home.near(study, frame))[-1] == (1, ("`grows` summary", "`grows` summary"))
    # twenty more are no few
    assert not home.near(study, ward(220))


def test_patients_are_known_again_without_ids_when_rows_shift() -> None:
    home, frame = Hospital(), ward().drop(columns="id")
    frame = pd.concat([frame, frame[:20]], ignore_index=True)  # some are alike in all cells
    home.approve(study_of("one"), frame)
    assert not home.near(study_of("same"), frame[::-1].reset_index(drop=True))
    assert {one.persons for one in home.near(study_of("less"), frame[1:].reset_index(drop=True))} == {1}


def test_one_person_with_many_rows_in_several_classes_is_one_person() -> None:
    # two studies differ by twelve rows of one person, which a third tells apart
    frame = ward(age=[30.0] * 188 + [90.0] * 12, id=[f"p{i}" for i in range(188)] + ["many"] * 12)
    frame["sex"] = ["f", "m"] * 100
    home = Hospital()
    home.approve(study_of("all", rows="many"), frame)
    home.approve(study_of("men", "sex = 'm'", rows="many"), frame)
    assert {one.persons for one in home.near(study_of("young", "age < 80", rows="many"), frame)} == {1}


# What is allowed


def test_the_same_cohort_twice_is_allowed() -> None:
    home, frame = Hospital(), ward()
    home.approve(study_of("one", "age > 50"), frame)
    assert not home.near(study_of("same", "NOT age <= 50"), frame)


def test_what_is_told_already_is_no_reason_to_refuse_another_study() -> None:
    home, frame = Hospital(), ward()
    home.approve(study_of("all"), frame)
    one_less = frame[1:].reset_index(drop=True)
    near = home.near(study_of("less"), one_less)
    assert near
    home.approve(study_of("less"), one_less, accept=near)
    assert not home.near(study_of("less-again"), one_less)
    two_less = frame[2:].reset_index(drop=True)
    assert {one.persons for one in home.near(study_of("two-less"), two_less)} == {1}


def test_an_accepted_difference_is_entered_and_holds_for_these_rows_only() -> None:
    home, frame, study = Hospital(), ward(), study_of("less")
    home.approve(study_of("all"), frame)
    near = home.near(study, frame[1:])
    home.approve(study, frame[1:], accept=near)
    assert all(one.accepted for one in home.near(study, frame[1:]))
    assert not any(one.accepted for one in home.near(study, frame[:-1]))
    kept = home.store.rows("select told, persons, who from accepted order by told", (str, int, str))
    assert kept[0] == ("`all` flow and `less` flow", 1, "officer") and len(kept) == 2


def test_a_closed_cohort_with_a_late_correction_is_noted_and_allowed() -> None:
    frame = ward()
    model = {"kind": "logistic", "outcome": "dead", "predictors": ["age"]}
    first, second = (study_of(name, closed="2025-06-30", analyses=[model]) for name in ("first", "second"))
    home = Hospital()
    home.approve(first, frame)
    corrected = frame.copy()
    corrected.loc[0, "dead"] = None
    corrected.loc[1, "seen"] = "2025-07-01"
    near = home.near(second, pd.concat([corrected, ward(230)[200:].assign(seen="2025-07-01")]))
    assert [one.persons for one in near] == [1, 2]
    assert all(one.accepted and one.is_correction for one in near)
    # the same without a day is refused
    home = Hospital()
    home.approve(study_of("first", analyses=[model]), frame)
    near = home.near(study_of("second", analyses=[model]), corrected)
    assert [(one.persons, one.accepted) for one in near] == [(1, False)]


def test_a_closed_cohort_holds_against_a_table_that_grew() -> None:
    frame, home = ward(), Hospital()
    study = study_of("closed", closed="2025-12-31")
    home.approve(study, frame)
    home.release(study)
    more = pd.concat([frame, ward(201)[200:].assign(seen="2026-01-01")], ignore_index=True)
    assert not home.near(study, more)


def test_a_correction_is_known_also_where_another_study_used_the_same_rows_before() -> None:
    frame, home = ward(), Hospital()
    corrected = frame.copy()
    corrected.loc[0, "seen"] = "2026-01-01"
    home.approve(study_of("all"), frame)  # every row of the table
    home.approve(study_of("first", closed="2025-12-31"), frame)  # the same rows
    near = home.near(study_of("second", closed="2025-12-31"), corrected)
    assert [(one.persons, one.accepted) for one in near] == [(1, True), (1, True)]


@pytest.mark.parametrize(
    "keys",
    [
        {"closed": "2025-06-29"},
        {"where": "age >= 18"},
        {"variables": {"age": AGE, "sex": SEX, "dead": {**DEAD, "missing": ["?"]}}},
        {"out_of_range": "drop"},
    ],
)
def test_a_closed_cohort_that_was_chosen_otherwise_is_no_correction(keys: dict[str, Any]) -> None:
    model = {"kind": "logistic", "outcome": "dead", "predictors": ["age", "sex"], "missing": "drop"}
    home, frame = Hospital(), ward()
    home.approve(study_of("first", closed="2025-06-30", analyses=[model]), frame)
    corrected = frame.copy()
    corrected.loc[0, "dead"] = None
    second = study_of("second", **{"closed": "2025-06-30", "analyses": [model], **keys})
    assert [one.accepted for one in home.near(second, corrected) if one.sets[0].endswith("logistic")] == [
        False
    ]


def test_a_correction_does_not_hide_another_study_that_is_one_patient_apart() -> None:
    frame, home = ward(), Hospital()
    home.approve(study_of("first", closed="2025-12-31"), frame)
    corrected = frame.copy()
    corrected.loc[:29, "seen"] = "2026-01-01"  # thirty corrections are no small difference
    corrected["seen"] = corrected["seen"].astype(object)
    part = study_of("part")
    assert not home.near(part, corrected[31:])
    home.approve(part, corrected[31:])
    near = home.near(study_of("second", closed="2025-12-31"), corrected)
    assert {(one.persons, one.accepted, one.others) for one in near} == {(1, False, ("part",))}


# What is kept


def test_sets_of_a_study_that_released_nothing_are_forgotten_and_others_stay() -> None:
    frame, less = ward(), ward()[1:].reset_index(drop=True)
    for released in (False, True):
        home, study = Hospital(), study_of("one")
        home.approve(study, frame)
        if released:
            home.release(study)
        home.withdraw(study)
        assert bool(home.near(study_of("other"), less)) is released
        assert len(home.store.rows("select digest from row_tables", (bytes,))) == int(released)


def test_rows_that_were_released_stay_when_a_study_is_approved_anew() -> None:
    home, study, frame = Hospital(), study_of("one"), ward()
    home.approve(study, frame)
    home.release(study)
    home.approve(study, ward(220), cohort=b"d" * 32)
    assert home.near(study_of("other"), frame[1:])
    home.withdraw(study)
    assert home.near(study_of("other"), frame[1:])


def test_the_gate_knows_which_cohort_was_compared() -> None:
    home, study = Hospital(), study_of("one")
    assert not rowsets.is_cleared(home.store, study.digest, b"c" * 32)
    home.approve(study, ward())
    assert rowsets.is_cleared(home.store, study.digest, b"c" * 32)
    assert not rowsets.is_cleared(home.store, study.digest, b"d" * 32)
    assert not rowsets.is_cleared(home.store, study_of("other").digest, b"c" * 32)
    home.withdraw(study)
    assert not rowsets.is_cleared(home.store, study.digest, b"c" * 32)


def test_one_table_is_kept_once() -> None:
    home = Hospital()
    for name in ("one", "two"):
        home.approve(study_of(name), ward())
    assert len(home.store.rows("select digest from row_tables", (bytes,))) == 1


@pytest.mark.parametrize(
    "damage",
    [
        "update row_sets set bits = x'00'",
        "update row_sets set bits = substr(bits, 1, 9)",
        "update row_sets set bits = 'text'",
        "update row_sets set rule = '[]'",
        "update row_sets set rule = '{'",
        "update row_tables set people = x'00'",
        "delete from row_tables",
    ],
)
def test_a_damaged_database_is_refused_not_taken_for_empty(tmp_path: Path, damage: str) -> None:
    home = Hospital()
    home.store = NodeStore(tmp_path / "node.db")
    home.approve(study_of("one"), ward())
    other = sqlite3.connect(tmp_path / "node.db")
    with other:
        other.execute(damage)
    other.close()
    with pytest.raises(WardroundError, match="cannot be read"):
        home.near(study_of("other"), ward()[1:])


def test_nothing_kept_or_shown_holds_an_id(tmp_path: Path) -> None:
    home = Hospital()
    home.store = NodeStore(tmp_path / "node.db")
    frame = ward(id=[f"Xq7SECRET{i}" for i in range(200)])
    home.approve(study_of("one"), frame)
    near = home.near(study_of("other"), frame[1:])
    home.store.close()
    written = b"".join(file.read_bytes() for file in tmp_path.iterdir())
    assert b"Xq7SECRET" not in written
    shown = repr((near, home.sets(study_of("one"), frame), home.sets(study_of("one"), frame).sets))
    assert "SECRET" not in shown and "array" not in shown


def test_a_million_rows_are_compared_with_thirty_sets_soon() -> None:
    chance = np.random.default_rng(1)
    rows = 1_000_000
    people = chance.permutation(rows).astype(np.uint64)
    home = Hospital()

    def sets_of(study: Study, members: Any) -> RowSets:
        found = rowsets.RowSet(study.name, "summary", "all", members, "{}", study.digest)
        return RowSets(people, (found,))

    kept = [chance.random(rows) < 0.5 for _ in range(30)]
    for i, members in enumerate(kept):
        study = study_of(f"s{i}")
        home.store.offer(study.digest, study.name, study.manifest())
        stored = rowsets.statements(study, b"c" * 32, sets_of(study, members))
        home.store.change(*stored, (APPROVED_AT, (time.time(), study.digest)))
    near = kept[7].copy()
    near[4711] = not near[4711]
    new = study_of("new")
    begun = time.perf_counter()
    found = rowsets.compare(home.store, new, sets_of(new, near), LEAST)
    taken_s = time.perf_counter() - begun
    assert whose(found) == [(1, ("`s7` summary", "`new` summary"))]
    assert taken_s < 20  # far more than it takes, on a machine that does other things
