"""A coordinator that lies about who takes part, which epoch it is, or what the sums are learns nothing by it.

| attack | what it learns |
|---|---|
| swapped key, low-order point, foreign roster, forged signature | nothing: refused (`test_session.py`) |
| invented members; confirmations taken back | nothing: `unconfirmed`, `revoked` |
| two rosters to two halves | nothing: nobody gets all signatures |
| two epochs with one number to two halves | nothing: nobody gets all signatures |
| answers of two epochs, or of two halves told different sums, put together | noise |
| false sums, by any amount, in any element or in the lane | nothing more: `false_sum` |
| a forged group secret | nothing: refused |
| another course of the study, another epoch | nothing: refused (`test_course.py`) |
| a step that asks who abstains; an answer asked for bare | nothing: refused; noise |
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Literal

import numpy as np
import pytest

from tests.analyses.contract import driven
from tests.attacks.coordinator import (
    FLOW,
    LABELS,
    MOMENTS,
    NAMES,
    STUDY,
    SUMMARY,
    TRUSTED,
    Coordinator,
    is_noise,
    question,
    refuses,
)
from tests.support import study_of
from wardround_client.gate import Policy
from wardround_client.store import NOTHING
from wardround_common import messages as say
from wardround_common.sealing.epoch import Membership, Opening
from wardround_common.sealing.mask import LANE_BYTES, MODULUS, unseal
from wardround_common.sealing.record import EpochRecord, Opened, StepRecord, first_head
from wardround_common.sealing.roster import Roster
from wardround_common.study import Study
from wardround_common.typing import Ints

# --- who takes part ---

SYBILS = ("s0", "s1")


REAL = ("h01", "h02")


def doubtful(confirmed: tuple[str, ...]) -> Coordinator:
    """Return a study of three hospitals and two invented ones, where h00 has confirmed some."""
    names = (*NAMES[:3], *SYBILS)
    coordinator = Coordinator(names=names, everyone=False)
    return coordinator.confirm(names[1:], names).confirm(["h00"], confirmed)


def change_mind(coordinator: Coordinator, whom: tuple[str, ...], says: str = "") -> Coordinator:
    """Have h00's officer say something else of hospitals that were confirmed."""
    store = coordinator.stores["h00"]
    for fingerprint, (name, _) in store.officers().items():
        if name in whom:
            store.say(name, fingerprint, says)
    return coordinator


@pytest.mark.parametrize(
    "confirmed", [(), ("h01",), ("s0",), ("h00", "h01"), REAL, (*REAL, "s0"), ("h01", *SYBILS)]
)
def test_a_roster_with_a_member_that_the_officer_did_not_confirm_is_not_signed(
    confirmed: tuple[str, ...],
) -> None:
    coordinator = doubtful(confirmed)
    proposal = say.RosterProposal(coordinator.roster())
    for _ in range(2):
        assert coordinator.reply("h00", "roster", proposal) == say.Refusal("unconfirmed")
        assert coordinator.sessions["h00"].binding is None
        coordinator.again("h00")
    store = coordinator.stores["h00"]
    assert not [one for one in store.entries() if one[0] == "roster"]
    assert {name for name, _ in store.met()} == {*REAL, *SYBILS}, "the officer sees who is to be confirmed"
    coordinator.confirm(["h00"], (*REAL, *SYBILS))
    assert isinstance(coordinator.reply("h00", "roster", proposal), say.Approval)


def test_invented_members_are_not_enough_for_an_epoch_nor_for_an_analysis() -> None:
    coordinator = change_mind(doubtful((*REAL, *SYBILS)).enrolled(), SYBILS)
    for hospitals in (("h00", *SYBILS), ("h00", "h01", "s0"), ("h00", *REAL, *SYBILS)):
        epoch = coordinator.epoch(hospitals)
        assert coordinator.offer("h00", epoch) == say.Refusal("unconfirmed")
    for label in LABELS:
        sets = tuple(Membership(one, ("h01", "h02") if one == label else ()) for one in LABELS)
        epoch = coordinator.epoch(analyses=sets)
        assert coordinator.offer("h00", epoch) == say.Refusal("unconfirmed")
    assert set(coordinator.released.values()) == {0}
    assert not [one for one in coordinator.stores["h00"].entries() if one[0] == "epoch"]
    assert coordinator.signatures(coordinator.epoch(NAMES[:3])), "without them it goes on"


@pytest.mark.parametrize(("says", "code"), [("", "unconfirmed"), ("revoked", "revoked")])
def test_a_confirmation_that_was_taken_back_ends_a_study_that_runs(says: str, code: str) -> None:
    coordinator = doubtful((*REAL, *SYBILS)).ready().advance()
    before = coordinator.released
    change_mind(coordinator, ("h02",), says)
    assert coordinator.reply("h00", "ask", coordinator.steps(["h00"])["h00"]) == say.Refusal(code)
    assert coordinator.released == before


