"""What an officer decides at the terminal, and what stands in ledger and audit log afterwards."""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.attacks.coordinator import NAMES, STUDY, Coordinator
from tests.network.line import done, ran, refused
from tests.network.net import COMMAND
from tests.support import clinic_home, patients, study_of, tables_of
from wardround_client.app import Node, node_of
from wardround_client.approval import take_up
from wardround_client.home import HospitalHome, make_home
from wardround_client.ledger import Charge
from wardround_client.review import review
from wardround_client.store import StudyRecord
from wardround_common import messages as say
from wardround_common.analyses.flow import LABEL
from wardround_common.errors import WardroundError
from wardround_common.study import Study, parse_study
from wardround_common.wire import encode

JANUARY, FEBRUARY = 1_767_960_000.0, 1_770_811_200.0  # 2026-01-09 and 2026-02-11, noon UTC
Command = Callable[..., str]


def named(name: str, where: str | None = None) -> Study:
    study = study_of({"kind": "summary"}, privacy={"min_hospitals": 3}, cohort={"where": where})
    return parse_study({**json.loads(study.manifest()), "name": name, "title": f"About {name}"})


def offer(home: HospitalHome, *studies: Study) -> None:
    for study in studies:
        home.store.offer(study.digest, study.name, study.manifest())


def record_of(home: HospitalHome, study: Study) -> StudyRecord:
    found = home.store.study(study.digest)
    assert found is not None
    return found


def events(home: HospitalHome) -> list[tuple[str, str]]:
    return [(event, detail) for event, _, detail in home.store.entries()]


@pytest.fixture
def home(tmp_path: Path) -> Iterator[HospitalHome]:
    with clinic_home(tmp_path) as made:
        yield made


@pytest.fixture
def line(home: HospitalHome) -> Command:
    """The command in this home; it must succeed."""
    return lambda *arguments: done("hospital", *arguments, "--home", home.path)


@pytest.fixture
def no(home: HospitalHome) -> Command:
    """The command in this home; it must be refused with exit code 2 and one line, and decide nothing."""

    def run(*arguments: object) -> str:
        before = home.store.studies(), home.store.ledger(), sorted((home.path / "cohorts").glob("*"))
        said = refused("hospital", *arguments, "--home", home.path)
        assert (
            home.store.studies(),
            home.store.ledger(),
            sorted((home.path / "cohorts").glob("*")),
        ) == before
        return said

    return run


# Studies


def test_studies_are_listed_with_what_was_decided(home: HospitalHome, line: Command) -> None:
    assert "No study was offered yet." in line("studies")
    one, two, three = named("one"), named("two"), named("three")
    offer(home, one, two, three)
    assert "Next: wardround hospital review STUDY" in line("studies")
    line("approve", "one", "--yes")
    line("reject", "two", "--why", "no ethics vote")
    found = {told["name"]: told for told in json.loads(line("studies", "--json"))}
    assert {name: told["state"] for name, told in found.items()} == {
        "one": "approved",
        "two": "rejected",
        "three": "offered",
    }
    assert found["two"]["why"] == "no ethics vote" and found["one"]["waiting"] == 0
    assert found["one"]["approved_at"] > found["one"]["offered_at"] and found["two"]["approved_at"] is None
    rows = [text for text in line("studies").splitlines() if "one" in text]
    assert len(rows) == 1 and one.digest.hex()[:8] in rows[0] and "approved" in rows[0]


@pytest.mark.parametrize("verb", ["review", "preview", "approve", "withdraw", "releases", "reject"])
def test_a_study_that_nobody_offered_is_named_with_what_there_is(
    home: HospitalHome, no: Command, verb: str
) -> None:
    why = ("--why", "none") if verb == "reject" else ()
    assert "none was offered to this hospital yet" in no(verb, "hearts", *why)
    offer(home, named("heart"))
    assert "did you mean `heart`" in no(verb, "hearts", *why)


def test_one_of_several_versions_is_named_by_its_digest(
    home: HospitalHome, line: Command, no: Command
) -> None:
    first, second = named("heart"), named("heart", "age < 60")
    offer(home, first, second)
    said = no("approve", "heart", "--yes")
    assert first.digest.hex()[:8] in said and second.digest.hex()[:8] in said
    line("approve", second.digest.hex()[:8], "--yes")
    assert (record_of(home, first).state, record_of(home, second).state) == ("offered", "approved")
    line("reject", first.digest.hex(), "--why", "superseded")
    assert "Withdrew" in line("withdraw", "heart"), "the one that was not turned down is meant"


