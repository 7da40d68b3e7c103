"""Sums over two sets of hospitals tell those in which the sets differ: who may be left out, and how often.

| attack | refused by |
|---|---|
| an epoch without one member, of hospitals that say `never` or `group` | `leave` |
| the same where the member allows it | done, `max_epochs` times at most; it tells that hospital's numbers |
| a second study over {1..4} beside one over {1..5}, or before it | `leave` at every hospital of both |
| terms of leaving that others did not sign | the signature |
| four sets, none close to another, that tell one hospital's numbers together | `leave` |
| three studies, of which no hospital knows all | not refused (section 9): one hospital's numbers |
| three epochs of one study, two of which are hidden from each other | `protocol`, `other_course` |
| a member left out in company of members that the coordinator invented | `unconfirmed` |
| a member left out in company of some that abstained from everything | `leave` |
| a sum over all beside one in which one hospital abstains | `membership`; where it allows that, its numbers |
| fewer hospitals than `min_hospitals`, in an epoch or an analysis | refused |
"""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest

from tests.attacks.coordinator import (
    FLOW,
    LABELS,
    LOGISTIC,
    NAMES,
    STUDY,
    TRUSTED,
    Coordinator,
    is_noise,
    question,
    refuses,
)
from tests.support import layout_of, study_of, vector_of
from wardround_client.gate import Policy
from wardround_common import messages as say
from wardround_common.errors import ProtocolError, Refused
from wardround_common.query import Sum
from wardround_common.sealing.epoch import Membership, sign_epoch
from wardround_common.sealing.mask import unseal
from wardround_common.sealing.record import EpochRecord, StepRecord
from wardround_common.study import Study
from wardround_common.typing import Ints

FIVE = (*NAMES, "h04")
LEFT = "h03"  # which the attacks leave out, to have its numbers
OTHERS = tuple(name for name in FIVE if name != LEFT)
ANOTHER = study_of(LOGISTIC, {"kind": "summary"}, privacy={"min_hospitals": 3}, title="Another")


def policies(study: Study, leave: str, names: tuple[str, ...] = FIVE, **changes: object) -> dict[str, Policy]:
    policy = Policy.of(study).model_copy(update={"leave": leave, **changes})
    return dict.fromkeys(names, policy)


def own(coordinator: Coordinator, name: str) -> Ints:
    """Return what a hospital alone contributed to the study's first sum."""
    layout = layout_of(STUDY, FLOW)
    return vector_of(FLOW.query.answer(coordinator.cohorts[name], layout), layout)


def flow_answers(coordinator: Coordinator) -> dict[str, bytes]:
    """Return the sealed answers to the flow's query under an epoch that has just begun."""
    coordinator.told_all()
    asked = question(FLOW) if not coordinator.verified else None
    taking_part = coordinator.current.of(FLOW.analysis)
    found = {}
    for name in taking_part:
        step = coordinator.steps([name])[name]
        reply = coordinator.sessions[name].step(
            step if asked is None else dataclasses.replace(step, questions=(asked,))
        )
        assert isinstance(reply, say.Answers)
        found[name] = reply.answers[0].sealed
    return found


def flow_sum(coordinator: Coordinator) -> Ints:
    return unseal(list(flow_answers(coordinator).values()))[0]


def flow_of(coordinator: Coordinator) -> Ints:
    """Take an honest step under an epoch that has just begun; return the flow's sum."""
    record = coordinator.advance().course[-1]
    assert isinstance(record, StepRecord)
    return record.sums[0].vector


def spoiled(coordinator: Coordinator, *names: str) -> Coordinator:
    """Have some hospitals know no outcome, so that their rows are of no use to the model."""
    for name in names:
        whole = coordinator.cohorts[name]
        columns = {**whole.columns, "disease": whole.columns["disease"] * 0 - 1}
        coordinator.cohorts[name] = dataclasses.replace(whole, columns=columns)
        coordinator.again(name)
    return coordinator


def abstaining(names: tuple[str, ...], labels: tuple[str, ...] = LABELS) -> tuple[Membership, ...]:
    return tuple(Membership(label, names if label in labels else ()) for label in LABELS)


