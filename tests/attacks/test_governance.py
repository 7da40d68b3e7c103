"""What a data protection officer is to be safe from, at a real home: every attack is refused and logged.

| attack | what comes of it |
|---|---|
| two studies whose predicates differ by one patient | the second is not approved; by name only |
| a tracker: studies that overlap such that few rows are told by three of them | the last is not approved |
| drop rules that leave the rows of two analyses one apart | not approved |
| a table that grew by one patient since | not approved again, unless the cohort was closed before |
| a parameter, column or predicate changed after the approval | `not_approved`; in node.db: not taken up |
| a query outside of the plan | `not_next`, in the log |
| an approval that was withdrawn, put back into node.db | not taken up, and refused at every question |
| an approval that another hospital gave | not taken up |
| a policy that became stricter since | refused at the next question, naming the key |
| a log of which an entry was changed, cut or put in | `wardround audit verify` says at which entry |
"""

from __future__ import annotations

import dataclasses
import json
import sqlite3
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from tests.attacks.coordinator import LOGISTIC, STUDY, Coordinator
from tests.attacks.test_time import of_home
from tests.support import clinic_home, patients, study_of
from wardround_client.app import Node, node_of
from wardround_client.approval import approve, decide_releases, reject, take_up, waiting_release, withdraw
from wardround_client.decision import approve_study
from wardround_client.home import HospitalHome, make_home
from wardround_client.ledger import Charge
from wardround_client.store import StudyRecord
from wardround_common import messages as say
from wardround_common.audit.database import find_log
from wardround_common.audit.entry import Entry
from wardround_common.errors import ProtocolError, Refused, WardroundError
from wardround_common.sealing.epoch import AuditHead
from wardround_common.study import Study, parse_study
from wardround_common.wire import encode


@pytest.fixture
def home(tmp_path: Path) -> Iterator[HospitalHome]:
    """A hospital with the clinic's 480 patients, whose ids are their numbers."""
    with clinic_home(tmp_path) as made:
        yield made


def named(name: str, *analyses: dict[str, Any], **changes: Any) -> Study:
    study = study_of(*(analyses or (LOGISTIC,)), privacy={"min_hospitals": 3}, **changes)
    return parse_study({**json.loads(study.manifest()), "name": name})


def of(where: str | None, name: str, **changes: Any) -> Study:
    return named(name, cohort={"where": where, **changes})


def refusals(home: HospitalHome) -> list[str]:
    return [detail for event, _, detail in home.store.entries() if event == "refuse"]


def refused(home: HospitalHome, study: Study, match: str = "by their difference") -> None:
    """The study is not approved, nothing is pinned, and the log says so."""
    before = len(refusals(home))
    with pytest.raises(Refused, match=match) as refusal:
        approve(home, study)
    assert refusal.value.code == "differencing"
    record = home.store.study(study.digest)
    assert record is None or record.approved_at is None
    assert not home.snapshot_file(study.digest).exists()
    assert len(refusals(home)) == before + 1 and "differencing" in refusals(home)[-1]


# --- differencing ---


def test_predicates_that_differ_by_one_patient_are_not_both_approved(home: HospitalHome) -> None:
    ages = patients()["age"]
    oldest = int(ages.max())
    few = int((ages == oldest).sum())
    assert 0 < few < 11, "else the attack would be none"
    approve(home, of(None, "everyone"))
    refused(home, of(f"age < {oldest}", "but-the-oldest"))


def test_a_predicate_that_leaves_out_many_is_no_attack(home: HospitalHome) -> None:
    approve(home, of(None, "everyone"))
    assert approve(home, of("age < 60", "younger")).rows > 100


def test_the_same_rows_twice_tell_nothing_by_their_difference(home: HospitalHome) -> None:
    approve(home, of("age >= 30", "first"))
    approve(home, of("age > 29.5", "second"))


def test_an_officer_can_accept_a_difference_by_name_and_it_is_ledgered(home: HospitalHome) -> None:
    oldest = int(patients()["age"].max())
    approve(home, of(None, "everyone"))
    study = of(f"age < {oldest}", "but-the-oldest")
    with pytest.raises(Refused):
        approve(home, study, accept=["another-study"])
    approve(home, study, accept=["everyone"])
    assert home.store.study(study.digest) is not None
    accepted = [one for one in home.store.entries() if one[0] == "accept difference"]
    assert accepted and all(
        "`everyone`" in detail and "`but-the-oldest`" in detail for _, _, detail in accepted
    )


