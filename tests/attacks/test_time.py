"""Time: rows that change, nodes that die at any moment, databases that are put back, hospitals that return.

| attack or mishap | what comes of it |
|---|---|
| a question asked again after rows changed, of a node that was started again too | the same bytes |
| a node that dies between any two writes of its database | the same sums, each released once |
| a step sent twice at once | one release |
| a database put back from an old copy | it refuses (`restored`), and who is told a lie about it refuses too |
| the same, where nobody else of an epoch saw what it has lost | must be refused |
| the same, and rows that were pinned since | the node does not take the study up |
| a returning hospital that is told false sums | `other_course`; told the truth, it goes on |
"""

from __future__ import annotations

import dataclasses
import shutil
import sqlite3
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from tests.attacks.coordinator import (
    FLOW,
    NAMES,
    STUDY,
    SUMMARY,
    TRUSTED,
    Coordinator,
    is_noise,
    question,
    refuses,
)
from tests.support import layout_of, tables_of, vector_of
from wardround_client.app import Node
from wardround_client.approval import approve, take_up
from wardround_client.gate import Policy
from wardround_client.home import HospitalHome, make_home
from wardround_client.session import Session
from wardround_client.snapshot import digest_of, read_snapshot, write_snapshot
from wardround_client.store import NodeStore
from wardround_common import messages as say
from wardround_common.cohort import Cohort
from wardround_common.errors import WardroundError
from wardround_common.sealing.epoch import AuditHead, Epoch
from wardround_common.sealing.mask import LANE_BYTES
from wardround_common.sealing.record import EpochRecord, StepRecord, position
from wardround_common.wire import encode

# --- rows that change ---


def spoil(coordinator: Coordinator) -> None:
    """Change every row of every hospital."""
    for cohort in coordinator.cohorts.values():
        for column in cohort.columns.values():
            column[:] = column[::-1] * 0


@pytest.mark.parametrize("again", [False, True], ids=["running", "started again"])
def test_a_question_asked_again_gets_the_same_bytes_though_rows_have_changed(again: bool) -> None:
    coordinator = Coordinator().ready().advance(2)
    first, before = coordinator.ask(), coordinator.released
    spoil(coordinator)
    for name in NAMES if again else ():
        coordinator.again(name)
    assert coordinator.ask() == first
    assert coordinator.released == before


def test_a_trusting_hospital_answers_a_number_once_too() -> None:
    coordinator = Coordinator(TRUSTED).ready().told_all()
    first, before = coordinator.put(SUMMARY, 4), coordinator.released
    spoil(coordinator)
    for name in NAMES:
        coordinator.again(name)
    coordinator.told_all()
    assert coordinator.put(SUMMARY, 4) == first
    assert coordinator.released == before


def test_a_step_that_is_sent_twice_at_once_is_released_once() -> None:
    coordinator = Coordinator().ready().advance()
    step = coordinator.steps(["h03"])["h03"]
    with ThreadPoolExecutor(4) as threads:
        replies = list(threads.map(coordinator.sessions["h03"].step, [step] * 8))
    assert all(one == replies[0] for one in replies)
    charged = [(one.analysis, one.index) for one in coordinator.stores["h03"].ledger()]
    assert sorted(charged) == [("flow", 0), ("logistic", 0), ("summary", 0)]


# --- nodes that die ---


class Killed(BaseException):
    """What no handler catches, as a process that is killed."""


class Dying(NodeStore):
    """A database whose process dies at one of its writes."""

    writes_left: int | None = None

    @contextmanager
    def transaction(self) -> Iterator[sqlite3.Connection]:
        if self.writes_left is not None:
            self.writes_left -= 1
            if self.writes_left < 0:
                self.writes_left = None
                raise Killed
        with super().transaction() as db:
            yield db


def survived(coordinator: Coordinator, name: str, act: Callable[[], object]) -> int:
    """Act until it succeeds, starting the hospital that dies again; return how often it died."""
    for died in range(3):
        try:
            act()
        except Killed:
            coordinator.again(name)
        else:
            return died
    raise AssertionError


def sums(coordinator: Coordinator) -> list[list[int]]:
    steps = (one for one in coordinator.course if isinstance(one, StepRecord))
    return [one.vector.tolist() for step in steps for one in step.sums]


STEPS = 4


