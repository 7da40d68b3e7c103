"""A hospital's whole client answers an epoch as the vectors say, and refuses what they say.

So does the second implementation, where bytes, keys, signatures and check lanes tell.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from tests.vectors.generate import HERE
from tests.vectors.reading import (
    node_of,
    officer_says,
    raw,
    reader_of,
    state_of,
    told_before,
    vectors,
    was_restarted,
)
from tests.vectors.refused_questions import unsealed_run, unsealed_step
from tests.vectors.slow.checks import Reader, Wrong
from tests.vectors.world import NAMES
from wardround_client.app import Node
from wardround_client.store import NodeStore
from wardround_common import messages as say
from wardround_common import wire
from wardround_common.errors import Refused
from wardround_common.sealing.coordination import Coordination
from wardround_common.sealing.record import EpochRecord, StepRecord
from wardround_common.study import read_manifest

REFUSALS = sorted(path.stem.removeprefix("refusal_") for path in HERE.glob("refusal_*.json"))
BYTES = [name for name in REFUSALS if vectors(f"refusal_{name}")["found_in"] == "bytes"]

# What the hospital's own audit log says of each whose code stands for more than one reason.
REASONS = {
    "audit_head_missing": "does not tell every hospital's audit head",
    "audit_heads_of_another_epoch": "does not tell every hospital's audit head",
    "audit_log_too_long": "more entries than there can be",
    "away_asked": "before the study's course was told",
    "away_forged_epoch_signature": "a signature (wardround epoch v1) is not valid",
    "away_other_sums": "follows from other sums than were sent",
    "behind": "follows from other sums than were told here",
    "behind_another_epoch": "not told here yet",
    "behind_fewer_sums": "follows from other sums than were told here",
    "behind_its_own_epoch": "not told here yet",
    "behind_other_sums": "follows from other sums than were told here",
    "changed_terms": "a signature (wardround epoch v1) is not valid",
    "course_begun_anew": "without one in which this hospital computed",
    "course_gone_back": "goes back behind sums",
    "course_without_my_epoch": "without one in which this hospital computed",
    "entry_of_another_study": "a signature (wardround member v1) is not valid",
    "epoch_of_half": "not more than half",
    "epoch_of_half_told": "not more than half",
    "epoch_of_too_few": "fewer hospitals than min_hospitals",
    "epoch_number_too_great": "numbers and digests are impossible",
    "epoch_that_does_not_follow": "does not follow from the one before",
    "forged_epoch_signature": "a signature (wardround epoch v1) is not valid",
    "group_secret_missing": "was not wrapped for this hospital",
    "group_secret_missing_of_the_epoch_before": "was not wrapped for this hospital",
    "group_secret_left_out": "a group secret for each of its epochs",
    "group_secret_of_no_epoch": "a group secret for each of its epochs",
    "group_secret_for_another": "was not wrapped for this hospital",
    "group_secret_of_another_epoch": "was not wrapped for this hospital",
    "leave_analysis": "not all of whom allow it",
    "leave_group": "not all of whom allow it",
    "leave_joined": "not all of whom allow it",
    "leave_joining": "not all of whom allow it",
    "leave_never": "never to be left out",
    "leave_told_apart": "not all of whom allow it",
    "leave_without_sums": "not all of whom allow it",
    "low_order_point": "not a usable X25519 point",
    "membership_of_others": "does not belong",
    "missing_epoch_signature": "signatures are not complete",
    "missing_lane": "without its check lane",
    "not_canonical": "1 bytes too many",
    "not_my_entry": "own entry",
    "other_action": "not asked as `evaluate`",
    "other_sums_told_again": "other sums than were verified here",
    "question_gone_back": "followed by others already",
    "restored": "that it does not have",
    "restored_other": "hides how another hospital's audit log stood",
    "shared_key": "share a key",
    "shorter_sum": "another length",
    "signed_and_not_begun": "before its epoch was signed by all",
    "signed_another_since": "before its epoch was signed by all",
    "step_of_another_epoch": "a step under another epoch",
    "swapped_key": "a signature (wardround member v1) is not valid",
    "too_few_stay": "without enough hospitals",
    "too_few_stay_proposed": "without enough hospitals",
    "trusted_behind": "not told here yet",
    "trusted_course_begun_anew": "without one in which this hospital computed",
    "trusted_of_another_analysis": "does not ask",
    "trusted_other_digest": "another digest",
    "trusted_other_kind": "another kind",
    "trusted_told_sums": "of no use here",
    "twin_encoding": "masking keys are one",
    "twin_point": "masking keys are one",
    "unknown_epoch": "did not sign",
    "unsealed_changed": "a signature (wardround unsealed answer v1) is not valid",
    "unsealed_lane": "without its hospital's signature",
    "unsealed_missing_signature": "without its hospital's signature",
    "unsealed_turned": "a signature (wardround unsealed answer v1) is not valid",
    "unsigned_epoch": "before its epoch was signed by all",
    "unsorted_roster": "not unique and sorted",
}


@pytest.mark.parametrize("course", ["epoch", "epochs"])
@pytest.mark.parametrize("name", NAMES)
def test_a_hospitals_whole_client_answers_a_course_with_the_same_bytes(course: str, name: str) -> None:
    data, store = vectors(course), NodeStore()
    state = state_of(data, name)
    node = node_of(state, store)
    mine = iter([one for one in data["messages"] if name in (one["from"], one["to"])])
    answered = []
    for said in mine:
        answer = next(mine, None)
        if answer is None:  # the last step, which brings the sums and is not answered
            break
        expected: Any = say.MESSAGES.decode(raw(answer["bytes"]), object)
        if was_restarted(said, answer):
            node = node_of(state, store, again=True)
        found = say.MESSAGES.decode(node.reply(said["action"], raw(said["bytes"])), object)
        if isinstance(found, (say.Approval, say.EpochSignature)):  # they tell the audit log, which has times
            found = replace(found, audit=expected.audit)
        if isinstance(found, say.EpochSignature):
            found = replace(found, signature=expected.signature)
        assert wire.encode(found).hex() == answer["bytes"]
        answered.append(answer["message"])
    assert answered.count("Answers") >= 2


def test_sums_under_an_epoch_of_others_are_not_kept_before_the_next_epoch() -> None:
    data = vectors("epochs")
    state, store = state_of(data, "cedar"), NodeStore()
    node, reader = node_of(state, store), reader_of(state)
    *before, tells, proposal, back = [one for one in data["messages"] if one["to"] == "cedar"]
    answer = [one for one in data["messages"] if one["from"] == "cedar"][-1]
    step = say.MESSAGES.decode(raw(tells["bytes"]), say.Step)
    flow, begins, again, *_ = step.course
    assert isinstance(again, StepRecord)
    false = replace(again.sums[0], vector=again.sums[0].vector + 1)
    told = replace(step, course=(flow, begins, replace(again, sums=(false,))))

    def send(action: str, body: bytes) -> object:
        reader.read(body)
        return say.MESSAGES.decode(node.reply(action, body), object)

    for said in before:
        send(said["action"], raw(said["bytes"]))
    assert send("ask", wire.encode(told)) == say.Behind(4)
    study = store.study(read_manifest(state["manifest"].encode()).digest)
    assert study is not None
    assert (study.steps, reader.verified_steps) == (1, 1)  # the flow's, which it verified itself
    node = node_of(state, store, again=True)
    reader.restart()
    first = say.MESSAGES.decode(raw(data["course"][0]["bytes"]), EpochRecord)
    again_told = replace(step, first=0, course=(first, *step.course), wrapped=(b"", *step.wrapped))
    assert send("ask", wire.encode(again_told)) == say.Behind(5)
    assert isinstance(send("epoch", raw(proposal["bytes"])), say.EpochSignature)
    assert wire.encode(send("ask", raw(back["bytes"]))).hex() == answer["bytes"]
    assert reader.verified_steps == 3


def test_the_coordinator_finds_whom_an_epoch_exposes_before_it_is_recorded() -> None:
    case = vectors("refusal_leave_joined")
    step = say.MESSAGES.decode(raw(case["offending"]["bytes"]), say.Step)
    roster = say.MESSAGES.decode(raw(told_before(case)[0]["bytes"]), say.RosterProposal).roster
    told = (say.MESSAGES.decode(raw(one["bytes"]), object) for one in told_before(case))
    course = [record for one in told if isinstance(one, say.Step) for record in one.course]
    (joining,) = [one for one in step.course if isinstance(one, EpochRecord)]
    coordination = Coordination(roster, verified=True)
    assert coordination.exposed(joining, course, 2) == ("cedar",)
    assert coordination.exposed(joining, course[:1], 2) == ("cedar",)  # with or without a sum
    assert coordination.exposed(joining, (), 2) == ()


def _brought_up(case: dict[str, Any], store: NodeStore) -> Node:
    """Return the client that a case is about, when it is about to be sent what it refuses."""
    node = node_of(case, store)

    def tell(some: list[dict[str, str]]) -> None:
        for said in some:
            reply = say.MESSAGES.decode(node.reply(said["action"], raw(said["bytes"])), object)
            assert not isinstance(reply, say.Refusal), reply

    tell(told_before(case))
    for name in case["confirmation_withdrawn"]:
        officer_says(case, store, name, "")
    if case["restarted"]:
        node = node_of(case, store, again=True)
    tell(case["since"])
    return node


def _reader(case: dict[str, Any]) -> Reader:
    """Return the second implementation at the same point."""
    reader = reader_of(case)
    for said in told_before(case):
        reader.read(raw(said["bytes"]))
    if case["restarted"]:
        reader.restart()
    for said in case["since"]:
        reader.read(raw(said["bytes"]))
    return reader


@pytest.mark.parametrize("name", REFUSALS)
def test_a_hospitals_whole_client_refuses(name: str) -> None:
    case, store = vectors(f"refusal_{name}"), NodeStore()
    node, offending = _brought_up(case, store), case["offending"]
    reply = say.MESSAGES.decode(node.reply(offending["action"], raw(offending["bytes"])), object)
    assert reply == say.Refusal(case["expected"])
    if name in REASONS:
        assert REASONS[name] in store.entries()[-1][2]
    else:
        assert case["expected"] not in ("protocol", "leave", "other_course")


def test_who_is_not_confirmed_is_named() -> None:
    case, store = vectors("refusal_unconfirmed"), NodeStore()
    proposal = say.MESSAGES.decode(raw(case["offending"]["bytes"]), say.RosterProposal)
    with pytest.raises(Refused, match="has not confirmed `cedar`"):
        _brought_up(case, store).roster(proposal)


@pytest.mark.parametrize(
    ("leave", "analyses"), [("allow", ("flow", "summary")), ("group", ()), ("never", ())]
)
def test_a_hospital_that_may_not_be_told_from_the_others_takes_part_in_all_or_none(
    leave: str, analyses: tuple[str, ...]
) -> None:
    case = vectors("refusal_membership_told_apart")
    case = {**case, "policy": {**case["policy"], "leave": leave}}
    (proposal,) = told_before(case)
    reply = node_of(case, NodeStore()).reply("roster", raw(proposal["bytes"]))
    assert say.MESSAGES.decode(reply, say.Approval).analyses == analyses


def test_an_epoch_is_taken_that_exposes_somebody_and_nothing_is_answered_in_it() -> None:
    case, store = vectors("refusal_leave_joined"), NodeStore()
    node, reader, body = _brought_up(case, store), _reader(case), raw(case["offending"]["bytes"])
    step = say.MESSAGES.decode(body, say.Step)
    telling = wire.encode(replace(step, questions=()))
    assert say.MESSAGES.decode(node.reply("ask", telling), say.Behind) == say.Behind(3)
    reader.read(telling)
    for _ in range(2):
        reply = say.MESSAGES.decode(node.reply(case["offending"]["action"], body), say.Refusal)
        assert reply == say.Refusal("leave")
        with pytest.raises(Wrong, match="leave"):
            reader.read(body)
    study = read_manifest(case["manifest"].encode()).digest
    assert [computes for _, computes in store.opened(study)] == [True, False]
    assert len(store.groups()) == len(reader.computing) == 1


def test_an_epoch_is_opened_that_was_signed_before_another_was() -> None:
    case, store = vectors("refusal_signed_another_since"), NodeStore()
    node, reader, body = _brought_up(case, store), _reader(case), raw(case["offending"]["bytes"])
    telling = wire.encode(replace(say.MESSAGES.decode(body, say.Step), questions=()))
    assert say.MESSAGES.decode(node.reply("ask", telling), say.Behind) == say.Behind(1)
    reader.read(telling)
    assert len(store.opened(read_manifest(case["manifest"].encode()).digest)) == len(reader.opened) == 1


def test_a_roster_that_was_signed_is_signed_again_when_a_confirmation_was_taken_back() -> None:
    case, store = vectors("refusal_unconfirmed_epoch"), NodeStore()
    node = _brought_up(case, store)  # with cedar's confirmation taken back
    (proposal,) = told_before(case)
    reply = say.MESSAGES.decode(node.reply("roster", raw(proposal["bytes"])), say.Approval)
    assert case["confirmation_withdrawn"] == ["cedar"]
    approved = next(
        one for one in vectors("epoch")["messages"] if one["message"] == "Approval" and one["from"] == "brook"
    )
    assert reply.signature == say.MESSAGES.decode(raw(approved["bytes"]), say.Approval).signature


def test_unsealed_answers_with_their_signatures_are_taken() -> None:
    run = unsealed_run()
    step, case = unsealed_step(run), vectors("refusal_unsealed_changed")
    assert run.hospitals["brook"].reply("ask", step) == say.Behind(5)
    reader = _reader(case)
    reader.read(wire.encode(step))
    assert reader.verified_steps == 4


@pytest.mark.parametrize("name", BYTES)
def test_the_second_implementation_refuses(name: str) -> None:
    case = vectors(f"refusal_{name}")
    reader = _reader(case)
    with pytest.raises(Wrong) as refused:
        reader.read(raw(case["offending"]["bytes"]))
    assert refused.value.code == case["expected"]


def test_the_second_implementation_finds_no_fault_that_is_in_the_state_alone() -> None:
    for name in set(REFUSALS) - set(BYTES):
        case = vectors(f"refusal_{name}")
        _reader(case).read(raw(case["offending"]["bytes"]))
