"""What a coordinator tells of the study's course is what its members signed and verified, or is refused.

| attack | refused by |
|---|---|
| a step removed, repeated, in another order or of another epoch | `other_course`, `diverged` |
| a transcript rolled back, before and after a node was started again | `other_course`, `not_next` |
| an epoch that goes back behind verified sums, or without one that was opened | `other_course` |
| an epoch that follows from what was not told, or from other sums | `behind` |
| a part skipped | the hospital says where it is |
| heads, terms and numbers that there can't be | `restored`, `protocol`; never a crash |
"""

from __future__ import annotations

import dataclasses

import pytest

from tests.attacks.coordinator import NAMES, Coordinator, refuses
from wardround_common import messages as say
from wardround_common.errors import ProtocolError, Refused
from wardround_common.sealing.epoch import AuditHead
from wardround_common.sealing.record import EpochRecord, StepRecord, first_head, position


def test_a_course_that_is_not_the_studys_own_is_refused() -> None:
    coordinator = Coordinator().ready().advance(2)
    coordinator.begin(coordinator.epoch())
    coordinator.advance().told_all()
    before, course = coordinator.released, coordinator.told
    opening, flow, second, again, third = course
    assert isinstance(again, EpochRecord) and isinstance(flow, StepRecord) and isinstance(third, StepRecord)
    forged = dataclasses.replace(again, epoch=dataclasses.replace(again.epoch, head=bytes(32)))
    for wrong in (
        [opening, second, again, third],
        [opening, flow, flow, second, again, third],
        [opening, flow, again, third],
        [opening, second, flow, again, third],
        [opening, flow, second, third],
        [again, third],
        [flow],
        [opening, flow, second, forged],
        [opening, flow, second, opening],
        [opening, flow, second, again, dataclasses.replace(third, epoch=1)],
        [opening, flow, second, again, third, third],
        [opening, dataclasses.replace(flow, sums=())],
    ):
        session = coordinator.again("h01")
        sent = coordinator.retold("h01", coordinator.steps(["h01"])["h01"], wrong)
        with pytest.raises((Refused, ProtocolError)) as refusal:
            session.step(sent)
        assert getattr(refusal.value, "code", "other_course") in ("other_course", "diverged", "not_next")
    assert coordinator.released == before


def test_a_transcript_that_is_rolled_back_is_refused() -> None:
    coordinator = Coordinator().ready().advance()
    old = coordinator.steps(["h01"])["h01"]
    coordinator.advance().told_all()
    before = coordinator.released
    for sent in (old, coordinator.retold("h01", old, coordinator.told[:2])):
        running = coordinator.reply("h01", "ask", sent)
        assert running in (say.Refusal("not_next"), say.Refusal("other_course"))
        coordinator.again("h01")
        assert coordinator.reply("h01", "ask", sent) in (say.Refusal("other_course"), say.Behind(0))
    assert coordinator.released == before


def test_an_epoch_that_goes_back_behind_verified_sums_is_not_signed() -> None:
    coordinator = Coordinator().ready().advance(2).told_all()
    true, binding = coordinator.epoch(), coordinator.coordination.roster.digest
    steps, head = position(binding, coordinator.told)
    assert (true.steps, true.head) == (steps, head)
    changes: list[dict[str, object]] = [{"steps": one} for one in (steps - 1, 0, steps + 1, 2**63 - 1)]
    for changed in (*changes, {"head": bytes(32)}, {"previous": b""}, {"previous": bytes(32)}):
        for _ in range(2):
            with refuses("behind"):
                coordinator.sign("h01", dataclasses.replace(true, **changed))  # type: ignore[arg-type]
            coordinator.again("h01")
            coordinator.tell(["h01"])
    for length in (1, 2):  # told no more than what such an epoch follows from
        coordinator.again("h01")
        coordinator.tell(["h01"], coordinator.told[:length])
        steps, head = position(binding, coordinator.told[:length])
        with refuses("other_course"):
            coordinator.sign("h01", dataclasses.replace(true, steps=steps, head=head))
    coordinator.tell(["h01"])
    assert coordinator.begin(true)