@pytest.mark.parametrize("leave", ["never", "group"])
@pytest.mark.parametrize("study", [STUDY, TRUSTED], ids=["verified", "trusted"])
def test_an_epoch_without_one_member_that_does_not_allow_it_is_refused_by_all(
    study: Study, leave: str
) -> None:
    coordinator = Coordinator(study, policies(study, leave), names=FIVE).ready().told_all()
    coordinator.ask()
    without, before = coordinator.epoch(OTHERS), coordinator.released
    for name in OTHERS:
        for _ in range(2):
            assert coordinator.offer(name, without) == say.Refusal("leave")
            coordinator.again(name)
            coordinator.tell([name])
    assert coordinator.released == before


def test_one_member_that_does_not_allow_it_is_enough() -> None:
    chosen = {**policies(STUDY, "allow"), LEFT: Policy.of(STUDY)}
    coordinator = Coordinator(STUDY, chosen, names=FIVE).ready().advance()
    without = coordinator.epoch(OTHERS)
    for name in OTHERS:
        assert coordinator.offer(name, without) == say.Refusal("leave")
    coordinator.begin(coordinator.epoch())
    allowed = coordinator.epoch(tuple(name for name in FIVE if name != "h04"))
    coordinator.begin(allowed)
    assert coordinator.told_all().ask().keys() == set(NAMES)


def test_terms_of_leaving_are_their_owners_own() -> None:
    coordinator = Coordinator(STUDY, policies(STUDY, "never"), names=FIVE).ready()
    record = coordinator.course[0]
    assert isinstance(record, EpochRecord)
    eased = dataclasses.replace(record, opening=dataclasses.replace(record.opening, leaves=5 * ("allow",)))
    for name in FIVE:
        sent = coordinator.retold(name, coordinator.steps([name])[name], (eased,))
        assert coordinator.reply(name, "ask", sent) == say.Refusal("protocol")
    assert set(coordinator.released.values()) == {0}


def test_who_allows_it_is_left_out_once_and_the_difference_of_the_sums_is_what_it_told() -> None:
    """Why `group` is the default: this is all that one hospital contributed, in the clear."""
    coordinator = Coordinator(STUDY, policies(STUDY, "allow", max_epochs=1), names=FIVE).ready()
    whole = flow_of(coordinator)
    coordinator.begin(coordinator.epoch(OTHERS))
    assert np.array_equal(whole - flow_of(coordinator), own(coordinator, LEFT))
    for another in (("h00", "h01", "h03", "h04"), FIVE[:3], ("h00", "h02", "h03", "h04")):
        epoch, before = coordinator.epoch(another), coordinator.released
        name = next(one for one in another if one != LEFT)
        assert coordinator.offer(name, epoch) == say.Refusal("max_epochs")
        assert coordinator.released == before


@pytest.mark.parametrize("most", [0, 1, 2, 3])
def test_sets_that_are_close_are_as_many_as_the_policy_allows(most: int) -> None:
    coordinator = Coordinator(STUDY, policies(STUDY, "allow", max_epochs=most), names=FIVE).ready()
    done = 0
    with refuses("max_epochs"):
        for left in ("h01", "h02", "h03", "h04"):
            coordinator.advance()
            coordinator.begin(coordinator.epoch(tuple(name for name in FIVE if name != left)))
            coordinator.told_all()
            done += 1
    assert done == most


def test_a_group_of_min_hospitals_may_be_left_out_and_only_their_sum_is_told() -> None:
    names = (*FIVE, "h05", "h06")
    coordinator = Coordinator(STUDY, names=names).ready()
    whole = flow_of(coordinator)
    coordinator.begin(coordinator.epoch(NAMES))
    difference = whole - flow_of(coordinator)
    three = [own(coordinator, name) for name in names[4:]]
    assert len(three) == STUDY.privacy.min_hospitals
    assert np.array_equal(difference, sum(three))
    assert not any(np.array_equal(difference, one) for one in three)


# --- two studies at the same hospitals ---


@pytest.mark.parametrize("study", [ANOTHER, STUDY], ids=["another", "approved anew"])
def test_a_second_study_over_nearly_the_same_hospitals_is_refused(study: Study) -> None:
    one = Coordinator(STUDY, names=FIVE).ready().advance()
    two = Coordinator(study, names=OTHERS, at=one).enrolled()
    epoch, before = two.epoch(), two.released
    for name in OTHERS:
        assert two.offer(name, epoch) == say.Refusal("leave")
    assert two.released == before
    assert one.advance(), "the first study goes on"


