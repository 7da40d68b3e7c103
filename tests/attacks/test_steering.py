"""Steering: a coordinator that chooses what is asked, or is believed false sums, reads one patient's row.

| attack | `plan: trusted` | `plan: verified` |
|---|---|---|
| Newton parameters at which one patient alone has a weight | reads the row | `not_next` |
| the aimed query told as if it had been asked and opened | | `diverged` |
| sums that would lead the program to the aimed parameters | | `false_sum` |
| a number that was answered, with a changed model | `other_query` | `not_next` |
| one query to one half, another to the other half | noise | `not_next` |
| an invented member that gives the coordinator the group secret | | `unconfirmed` |
| a confirmed member that does | | not refused (section 9): the others are steered |
| invented sums, told to hospitals that can't check them, then an epoch of those | | `behind`, `false_sum` |

The first is why `plan: verified` is the default. With slopes K v and K large, p (1 - p) falls as exp(-K
distance) with a row's distance from the plane where p = 1/2; an intercept at which the sum of all p is below
one leaves the outermost row alone, and its row of the matrix over its corner is that patient's columns.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping

import numpy as np
import pytest

from tests.attacks.coordinator import (
    NAMES,
    STUDY,
    TRUSTED,
    Coordinator,
    asked_of,
    is_noise,
    question,
    refuses,
)
from wardround_common import messages as say
from wardround_common.analyses.logistic import NewtonStep
from wardround_common.analysis import Rows
from wardround_common.design import Design, expand
from wardround_common.models import LogisticModel
from wardround_common.newton import Slope
from wardround_common.program import Asked
from wardround_common.query import Frame, open_sum
from wardround_common.replay import Replay
from wardround_common.sealing.lane import lane, pad
from wardround_common.sealing.mask import LANE_BYTES, MODULUS, unseal
from wardround_common.sealing.record import Opened, StepRecord
from wardround_common.strategies import installed
from wardround_common.typing import Floats

PREDICTORS = ("age", "sex", "chol", "bmi", "cp")  # the study asks about age and sex alone
TERMS = expand(STUDY.dictionary, PREDICTORS, frozenset())
MIDDLE = np.array([(term.low + term.high) / 2 for term in TERMS])
DESIGN = Design(TERMS, MIDDLE, PREDICTORS, np.array([60.0, 0.0, 350.0, 32.0, 0.0]))
STEEP = 1e5
MOST_QUERIES = 20


def aimed(intercept: float, direction: Floats) -> Asked:
    """Return a Newton query whose weights stand at one side of the patients."""
    model = LogisticModel(DESIGN, np.concatenate([[intercept], STEEP * direction]))
    return Asked("logistic", 1024, NewtonStep(Rows("train", ("disease",)), "disease", model))


def isolate(ask: Callable[[Asked], Slope], direction: Floats) -> tuple[Floats, int]:
    """Return the design columns of the outermost patient, and how many queries it took to read them."""
    low, high = -STEEP * float(np.abs(direction).sum()), 0.0
    first = ask(aimed(low - 100.0, direction))
    positive = first.score[0]  # all p are zero there
    for queries in range(2, MOST_QUERIES + 1):
        middle = (low + high) / 2
        slope = ask(aimed(middle, direction))
        rows_above, weight = positive - slope.score[0], slope.information[0, 0]
        seen = slope.information[0] / weight if weight > 1e-7 else np.zeros(len(TERMS) + 1)
        if weight > 1e-7 and np.allclose(
            np.outer(seen, seen) * weight, slope.information, atol=1e-6 * weight
        ):
            return seen[1:], queries
        low, high = (low, middle) if rows_above > 0.5 else (middle, high)
    raise AssertionError("nobody was found")


def patients(coordinator: Coordinator) -> Floats:
    """Return the design columns of all patients; shape (rows, terms)."""
    parts = []
    for cohort in coordinator.cohorts.values():
        parts += [DESIGN.columns(block)[1:].T for block in Rows("train", ("disease",)).of(cohort)]
    return np.concatenate(parts)


def direction(seed: int) -> Floats:
    found: Floats = np.random.default_rng(seed).normal(size=len(TERMS))
    return found / float(np.abs(found).sum())


class Spy:
    """Opens what it likes to ask of hospitals that answer anything."""

    def __init__(self, coordinator: Coordinator) -> None:
        self.coordinator, self.sent = coordinator, list[Asked]()

    def __call__(self, asked: Asked) -> Slope:
        sealed = self.coordinator.put(asked, len(self.sent))
        self.sent.append(asked)
        layout = asked.query.layout(Frame(STUDY.dictionary, asked.rows_bound))
        vector, _ = unseal(list(sealed.values()))
        found = asked.query.read(open_sum(layout, 1, NAMES, vector))
        assert isinstance(found, Slope)
        return found


@pytest.mark.parametrize("seed", range(4))
def test_newton_parameters_read_one_patients_row_off_trusting_hospitals(seed: int) -> None:
    coordinator = Coordinator(TRUSTED).ready().told_all()
    spy = Spy(coordinator)
    read, queries = isolate(spy, direction(seed))
    everyone = patients(coordinator)
    off = np.abs(everyone - read).max(axis=1)
    assert queries <= MOST_QUERIES
    assert np.count_nonzero(off < 1e-6) == 1, "one patient, and it is a real one"
    age = read[0] / DESIGN.scales[0] + MIDDLE[0]
    ages = np.concatenate([one.columns["age"] for one in coordinator.cohorts.values()])
    assert np.abs(ages - age).min() < 1e-4
    assert set(np.round(read[[1, 4, 5, 6]] / DESIGN.scales[[1, 4, 5, 6]] + 0.5)) <= {0.0, 1.0}


@pytest.mark.parametrize("steps", [0, 1, 2, 3])
def test_the_same_questions_are_refused_by_hospitals_that_follow_the_program(steps: int) -> None:
    spy = Spy(Coordinator(TRUSTED).ready().told_all())
    isolate(spy, direction(0))
    coordinator = Coordinator().ready().advance(steps).told_all()
    before = coordinator.released
    for index, asked in enumerate(spy.sent):
        for sent in (question(asked, index), dataclasses.replace(question(asked, index), asked=b"")):
            for name in NAMES:
                assert coordinator.reply(name, "ask", coordinator.step(sent)) == say.Refusal("not_next")
    assert coordinator.released == before


def test_an_aimed_query_told_as_if_it_had_been_opened_is_refused() -> None:
    coordinator = Coordinator().ready().advance(3).told_all()
    (due,) = coordinator.replay.due
    before, asked = coordinator.released, question(aimed(-40.0, direction(0)), due.index)
    told = StepRecord(1, (Opened("logistic", due.index, asked.digest, np.zeros(8, np.int64), bytes(16)),))
    sent = dataclasses.replace(coordinator.step(asked), course=(told,))
    for name in NAMES:
        assert coordinator.reply(name, "ask", sent) == say.Refusal("diverged")
    assert coordinator.released == before


# --- false sums that steer ---


def steering(coordinator: Coordinator, record: StepRecord) -> tuple[StepRecord, say.Question]:
    """Return false sums for a Newton step, and the question to which they would lead the program."""
    replay = Replay(STUDY, installed, coordinator.coordination.roster.digest)
    replay.begin(coordinator.current)
    for one in coordinator.course[1:-1]:
        assert isinstance(one, StepRecord)
        replay.take(one, replay.open(one))
    sums = list(record.sums)
    layout = replay.due[0].asked.query.layout(Frame(STUDY.dictionary, replay.due[0].asked.rows_bound))
    score = [int(bits) for bits in layout.bits(layout.fields[2])]
    vector = sums[0].vector.copy()
    vector[2:5] = [int(np.ldexp(20.0, bits)) for bits in score]  # a slope that the rows don't have
    sums[0] = dataclasses.replace(sums[0], vector=vector)
    false = StepRecord(record.epoch, tuple(sums))
    replay.take(false, replay.open(false))
    due = replay.due[0]
    assert due.digest != coordinator.replay.due[0].digest, "it would steer"
    return false, say.Question(due.analysis, due.index, due.kind, due.digest, b"")


def test_false_sums_that_would_lead_to_other_parameters_are_refused() -> None:
    coordinator = Coordinator().ready().advance(3)
    record = coordinator.course[-1]
    assert isinstance(record, StepRecord)
    false, asked = steering(coordinator, record)
    before = coordinator.released
    for name in NAMES:
        sent = coordinator.step(asked)
        sent = dataclasses.replace(sent, first=len(coordinator.told) - 1, course=(false,))
        assert coordinator.reply(name, "ask", sent) == say.Refusal("false_sum")
    assert coordinator.released == before


WITH_INVENTED = (*NAMES, "invented")


def test_an_invented_member_that_nobody_confirmed_gets_no_group_secret() -> None:
    coordinator = Coordinator(names=WITH_INVENTED, everyone=False)
    coordinator.confirm(NAMES, NAMES).confirm(["invented"], WITH_INVENTED)
    proposal = say.RosterProposal(coordinator.roster())
    for name in NAMES:
        assert coordinator.reply(name, "roster", proposal) == say.Refusal("unconfirmed")
        assert coordinator.sessions[name].binding is None, "nothing was signed"
    assert set(coordinator.released.values()) == {0}


def test_a_confirmed_member_that_gives_the_group_secret_away_has_the_others_steered() -> None:
    """Why officers confirm every member: who knows the secret makes the check lane of any sum."""
    coordinator = Coordinator(names=WITH_INVENTED, everyone=False).confirm(WITH_INVENTED, WITH_INVENTED)
    coordinator.ready().advance(3)
    record = coordinator.course[-1]
    assert isinstance(record, StepRecord)
    false, asked = steering(coordinator, record)
    one = false.sums[0]
    insider = coordinator.sessions["invented"]._participant
    group = insider.epoch.group
    context = insider._context(coordinator.current, one.analysis, one.index, one.question)
    forged = (lane(one.vector, group, context) + pad(group, context)) % MODULUS
    proof = forged.to_bytes(LANE_BYTES, "little")
    false = StepRecord(1, (dataclasses.replace(one, proof=proof), *false.sums[1:]))
    sent = coordinator.step(asked)
    sent = dataclasses.replace(sent, first=len(coordinator.told) - 1, course=(false,))
    for name in NAMES:
        reply = coordinator.reply(name, "ask", sent)
        assert isinstance(reply, say.Answers)
        assert is_noise(reply.answers[0].sealed), "no more than the sum over the others can be read"


SEVEN = tuple(f"h{i:02d}" for i in range(7))
FIRST, LATER = SEVEN[:4], SEVEN[3:]  # as few as an epoch may have


def in_the_middle(hospitals: tuple[str, ...]) -> Coordinator:
    """Return a study of seven in which some have taken steps up to Newton's, and sign one more epoch."""
    coordinator = Coordinator(names=SEVEN).enrolled()
    coordinator.begin(coordinator.epoch(hospitals))
    coordinator.advance(3).told_all()
    coordinator.begin(coordinator.epoch(hospitals))
    return coordinator