def undisturbed() -> tuple[list[list[int]], list[tuple[str, int, tuple[str, ...]]], int]:
    store = Dying()
    coordinator = Coordinator(stores={"h02": store})
    store.writes_left = 1000
    coordinator.ready().advance(2).begin(coordinator.epoch())
    coordinator.advance(STEPS - 2)
    charges = [(one.analysis, one.index, one.hospitals) for one in store.ledger()]
    assert store.writes_left is not None
    return sums(coordinator), charges, 1000 - store.writes_left


EXPECTED, CHARGES, WRITES = undisturbed()


@pytest.mark.parametrize("name", ["h00", "h02"], ids=["leader", "member"])
@pytest.mark.parametrize("writes", range(WRITES))
def test_a_node_that_dies_at_any_write_answers_each_query_once_and_the_same(name: str, writes: int) -> None:
    store = Dying()
    coordinator = Coordinator(stores={name: store})
    store.writes_left = writes
    died = survived(coordinator, name, coordinator.enrolled)
    for steps in (2, STEPS - 2):
        epochs: list[Epoch] = []
        died += survived(coordinator, name, lambda epochs=epochs: epochs.append(coordinator.epoch()))  # type: ignore[misc]
        died += survived(coordinator, name, lambda epochs=epochs: coordinator.tell(NAMES).begin(epochs[0]))  # type: ignore[misc]
        for _ in range(steps):
            died += survived(coordinator, name, coordinator.advance)
        assert len(store.groups()) == 1, "that it computes with these is not forgotten"
    assert died == 1
    assert sums(coordinator) == EXPECTED
    assert [(one.analysis, one.index, one.hospitals) for one in store.ledger()] == CHARGES


def test_a_node_that_dies_at_any_write_has_signed_nothing_that_its_audit_log_lacks() -> None:
    for writes in (*range(WRITES), 2 * WRITES):
        store = Dying()
        coordinator = Coordinator(stores={"h02": store})
        store.writes_left = writes
        survived(coordinator, "h02", coordinator.enrolled)
        epoch = coordinator.epoch()
        survived(coordinator, "h02", lambda: coordinator.begin(epoch))  # noqa: B023 (called at once)
        noted = [detail for event, _, detail in store.entries() if event in ("roster", "epoch")]
        assert noted == [coordinator.coordination.roster.digest.hex(), epoch.digest.hex()], writes


@pytest.mark.parametrize("when", ["approved", "signed", "opened", "answered"])
def test_a_node_that_dies_before_its_reply_arrives_says_the_same_again(when: str) -> None:
    coordinator = Coordinator().enrolled()
    roster = coordinator.coordination.roster
    if when == "approved":
        first = coordinator.sessions["h01"].approve_roster(roster)
        assert coordinator.again("h01").approve_roster(roster) == first
    epoch = coordinator.epoch()
    if when == "signed":
        signed = coordinator.sign("h01", epoch)
        assert coordinator.sign("h01", epoch) == signed
        with refuses("old_epoch"):
            coordinator.sign("h01", dataclasses.replace(epoch, head=bytes(32)))
    coordinator.begin(epoch)
    if when == "opened":
        opening = dataclasses.replace(coordinator.steps(["h01"])["h01"], questions=())
        assert coordinator.sessions["h01"].step(opening) == say.Behind(1)
        coordinator.again("h01")
    step = coordinator.steps(["h01"])["h01"]
    answers = coordinator.sessions["h01"].step(step)
    assert isinstance(answers, say.Answers)
    if when == "answered":
        assert coordinator.again("h01").step(step) == answers
    assert len(coordinator.stores["h01"].ledger()) == 1
    assert sums(coordinator.advance(STEPS))[: len(EXPECTED)][0] == EXPECTED[0]


# --- databases that are put back ---


def put_back(coordinator: Coordinator, name: str, path: Path, copy: Path) -> None:
    """Put a copy in the place of a hospital's database, and start its node again."""
    coordinator.stores[name].close()
    shutil.copy(copy, path)
    coordinator.stores[name] = NodeStore(path)
    coordinator.again(name)


@pytest.fixture
def paths(tmp_path: Path) -> tuple[Path, Path]:
    return tmp_path / "node.db", tmp_path / "copy.db"


