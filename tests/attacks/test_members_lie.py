"""A member that lies harms the study's result or its progress, never another hospital's rows.

| lie | what comes of it |
|---|---|
| a lane that does not fit its vector; a leader with a secret for each | every member refuses the sum |
| truncated, reordered, doubled or foreign answers | the coordinator refuses them by name, and opens nothing |
| forged signatures, audit heads, terms, numbers | the coordinator refuses them by name |
| another's masking key signed for its own, in other bytes | whose masks would cancel refuses the roster |
| a course that it never has enough of | the coordinator gives it up |
| values that there can't be, contributions beyond the bound | `test_values.py` |
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable

import numpy as np
import pytest

from tests.attacks.coordinator import FLOW, NAMES, STUDY, Coordinator, is_noise
from tests.support import layout_of, vector_of
from wardround_common import messages as say
from wardround_common.errors import ProtocolError
from wardround_common.sealing.epoch import AuditHead, sign_epoch
from wardround_common.sealing.identity import Identity
from wardround_common.sealing.lane import wrap
from wardround_common.sealing.mask import LANE_BYTES, MODULUS, MaskingKey, seal
from wardround_common.sealing.roster import Roster, enter

# --- keys ---

FIELD = 2**255 - 19  # of Curve25519, y^2 = x^3 + 486662 x^2 + x


def with_top_bit(public: bytes) -> bytes:
    """Return other bytes for the same point: X25519 ignores the last bit."""
    return public[:-1] + bytes([public[-1] | 0x80])


def plus_order_two(public: bytes) -> bytes:
    """Return the point plus (0, 0), which every private key, being even, takes off again."""
    return pow(int.from_bytes(public, "little"), -1, FIELD).to_bytes(32, "little")


def both(public: bytes) -> bytes:
    return with_top_bit(plus_order_two(public))


def with_twin(coordinator: Coordinator, twin: Callable[[bytes], bytes]) -> Roster:
    """Return the roster in which h02 has signed h00's masking key, in other bytes, for its own."""
    members = list(coordinator.roster().members)
    key = twin(members[0].masking)
    members[2] = enter(coordinator.identities["h02"], STUDY.digest, "h02", key)
    return Roster(STUDY.digest, tuple(members))


@pytest.mark.parametrize("twin", [with_top_bit, plus_order_two, both])
def test_a_masking_key_that_is_anothers_in_other_bytes_is_refused_by_whom_both_would_mask(
    twin: Callable[[bytes], bytes],
) -> None:
    coordinator = Coordinator()
    roster = with_twin(coordinator, twin)
    roster.verify()  # no two keys are the same bytes, and each is signed by its owner
    for name in ("h01", "h03"):
        for _ in range(2):
            assert coordinator.reply(name, "roster", say.RosterProposal(roster)) == say.Refusal("protocol")
            assert coordinator.sessions[name].binding is None
            coordinator.again(name)
        event, _, reason = coordinator.stores[name].entries()[-1]
        assert event == "refuse" and "their masks would cancel" in reason
    honest = say.RosterProposal(coordinator.roster())
    assert isinstance(coordinator.reply("h01", "roster", honest), say.Approval), "nothing was signed"


@pytest.mark.parametrize("twin", [with_top_bit, plus_order_two, both])
def test_masks_shared_with_twins_would_leave_the_answer_between_them_in_the_clear(
    twin: Callable[[bytes], bytes],
) -> None:
    """Why it is refused: a hospital between the twins, by name, adds one mask and takes off its like."""
    coordinator = Coordinator(names=NAMES[:3])
    layout, context, lane = layout_of(STUDY, FLOW), bytes(32), 12345
    vector = vector_of(FLOW.query.answer(coordinator.cohorts["h01"], layout), layout)
    record = coordinator.stores["h01"].study(STUDY.digest)
    assert record is not None and record.masking is not None
    own = MaskingKey.from_bytes(record.masking)

    def sealed(roster: Roster) -> bytes:
        secrets = {one.name: own.shared_with(one.masking) for one in roster.members if one.name != "h01"}
        return seal(vector, lane, "h01", secrets, context)

    in_the_clear = vector.astype("<i8").tobytes() + lane.to_bytes(LANE_BYTES, "little")
    assert sealed(with_twin(coordinator, twin)) == in_the_clear
    true = sealed(coordinator.roster())
    assert is_noise(true[:-LANE_BYTES]) and not (np.frombuffer(true[: vector.nbytes], "<i8") == vector).any()


