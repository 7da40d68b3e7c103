"""A coordinator that departs from the protocol before it asks is refused by every hospital's session.

| what departs | where |
|---|---|
| a study that was not approved, or protects too little | what is approved |
| a roster with swapped, stolen, weak or too few keys, or a second one | roster |
| an epoch outside of the rules, or whose number was used | epoch |
| signatures that lack, are forged, reordered or of another epoch | epoch |
"""

from __future__ import annotations

import dataclasses

import pytest

from tests.analyses.contract import cohorts
from tests.attacks.coordinator import LABELS, LOGISTIC, NAMES, STUDY, Coordinator
from tests.support import study_of
from wardround_client.app import Node
from wardround_client.gate import Policy
from wardround_client.session import Session
from wardround_client.store import NodeStore
from wardround_common import messages as say
from wardround_common.errors import ProtocolError, Refused
from wardround_common.sealing.epoch import AuditHead, Epoch, Membership, Opening, sign_epoch
from wardround_common.sealing.identity import Identity
from wardround_common.sealing.mask import MaskingKey
from wardround_common.sealing.record import EpochRecord
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
    another = Coordinator().enrolled()
    reply = node.reply("epoch", encode(another.proposal(another.epoch())))
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
    again = coordinator.sessions["h00"].approve_roster(coordinator.roster())
    assert again.signature == approve(coordinator.identities["h00"], coordinator.roster())
    for session in (coordinator.sessions["h00"], coordinator.again("h00")):
        with pytest.raises(Refused, match="another roster") as refusal:
            session.approve_roster(without(coordinator.roster(), 3))
        assert refusal.value.code == "second_roster"


# --- epoch ---


def memberships(**abstaining: tuple[str, ...]) -> tuple[Membership, ...]:
    return tuple(Membership(label, abstaining.get(label, ())) for label in LABELS)


def test_an_epoch_outside_of_the_rules_is_not_signed() -> None:
    coordinator = Coordinator().enrolled()
    good, audit = coordinator.epoch(), AuditHead(0, bytes(32)).packed()
    heads = {many: coordinator.heading(many * (audit,)) for many in range(1, 6)}
    odd = coordinator.heading((b"", *coordinator.proposal(good).audits[1:]))
    wrong: dict[str, dict[str, object]] = {
        "not more than half of the roster's": {"hospitals": NAMES[:2], "audits": heads[2]},
        "of another study or roster": {"binding": bytes(32)},
        "numbers and digests are impossible": {"number": 0},
        "does not tell every hospital's audit head": {"audits": heads[1]},
        "an audit head has the wrong length": {"audits": odd},
        "names other analyses than the study has": {"analyses": memberships()[:2]},
    }
    wrong_heads: list[dict[str, object]] = [{"head": b""}, {"previous": b"1"}, {"steps": -1}, {"audits": b""}]
    many = (*NAMES, "h04")
    for match, changes in (
        *wrong.items(),
        *(("numbers and digests are impossible", one) for one in wrong_heads),
        *(
            ("not a sorted subset", {"hospitals": names, "audits": heads[len(names)]})
            for names in (many, NAMES[::-1], ("h00", "h00", "h01"))
        ),
        *(
            ("not a sorted subset", {"analyses": memberships(summary=names)})
            for names in (("h04",), ("h03", "h02"), ("h03", "h03"))
        ),
        *(
            ("fewer hospitals than min_hospitals", {"analyses": memberships(**{label: NAMES[2:]})})
            for label in LABELS
        ),
    ):
        with pytest.raises(ProtocolError, match=match):
            coordinator.sign("h00", dataclasses.replace(good, **changes))  # type: ignore[arg-type]
    with pytest.raises(Refused, match="no roster"):
        Coordinator().sign("h00", good)
    assert coordinator.sign("h00", good).signature, "the number was not used up"


def test_a_hospital_is_in_every_analysis_that_it_has_rows_for_and_in_no_other() -> None:
    coordinator = Coordinator().enrolled()
    left_out = coordinator.epoch(analyses=memberships(summary=("h03",)))
    coordinator.sign("h00", left_out)
    with pytest.raises(Refused) as refusal:
        coordinator.sign("h03", left_out)
    assert refusal.value.code == "membership"


