"""A coordinator that departs from the protocol before it asks is refused by every hospital's session."""

from __future__ import annotations

import dataclasses

import pytest

from tests.analyses.contract import cohorts
from tests.attacks.coordinator import FLOW, LABELS, LOGISTIC, NAMES, STUDY, Coordinator, question
from tests.support import study_of
from wardround_client.app import Node
from wardround_client.gate import Policy
from wardround_client.session import Session
from wardround_client.store import NodeStore
from wardround_common import messages as say
from wardround_common.errors import ProtocolError, Refused
from wardround_common.sealing.epoch import Membership, sign_epoch
from wardround_common.sealing.identity import Identity
from wardround_common.sealing.mask import MaskingKey
from wardround_common.sealing.roster import Member, Roster, approve, enter
from wardround_common.wire import encode

# --- what is approved ---


def test_a_study_that_was_not_approved_is_refused() -> None:
    node, coordinator = Node(NodeStore()), Coordinator()
    node.open(coordinator.sessions["h00"])
    other = study_of(LOGISTIC, {"kind": "summary"}, privacy={"min_hospitals": 3}, title="Another")
    for message in (
        say.Invitation(other.manifest()),
        say.RosterProposal(Roster(other.digest, coordinator.roster().members)),
    ):
        action = "join" if isinstance(message, say.Invitation) else "roster"
        assert say.MESSAGES.decode(node.reply(action, encode(message)), say.Refusal).code == "not_approved"
    reply = node.reply("epoch", encode(say.EpochProposal(coordinator.epoch())))
    assert say.MESSAGES.decode(reply, say.Refusal).code == "no_roster"


@pytest.mark.parametrize("key", ["min_hospitals", "min_rows", "min_cell"])
def test_a_study_that_protects_less_than_the_hospitals_policy_is_refused(key: str) -> None:
    floor = getattr(STUDY.privacy, key) + 1
    policy = Policy.of(STUDY).model_copy(update={key: floor})
    with pytest.raises(Refused, match=f"privacy.{key}` is {floor - 1}, .* asks for {floor}"):
        Session("h00", Identity.generate(), policy, NodeStore(), STUDY, cohorts(STUDY, 4)["h00"])


def test_a_kind_of_analysis_that_the_policy_does_not_list_is_refused() -> None:
    policy = Policy.of(STUDY).model_copy(update={"analyses": ("summary",)})
    with pytest.raises(Refused, match="does not allow `logistic`"):
        Session("h00", Identity.generate(), policy, NodeStore(), STUDY, cohorts(STUDY, 4)["h00"])


# --- roster ---


def changed(roster: Roster, at: int, **fields: object) -> Roster:
    members = list(roster.members)
    members[at] = dataclasses.replace(members[at], **fields)
    return dataclasses.replace(roster, members=tuple(members))


def without(roster: Roster, at: int) -> Roster:
    return dataclasses.replace(roster, members=(*roster.members[:at], *roster.members[at + 1 :]))


def refused_roster(coordinator: Coordinator, roster: Roster, match: str) -> None:
    with pytest.raises((ProtocolError, Refused), match=match):
        coordinator.sessions["h00"].approve_roster(roster)
    assert coordinator.sessions["h00"].binding is None


def test_a_roster_without_the_hospitals_own_entry_is_refused() -> None:
    coordinator = Coordinator()
    roster = coordinator.roster()
    refused_roster(coordinator, without(roster, 0), "not in the roster")
    mine = enter(Identity.generate(), STUDY.digest, "h00", MaskingKey().public)
    refused_roster(coordinator, changed(roster, 0, **vars(mine)), "own entry")
    refused_roster(coordinator, changed(roster, 0, masking=MaskingKey().public), "own entry")
    refused_roster(coordinator, dataclasses.replace(roster, study=bytes(32)), "own entry")


def test_a_roster_with_a_swapped_key_is_refused() -> None:
    coordinator = Coordinator()
    roster = coordinator.roster()
    refused_roster(coordinator, changed(roster, 1, masking=MaskingKey().public), "not valid")
    refused_roster(coordinator, changed(roster, 1, identity=Identity.generate().public), "not valid")
    refused_roster(coordinator, changed(roster, 1, signature=roster.members[2].signature), "not valid")
    refused_roster(coordinator, changed(roster, 1, name="h01b"), "not valid")
    refused_roster(coordinator, changed(roster, 1, masking=b"short"), "wrong length")
    refused_roster(coordinator, changed(roster, 2, **vars(roster.members[1])), "unique")
    entry_of_another_study = enter(coordinator.identities["h01"], bytes(32), "h01", MaskingKey().public)
    refused_roster(coordinator, changed(roster, 1, **vars(entry_of_another_study)), "not valid")


def test_a_roster_in_which_one_hospital_plays_two_is_refused() -> None:
    coordinator = Coordinator()
    twin = enter(coordinator.identities["h01"], STUDY.digest, "h02", MaskingKey().public)
    refused_roster(coordinator, changed(coordinator.roster(), 2, **vars(twin)), "share a key")