def test_a_tracker_over_overlapping_studies_is_not_approved(home: HospitalHome) -> None:
    """A and B, A or B, and A are given; with B, and the three, few of B alone would follow."""
    table = patients().copy()
    number = np.arange(len(table))
    table["age"] = np.where(number < 200, 30.0, 60.0)
    table["sex"] = (number % 2).astype(int)
    table.loc[[7, 9, 11], "sex"] = 0  # three patients: age 30, whose sex the tracker is after
    table.to_csv(home.table_of("x"), index=False)
    approve(home, of(None, "all"))
    approve(home, of("age < 50", "young"))
    approve(home, of("sex = '1'", "women"))
    approve(home, of("age < 50 or sex = '1'", "young-or-women"))
    # young + women - young-or-women = young and women; a set that is that but for three patients tells them
    target = number[(table["age"] < 50) & (table["sex"] == 1)]
    table["cp"] = 1
    table.loc[target, "cp"] = 2
    table.loc[target[:3], "cp"] = 1
    table.to_csv(home.table_of("x"), index=False)
    refused(home, of("cp = '2'", "tracker"))


def test_drop_rules_that_leave_row_sets_a_few_apart_are_not_approved(home: HospitalHome) -> None:
    few = int(patients()["bmi"].isna().sum())
    assert 0 < few < 11
    analyses = (
        {**LOGISTIC, "name": "with", "predictors": ["age", "sex"], "missing": "drop"},
        {**LOGISTIC, "name": "without", "predictors": ["age", "bmi"], "missing": "drop"},
    )
    refused(home, named("dropping", *analyses))


def test_a_table_that_grew_by_a_patient_is_not_approved_again(home: HospitalHome) -> None:
    study = of(None, "growing")
    approve(home, study)
    charge = Charge(b"binding", "flow", 0, "flow", 1, 1, ("h01",), study.digest)
    home.store.keep(b"epoch", b"context", b"sealed", charge, study.name)
    table = patients()
    more = pd.concat([table, table.tail(1).assign(id=99_999)])
    more.to_csv(home.table_of("x"), index=False)
    with pytest.raises(Refused, match="by their difference"):
        approve(home, study, again=True)


def test_a_cohort_that_was_closed_may_be_read_again_with_late_corrections(home: HospitalHome) -> None:
    table = patients().assign(admitted="2025-06-01")
    table.to_csv(home.table_of("x"), index=False)
    first = of("age >= 40", "first", closed={"column": "admitted", "by": "2025-12-31"})
    second = of("age >= 40", "second", closed={"column": "admitted", "by": "2025-12-31"})
    approve(home, first)
    later = pd.concat([table, table.tail(5).assign(id=range(99_990, 99_995), admitted="2026-02-01")])
    late = int(later.index[later["age"] < 40][0])
    later.loc[later["id"] == late, "age"] = 45.0  # one birthday was wrong
    later.to_csv(home.table_of("x"), index=False)
    approve(home, second)
    another = of("age >= 40", "another-day", closed={"column": "admitted", "by": "2026-12-31"})
    refused(home, another)


# --- approvals ---


@pytest.fixture
def running(tmp_path: Path) -> tuple[Coordinator, HospitalHome]:
    """A study under way in which h01 is what its home holds."""
    return of_home(tmp_path)


def of_store(home: HospitalHome, study: Study = STUDY) -> StudyRecord:
    record = home.store.study(study.digest)
    assert record is not None
    return record


def says(node: Node, action: str, message: object) -> object:
    return say.MESSAGES.decode(node.reply(action, encode(message)), object)


@pytest.mark.parametrize(
    "change",
    [
        lambda plain: plain["analyses"][0].update(ridge=1.0),
        lambda plain: plain["variables"]["age"].update(column="bmi"),
        lambda plain: plain.update(cohort={"where": "age > 30", "closed": None}),
    ],
    ids=["parameter", "column", "predicate"],
)
def test_what_changed_after_the_approval_is_not_approved(
    running: tuple[Coordinator, HospitalHome], change: Callable[[dict[str, Any]], None]
) -> None:
    _, home = running
    plain = json.loads(STUDY.manifest())
    change(plain)
    changed = parse_study(plain)
    assert says(node_of(home), "join", say.Invitation(changed.manifest())) == say.Refusal("not_approved")
    assert ("offer", changed.name, changed.digest.hex()) in home.store.entries()


@pytest.mark.parametrize("column", ["manifest", "pin", "cohort", "masking"])
def test_what_was_changed_in_the_database_is_not_taken_up(
    running: tuple[Coordinator, HospitalHome], column: str
) -> None:
    _, home = running
    record = of_store(home)
    new = {
        "manifest": record.manifest.replace(b'"min_cell":11', b'"min_cell":12'),
        "pin": (record.pin or b"").replace(b"age", b"bmi"),
        "cohort": bytes(32),
        "masking": bytes(range(32)),
    }[column]
    assert new != getattr(record, column)
    home.store.change((f"update studies set {column} = ?", (new,)))
    with pytest.raises((Refused, ProtocolError, WardroundError)):
        take_up(home, of_store(home))
    reply = says(node_of(home), "join", say.Invitation(STUDY.manifest()))
    assert isinstance(reply, say.Refusal) and reply.code in ("not_approved", "protocol", "trouble")