def restored(paths: tuple[Path, Path]) -> Coordinator:
    """Return a study in whose second epoch h01's database is as it was in the first."""
    path, copy = paths
    coordinator = Coordinator(stores={"h01": NodeStore(path)}).ready().advance()
    shutil.copy(path, copy)
    coordinator.begin(coordinator.epoch())
    coordinator.advance()
    put_back(coordinator, "h01", path, copy)
    return coordinator


def test_a_database_that_was_put_back_is_noticed_by_its_own_hospital(paths: tuple[Path, Path]) -> None:
    coordinator = restored(paths)
    epoch, before = coordinator.epoch(), coordinator.released
    for _ in range(2):
        assert coordinator.offer("h01", epoch) == say.Refusal("restored")
        coordinator.again("h01")
        coordinator.tell(["h01"])
    assert coordinator.released == before


def test_an_epoch_that_hides_that_a_database_was_put_back_is_refused_by_the_others(
    paths: tuple[Path, Path],
) -> None:
    coordinator = restored(paths)
    own, true = coordinator.stores["h01"].audit_head(), coordinator.epoch()
    heads = coordinator.proposal(true).audits
    hiding = dataclasses.replace(true, audits=coordinator.heading((heads[0], own.packed(), *heads[2:])))
    for name in NAMES:
        if name != "h01":
            assert coordinator.offer(name, hiding) == say.Refusal("restored")
    assert isinstance(coordinator.offer("h01", hiding), say.EpochSignature)
    forged = dataclasses.replace(own, count=AuditHead.of(heads[1]).count)
    lying = dataclasses.replace(true, audits=coordinator.heading((heads[0], forged.packed(), *heads[2:])))
    for name in NAMES:
        assert coordinator.offer(name, lying) in (
            say.Refusal("restored"),
            say.Refusal("old_epoch"),
        )


def test_an_epoch_that_went_on_is_not_answered_from_a_database_that_was_put_back(
    paths: tuple[Path, Path],
) -> None:
    coordinator = restored(paths)
    before = coordinator.released
    found = coordinator.reply("h01", "ask", dataclasses.replace(coordinator.step(), questions=()))
    assert found == say.Behind(0)
    sent = coordinator.retold("h01", coordinator.steps(["h01"])["h01"], coordinator.told)
    assert coordinator.reply("h01", "ask", sent) in (
        say.Refusal("unknown_epoch"),
        say.Refusal("other_course"),
    )
    assert coordinator.released == before


def test_a_database_that_was_put_back_is_not_noticed_where_it_alone_knew_of_an_epoch(
    paths: tuple[Path, Path],
) -> None:
    """What PROTOCOL.md, section 9 says is not protected: over all, over P, then over Q.

    The one hospital in both does not know any more that there were sums over P. Those in Q never saw its
    audit log as it stood in P, and who is in P is not asked.
    """
    (path, copy), names = paths, tuple(f"h{i:02d}" for i in range(7))
    p, q, common = names[:4], names[3:], names[3]
    coordinator = Coordinator(names=names, stores={common: NodeStore(path)}).ready().advance().told_all()
    shutil.copy(path, copy)
    coordinator.begin(coordinator.epoch(p))
    coordinator.advance()
    over_all, over_p = (np.array(one) for one in sums(coordinator))
    put_back(coordinator, common, path, copy)
    coordinator.branch(2).names = q
    coordinator.begin(coordinator.epoch(q))
    over_q = np.array(sums(coordinator.advance())[-1])
    layout = layout_of(STUDY, FLOW)
    own = vector_of(FLOW.query.answer(coordinator.cohorts[common], layout), layout)
    assert np.array_equal(over_p + over_q - over_all, own), f"all that {common} contributed"


def test_an_officer_who_knows_of_it_lets_the_study_go_on(paths: tuple[Path, Path]) -> None:
    coordinator = restored(paths)
    coordinator.stores["h01"].forgive(coordinator.proposal(coordinator.epoch()).audits[1])
    coordinator.begin(coordinator.epoch())
    assert coordinator.advance()


def test_answers_that_a_put_back_database_lacks_are_the_same_once_more(paths: tuple[Path, Path]) -> None:
    path, copy = paths
    coordinator = Coordinator(stores={"h01": NodeStore(path)}).ready().advance()
    shutil.copy(path, copy)
    first = coordinator.ask()
    put_back(coordinator, "h01", path, copy)
    assert coordinator.ask() == first
    for name in NAMES:
        ledger = coordinator.stores[name].ledger()
        assert len({(one.analysis, one.index) for one in ledger}) == len(ledger) == 3