def test_without_a_table_an_approval_says_where_to_write_one(tmp_path: Path) -> None:
    home = make_home(tmp_path / "home", "h01", None)
    offer(home, named("heart"))
    said = refused("hospital", "approve", "heart", "--yes", "--home", home.path)
    assert "[data]" in said and "--table FILE" in said
    home.store.close()


# Approving


def test_whoever_approves_is_shown_the_short_review_first(home: HospitalHome) -> None:
    study = named("heart", "age >= 40")
    offer(home, study)
    code, out, err = ran("hospital", "approve", "heart", "--home", home.path)
    found = review(home, study)
    assert (code, out) == (2, "") and err.splitlines()[-1].endswith("add --yes")
    assert f"{found.read:,} read, {found.rows:,} in the cohort" in err
    assert f"{found.run.numbers:,} numbers in all, in about {found.run.rounds} rounds" in err
    assert "About heart" in err and study.digest.hex()[:8] in err and found.verdict in err
    assert record_of(home, study).state == "offered"


@pytest.mark.parametrize(("answer", "state"), [(b"y\n", "approved"), (b"\n", "offered")])
def test_what_the_officer_answers_counts(home: HospitalHome, answer: bytes, state: str) -> None:
    study = named("heart")
    offer(home, study)
    terminal, keyboard = os.openpty()
    try:
        os.write(terminal, answer)
        ended = subprocess.run(
            [*COMMAND, "hospital", "approve", "heart", "--home", home.path],
            stdin=keyboard,
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )
    finally:
        os.close(terminal)
        os.close(keyboard)
    assert record_of(home, study).state == state, ended.stderr
    assert ended.returncode == (0 if state == "approved" else 2)
    assert "Approve this study?" in ended.stderr and "numbers in all" in ended.stderr
    assert ("nothing was done" in ended.stderr) == (state == "offered")


def test_an_approval_is_audited_pinned_and_given_once(home: HospitalHome, line: Command, no: Command) -> None:
    study = named("heart", "age >= 40")
    offer(home, study)
    rows = int((patients()["age"] >= 40).sum())
    assert f"Approved `heart` on {rows} rows." in line("approve", "heart", "--yes")
    assert record_of(home, study).state == "approved" and home.snapshot_file(study.digest).exists()
    event, detail = events(home)[-1]
    assert event == "approve" and detail.startswith(study.digest.hex())
    assert "add --again" in no("approve", "heart", "--yes")
    masking = record_of(home, study).masking
    line("approve", "heart", "--yes", "--again")
    assert record_of(home, study).masking != masking, "it begins anew, with another masking key"


def test_what_the_policy_refuses_is_not_asked_about(home: HospitalHome, no: Command) -> None:
    home.policy_file.write_text('analyses = ["logistic"]\n')
    offer(home, named("heart"))
    assert "`analyses`" in no("approve", "heart", "--yes")
    said = refused("hospital", "approve", "heart", "--home", home.path)  # though nobody is there to answer
    assert "`analyses`" in said


def test_a_difference_is_accepted_by_name_alone(home: HospitalHome, line: Command, no: Command) -> None:
    oldest = int(patients()["age"].max())
    offer(home, named("everyone"), named("younger", f"age < {oldest}"))
    line("approve", "everyone", "--yes")
    assert "would tell of fewer than 11 rows" in no("approve", "younger", "--yes")
    assert events(home)[-1][0] == "refuse"
    said = no("approve", "younger", "--yes", "--accept", "everyon")
    assert "no few rows are told by a difference to it (did you mean `everyone`?)" in said
    line("approve", "younger", "--yes", "--accept", "everyone")
    accepted = [detail for event, detail in events(home) if event == "accept difference"]
    assert accepted and all("`everyone`" in one and "`younger`" in one for one in accepted)


# Turning down and taking back


