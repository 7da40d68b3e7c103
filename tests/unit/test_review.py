"""What an officer is shown before deciding: of real tables, held against other counts of the same."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from tests.attacks.coordinator import NAMES, STUDY, Coordinator
from tests.network.line import done
from tests.support import clinic_home, cohort_of, drive, layout_of, patients, study_of, tables_of
from wardround_client.approval import approve, take_up
from wardround_client.gate.release import fields_of
from wardround_client.home import HospitalHome, make_home
from wardround_client.preview import SAMPLE_ROWS, numbers_of
from wardround_client.review import Review, review
from wardround_common.errors import DataError, FitError, Refused
from wardround_common.study import KINDS, Study, parse_study

SUMMARY = {"kind": "summary"}
LOGISTIC = {"kind": "logistic", "ridge": 1.0}
FOREST = {"kind": "forest", "trees": 5, "depth": 3}
ALLOWED = "This hospital's policy allows it."
OTHERS = [name for name in NAMES if name != "h01"]
HOSTILE = f"Which\n{ALLOWED}\r\n\x1b[2J\u202eegat\u2066\x00 of [bold]it[/bold]"


def asked(*analyses: dict[str, Any], **changes: Any) -> Study:
    privacy = {"min_hospitals": 3, **changes.pop("privacy", {})}
    name = changes.pop("name", "clinic")
    study = study_of(*(analyses or (SUMMARY, LOGISTIC)), privacy=privacy, **changes)
    return parse_study({**json.loads(study.manifest()), "name": name})


def offer(home: HospitalHome, study: Study) -> None:
    home.store.offer(study.digest, study.name, study.manifest())


def shown(home: HospitalHome, study: Study) -> str:
    """What the command prints of a study that is offered."""
    offer(home, study)
    return done("hospital", "review", study.digest.hex(), "--home", home.path)


@pytest.fixture
def home(tmp_path: Path) -> Iterator[HospitalHome]:
    with clinic_home(tmp_path) as made:
        yield made


# Rows


def test_rows_are_counted_as_pandas_counts_them(home: HospitalHome) -> None:
    drop = {**LOGISTIC, "missing": "drop"}
    study = asked(SUMMARY, drop, cohort={"where": "age >= 40"}, split={"column": "fold", "test": "0"})
    found, table = review(home, study), patients()
    inside = table[table["age"] >= 40]
    whole = inside.dropna(subset=["age", "chol", "bmi", "cp"])
    assert found.share == found.run.numbers / (len(inside) * len(study.variables))
    assert (found.read, found.rows, found.where) == (len(table), len(inside), "age >= 40")
    assert {one.name: one.observed for one in found.variables} == {
        name: int(inside[name].notna().sum()) for name in study.variables
    }
    rows = {one.label: (one.train, one.test) for one in found.analyses}
    for label, used in (("summary", inside), ("logistic", whole)):
        assert rows[label] == (int((used["fold"] != 0).sum()), int((used["fold"] == 0).sum()))


def test_a_variable_is_shown_with_unit_range_levels_and_this_hospitals_column(home: HospitalHome) -> None:
    table = patients().drop(columns="bmi").rename(columns={"chol": "cholesterol"})
    table.to_csv(home.table_of("clinic"), index=False)
    plain = json.loads(asked(SUMMARY).manifest())
    plain["variables"]["chol"]["column"] = "cholesterol"
    found = {one.name: one for one in review(home, parse_study(plain)).variables}
    assert (found["chol"].column, found["chol"].means) == ("cholesterol", "number, 80 to 620 mg/dL")
    assert (found["bmi"].column, found["bmi"].observed) == (None, 0)
    assert found["cp"].means == "one of 1, 2, 3, 4"
    assert "none: read as missing" in shown(home, parse_study(plain))


def test_another_table_can_be_named(home: HospitalHome, tmp_path: Path) -> None:
    other = tmp_path / "other.parquet"
    patients().head(100).to_parquet(other)
    found = review(home, asked(), other)
    assert found.rows == 100 and "other.parquet" in found.source


def test_a_table_of_something_else_is_refused(home: HospitalHome, tmp_path: Path) -> None:
    other = tmp_path / "beds.csv"
    other.write_text("ward,beds\na,1\n")
    with pytest.raises(DataError, match="is it the right file"):
        review(home, asked(), other)


# What would leave


@pytest.mark.parametrize("analysis", [SUMMARY, LOGISTIC, FOREST], ids=lambda one: one["kind"])
def test_what_leaves_is_what_the_study_asks_of_a_pooled_table(
    home: HospitalHome, analysis: dict[str, Any]
) -> None:
    study = asked(analysis)
    found, alone = review(home, study), drive(study, cohort_of(study, patients(), "h01"))
    layouts = [(one.analysis, one.query.kind, layout_of(study, one)) for one in alone.asked]
    assert [(one.analysis, one.kind) for one in found.run.leaving] == list(
        dict.fromkeys((label, kind) for label, kind, _ in layouts)
    )
    for one in found.run.leaving:
        same = [layout for label, kind, layout in layouts if (label, kind) == (one.analysis, one.kind)]
        assert (one.times, one.numbers) == (len(same), sum(layout.size for layout in same))
        assert one.fields in {fields_of(layout) for layout in same}
        assert one.most == max(layout.size for layout in same)
    assert found.run.numbers == sum(layout.size for _, _, layout in layouts)
    assert found.run.rounds <= len(layouts) and not found.run.ended
    assert found.share == found.run.numbers / (found.rows * len(study.variables))


def test_a_large_table_is_asked_by_a_sample_and_the_forms_are_the_same(
    home: HospitalHome, tmp_path: Path
) -> None:
    large = pd.concat([patients(seed=seed) for seed in range(5)]).assign(id=range(3000))
    large.to_csv(tmp_path / "large.csv", index=False)
    found, few = (review(home, asked(), table) for table in (tmp_path / "large.csv", None))
    assert (found.rows, found.run.rows) == (3000, SAMPLE_ROWS)

    def forms(one: Review) -> dict[str, Any]:
        kinds = ("flow", "summary", "squares", "logistic.newton", "evaluate.scores")
        return {each.kind: (each.fields, each.most) for each in one.run.leaving if each.kind in kinds}

    assert forms(found) == forms(few) and len(forms(found)) == 5


def test_a_run_that_ends_early_says_so_and_falls_back_to_estimates(home: HospitalHome) -> None:
    patients().drop(columns="disease").to_csv(home.table_of("clinic"), index=False)
    study = asked(LOGISTIC)
    found = review(home, study)
    assert "`disease` at 0" in found.run.ended
    assert [one.kind for one in found.run.leaving] == ["flow"]
    assert found.run.rounds == 1 + study.analyses[0].steps
    said = shown(home, study)
    assert "The run ended early, so more would leave than is shown" in said
    assert f"logistic {study.analyses[0].steps}" in said


def test_a_run_that_ends_early_is_no_ground_to_approve_by_itself(home: HospitalHome) -> None:
    study = asked(LOGISTIC)
    whole = cohort_of(study, patients())
    assert numbers_of(study, whole) == review(home, study).run.numbers
    with pytest.raises(FitError, match="more would leave"):
        numbers_of(study, cohort_of(study, patients().drop(columns="disease")))


@pytest.mark.parametrize("kind", KINDS)
def test_every_analysis_says_in_a_sentence_what_it_does(kind: str) -> None:
    of_model = {"model": "logistic"} if kind in ("evaluate", "importance") else {}
    study = asked({**LOGISTIC, "name": "logistic"}, {"kind": kind, **of_model, "name": "it"})
    sentence = study.analyses[1].sentence()
    assert sentence.endswith(".") and "None" not in sentence and "\n" not in sentence
    assert sentence.count(". ") == 0
    about = "`logistic`" if of_model else "`age`"
    assert about in sentence


# Verdict, terms and roster


def test_all_refusals_are_shown_each_with_its_key(home: HospitalHome) -> None:
    home.policy_file.write_text('min_cell = 20\nanalyses = ["summary"]\nvariables = ["age"]\n')
    found = review(home, asked())
    assert found.verdict == "This hospital's policy refuses it."
    for key, told in zip(("min_cell", "analyses", "variables"), found.refusals, strict=True):
        assert key in told
    said = shown(home, asked())
    assert all(one in said for one in found.refusals)


def test_rows_that_a_difference_would_tell_are_shown_with_the_way_to_accept_them(home: HospitalHome) -> None:
    oldest = int(patients()["age"].max())
    approve(home, asked(name="everyone"))
    study = asked(name="younger", cohort={"where": f"age < {oldest}"})
    few = int((patients()["age"] == oldest).sum())
    found = review(home, study)
    assert found.near and {one.persons for one in found.near} == {few}
    assert found.verdict != ALLOWED and not found.refusals
    assert "refused, unless you approve with --accept everyone" in shown(home, study)
    approve(home, study, accept=["everyone"])
    assert review(home, study).verdict == ALLOWED
    assert "(accepted before)" in shown(home, study)


def test_terms_say_what_is_meant_for_this_study(home: HospitalHome) -> None:
    home.policy_file.write_text('hold = true\nleave = "never"\nplan = "trusted"\nmax_queries = 77\n')
    strict = " ".join(review(home, asked()).terms)
    for part in ("at least 3 hospitals", "2 members", "from 1 to 10", "`plan: verified`", "`leave: never`"):
        assert part in strict
    assert "`hold`" in strict and "77 queries" in strict and "seal: none" not in strict
    assert "no hospital can check it" in " ".join(review(home, asked(privacy={"plan": "trusted"})).terms)


def test_an_update_that_leaves_unsealed_is_said(home: HospitalHome) -> None:
    home.policy_file.write_text('seal = "none"\n')
    robust = {"kind": "fedavg", "strategy": "FedMedian", "rounds": 2}
    found = review(home, asked(robust, privacy={"seal": "none"}))
    assert any("`seal: none`" in one for one in found.terms)
    assert "seen singly" in found.analyses[0].sentence


def test_the_roster_is_shown_once_it_is_signed_and_named_hospitals_before(tmp_path: Path) -> None:
    table = tmp_path / "patients.csv"
    tables_of(len(NAMES))["h01"].to_csv(table, index=False)
    home = make_home(tmp_path / "home", "h01", table)
    assert (review(home, STUDY).members, review(home, STUDY).roster_words) == ((), "")
    approve(home, STUDY)
    coordinator = Coordinator()
    coordinator.identities["h01"], coordinator.stores["h01"] = home.identity, home.store
    record = home.store.study(STUDY.digest)
    assert record is not None
    coordinator.sessions["h01"] = take_up(home, record)
    with pytest.raises(Refused, match="has not confirmed"):
        coordinator.enrolled()
    found = review(home, STUDY)
    assert {one.name: one.state for one in found.members} == dict.fromkeys(OTHERS, "not confirmed")
    assert not found.roster_words
    coordinator.confirm(["h01"], NAMES)
    coordinator.enrolled()
    found = review(home, STUDY)
    states = {**dict.fromkeys(OTHERS, "confirmed"), "h01": "this hospital"}
    assert {one.name: one.state for one in found.members} == states
    assert len(found.roster_words.split()) == 10
    assert found.roster_words in done("hospital", "review", "clinic", "--home", home.path)
    home.store.close()


# Whose words


def test_a_coordinators_words_cannot_draw_over_the_lines_around_them(home: HospitalHome) -> None:
    home.policy_file.write_text('analyses = ["logistic"]\n')
    plain = json.loads(asked(SUMMARY, cohort={"where": "age >\n 30"}).manifest())
    plain |= {"title": HOSTILE, "question": HOSTILE, "asked_by": HOSTILE}
    plain["variables"]["chol"]["unit"] = HOSTILE
    plain["variables"]["chol"]["column"] = HOSTILE
    plain["variables"]["cp"]["levels"] = ["1", "2", "3", HOSTILE]
    plain["variables"]["cp"]["codes"] = [["1"], ["2"], ["3"], ["4"]]
    study = parse_study(plain)
    said = shown(home, study)
    assert "[bold]it[/bold]" in said, "and Rich takes nothing for markup"
    assert all(letter.isprintable() or letter == "\n" for letter in said)
    assert ALLOWED not in said.splitlines()
    assert "This hospital's policy refuses it." in said.splitlines()
    assert "where age >  30" in said
    printed = json.dumps(review(home, study).shown(), ensure_ascii=False)
    assert all(letter.isprintable() for letter in printed)


def test_nor_can_the_name_of_a_column_that_is_there(home: HospitalHome) -> None:
    name = "chol\x1b[2J\u202e"
    patients().rename(columns={"chol": name}).to_csv(home.table_of("clinic"), index=False)
    plain = json.loads(asked(SUMMARY).manifest())
    plain["variables"]["chol"]["column"] = name
    found = {one.name: one for one in review(home, parse_study(plain)).variables}
    assert found["chol"].column == "chol[2J"
    assert found["chol"].observed == patients()["chol"].notna().sum(), "it is read by its real name"


def test_who_asks_is_shown(home: HospitalHome) -> None:
    study = asked(title="Who falls ill", question="Does age matter?", asked_by="Example University")
    assert review(home, study).coordinator == ""
    home.coordinator_file.write_text('name = "ring"\naddress = "ring.example.org:443"\n')
    said = shown(home, study)
    for part in ("Who falls ill", "Does age matter?", "Example University", "ring (ring.example.org:443)"):
        assert part in said


# Differences


def test_a_version_is_compared_with_the_one_before_key_by_key(home: HospitalHome) -> None:
    first = asked(SUMMARY, LOGISTIC, cohort={"where": "age >= 40"})
    other = asked(SUMMARY, {**LOGISTIC, "ridge": 2.0}, name="another")
    second = asked(SUMMARY, {**LOGISTIC, "ridge": 2.0})
    for study in (first, other, second):
        offer(home, study)
    assert review(home, first).compared_with == "", "what came later is no earlier study"
    found = review(home, second)
    assert first.digest.hex()[:8] in found.compared_with, "though the other is nearly the same"
    assert {one.key: (one.was, one.now) for one in found.changes} == {
        "analyses[logistic].ridge": ("1", "2"),
        "cohort.where": ('"age >= 40"', "null"),
    }
    assert 'cohort.where: was "age >= 40", is null' in shown(home, second)


def test_a_study_of_a_new_name_is_compared_with_the_most_similar(home: HospitalHome) -> None:
    far = asked(FOREST, name="far", cohort={"where": "age < 60"})
    near = asked(SUMMARY, LOGISTIC, name="near")
    for study in (near, far):
        offer(home, study)
    found = review(home, asked(SUMMARY, FOREST, LOGISTIC, name="new"))
    assert found.compared_with.startswith("`near`")
    changes = {one.key: (one.was, one.now) for one in found.changes}
    assert changes["name"] == ('"near"', '"new"')
    assert changes["analyses[forest].trees"] == (None, "5"), "by label, not by place"
    assert not any(key.startswith("analyses[logistic]") for key in changes)


# The command


def test_a_review_is_audited_and_decides_nothing(home: HospitalHome) -> None:
    study = asked()
    offer(home, study)
    before = len(home.store.entries())
    found = json.loads(done("hospital", "review", "clinic", "--json", "--home", home.path))
    assert found == json.loads(json.dumps(review(home, study).shown()))
    assert found["numbers"] == sum(one["numbers"] for one in found["run"]["leaving"])
    assert home.store.entries()[before:] == [("review", "clinic", study.digest.hex())]
    record = home.store.study(study.digest)
    assert record is not None and record.state == "offered" and record.cohort is None
    assert home.store.ledger() == [] and not home.snapshot_file(study.digest).exists()


def test_a_study_file_can_be_reviewed_before_it_is_offered(home: HospitalHome, tmp_path: Path) -> None:
    file = tmp_path / "asked.json"
    file.write_bytes(asked().manifest())
    assert "`clinic`, offered" in done("hospital", "review", file, "--home", home.path)
    assert home.store.studies() == []