def invent(coordinator: Coordinator) -> NewtonStep:
    """Go on as if sums had been opened of what is due; return the query that follows from them."""
    (due,) = coordinator.replay.due
    record = next(one for one in reversed(coordinator.course) if isinstance(one, StepRecord))
    vector = record.sums[0].vector.copy()
    layout = due.asked.query.layout(Frame(STUDY.dictionary, due.asked.rows_bound))
    vector[2:5] = [int(np.ldexp(20.0, int(bits))) for bits in layout.bits(layout.fields[2])]
    false = Opened(due.analysis, due.index, due.digest, vector, bytes(LANE_BYTES))
    record = StepRecord(coordinator.current.number, (false,))
    coordinator.replay.take(record, coordinator.replay.open(record))
    coordinator.course.append(record)
    chosen = coordinator.replay.due[0].asked.query
    assert isinstance(chosen, NewtonStep)
    return chosen


def steered(coordinator: Coordinator, chosen: NewtonStep) -> bool:
    """Take honest steps; tell whether a sum was opened of the query that the coordinator chose."""
    for _ in range(4):  # the flow, the moments, Newton's first step, the one where it was before
        query = coordinator.replay.due[0].asked.query
        vector, _ = unseal([one.answers[0].sealed for one in coordinator.ask().values()])
        if isinstance(query, NewtonStep) and np.array_equal(query.model.beta[1:], chosen.model.beta[1:]):
            return not is_noise(vector)
        coordinator.advance()
    return False