def test_a_study_is_turned_down_for_a_reason_that_stays_here(
    home: HospitalHome, line: Command, no: Command
) -> None:
    study = named("heart")
    offer(home, study)
    assert "give a reason" in no("reject", "heart", "--why", " ")
    line("reject", "heart", "--why", "no ethics vote")
    record = record_of(home, study)
    assert (record.state, record.why) == ("rejected", "no ethics vote")
    assert events(home)[-1] == ("reject", f"{study.digest.hex()} no ethics vote")
    invitation = encode(say.Invitation(study.manifest()))
    reply = node_of(home).reply("join", invitation)
    assert b"ethics" not in reply
    assert say.MESSAGES.decode(reply, object) == say.Refusal("not_approved")
    line("approve", "heart", "--yes")
    assert (record_of(home, study).state, record_of(home, study).why) == ("approved", "")


def test_what_is_approved_is_withdrawn_not_rejected(home: HospitalHome, line: Command, no: Command) -> None:
    study = named("heart")
    offer(home, study)
    assert "nothing to withdraw" in no("withdraw", "heart")
    line("approve", "heart", "--yes")
    assert "wardround hospital withdraw heart" in no("reject", "heart", "--why", "changed my mind")
    line("withdraw", "heart", "--why", "the vote has expired")
    record = record_of(home, study)
    assert (record.state, record.why, record.masking) == ("withdrawn", "the vote has expired", None)
    assert events(home)[-1] == ("withdraw", f"{study.digest.hex()} the vote has expired")
    assert not home.snapshot_file(study.digest).exists()
    with pytest.raises(WardroundError):
        take_up(home, record)
    assert "nothing to withdraw" in no("withdraw", "heart")


# Releases that wait


@pytest.fixture
def held(tmp_path: Path) -> Iterator[tuple[HospitalHome, Callable[[], object]]]:
    """A home in whose study two releases wait, and what asks for them once more."""
    table = tmp_path / "patients.csv"
    tables_of(len(NAMES))["h01"].to_csv(table, index=False)
    home = make_home(tmp_path / "held", "h01", table)
    offer(home, STUDY)
    done("hospital", "approve", "clinic", "--yes", "--home", home.path)
    coordinator = Coordinator()
    coordinator.identities["h01"], coordinator.stores["h01"] = home.identity, home.store
    coordinator.confirm(["h01"], NAMES)
    coordinator.sessions["h01"] = take_up(home, record_of(home, STUDY))
    step = coordinator.ready().advance().steps(["h01"])["h01"]
    told = coordinator.retold("h01", step, coordinator.told)
    home.policy_file.write_text("hold = true\n")
    node: Node = node_of(home)

    def ask() -> object:
        return say.MESSAGES.decode(node.reply(step.action, encode(told)), object)

    assert ask() == say.Refusal("held")
    yield home, ask
    home.store.close()


def releases(home: HospitalHome, *arguments: object) -> str:
    return done("hospital", "releases", *arguments, "--home", home.path)


def test_releases_that_wait_are_listed_and_shown(held: tuple[HospitalHome, Callable[[], object]]) -> None:
    home, _ = held
    said = releases(home)
    assert "`clinic` logistic/0, since 20" in said and "`clinic` summary/0, since 20" in said
    assert json.loads(done("hospital", "studies", "--json", "--home", home.path))[0]["waiting"] == 2
    rows = len(tables_of(len(NAMES))["h01"])
    shown = releases(home, "clinic", "--show")
    assert "don't pass them on" in shown and f"rows[]: {rows}" in shown
    told: list[dict[str, Any]] = json.loads(releases(home, "--show", "--json"))
    moments = next(one for one in told if one["analysis"] == "summary")
    assert moments["values"]["rows"] == rows and moments["study"] == "clinic"
    assert "values" not in json.loads(releases(home, "--json"))[0], "nothing is told that was not asked for"
    assert [one.analysis for one in home.store.ledger()] == [LABEL], "showing lets nothing go"


def test_releases_go_when_their_officer_says_so(held: tuple[HospitalHome, Callable[[], object]]) -> None:
    home, ask = held
    assert releases(home, "clinic", "--release", "logistic/0") == "Let go: logistic/0\n"
    assert ask() == say.Refusal("held")
    assert releases(home, "clinic", "--release", "all") == "Let go: summary/0\n"
    assert isinstance(ask(), say.Answers)
    assert "Nothing waits." in releases(home) and "Nothing waits." in releases(
        home, "clinic", "--release", "all"
    )
    told = [detail.split()[0] for event, detail in events(home) if event == "let go"]
    assert told == ["logistic/0", "summary/0"]
    assert {one.analysis for one in home.store.ledger()} == {LABEL, "logistic", "summary"}