def test_an_epoch_that_follows_from_what_was_not_told_is_not_signed() -> None:
    coordinator = Coordinator().ready().advance()
    early = coordinator.epoch(tell=False)
    for name in NAMES:
        with refuses("behind"):
            coordinator.sign(name, early)
        coordinator.again(name)
        with refuses("behind"):
            coordinator.sign(name, early)
    assert coordinator.begin(coordinator.epoch())


def test_a_course_without_an_epoch_in_which_a_hospital_computed_is_not_gone_on_with() -> None:
    coordinator = Coordinator().ready().advance()
    coordinator.begin(coordinator.epoch())
    coordinator.advance().told_all()
    opening, flow = coordinator.told[:2]
    assert isinstance(opening, EpochRecord)
    binding = coordinator.coordination.roster.digest
    for course in ([opening, flow], [opening]):
        coordinator.again("h01")
        coordinator.tell(["h01"], course)
        steps, head = position(binding, course)
        forked = coordinator.epoch(tell=False, previous=opening.epoch.digest, steps=steps, head=head)
        with refuses("other_course"):
            coordinator.sign("h01", forked)
    coordinator.again("h01")
    with refuses("other_course"):
        coordinator.sign(
            "h01", coordinator.epoch(tell=False, previous=b"", steps=0, head=first_head(binding))
        )
    coordinator.tell(["h01"])
    assert coordinator.begin(coordinator.epoch())


@pytest.mark.parametrize("records", [-1, -(2**63), 2**63 - 1, 7])
def test_a_course_of_which_a_part_is_skipped_is_asked_for_from_where_the_hospital_is(records: int) -> None:
    coordinator = Coordinator().ready().advance()
    sent = dataclasses.replace(coordinator.steps(["h01"])["h01"], first=records)
    assert coordinator.reply("h01", "ask", sent) == say.Behind(1)


# --- messages that no honest coordinator sends ---


@pytest.mark.parametrize(
    ("count", "code"),
    [(2**32, "restored"), (2**63 - 1, "restored"), (2**63, "protocol"), (2**64 - 1, "protocol")],
)
def test_an_audit_head_beyond_all_that_there_can_be_is_refused(count: int, code: str) -> None:
    coordinator = Coordinator().enrolled()
    epoch = coordinator.epoch()
    audits = (AuditHead(count, bytes(32)).packed(), *coordinator.proposal(epoch).audits[1:])
    lying = dataclasses.replace(epoch, audits=coordinator.heading(audits))
    assert coordinator.offer("h00", lying) == say.Refusal(code)
    assert coordinator.signatures(epoch), "nothing has changed by it"


@pytest.mark.parametrize("leaves", [(), ("allow",), ("allow",) * 5, ("maybe",) * 4, ("never",) * 4])
def test_an_epoch_that_is_told_again_is_what_was_signed(leaves: tuple[str, ...]) -> None:
    coordinator = Coordinator().ready().advance().told_all()
    record = coordinator.course[0]
    assert isinstance(record, EpochRecord)
    other = EpochRecord(record.epoch, dataclasses.replace(record.opening, leaves=leaves))
    coordinator.again("h00")
    sent = coordinator.retold("h00", coordinator.step(), (other, *coordinator.told[1:]))
    assert coordinator.reply("h00", "ask", sent) == say.Behind(2)
    groups = coordinator.stores["h00"].groups()
    assert [set(one.leaves.values()) for one in groups] == [{"group"}]


def test_an_epoch_number_that_no_other_can_follow_is_not_signed() -> None:
    coordinator = Coordinator().enrolled()
    epoch = coordinator.epoch(number=2**63 - 1)
    assert coordinator.offer("h00", epoch) == say.Refusal("protocol")