# --- rows that were pinned since ---


def pinned(home: HospitalHome) -> Cohort:
    """Return the rows that lie in a home, whichever were approved."""
    file = home.snapshot_file(STUDY.digest)
    return read_snapshot(file, STUDY.dictionary, digest_of(file.read_bytes(), home.row_key), home.row_key)


def of_home(path: Path) -> tuple[Coordinator, HospitalHome]:
    """Return a study under way in which h01 is what its home holds: table, policy, keys and node.db."""
    table = path / "patients.csv"
    tables_of(len(NAMES))["h01"].to_csv(table, index=False)
    home = make_home(path / "home", "h01", table)
    coordinator = Coordinator()
    approve(home, STUDY)
    coordinator.identities["h01"], coordinator.stores["h01"] = home.identity, home.store
    coordinator.confirm(["h01"], NAMES)
    coordinator.sessions["h01"] = taken_up(home)
    return coordinator.ready().advance(), home


def taken_up(home: HospitalHome) -> Session:
    """Open the session of h01, as its node does when it starts."""
    record = home.store.study(STUDY.digest)
    assert record is not None
    return take_up(home, record)


def years_later(home: HospitalHome) -> None:
    """Have all patients in h01's table be one year older, or younger."""
    path = home.table_of(STUDY.name)
    table = pd.read_csv(path)
    table["age"] += np.where(table["age"] < 100, 1, -1)
    table.to_csv(path, index=False)


def test_a_put_back_database_with_rows_that_were_pinned_since_is_not_taken_up(tmp_path: Path) -> None:
    """It would answer a second time, of other rows and under the masks that served already."""
    coordinator, home = of_home(tmp_path)
    shutil.copy(home.path / "node.db", tmp_path / "copy.db")
    step = coordinator.steps(["h01"])["h01"]
    first = coordinator.sessions["h01"].step(step)
    before = pinned(home)
    years_later(home)
    approve(home, STUDY, again=True)
    home.store.close()
    shutil.copy(tmp_path / "copy.db", home.path / "node.db")
    home = HospitalHome(home.path)
    with pytest.raises(WardroundError, match="not the rows that were pinned when the study was approved"):
        taken_up(home)
    node = Node(home.store, lambda record: take_up(home, record))
    for action, message in (("ask", step), ("join", say.Invitation(STUDY.manifest()))):
        assert say.MESSAGES.decode(node.reply(action, encode(message)), object) == say.Refusal("trouble")
    assert [one.analysis for one in home.store.ledger()] == ["flow"], "nothing was released"
    # what was refused: the difference of two answers under the same masks
    after = pinned(home)
    second = Session("h01", home.identity, home.policy, home.store, STUDY, after).step(
        coordinator.retold("h01", step, coordinator.told)
    )
    assert isinstance(first, say.Answers) and isinstance(second, say.Answers)
    for due, one, two in zip(coordinator.replay.due, first.answers, second.answers, strict=True):
        layout = layout_of(STUDY, due.asked)
        old, new = (vector_of(due.asked.query.answer(rows, layout), layout) for rows in (before, after))
        vectors = [np.frombuffer(answer.sealed[:-LANE_BYTES], "<u8") for answer in (one, two)]
        assert np.array_equal((vectors[1] - vectors[0]).view(np.int64), new - old)
        assert (new != old).any() and all(is_noise(vector) for vector in vectors)


def test_a_node_that_died_between_pinning_rows_and_approving_is_not_taken_up(tmp_path: Path) -> None:
    coordinator, home = of_home(tmp_path)
    cohort = pinned(home)
    other = dataclasses.replace(cohort, columns={**cohort.columns, "age": cohort.columns["age"][::-1]})
    write_snapshot(home.snapshot_file(STUDY.digest), other, home.row_key)
    with pytest.raises(WardroundError, match="approve it once more"):
        taken_up(home)
    write_snapshot(home.snapshot_file(STUDY.digest), cohort, home.row_key)
    coordinator.sessions["h01"] = taken_up(home)
    assert coordinator.advance(), "of the rows that were pinned it goes on"