def test_a_query_outside_of_the_plan_is_refused_and_logged(
    running: tuple[Coordinator, HospitalHome],
) -> None:
    coordinator, home = running
    step = coordinator.retold("h01", coordinator.steps(["h01"])["h01"], coordinator.told)
    node, first = node_of(home), step.questions[0]
    for wrong in (
        say.Question(first.analysis, first.index + 1, first.kind, first.digest, b""),
        say.Question(first.analysis, first.index, first.kind, bytes(32), b""),
    ):
        asked = dataclasses.replace(step, questions=(wrong, *step.questions[1:]))
        reply = says(node, step.action, asked)
        assert isinstance(reply, say.Refusal)
        assert refusals(home)[-1].startswith(reply.code)
    assert [one.analysis for one in home.store.ledger()] == ["flow"]


def test_a_withdrawal_takes_effect_at_the_next_question(running: tuple[Coordinator, HospitalHome]) -> None:
    coordinator, home = running
    node = node_of(home)
    step = coordinator.steps(["h01"])["h01"]
    assert isinstance(says(node, step.action, coordinator.retold("h01", step, coordinator.told)), say.Answers)
    released = len(home.store.ledger())
    withdraw(home, STUDY.digest, "the ethics vote has expired")
    assert says(node, step.action, step) == say.Refusal("no_roster")
    assert len(home.store.ledger()) == released
    assert of_store(home).state == "withdrawn" and not home.snapshot_file(STUDY.digest).exists()


def test_an_approval_that_was_withdrawn_and_put_back_is_not_taken_up(
    running: tuple[Coordinator, HospitalHome],
) -> None:
    _, home = running
    old, rows = of_store(home), home.snapshot_file(STUDY.digest).read_bytes()
    withdraw(home, STUDY.digest)
    home.store.change(
        (
            "update studies set approved_at = ?, signature = ?, masking = ?, cohort = ?, pin = ?, says = ''",
            (old.approved_at, old.signature, old.masking, old.cohort, old.pin),
        )
    )
    home.snapshot_file(STUDY.digest).write_bytes(rows)
    home.snapshot_file(STUDY.digest).chmod(0o600)
    with pytest.raises(Refused, match="not the last decision"):
        take_up(home, of_store(home))
    reply = says(node_of(home), "join", say.Invitation(STUDY.manifest()))
    assert reply == say.Refusal("not_approved")


def test_an_approval_that_another_hospital_gave_is_not_taken_up(
    running: tuple[Coordinator, HospitalHome], tmp_path: Path
) -> None:
    _, home = running
    other = make_home(tmp_path / "other", "h02", home.table_of("x"))
    approve(other, STUDY)
    theirs = of_store(other)
    home.store.change(
        (
            "update studies set signature = ?, masking = ?, cohort = ?, pin = ?",
            (theirs.signature, theirs.masking, theirs.cohort, theirs.pin),
        )
    )
    home.snapshot_file(STUDY.digest).write_bytes(other.snapshot_file(STUDY.digest).read_bytes())
    with pytest.raises(WardroundError):
        take_up(home, of_store(home))
    approve_study(home.store, other.identity, STUDY, cohort=theirs.cohort or b"", pin=b"")
    with pytest.raises(WardroundError):
        take_up(home, of_store(home))


def test_a_study_that_was_turned_down_stays_so_when_it_is_offered_again(home: HospitalHome) -> None:
    reject(home, STUDY, "no ethics vote")
    node = node_of(home)
    assert says(node, "join", say.Invitation(STUDY.manifest())) == say.Refusal("not_approved")
    assert of_store(home).state == "rejected"


def test_a_policy_that_became_stricter_is_heeded_at_the_next_question(
    running: tuple[Coordinator, HospitalHome],
) -> None:
    coordinator, home = running
    step = coordinator.steps(["h01"])["h01"]
    node = node_of(home)
    home.policy_file.write_text('variables = ["age"]\n')
    reply = says(node, step.action, coordinator.retold("h01", step, coordinator.told))
    assert isinstance(reply, say.Refusal) and reply.code in ("policy", "no_roster")
    assert any("`variables`" in one for one in refusals(home)), "it names the key"
    assert [one.analysis for one in home.store.ledger()] == ["flow"]


def test_more_queries_than_the_policy_allows_are_refused_by_its_key(
    running: tuple[Coordinator, HospitalHome],
) -> None:
    coordinator, home = running
    step = coordinator.steps(["h01"])["h01"]
    for key in ("max_queries", "max_queries_month"):
        home.policy_file.write_text(f"{key} = 1\n")
        reply = says(node_of(home), step.action, coordinator.retold("h01", step, coordinator.told))
        assert reply == say.Refusal(key)
        assert f"`{key}`" in refusals(home)[-1]
    assert [one.analysis for one in home.store.ledger()] == ["flow"]