def test_a_release_that_is_declined_stays(held: tuple[HospitalHome, Callable[[], object]]) -> None:
    home, ask = held
    assert releases(home, "clinic", "--refuse", "summary/0", "--release", "all").splitlines() == [
        "Let go: logistic/0",
        "Declined: summary/0",
    ]
    assert ask() == say.Refusal("declined")
    assert "summary" not in {one.analysis for one in home.store.ledger()}


def test_a_release_that_does_not_wait_is_named(held: tuple[HospitalHome, Callable[[], object]]) -> None:
    home, _ = held

    def no(*arguments: object) -> str:
        return refused("hospital", "releases", *arguments, "--home", home.path)

    assert "did you mean `logistic/0`" in no("clinic", "--release", "logistic/1")
    assert "name one approved study" in no("--release", "all")
    assert "no study of this name was offered" in no("heart", "--release", "all")
    assert [one.says for one in home.store.held(STUDY.digest)] == ["", ""]


# The ledger


def charge(home: HospitalHome, study: Study, index: int, at: float, **changes: Any) -> None:
    told = {"numbers": 12, "rows": 600, "hospitals": ("east", "h01"), "fields": ("n[]", "sum[11]"), **changes}
    entered = Charge(study.digest, "summary", index, "moments", study=study.digest, at=at, **told)
    home.store.keep(b"epoch", index.to_bytes(), b"sealed", entered, study.name)


def test_the_ledger_adds_up_by_study_and_month(home: HospitalHome, line: Command) -> None:
    assert "Nothing has left." in line("ledger")
    heart, lung = named("heart"), named("lung")
    offer(home, heart, lung)
    charge(home, heart, 0, JANUARY)
    charge(home, heart, 1, JANUARY, numbers=30, rows=200, hospitals=("h01", "south"))
    charge(home, heart, 2, FEBRUARY)
    charge(home, lung, 0, FEBRUARY)
    told = json.loads(line("ledger", "--json"))
    assert told["totals"][0] == {
        "study": "heart",
        "month": "2026-01",
        "releases": 2,
        "numbers": 42,
        "rows": 600,
        "hospitals": ["east", "h01", "south"],
        "privacy": "no noise, no bound",
    }
    assert [(one["study"], one["month"]) for one in told["totals"]] == [
        ("heart", "2026-01"),
        ("heart", "2026-02"),
        ("lung", "2026-02"),
    ]
    assert [(one["name"], one["index"]) for one in told["releases"]] == [
        ("heart", 0),
        ("heart", 1),
        ("heart", 2),
        ("lung", 0),
    ]
    assert told["releases"][0]["fields"] == ["n[]", "sum[11]"]
    said = line("ledger")
    assert "summary/1" in said and "n[], sum[11]" in said and "2026-01-09 12:00 UTC" in said


def test_the_ledger_of_one_study_or_month(home: HospitalHome, line: Command) -> None:
    heart, lung = named("heart"), named("lung")
    offer(home, heart, lung, named("liver"))
    charge(home, heart, 0, JANUARY)
    charge(home, heart, 1, FEBRUARY)
    charge(home, lung, 0, FEBRUARY)

    def entries(*arguments: str) -> list[tuple[str, int]]:
        told = json.loads(line("ledger", "--json", *arguments))
        return [(one["name"], one["index"]) for one in told["releases"]]

    assert entries("--study", "heart") == [("heart", 0), ("heart", 1)]
    assert entries("--study", lung.digest.hex()[:8]) == [("lung", 0)]
    assert entries("--month", "2026-02") == [("heart", 1), ("lung", 0)]
    assert entries("--study", "heart", "--month", "2026-01") == [("heart", 0)]
    assert entries("--month", "2025-01") == entries("--study", "liver") == []


def test_a_ledger_of_nothing_that_exists_is_refused(home: HospitalHome, no: Command) -> None:
    assert "none was offered" in no("ledger", "--study", "heart")
    heart = named("heart")
    offer(home, heart)
    charge(home, heart, 0, JANUARY)
    assert "did you mean `heart`" in no("ledger", "--study", "hart")
    for wrong in ("", heart.digest.hex()[:4]):
        assert "no study of this name" in no("ledger", "--study", wrong)
    for month in ("2026", "2026-1", "2026-13", "january", ""):
        assert "write it as in 2026-01" in no("ledger", "--month", month)