def test_two_rosters_told_to_two_halves_give_no_epoch_that_all_signed() -> None:
    coordinator = Coordinator(names=(*NAMES, "h04"))
    whole = coordinator.roster()
    smaller = Roster(STUDY.digest, whole.members[:4])
    for roster, half in ((whole, ("h00", "h01", "h04")), (smaller, ("h02", "h03"))):
        for name in half:
            assert isinstance(coordinator.reply(name, "roster", say.RosterProposal(roster)), say.Approval)
    heads = coordinator.heading(4 * (NOTHING.packed(),))
    first = Coordinator().enrolled().epoch(audits=heads)
    one, other = (
        dataclasses.replace(first, binding=roster.digest, head=first_head(roster.digest))
        for roster in (whole, smaller)
    )
    for epoch, theirs, not_theirs in ((one, NAMES[:2], NAMES[2:]), (other, NAMES[2:], NAMES[:2])):
        for name in not_theirs:
            assert coordinator.offer(name, epoch) == say.Refusal("no_roster")
        for name in theirs:
            assert isinstance(coordinator.offer(name, epoch), say.EpochSignature)
    assert set(coordinator.released.values()) == {0}


# --- which epoch ---


def test_two_epochs_with_one_number_are_signed_by_all_nowhere() -> None:
    coordinator = Coordinator().enrolled()
    one = coordinator.epoch()
    heads = coordinator.heading(coordinator.proposal(one).audits[1:])
    other = dataclasses.replace(one, hospitals=NAMES[1:], audits=heads)
    first, second = coordinator.signatures(one, NAMES[:2]), coordinator.signatures(other, NAMES[2:])
    for epoch, names in ((one, NAMES[2:]), (other, NAMES[1:2])):
        for name in names:
            assert coordinator.offer(name, epoch) == say.Refusal("old_epoch")
    both = {**first, **second}
    of_all = [both[name] for name in NAMES]
    opening = Opening(
        *(tuple(getattr(one, field) for one in of_all) for field in ("signature", "leave", "audit"))
    )
    for name in NAMES:
        wrapped = (dict(zip(NAMES, first["h00"].wrapped, strict=True))[name],)
        sent = say.Step(one.binding, one.digest, 0, (EpochRecord(one, opening),), wrapped, ())
        assert coordinator.reply(name, "ask", sent) == say.Refusal("protocol")
    assert set(coordinator.released.values()) == {0}


def test_answers_of_two_epochs_put_together_are_noise() -> None:
    coordinator = Coordinator().ready()
    first = coordinator.ask()
    coordinator.begin(coordinator.epoch())
    second = coordinator.ask()
    vectors = []
    for told in (first, second, {**first, "h02": second["h02"], "h03": second["h03"]}):
        vectors.append(unseal([told[name].answers[0].sealed for name in NAMES])[0])
    assert np.array_equal(vectors[0], vectors[1]) and not is_noise(vectors[0])
    assert is_noise(vectors[2])
    assert not (vectors[2] == vectors[0]).any()


# --- what the sums are ---


def resummed(record: StepRecord, change: Callable[[Opened], Opened], which: int = 0) -> StepRecord:
    """Return a step in which one sum is told otherwise."""
    sums = list(record.sums)
    sums[which] = change(sums[which])
    return StepRecord(record.epoch, tuple(sums))


def told(coordinator: Coordinator, name: str, *course: EpochRecord | StepRecord) -> object:
    """Tell a hospital that was started again these records in the place of the last; return its reply."""
    coordinator.again(name)
    whole = (*coordinator.told[: -len(course)], *course)
    return coordinator.reply(name, "ask", coordinator.retold(name, coordinator.step(), whole))


def off_by(vector: Ints, element: int, error: int) -> Ints:
    changed = vector.view(np.uint64).copy()
    changed[element] = (int(changed[element]) + error) % 2**64
    return changed.view(np.int64)


SIZES = (1, -1, 3, 2**32, 2**52 + 1, 2**61, -(2**61), 2**62, 2**63)