def test_a_hospital_with_nearly_all_rows_does_not_answer(
    running: tuple[Coordinator, HospitalHome],
) -> None:
    coordinator, home = running
    home.policy_file.write_text("max_share = 0.01\n")
    step = coordinator.steps(["h01"])["h01"]
    reply = says(node_of(home), step.action, coordinator.retold("h01", step, coordinator.told))
    assert reply == say.Refusal("max_share")
    assert "`max_share`" in refusals(home)[-1]


def test_a_release_that_a_person_has_to_let_go_waits_and_is_the_same_afterwards(
    running: tuple[Coordinator, HospitalHome],
) -> None:
    coordinator, home = running
    step = coordinator.retold("h01", coordinator.steps(["h01"])["h01"], coordinator.told)
    home.policy_file.write_text("hold = true\n")
    node = node_of(home)
    for _ in range(2):
        assert says(node, step.action, step) == say.Refusal("held")
    waiting = home.store.held(STUDY.digest)
    assert {(one.analysis, one.says) for one in waiting} == {("logistic", ""), ("summary", "")}
    assert [one.analysis for one in home.store.ledger()] == ["flow"], "nothing was released"
    shown = waiting_release(home, of_store(home), waiting[0])
    assert shown.verdict.startswith("may leave") and shown.numbers > 0
    decide_releases(home, of_store(home), ["logistic/0"], [])
    assert says(node, step.action, step) == say.Refusal("held"), "the other one still waits"
    with pytest.raises(WardroundError, match="no release"):
        decide_releases(home, of_store(home), ["logistic/9"], [])
    decide_releases(home, of_store(home), ["all"], [])
    assert isinstance(says(node, step.action, step), say.Answers)
    events = [event for event, _, _ in home.store.entries()]
    assert (events.count("hold"), events.count("let go")) == (2, 2)


def test_a_release_that_a_person_declines_never_leaves(running: tuple[Coordinator, HospitalHome]) -> None:
    coordinator, home = running
    step = coordinator.retold("h01", coordinator.steps(["h01"])["h01"], coordinator.told)
    home.policy_file.write_text("hold = true\n")
    node = node_of(home)
    says(node, step.action, step)
    decide_releases(home, of_store(home), [], ["all"])
    assert says(node, step.action, step) == say.Refusal("declined")
    assert [one.analysis for one in home.store.ledger()] == ["flow"]


# --- the log ---


DOCTORED = {
    "changed": (
        "update audit_entries set entry = replace(entry, 'approve', 'reprove') where seq = 1",
        "entry 1",
    ),
    "cut off": ("delete from audit_entries where seq > 2", "signed checkpoint"),
    "dropped": ("delete from audit_entries where seq = 2", "entry"),
    "put in": ("insert into audit_entries select seq + 1000, entry, node from audit_entries", "entry"),
}


@pytest.mark.parametrize("how", DOCTORED)
def test_a_doctored_log_is_noticed(running: tuple[Coordinator, HospitalHome], how: str) -> None:
    _, home = running
    home.store.close()
    assert verified(home) == ""
    doctor(home, DOCTORED[how][0])
    assert DOCTORED[how][1] in verified(home)


def test_a_log_written_anew_in_whole_is_noticed_by_the_heads_that_others_hold(
    running: tuple[Coordinator, HospitalHome],
) -> None:
    coordinator, home = running
    identity = coordinator.sessions["h00"]._participant.roster.member("h01").identity
    seen = AuditHead.of(coordinator.stores["h00"].seen()[identity].audit)
    assert home.store.had(seen)
    entries = [replaced(one) for _, one in home.store.log(lambda log: log.entries())]
    doctor(home, "delete from audit_entries", "delete from checkpoints")
    with home.store.transaction():
        for one in entries:
            home.store._log.append(one)
    assert not home.store.had(seen), "so the next epoch is refused here, and noticed there"


def replaced(entry: Entry) -> Entry:
    return dataclasses.replace(entry, actor="nobody") if entry.event == "approve" else entry


def doctor(home: HospitalHome, *statements: str) -> None:
    """Change the database as somebody does who may write the file."""
    with closing(sqlite3.connect(home.path / "node.db")) as db:
        found = db.execute("select name from sqlite_master where type = 'trigger'").fetchall()
        for (trigger,) in found:
            db.execute(f"drop trigger {trigger}")
        for statement in statements:
            db.execute(statement)
        db.commit()


def verified(home: HospitalHome) -> str:
    """Return what `wardround audit verify` finds wrong."""
    with find_log(home.path).open() as log:
        try:
            log.verify(home.identity.public)
        except WardroundError as error:
            return str(error)
    return ""