def test_an_epoch_number_that_was_used_is_not_signed_again() -> None:
    coordinator = Coordinator().ready()
    with pytest.raises(Refused, match="was used"):
        coordinator.sign("h00", coordinator.epoch(NAMES[:3], number=1))
    coordinator.begin(coordinator.epoch(number=3))
    for number in (1, 2, 3):
        for session in (coordinator.sessions["h00"], coordinator.again("h00")):
            with pytest.raises(Refused, match="was used") as refusal:
                session.sign_epoch(*vars(coordinator.proposal(coordinator.epoch(number=number))).values())
            assert refusal.value.code == "old_epoch"


def told(coordinator: Coordinator, record: EpochRecord, name: str = "h00") -> say.Step:
    """Return the first step with this record for the epoch's."""
    (step,) = coordinator.steps([name]).values()
    return dataclasses.replace(coordinator.retold(name, step, (record,)), epoch=record.epoch.digest)


def test_nothing_is_answered_before_every_signature_was_checked() -> None:
    coordinator = Coordinator().enrolled()
    epoch, other = coordinator.epoch(), coordinator.epoch(number=2)
    record = coordinator.begin(epoch)
    good, session = record.opening, coordinator.sessions["h00"]
    (step,) = coordinator.steps(["h00"]).values()
    with pytest.raises(Refused, match="signed by all"):
        session.step(dataclasses.replace(step, course=(), wrapped=()))
    signed = good.signatures
    audit = good.audits[3]
    forged = sign_epoch(Identity.generate(), epoch, "group", audit)
    of_another = sign_epoch(coordinator.identities["h03"], other, "group", audit)
    unlike = ("allow", *good.leaves[1:])
    for wrong in (
        *(dataclasses.replace(good, signatures=one) for one in (signed[:3], (*signed, b""), signed[::-1])),
        *(dataclasses.replace(good, signatures=(*signed[:3], one)) for one in (b"", forged, of_another)),
        dataclasses.replace(good, leaves=unlike),
        dataclasses.replace(good, audits=(good.audits[1], *good.audits[1:])),
        Opening((), (), ()),
    ):
        with pytest.raises(ProtocolError, match="signature"):
            session.step(dataclasses.replace(step, course=(EpochRecord(epoch, wrong),)))
        with pytest.raises(Refused, match="signed by all"):
            session.step(dataclasses.replace(step, course=(), wrapped=()))
    assert session.step(dataclasses.replace(step, first=1, course=(), wrapped=())) == say.Behind(0)
    with pytest.raises(ProtocolError, match="terms of leaving"):
        session.step(told(coordinator, EpochRecord(epoch, dataclasses.replace(good, leaves=("maybe",) * 4))))
    with pytest.raises(ProtocolError, match="signature"):
        session.step(told(coordinator, EpochRecord(other, good)))
    assert coordinator.stores["h00"].ledger() == []
    assert isinstance(session.step(step), say.Answers)


def test_a_newer_epoch_needs_its_own_signatures() -> None:
    coordinator = Coordinator().ready()
    first = coordinator.course[0]
    assert isinstance(first, EpochRecord)
    coordinator.advance()
    newer = coordinator.epoch()
    signatures = coordinator.signatures(newer)
    session = coordinator.sessions["h00"]
    (step,) = coordinator.steps(["h00"]).values()
    with pytest.raises(Refused, match="signed by all"):
        session.step(step)
    stale = EpochRecord(newer, first.opening)
    with pytest.raises(ProtocolError, match="signature"):
        sent = coordinator.retold("h00", step, (*step.course, stale), step.first)
        session.step(dataclasses.replace(sent, epoch=newer.digest))
    assert session.step(step) == say.Behind(0), "it begins again, from what it believes"
    coordinator.course.append(coordinator.coordination.begun(newer, signatures))
    coordinator.replay.begin(newer)
    assert isinstance(coordinator.ask()["h00"], say.Answers)


def test_a_hospital_outside_of_the_epoch_answers_nothing() -> None:
    coordinator = Coordinator().enrolled()
    epoch: Epoch = coordinator.epoch(NAMES[:3])
    outside = coordinator.sessions["h03"]
    assert coordinator.offer("h03", epoch) == say.Refusal("membership")
    record = coordinator.begin(epoch)
    (step,) = coordinator.steps(["h00"]).values()
    with pytest.raises(Refused, match="signed by all"):
        outside.step(dataclasses.replace(step, course=(record,)))
    assert coordinator.stores["h03"].ledger() == []