# --- answers ---


def changed(answers: say.Answers, which: int, change: Callable[[bytes], bytes]) -> say.Answers:
    found = list(answers.answers)
    found[which] = dataclasses.replace(found[which], sealed=change(found[which].sealed))
    return say.Answers(tuple(found))


def other_word(sealed: bytes) -> bytes:
    return ((int.from_bytes(sealed[:8], "little") + 1000) % 2**64).to_bytes(8, "little") + sealed[8:]


def other_lane(sealed: bytes) -> bytes:
    word = (int.from_bytes(sealed[-LANE_BYTES:], "little") + 1) % MODULUS
    return sealed[:-LANE_BYTES] + word.to_bytes(LANE_BYTES, "little")


@pytest.mark.parametrize("lie", [other_word, other_lane])
def test_an_answer_whose_lane_does_not_fit_stops_the_study_at_all_members(
    lie: Callable[[bytes], bytes],
) -> None:
    coordinator = Coordinator().ready().advance()
    answers = coordinator.ask()
    answers["h02"] = changed(answers["h02"], 0, lie)
    coordinator.take(answers)
    before = coordinator.released
    for name in NAMES:
        assert coordinator.reply(name, "ask", coordinator.steps([name])[name]) == say.Refusal("false_sum")
    assert coordinator.released == before
    assert all(store.study(STUDY.digest).steps == 1 for store in coordinator.stores.values())  # type: ignore[union-attr]


def test_a_leader_with_another_secret_for_one_member_stops_the_study_at_all_members() -> None:
    coordinator = Coordinator().enrolled()
    epoch = coordinator.epoch()
    signatures = coordinator.signatures(epoch)
    shared = coordinator.sessions["h00"]._participant.secrets(NAMES)["h02"]
    wrapped = list(signatures["h00"].wrapped)
    wrapped[2] = wrap(bytes(32), shared, epoch.digest)
    signatures["h00"] = dataclasses.replace(signatures["h00"], wrapped=tuple(wrapped))
    coordinator.course.append(coordinator.coordination.begun(epoch, signatures))
    coordinator.replay.begin(epoch)
    coordinator.advance()
    before = coordinator.released
    for name in NAMES:
        assert coordinator.reply(name, "ask", coordinator.steps([name])[name]) == say.Refusal("false_sum")
    assert coordinator.released == before


def cut(sealed: bytes) -> bytes:
    return sealed[:-8]


@pytest.mark.parametrize(
    "change",
    [
        cut,
        lambda sealed: sealed[:-1],
        lambda sealed: sealed[:LANE_BYTES],
        lambda sealed: b"",
        lambda sealed: sealed + bytes(8),
        lambda sealed: sealed * 2,
    ],
)
def test_an_answer_of_another_length_is_refused_by_name_and_nothing_is_opened(
    change: Callable[[bytes], bytes],
) -> None:
    coordinator = Coordinator().ready().advance()
    honest = coordinator.ask()
    for which in (0, 1):
        lying = {**honest, "h02": changed(honest["h02"], which, change)}
        with pytest.raises(ProtocolError, match="h02"):
            coordinator.take(lying)
    assert coordinator.replay.steps == 1
    coordinator.take(coordinator.ask())
    assert coordinator.replay.steps == 2