@pytest.mark.parametrize("leave", ["group", "never"])
@pytest.mark.parametrize("study", [ANOTHER, STUDY], ids=["another", "approved anew"])
def test_a_second_study_over_one_hospital_more_is_refused_by_all_that_know_the_first(
    study: Study, leave: str
) -> None:
    there = Coordinator(STUDY, names=FIVE)
    Coordinator(STUDY, names=OTHERS, at=there).ready().advance()
    newcomer = {LEFT: policies(STUDY, leave)[LEFT]}
    two = Coordinator(study, newcomer, names=FIVE, at=there).ready()
    before = two.released
    for name in OTHERS:  # under which terms the fifth may be left out is known once it has signed
        for _ in range(2):
            assert two.reply(name, "ask", two.steps([name])[name]) == say.Refusal("leave")
            two.again(name)
    answers = two.reply(LEFT, "ask", two.steps([LEFT])[LEFT])
    assert isinstance(answers, say.Answers)
    assert is_noise(answers.answers[0].sealed)
    assert {name for name in FIVE if two.released[name] > before[name]} == {LEFT}


def test_a_second_study_over_one_hospital_more_that_allows_it_tells_that_hospitals_numbers() -> None:
    there = Coordinator(STUDY, names=FIVE)
    part = flow_of(Coordinator(STUDY, names=OTHERS, at=there).ready())
    newcomer = {LEFT: policies(STUDY, "allow")[LEFT]}
    whole = flow_of(Coordinator(ANOTHER, newcomer, names=FIVE, at=there).ready())
    assert np.array_equal(whole - part, own(there, LEFT))


def test_a_second_study_over_the_same_hospitals_runs() -> None:
    one = Coordinator(STUDY, names=FIVE).ready().advance()
    two = Coordinator(ANOTHER, names=FIVE, at=one).ready().advance()
    assert set(two.released) == set(FIVE)
    assert one.advance() and two.advance()


# --- more than two sets at once ---


def test_no_combination_of_sets_tells_the_numbers_of_one_hospital() -> None:
    """P + Q, P + R, Q + R and P + Q + R + 1 differ by three hospitals at least, and yet tell the last's.

    Half the sum of the first three is the sum over P + Q + R.
    """
    names = tuple(f"h{i:02d}" for i in range(10))
    p, q, r, last = names[:3], names[3:6], names[6:9], names[9]
    coordinator = Coordinator(STUDY, names=names).enrolled()
    sums = []
    for hospitals in ((*p, *q), (*p, *r), (*q, *r)):
        coordinator.begin(coordinator.epoch(hospitals))
        sums.append(flow_of(coordinator))
    before = coordinator.told_all().released
    assert coordinator.offer(last, coordinator.epoch(names, tell=False)) == say.Refusal("behind")
    fourth = coordinator.epoch(names)
    assert coordinator.offer(last, fourth) == say.Refusal("leave")
    others = coordinator.signatures(fourth, names[:-1])  # who don't know yet what the last says of leaving
    audit = coordinator.stores[last].audit_head().packed()
    careless = sign_epoch(coordinator.identities[last], fourth, "group", audit)
    signed = {**others, last: say.EpochSignature(careless, "group", audit, ())}
    coordinator.course.append(coordinator.coordination.begun(fourth, signed))
    coordinator.replay.begin(fourth)
    for name in names:
        for _ in range(2):
            code = "unknown_epoch" if name == last else "leave"
            assert coordinator.reply(name, "ask", whole_course(coordinator, name)) == say.Refusal(code)
            coordinator.again(name)
    assert coordinator.released == before
    together = sum(own(coordinator, name) for name in names) - sum(sums) // 2
    assert np.array_equal(together, own(coordinator, last)), f"what the fourth sum would have told of {last}"


def whole_course(coordinator: Coordinator, name: str) -> say.Step:
    """Return the next step to a hospital, with the course from its beginning."""
    return coordinator.retold(name, coordinator.steps([name])[name], coordinator.told)