@pytest.mark.parametrize("way", [(SEVEN, LATER), (LATER,)], ids=["by all", "at once"])
@pytest.mark.parametrize("tell", [False, True], ids=["untold", "told"])
def test_hospitals_that_come_later_are_not_steered_by_false_sums_of_those_before(
    tell: bool, way: tuple[tuple[str, ...], ...]
) -> None:
    """Those who come later can't check the sums of an epoch without them.

    If the first signed what follows without having been told, the others would believe the head for their
    signatures, and could go on alone: nobody would be left who refuses.
    """
    coordinator = in_the_middle(FIRST)
    chosen = invent(coordinator)
    before = coordinator.released
    with refuses("false_sum" if tell else "behind"):
        for hospitals in way:
            coordinator.begin(coordinator.epoch(hospitals, tell=tell))
        assert not steered(coordinator, chosen), "what the coordinator chose to ask was answered"
    assert coordinator.released == before


def test_no_epoch_is_without_a_hospital_that_can_check_the_sums_before() -> None:
    coordinator = in_the_middle(FIRST)
    invent(coordinator)
    coordinator.tell(LATER[1:])  # who can't check them, and believe them for now
    together, alone = (coordinator.epoch(some, tell=False) for some in (LATER, LATER[1:]))
    assert coordinator.offer("h03", together) == say.Refusal("behind")
    with refuses("false_sum"):
        coordinator.tell(["h03"])
    assert coordinator.offer("h03", together) == say.Refusal("behind")
    for name in LATER[1:]:
        assert coordinator.offer(name, alone) == say.Refusal("protocol")
        lying = say.Refusal("other_course")  # one that could have checked is too few: it may lie
        assert coordinator.offer(name, together) == lying
        assert coordinator.released[name] == 0