# --- hospitals that return ---


def away() -> Coordinator:
    """Return a study that h03 left, and in which it is to take part again."""
    policies = {name: Policy.of(STUDY).model_copy(update={"leave": "allow"}) for name in NAMES}
    coordinator = Coordinator(STUDY, policies).ready().advance(2)
    coordinator.told_all()
    coordinator.begin(coordinator.epoch(NAMES[:3]))
    return coordinator.advance(2).told_all()


def back() -> Coordinator:
    """Return the same in which it does, and was started again since it signed."""
    coordinator = away()
    coordinator.begin(coordinator.epoch())
    coordinator.again("h03")
    return coordinator


def whole(coordinator: Coordinator, *course: EpochRecord | StepRecord) -> say.Step:
    return coordinator.retold("h03", coordinator.steps(["h03"])["h03"], course)


def falsified(record: object) -> StepRecord:
    assert isinstance(record, StepRecord)
    one = record.sums[0]
    return dataclasses.replace(
        record, sums=(dataclasses.replace(one, vector=one.vector * 2), *record.sums[1:])
    )


def test_a_returning_hospital_that_is_told_the_truth_goes_on() -> None:
    coordinator = back()
    for again in (False, True):
        if again:
            coordinator.again("h03")
        assert isinstance(coordinator.ask()["h03"], say.Answers)
    assert coordinator.advance(2)


@pytest.mark.parametrize("which", [4, 5])
@pytest.mark.parametrize("at_once", [True, False])
def test_a_returning_hospital_that_is_told_false_sums_refuses_and_believes_the_truth_then(
    which: int, at_once: bool
) -> None:
    coordinator = back()
    course, before = coordinator.told, coordinator.released
    lies = [falsified(one) if i == which else one for i, one in enumerate(course)]
    if not at_once:
        part = dataclasses.replace(whole(coordinator, *lies[:6]), questions=())
        coordinator.reply("h03", "ask", part)
    found = coordinator.reply("h03", "ask", whole(coordinator, *lies))
    assert found in (say.Refusal("other_course"), say.Refusal("diverged"), say.Refusal("not_next"))
    assert coordinator.released == before
    assert isinstance(coordinator.reply("h03", "ask", whole(coordinator, *course)), say.Answers)
    coordinator.again("h03")
    assert isinstance(coordinator.reply("h03", "ask", whole(coordinator, *course)), say.Answers)


@pytest.mark.parametrize("which", [4, 5])
def test_a_returning_hospital_that_was_told_false_sums_signs_nothing_that_the_others_do(which: int) -> None:
    coordinator = away()
    lies = [*coordinator.told[:which], falsified(coordinator.told[which])]
    coordinator.tell(["h03"], lies)  # it can't check the sums of an epoch without it
    true = coordinator.epoch(tell=False)
    steps, head = position(true.binding, lies)
    false = dataclasses.replace(true, steps=steps, head=head)
    assert coordinator.offer("h03", true) == say.Refusal("behind")
    for name in NAMES[:3]:
        assert coordinator.offer(name, false) == say.Refusal("behind")
    assert isinstance(coordinator.offer("h03", false), say.EpochSignature), "alone, so nothing begins"
    coordinator.again("h03")
    coordinator.begin(coordinator.epoch(number=true.number + 1))
    assert coordinator.advance(), "told the truth, it goes on"


def test_a_hospital_that_was_away_answers_nothing_of_the_time_without_it() -> None:
    policies = {name: Policy.of(STUDY).model_copy(update={"leave": "allow"}) for name in NAMES}
    coordinator = Coordinator(STUDY, policies).ready().advance()
    coordinator.told_all()
    coordinator.begin(coordinator.epoch(NAMES[:3]))
    before = coordinator.released["h03"]
    asked = [question(one.asked, one.index) for one in coordinator.replay.due]
    binding = coordinator.coordination.roster.digest
    sent = say.Step(binding, coordinator.current.digest, 0, (), (), tuple(asked))
    sent = coordinator.retold("h03", sent, coordinator.told)
    assert coordinator.reply("h03", "ask", sent) == say.Refusal("unknown_epoch")
    assert coordinator.released["h03"] == before
    assert np.array_equal(coordinator.advance().course[-1].sums[0].vector[:1], [111])  # type: ignore[union-attr]