def test_three_studies_of_which_no_hospital_takes_part_in_all_tell_of_one() -> None:
    """P, Q and P + Q + 1: who is in P knows nothing of Q. PROTOCOL.md, section 9, says so."""
    names = tuple(f"h{i:02d}" for i in range(7))
    there = Coordinator(STUDY, names=names)
    sums = []
    for title, hospitals in (("P", names[:3]), ("Q", names[3:6]), ("All", names)):
        study = study_of(LOGISTIC, {"kind": "summary"}, privacy={"min_hospitals": 3}, title=title)
        sums.append(flow_of(Coordinator(study, names=hospitals, at=there).ready()))
    assert np.array_equal(sums[2] - sums[0] - sums[1], own(there, names[6]))


SEVEN = tuple(f"h{i:02d}" for i in range(7))


@pytest.mark.parametrize("length", [2, 3], ids=["two courses", "sums left out of the course"])
@pytest.mark.parametrize("study", [STUDY, TRUSTED], ids=["verified", "trusted"])
def test_no_two_epochs_that_are_hidden_from_each_other_tell_of_one_hospital(
    study: Study, length: int
) -> None:
    """Over all, then over P, then over Q: those in Q are not told of P, or not that it had sums.

    P and Q have a hospital in common, which knows of both, and whose numbers they would tell.
    """
    p, q, common = SEVEN[:4], SEVEN[3:], SEVEN[3]
    coordinator = Coordinator(study, names=SEVEN).ready()
    sums = [flow_of(coordinator)]
    coordinator.told_all()
    coordinator.begin(coordinator.epoch(p))
    sums.append(flow_of(coordinator))
    before = coordinator.branch(length).released
    for again in (False, True):
        if again:  # and is told no more of the course than the others
            coordinator.again(common)
            coordinator.tell([common])
        epoch = coordinator.epoch(q)
        assert coordinator.offer(common, epoch) == say.Refusal(
            "leave" if length == 3 else "other_course" if again else "behind"
        )
    with pytest.raises(Refused):
        coordinator.begin(epoch)
        told = sums[1] + flow_of(coordinator) - sums[0]
        assert not np.array_equal(told, own(coordinator, common)), f"all that {common} contributed"
    assert coordinator.released == before


def test_hospitals_that_have_none_in_common_with_half_of_the_others_begin_no_epoch() -> None:
    """All less P less Q, of which no hospital would know both: the numbers of the seventh."""
    coordinator = Coordinator(STUDY, names=SEVEN).ready().advance().told_all()
    before = coordinator.released
    for hospitals in (SEVEN[:3], SEVEN[3:6]):
        epoch = coordinator.branch(2).epoch(hospitals)
        for name in hospitals:
            assert coordinator.offer(name, epoch) == say.Refusal("protocol")
            assert "not more than half" in coordinator.stores[name].entries()[-1][2]
    assert coordinator.released == before


@pytest.mark.parametrize("study", [STUDY, TRUSTED], ids=["verified", "trusted"])
def test_invented_members_do_not_count_as_company_for_who_is_left_out(study: Study) -> None:
    """What invented members contribute, the coordinator knows and takes off."""
    invented = ("s0", "s1")
    names = (*FIVE, *invented)
    coordinator = Coordinator(study, names=names, everyone=False)
    coordinator.confirm(FIVE, FIVE).confirm(invented, names)
    proposal = say.RosterProposal(coordinator.roster())
    for name in FIVE:
        assert coordinator.reply(name, "roster", proposal) == say.Refusal("unconfirmed")
        assert coordinator.sessions[name].binding is None
    coordinator.confirm(FIVE, invented).ready()
    whole = flow_sum(coordinator)
    coordinator.begin(coordinator.epoch(OTHERS))
    part = flow_sum(coordinator)
    told = whole - part - sum(own(coordinator, one) for one in invented)
    assert np.array_equal(told, own(coordinator, LEFT)), "why officers confirm each member"


@pytest.mark.parametrize("study", [STUDY, TRUSTED], ids=["verified", "trusted"])
def test_hospitals_that_abstain_do_not_count_as_company_for_who_is_left_out(study: Study) -> None:
    """An epoch's sums are over those who take part, so leaving one of them and two others tells of one."""
    idle = ("h05", "h06")
    coordinator = spoiled(Coordinator(study, names=(*FIVE, *idle)), *idle).enrolled()
    coordinator.begin(coordinator.epoch(analyses=abstaining(idle)))
    whole, before = flow_sum(coordinator), coordinator.released
    for name in OTHERS:
        assert coordinator.offer(name, coordinator.epoch(OTHERS)) == say.Refusal("leave")
    with pytest.raises(Refused):
        coordinator.begin(coordinator.epoch(OTHERS))
        told = whole - flow_sum(coordinator)
        assert not np.array_equal(told, own(coordinator, LEFT)), f"all that {LEFT} contributed"
    assert coordinator.released == before