@pytest.mark.parametrize("how", ["untold", "told", "without the secret"])
def test_hospitals_do_not_believe_sums_of_an_epoch_of_theirs_whose_secret_they_lack(how: str) -> None:
    """Its leader, who could always check, is left out of the next; the others were not told yet."""
    coordinator = in_the_middle(SEVEN)
    chosen = invent(coordinator)
    before = coordinator.released
    if how == "without the secret":
        for name in LATER:
            (sent,) = coordinator.coordination.telling(coordinator.told, [name]).values()
            sent = dataclasses.replace(sent, wrapped=(b"",) * len(sent.wrapped))
            assert coordinator.reply(name, "ask", sent) == say.Refusal("protocol")
    with refuses("false_sum" if how == "told" else "behind"):
        coordinator.begin(coordinator.epoch(LATER, tell=how == "told"))
        assert not steered(coordinator, chosen), "what the coordinator chose to ask was answered"
    assert coordinator.released == before


# --- numbers that were answered, and halves ---


def newton_pair() -> tuple[Asked, Asked]:
    first = asked_of("logistic.newton")
    other = dataclasses.replace(first.query, model=LogisticModel(first.query.model.design, np.zeros(3)))
    return first, dataclasses.replace(first, query=other)


def test_a_number_that_was_answered_is_not_answered_for_a_changed_model() -> None:
    first, other = newton_pair()
    coordinator = Coordinator(TRUSTED).ready().told_all()
    coordinator.put(first, 7)
    before = coordinator.released
    for name in NAMES:
        sent = coordinator.step(question(other, 7))
        assert coordinator.reply(name, "ask", sent) == say.Refusal("other_query")
        coordinator.again(name)
    coordinator.told_all()
    for name in NAMES:
        assert coordinator.reply(name, "ask", coordinator.step(question(other, 7))) == say.Refusal(
            "other_query"
        )
    assert coordinator.released == before
    verified = Coordinator().ready().advance(2).told_all()
    while verified.replay.due[0].kind != "logistic.newton":
        verified.advance()
    verified.told_all()
    index = verified.replay.due[0].index
    verified.ask()
    for name in NAMES:
        assert verified.reply(name, "ask", verified.step(question(other, index))) == say.Refusal("not_next")


def halves(coordinator: Coordinator, asked: Mapping[str, say.Question]) -> list[bytes]:
    found = []
    for name, sent in asked.items():
        reply = coordinator.reply(name, "ask", coordinator.step(sent))
        assert isinstance(reply, say.Answers)
        found.append(reply.answers[0].sealed)
    return found


@pytest.mark.parametrize("what", ["model", "number", "row bound"])
def test_other_queries_to_one_half_than_to_the_other_give_noise(what: str) -> None:
    first, other = newton_pair()
    one, two = {
        "model": (question(first), question(other)),
        "number": (question(first, 3), question(first, 4)),
        "row bound": (question(first), question(dataclasses.replace(first, rows_bound=2 * first.rows_bound))),
    }[what]
    coordinator = Coordinator(TRUSTED).ready().told_all()
    mixed, _ = unseal(halves(coordinator, {"h00": one, "h01": one, "h02": two, "h03": two}))
    assert is_noise(mixed)
    true, _ = unseal(halves(coordinator, dict.fromkeys(NAMES, question(first, 9))))
    assert true[0] == 600
    assert not (mixed == true).any()