@pytest.mark.parametrize("length", [0, 1, 8, LANE_BYTES - 1, LANE_BYTES + 1, LANE_BYTES + 4])
def test_answers_that_are_all_of_an_impossible_length_are_refused(length: int) -> None:
    coordinator = Coordinator().ready()
    answers = {
        name: changed(one, 0, lambda sealed: sealed[:length]) for name, one in coordinator.ask().items()
    }
    with pytest.raises(ProtocolError, match="not vectors of 64-bit words"):
        coordinator.take(answers)
    assert coordinator.replay.steps == 0


def test_answers_that_are_all_shorter_than_their_query_are_refused() -> None:
    coordinator = Coordinator().ready()
    answers = {name: changed(one, 0, cut) for name, one in coordinator.ask().items()}
    with pytest.raises(ProtocolError, match="another length than its query"):
        coordinator.take(answers)
    assert coordinator.replay.steps == 0


def test_reordered_missing_doubled_and_foreign_answers_are_refused_by_name() -> None:
    coordinator = Coordinator().ready().advance()
    honest = coordinator.ask()
    first, second = honest["h02"].answers
    for wrong in (
        (second, first),
        (first,),
        (),
        (first, first),
        (first, second, second),
        (dataclasses.replace(first, index=1), second),
        (dataclasses.replace(first, index=-1), second),
        (dataclasses.replace(first, analysis="summary"), second),
        (first, dataclasses.replace(second, analysis="cox")),
    ):
        with pytest.raises(ProtocolError, match="`h02` answers other questions"):
            coordinator.take({**honest, "h02": say.Answers(wrong)})
    assert coordinator.replay.steps == 1
    assert coordinator.take(honest)


# --- signatures and what is told with them ---


def test_forged_approvals_are_refused_by_name() -> None:
    coordinator = Coordinator().enrolled()
    good = coordinator.sessions["h02"].approve_roster(coordinator.coordination.roster)
    for wrong in (
        dataclasses.replace(good, signature=bytes(64)),
        dataclasses.replace(good, signature=b""),
        dataclasses.replace(good, audit=b"short"),
        dataclasses.replace(good, audit=(2**63).to_bytes(8, "little") + bytes(32)),
        dataclasses.replace(good, seen=(say.Seen("h00", b"", bytes(32), "group", bytes(64)),)),
    ):
        with pytest.raises(ProtocolError, match="`h02`"):
            coordinator.coordination.approved("h02", wrong)
    with pytest.raises(ProtocolError, match="`h01`"):
        coordinator.coordination.approved("h01", good)


def test_forged_signatures_under_an_epoch_are_refused_by_name() -> None:
    coordinator = Coordinator().enrolled()
    epoch = coordinator.epoch()
    honest = coordinator.signatures(epoch)
    good = honest["h02"]
    forged = sign_epoch(Identity.generate(), epoch, good.leave, good.audit)
    for wrong in (
        dataclasses.replace(good, signature=forged),
        dataclasses.replace(good, signature=honest["h01"].signature),
        dataclasses.replace(good, leave="allow"),
        dataclasses.replace(good, leave="maybe"),
        dataclasses.replace(good, audit=honest["h01"].audit),
        dataclasses.replace(good, audit=b""),
    ):
        with pytest.raises(ProtocolError, match="`h02`"):
            coordinator.coordination.begun(epoch, {**honest, "h02": wrong})
    few = dataclasses.replace(honest["h00"], wrapped=honest["h00"].wrapped[:3])
    with pytest.raises(ProtocolError, match="`h00`"):
        coordinator.coordination.begun(epoch, {**honest, "h00": few})
    assert coordinator.coordination.begun(epoch, honest)


@pytest.mark.parametrize("number", [-1, 2**20 + 1, 2**62, 2**63 - 1])
def test_a_member_that_says_it_signed_an_epoch_without_end_is_refused_by_name(number: int) -> None:
    coordinator = Coordinator().enrolled()
    approval = coordinator.sessions["h02"].approve_roster(coordinator.coordination.roster)
    with pytest.raises(ProtocolError, match="`h02`"):
        coordinator.coordination.approved("h02", dataclasses.replace(approval, number=number))