def test_a_hospital_that_does_not_allow_it_abstains_from_all_analyses_or_none() -> None:
    """Without the outcome it has no rows for the model; the summary of the same rows would tell them."""
    coordinator = spoiled(Coordinator(STUDY, names=FIVE), LEFT).enrolled()
    assert coordinator.coordination.taking_part("summary") == OTHERS
    for labels in (("logistic",), ("summary",), ("logistic", "summary"), ()):
        epoch = coordinator.epoch(analyses=abstaining((LEFT,), labels))
        assert coordinator.offer(LEFT, epoch) == say.Refusal("membership")
    coordinator.begin(coordinator.epoch(analyses=abstaining((LEFT,))))
    for _ in range(3):
        coordinator.advance()
    assert coordinator.released[LEFT] == 0
    assert all(coordinator.released[name] > 0 for name in OTHERS)
    assert {one.hospitals for one in coordinator.stores["h00"].ledger()} == {OTHERS}


def test_a_hospital_that_allows_it_abstains_from_the_model_alone_and_the_difference_is_told() -> None:
    """What allowing means: the summary's sum less the model's is the mean age at that one hospital."""
    chosen = {LEFT: policies(STUDY, "allow")[LEFT]}
    coordinator = spoiled(Coordinator(STUDY, chosen, names=FIVE), LEFT).enrolled()
    assert coordinator.coordination.taking_part("logistic") == OTHERS
    assert coordinator.coordination.taking_part("summary") == FIVE
    coordinator.begin(coordinator.epoch(analyses=abstaining((LEFT,), ("logistic",))))
    coordinator.advance()
    record = coordinator.coordination.opened(
        *(coordinator.replay.due, coordinator.current, coordinator.ask(), len(coordinator.told))
    )
    moments, summary = coordinator.replay.open(record)
    assert isinstance(moments, Sum) and isinstance(summary, Sum)
    told = summary.number("age sum") - moments.number("age sum")
    cohort = coordinator.cohorts[LEFT]
    share = STUDY.dictionary.number("age").at(told / cohort.rows)
    assert abs(share - cohort.columns["age"].mean()) < 1e-9


# --- too few ---


def test_an_epoch_or_analysis_below_min_hospitals_is_refused_whoever_asks_for_more() -> None:
    chosen = {
        **policies(STUDY, "allow"),
        "h00": policies(STUDY, "allow")["h00"].model_copy(update={"min_hospitals": 3}),
    }
    coordinator = Coordinator(STUDY, chosen, names=FIVE).enrolled()
    good = coordinator.epoch()
    for size in (1, 2):
        few = coordinator.epoch(FIVE[:size])
        assert coordinator.offer("h00", few) == say.Refusal("protocol")
    for label in LABELS:
        sets = tuple(Membership(one, FIVE[2:] if one == label else ()) for one in LABELS)
        few = dataclasses.replace(good, analyses=sets)
        assert coordinator.offer("h00", few) == say.Refusal("protocol")
    assert set(coordinator.released.values()) == {0}


def test_a_hospitals_own_floor_counts_for_epochs_and_analyses() -> None:
    study = study_of(LOGISTIC, {"kind": "summary"}, privacy={"min_hospitals": 4})
    chosen = {
        name: Policy.of(study).model_copy(update={"min_hospitals": 4, "leave": "allow"}) for name in FIVE
    }
    coordinator = Coordinator(study, chosen, names=FIVE).enrolled()
    for hospitals, match in ((FIVE[:3], "fewer hospitals than min_hospitals"), (FIVE[:2], "more than half")):
        with pytest.raises(ProtocolError, match=match):
            coordinator.sign("h00", coordinator.epoch(hospitals))
    assert coordinator.sign("h00", coordinator.epoch(FIVE[:4]))


def test_a_part_of_an_epochs_answers_is_noise() -> None:
    coordinator = Coordinator(STUDY, names=FIVE).ready()
    answers = coordinator.ask()
    for left in FIVE:
        vector, _ = unseal([one.answers[0].sealed for name, one in answers.items() if name != left])
        assert is_noise(vector)