@pytest.mark.parametrize("error", SIZES)
def test_a_false_sum_is_refused_by_all_whatever_its_size_and_place(error: int) -> None:
    coordinator = Coordinator().ready().advance(2)
    honest, before = coordinator.course[-1], coordinator.released
    assert isinstance(honest, StepRecord)
    for which, one in enumerate(honest.sums):
        for element in (0, 1, len(one.vector) // 2, len(one.vector) - 1):

            def lie(true: Opened, element: int = element) -> Opened:
                return dataclasses.replace(true, vector=off_by(true.vector, element, error))

            for name in ("h00", "h03"):
                found = told(coordinator, name, resummed(honest, lie, which))
                assert found == say.Refusal("false_sum")
    assert coordinator.released == before
    assert len(coordinator.told_all().ask()) == 4, "told the truth, all go on"


@pytest.mark.parametrize("error", [1, 2**32, 2**64, 2**127, MODULUS - 1])
def test_a_false_check_lane_is_refused(error: int) -> None:
    coordinator = Coordinator().ready().advance()

    def lie(true: Opened) -> Opened:
        lane = (int.from_bytes(true.proof, "little") + error) % MODULUS
        return dataclasses.replace(true, proof=lane.to_bytes(LANE_BYTES, "little"))

    honest = coordinator.course[-1]
    assert isinstance(honest, StepRecord)
    for name in NAMES:
        assert told(coordinator, name, resummed(honest, lie)) == say.Refusal("false_sum")


@pytest.mark.parametrize("factor", [0, -1, 2, 3, 5])
def test_a_multiple_of_the_sum_with_the_same_multiple_of_its_lane_is_refused(factor: int) -> None:
    """The lane is linear, so a check without a pad that the coordinator lacks would let these pass."""
    coordinator = Coordinator().ready().advance()

    def lie(true: Opened) -> Opened:
        lane = factor * int.from_bytes(true.proof, "little") % MODULUS
        return dataclasses.replace(
            true, vector=factor * true.vector, proof=lane.to_bytes(LANE_BYTES, "little")
        )

    honest = coordinator.course[-1]
    assert isinstance(honest, StepRecord)
    for name in NAMES:
        assert told(coordinator, name, resummed(honest, lie)) == say.Refusal("false_sum")


def test_the_sum_of_another_query_or_epoch_is_refused() -> None:
    coordinator = Coordinator().ready()
    earlier = coordinator.take(coordinator.ask())
    coordinator.begin(coordinator.epoch())
    while coordinator.replay.due[0].kind != "logistic.newton":
        coordinator.advance()
    first = coordinator.advance().course[-1]
    second = coordinator.advance().course[-1]
    assert isinstance(first, StepRecord) and isinstance(second, StepRecord)
    before = coordinator.released
    borrowed = dataclasses.replace(second.sums[0], vector=first.sums[0].vector, proof=first.sums[0].proof)
    for name in NAMES:
        assert told(coordinator, name, resummed(second, lambda true: borrowed)) == say.Refusal("false_sum")
    for record, code in ((first, "diverged"), (earlier, "diverged"), (StepRecord(2, ()), "diverged")):
        assert told(coordinator, "h00", record) == say.Refusal(code)
    assert coordinator.released == before


def test_a_view_that_is_split_by_a_false_sum_is_noise() -> None:
    coordinator = Coordinator().ready().advance()
    honest = coordinator.course[-1]
    assert isinstance(honest, StepRecord)
    false = resummed(honest, lambda true: dataclasses.replace(true, vector=off_by(true.vector, 0, 4)))
    answers = {name: coordinator.ask(coordinator.steps([name]))[name] for name in NAMES[:2]}
    for name in NAMES[2:]:
        assert told(coordinator, name, false) == say.Refusal("false_sum")
    half = [answers[name].answers[0].sealed for name in NAMES[:2]]
    assert all(is_noise(one) for one in half) and is_noise(unseal(half)[0])


# --- the group secret ---


@pytest.mark.parametrize(
    "how", ["none", "two", "empty", "zeros", "of another", "of another epoch", "a bit", "cut"]
)
def test_a_group_secret_that_the_leader_did_not_wrap_is_refused(how: str) -> None:
    coordinator = Coordinator().ready()
    first = coordinator.coordination.wrapped_for("h02", coordinator.current)
    coordinator.begin(coordinator.epoch())
    honest = coordinator.steps(["h02"])["h02"]
    (true,) = honest.wrapped
    wrapped = {
        "none": (),
        "two": (true, true),
        "empty": (b"",),
        "zeros": (bytes(48),),
        "of another": (coordinator.coordination.wrapped_for("h01", coordinator.current),),
        "of another epoch": (first,),
        "a bit": (bytes([true[0] ^ 1]) + true[1:],),
        "cut": (true[:-1],),
    }[how]
    sent = dataclasses.replace(honest, wrapped=wrapped)
    assert coordinator.reply("h02", "ask", sent) == say.Refusal("protocol")
    assert coordinator.released["h02"] == 0
    assert isinstance(coordinator.ask()["h02"], say.Answers), "with the true one it goes on"


# --- who is asked, and how it is sealed ---


def without(labels: tuple[str, ...]) -> tuple[Membership, ...]:
    """Return who takes part if h03 abstains from some analyses."""
    return tuple(Membership(label, ("h03",) if label in labels else ()) for label in LABELS)


@pytest.mark.parametrize("study", [STUDY, TRUSTED], ids=["verified", "trusted"])
@pytest.mark.parametrize(("leave", "out"), [("allow", ("logistic",)), ("group", LABELS)])
def test_a_hospital_is_not_asked_for_an_analysis_in_which_it_abstains(
    study: Study, leave: Literal["allow", "group"], out: tuple[str, ...]
) -> None:
    """From the model alone where it may be told from the others, else from all."""
    coordinator = Coordinator(study, {"h03": Policy.of(study, leave)})
    columns = dict(coordinator.cohorts["h03"].columns)
    columns["disease"] = columns["disease"] * 0 - 1  # missing, so its rows are of no use to the model
    coordinator.cohorts["h03"] = dataclasses.replace(coordinator.cohorts["h03"], columns=columns)
    coordinator.again("h03")
    coordinator.enrolled()
    for other in ((), ("logistic",), ("summary",), LABELS):
        if other != out:
            wrong = coordinator.epoch(analyses=without(other))
            assert coordinator.offer("h03", wrong) == say.Refusal("membership")
    coordinator.begin(coordinator.epoch(analyses=without(out)))
    if coordinator.verified:
        coordinator.advance()
    coordinator.told_all()
    before, code = coordinator.released, "not_next" if coordinator.verified else "not_taking_part"
    due = next((one for one in coordinator.replay.due if one.kind == "moments"), None)
    for asked in (MOMENTS if due is None else due.asked, *((FLOW, SUMMARY) if "flow" in out else ())):
        assert coordinator.reply("h03", "ask", coordinator.step(question(asked))) == say.Refusal(code)
    assert coordinator.released == before
    assert (before["h03"] == 0) == ("flow" in out or not coordinator.verified)


AVERAGING = {"kind": "fedavg", "strategy": "FedMedian", "rounds": 1}
UNSEALED = study_of(AVERAGING, privacy={"min_hospitals": 3, "seal": "none"})


def test_a_query_that_leaves_unsealed_elsewhere_is_masked_in_a_sealed_study() -> None:
    share = next(one for one in driven(UNSEALED).asked if one.query.kind == "train.share")
    sealed = {"kind": "fedavg", "rounds": 1}
    trusting = Coordinator(study_of(sealed, privacy={"min_hospitals": 3, "plan": "trusted"})).ready()
    sent = trusting.told_all().step(question(share))
    answers = [trusting.reply(name, "train", sent) for name in NAMES]
    vectors = [one.answers[0].sealed for one in answers if isinstance(one, say.Answers)]
    assert len(vectors) == 4 and all(is_noise(one) for one in vectors)
    assert not is_noise(unseal(vectors)[0])
    verified = Coordinator(study_of(sealed, privacy={"min_hospitals": 3})).ready().advance().told_all()
    assert verified.reply("h00", "train", verified.step(question(share))) == say.Refusal("not_next")


def test_a_study_in_which_numbers_leave_unsealed_needs_the_hospitals_own_consent() -> None:
    strict = Policy(min_hospitals=3)
    with refuses("policy"):
        Coordinator(UNSEALED, dict.fromkeys(NAMES, strict))
    assert Coordinator(UNSEALED, dict.fromkeys(NAMES, strict.model_copy(update={"seal": "none"})))


def test_an_unsealed_update_that_was_not_its_hospitals_is_refused() -> None:
    coordinator = Coordinator(UNSEALED).ready()
    while coordinator.replay.due[0].kind != "train.share":
        coordinator.advance()
    honest = coordinator.advance().course[-1]
    assert isinstance(honest, StepRecord)
    true = honest.sums[0]
    size = len(true.vector) // 4
    for lie in (
        dataclasses.replace(true, vector=off_by(true.vector, 1, 1)),
        dataclasses.replace(true, vector=np.roll(true.vector, size)),
        dataclasses.replace(
            true, vector=np.roll(true.vector, size), proof=true.proof[-64:] + true.proof[:-64]
        ),
        dataclasses.replace(true, proof=bytes(len(true.proof))),
        dataclasses.replace(true, proof=true.proof[:-64]),
        dataclasses.replace(true, proof=b""),
        dataclasses.replace(true, vector=true.vector[:-size], proof=true.proof[:-64]),
        dataclasses.replace(true, vector=true.vector.reshape(4, size)),
    ):
        found = told(coordinator, "h01", resummed(honest, lambda _, lie=lie: lie))  # type: ignore[misc]
        assert found == say.Refusal("protocol")