def test_a_member_that_lies_about_the_last_epoch_has_no_honest_one_refused() -> None:
    """It says the greatest number that is believed, and does not sign the epoch that follows."""
    coordinator = Coordinator().enrolled()
    approval = coordinator.sessions["h02"].approve_roster(coordinator.coordination.roster)
    coordinator.coordination.approved("h02", dataclasses.replace(approval, number=2**20))
    coordinator.signatures(coordinator.epoch(), ("h00", "h01", "h03"))
    coordinator.approved()
    assert coordinator.begin(coordinator.epoch())


def seen_by(coordinator: Coordinator, name: str) -> tuple[say.Approval, dict[str, say.Seen]]:
    """Return a hospital's approval, and what it shows in it of others."""
    approval = coordinator.sessions[name].approve_roster(coordinator.coordination.roster)
    return approval, {one.hospital: one for one in approval.seen}


def test_a_member_that_lies_about_anothers_audit_log_is_refused_by_name() -> None:
    coordinator = Coordinator().ready().advance()
    approval, seen = seen_by(coordinator, "h02")
    assert seen.keys() == {"h00", "h01", "h03"}
    true = seen["h00"]
    told, forger = AuditHead.of(true.audit), Identity.generate()
    longer = AuditHead(told.count + 1, told.head).packed()
    own = sign_epoch(coordinator.identities["h02"], coordinator.current, true.leave, longer)
    for lie in (
        dataclasses.replace(true, audit=longer),
        dataclasses.replace(true, audit=longer, signature=own),
        dataclasses.replace(
            true, audit=longer, signature=sign_epoch(forger, coordinator.current, "group", longer)
        ),
        dataclasses.replace(true, audit=(2**63).to_bytes(8, "little") + bytes(32)),
        dataclasses.replace(true, hospital="h01"),
        dataclasses.replace(true, hospital="h09"),
        dataclasses.replace(true, epoch=bytes(32)),
        dataclasses.replace(true, leave="allow"),
        dataclasses.replace(true, leave="maybe"),
        dataclasses.replace(true, signature=b""),
    ):
        with pytest.raises(ProtocolError, match="`h02`"):
            coordinator.coordination.approved("h02", dataclasses.replace(approval, seen=(lie,)))
    assert coordinator.begin(coordinator.epoch()), "nobody else looks restored by it"


def test_a_member_that_shows_how_anothers_audit_log_once_stood_hides_nothing() -> None:
    coordinator = Coordinator().ready().advance()
    old = tuple(seen_by(coordinator, "h02")[1].values())
    coordinator.begin(coordinator.epoch())
    coordinator.advance()
    approval, seen = seen_by(coordinator, "h02")
    assert AuditHead.of(seen["h00"].audit).count > AuditHead.of(old[0].audit).count
    true = coordinator.epoch()
    coordinator.coordination.approved("h02", dataclasses.replace(approval, seen=old))
    again = coordinator.coordination.propose(
        *(NAMES, {one.analysis: NAMES for one in true.analyses}, coordinator.current),
        *(coordinator.replay.steps, coordinator.replay.head),
    )
    assert again == coordinator.proposal(true)
    assert coordinator.begin(true)


@pytest.mark.parametrize("records", [-1, 3, 2**62])
def test_a_member_that_says_it_has_a_course_that_there_is_not_is_given_up(records: int) -> None:
    coordinator = Coordinator().ready().advance()
    with pytest.raises(ProtocolError, match="`h02`: it can't be brought up"):
        coordinator.coordination.behind("h02", records, coordinator.told)


def test_a_member_that_never_has_enough_of_the_course_is_given_up() -> None:
    coordinator = Coordinator().ready().advance(2)
    with pytest.raises(ProtocolError, match="`h02`: it can't be brought up"):
        for _ in range(20):
            coordinator.coordination.behind("h02", 0, coordinator.told)