def test_a_masking_key_of_low_order_is_refused() -> None:
    coordinator = Coordinator()
    weak: Member = enter(coordinator.identities["h01"], STUDY.digest, "h01", bytes(32))
    refused_roster(coordinator, changed(coordinator.roster(), 1, **vars(weak)), "X25519")


def test_a_roster_that_is_too_small_is_refused() -> None:
    coordinator = Coordinator()
    refused_roster(coordinator, without(without(coordinator.roster(), 3), 2), "fewer than 3 hospitals")


def test_a_second_roster_is_refused_and_the_first_may_come_again() -> None:
    coordinator = Coordinator().enrolled()
    signature, _ = coordinator.sessions["h00"].approve_roster(coordinator.roster())
    assert signature == approve(coordinator.identities["h00"], coordinator.roster())
    with pytest.raises(Refused, match="another roster"):
        coordinator.sessions["h00"].approve_roster(without(coordinator.roster(), 3))


# --- epoch ---


def test_an_epoch_outside_of_the_rules_is_not_signed() -> None:
    coordinator = Coordinator().enrolled()
    good = coordinator.epoch()
    few = tuple(Membership(label, NAMES[:2] if label == "summary" else NAMES) for label in LABELS)
    wrong = {
        "fewer hospitals than min_hospitals": coordinator.epoch(hospitals=NAMES[:2]),
        "of another study or roster": dataclasses.replace(good, binding=bytes(32)),
        "not a sorted subset": coordinator.epoch(hospitals=(*NAMES, "h04")),
    }
    for match, epoch in wrong.items():
        with pytest.raises(ProtocolError, match=match):
            coordinator.sessions["h00"].sign_epoch(epoch)
    for hospitals in (NAMES[::-1], ("h00", "h00", "h01")):
        with pytest.raises(ProtocolError, match="not a sorted subset"):
            coordinator.sessions["h00"].sign_epoch(coordinator.epoch(hospitals=hospitals))
    with pytest.raises(ProtocolError, match="fewer hospitals than min_hospitals"):
        coordinator.sessions["h00"].sign_epoch(dataclasses.replace(good, analyses=few))
    with pytest.raises(Refused, match="no roster"):
        Coordinator().sessions["h00"].sign_epoch(good)


def test_an_epoch_number_that_was_used_is_not_signed_again() -> None:
    coordinator = Coordinator().ready()
    with pytest.raises(Refused, match="was used"):
        coordinator.sessions["h00"].sign_epoch(coordinator.epoch(1, NAMES[:3]))
    coordinator.begin(coordinator.epoch(3))
    for number in (1, 2):
        with pytest.raises(Refused, match="was used"):
            coordinator.sessions["h00"].sign_epoch(coordinator.epoch(number))


def test_nothing_is_answered_before_every_signature_was_checked() -> None:
    coordinator = Coordinator().enrolled()
    epoch = coordinator.epoch()
    signatures = coordinator.begin(epoch)
    forged = sign_epoch(Identity.generate(), epoch)
    session = coordinator.sessions["h00"]
    with pytest.raises(Refused, match="signed by all"):
        session.answer(question(FLOW))
    for wrong in (
        signatures[:3],
        (*signatures, b""),
        (*signatures[:3], b""),
        (*signatures[:3], forged),
        signatures[::-1],
        (*signatures[:3], sign_epoch(coordinator.identities["h03"], coordinator.epoch(2))),
    ):
        with pytest.raises(ProtocolError, match="signature"):
            session.open_epoch(epoch.digest, wrong)
        with pytest.raises(Refused, match="signed by all"):
            session.answer(question(FLOW))
    with pytest.raises(Refused, match="did not sign"):
        session.open_epoch(coordinator.epoch(2).digest, signatures)
    session.open_epoch(epoch.digest, signatures)
    assert session.answer(question(FLOW)).data


def test_a_newer_epoch_needs_its_own_signatures() -> None:
    coordinator = Coordinator().ready()
    first = coordinator.epoch()
    coordinator.begin(coordinator.epoch(2, NAMES[:3]))
    session = coordinator.sessions["h00"]
    with pytest.raises(Refused, match="signed by all"):
        session.answer(question(FLOW))
    with pytest.raises(Refused, match="did not sign"):
        session.open_epoch(first.digest, coordinator.begin(coordinator.epoch(2, NAMES[:3])))


def test_a_hospital_outside_of_the_epoch_answers_nothing() -> None:
    coordinator = Coordinator().enrolled()
    epoch = coordinator.epoch(1, NAMES[:3])
    signatures = coordinator.begin(epoch)
    outside = coordinator.sessions["h03"]
    outside.sign_epoch(epoch)
    outside.open_epoch(epoch.digest, signatures)
    with pytest.raises(Refused, match="takes no part"):
        outside.answer(question(FLOW))
