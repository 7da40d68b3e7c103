"""A session answers a question once, as it was asked first, within its bounds; all else is a refusal.

Under `plan: verified` a coordinator sends no query at all, so what is odd about a query is tried under
`plan: trusted`, and a verified hospital has one answer to all of these.

| attack | where |
|---|---|
| another query under a number that was answered, a query of another study | questions |
| row bounds, numbers below zero, unknown variables, garbled bytes | questions |
| the same and more, asked of a verified hospital: `not_next` | questions |
| an answer beyond its bound or of another form, floors undercut, an unsealed answer | the gate |
"""

from __future__ import annotations

import dataclasses
import pickle

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.analyses.contract import driven
from tests.attacks.coordinator import (
    FLOW,
    LOGISTIC,
    MOMENTS,
    NAMES,
    STUDY,
    SUMMARY,
    TRUSTED,
    Coordinator,
    is_noise,
    question,
    raw,
)
from tests.support import layout_of, study_of
from wardround_client.app import Node
from wardround_client.gate import Bare, Masks, Policy, Request, release
from wardround_client.store import NodeStore
from wardround_common import messages as say
from wardround_common.analyses.flow import FlowQuery
from wardround_common.analyses.summary import SummaryQuery
from wardround_common.errors import ProtocolError, Refused
from wardround_common.query import Contribution
from wardround_common.sealing.epoch import Membership
from wardround_common.sealing.mask import unseal
from wardround_common.wire import encode

# --- questions ---


def trusting() -> Coordinator:
    """Return a coordinator whose hospitals answer what it likes to ask."""
    return Coordinator(TRUSTED).ready().told_all()


def test_an_honest_coordinator_opens_the_sum_and_only_the_sum() -> None:
    sealed = list(trusting().put(MOMENTS).values())
    vector, _ = unseal(sealed)
    n, positive, negative = vector[:3]
    assert (n, positive + negative) == (600, 600)
    for one in sealed:
        assert (np.frombuffer(one, "<u8") > 2**32).all()
    partial = unseal(sealed[:3])[0].view(np.uint64)
    assert (partial > 2**32).all()
    assert not is_noise(vector)


def test_an_honest_coordinator_opens_the_sum_and_only_the_sum_of_what_hospitals_derive() -> None:
    coordinator = Coordinator().ready().advance()
    answers = coordinator.ask()
    assert all(not one.asked for step in coordinator.steps().values() for one in step.questions)
    for which, due in enumerate(coordinator.replay.due):
        sealed = [answers[name].answers[which].sealed for name in NAMES]
        assert all(is_noise(one) for one in sealed), due.kind
        assert is_noise(unseal(sealed[:3])[0]), due.kind
    record = coordinator.take(answers)
    assert record.sums[0].vector[0] == 600


def test_the_same_question_gets_the_same_bytes_even_if_the_rows_have_changed() -> None:
    coordinator = trusting()
    first = coordinator.put(SUMMARY)
    for cohort in coordinator.cohorts.values():
        for column in cohort.columns.values():
            column[:] = column[::-1] * 0
    assert coordinator.put(SUMMARY) == first
    assert len(coordinator.stores["h00"].ledger()) == 1


def test_another_query_under_a_number_that_was_answered_is_refused() -> None:
    coordinator = trusting()
    coordinator.put(SUMMARY)
    other = dataclasses.replace(SUMMARY, query=SummaryQuery(("age",)))
    wider = dataclasses.replace(SUMMARY, rows_bound=2 * SUMMARY.rows_bound)
    for asked in (other, wider, FLOW):
        with pytest.raises(Refused) as refusal:
            coordinator.put(asked, 0, "summary")
        assert refusal.value.code == "other_query"
    with pytest.raises(Refused, match="another query"):
        coordinator.ask_all(say.Question("summary", 0, "summary", bytes(32), b"anything"))
    assert len(coordinator.stores["h00"].ledger()) == 1


def test_a_query_that_is_not_what_its_digest_says_is_refused() -> None:
    coordinator = trusting()
    first, second = question(SUMMARY), question(MOMENTS)
    for lying in (
        dataclasses.replace(first, digest=second.digest),
        dataclasses.replace(first, asked=second.asked),
        dataclasses.replace(first, asked=b""),
        dataclasses.replace(first, digest=b""),
    ):
        with pytest.raises(ProtocolError, match="another digest than its question says"):
            coordinator.ask_all(lying)
    assert coordinator.stores["h00"].ledger() == []


def test_a_query_of_a_kind_that_the_study_does_not_ask_there_is_refused() -> None:
    coordinator = trusting()
    scores = next(one for one in driven(STUDY).asked if one.query.kind == "evaluate.scores")
    for asked in (
        dataclasses.replace(MOMENTS, analysis="summary"),
        dataclasses.replace(scores, analysis="summary"),
        dataclasses.replace(FLOW, analysis="logistic"),
        dataclasses.replace(SUMMARY, analysis="flow"),
    ):
        with pytest.raises(Refused) as refusal:
            coordinator.put(asked)
        assert refusal.value.code == "not_in_study"
    with pytest.raises(Refused, match="does not ask"):
        coordinator.put(MOMENTS, 0, "summary")
    with pytest.raises(ProtocolError, match="does not name"):
        coordinator.put(MOMENTS, 0, "cox")
    assert coordinator.stores["h00"].ledger() == []


@pytest.mark.parametrize("study", [STUDY, TRUSTED])
def test_an_analysis_that_only_the_epoch_knows_is_no_way_in(study: object) -> None:
    coordinator = Coordinator(study).enrolled()  # type: ignore[arg-type]
    memberships = tuple(Membership(label, ()) for label in ("cox", "flow"))
    with pytest.raises(ProtocolError, match="other analyses than the study has"):
        coordinator.sign("h00", coordinator.epoch(analyses=memberships))


@pytest.mark.parametrize("bound", [-1, 0, 1, 10])
def test_a_row_bound_below_the_hospitals_rows_is_refused(bound: int) -> None:
    coordinator = trusting()
    for asked in (FLOW, MOMENTS, SUMMARY):
        with pytest.raises((Refused, ProtocolError)) as refusal:
            coordinator.put(dataclasses.replace(asked, rows_bound=bound))
        assert getattr(refusal.value, "code", "rows_bound") == "rows_bound"
    assert all(not store.ledger() for store in coordinator.stores.values())


@pytest.mark.parametrize("index", [-1, -(2**63)])
def test_a_number_below_zero_is_refused(index: int) -> None:
    with pytest.raises(ProtocolError, match="below 0"):
        trusting().put(MOMENTS, index)


@pytest.mark.parametrize(
    "query",
    [
        FlowQuery(("age", "ssn"), (), ()),
        FlowQuery(("age",), ("logistic",), (("ssn",),)),
        FlowQuery(("age",), ("a", "b"), (("age",),) * 9),
    ],
)
def test_a_query_about_something_else_than_the_dictionary_is_refused(query: FlowQuery) -> None:
    with pytest.raises(ProtocolError, match="cannot be answered"):
        trusting().put(dataclasses.replace(FLOW, query=query))


def odd() -> list[say.Question]:
    """Return questions that a trusting hospital answers or refuses for many reasons."""
    newton, scores = (
        next(one for one in driven(STUDY).asked if one.query.kind == kind)
        for kind in ("logistic.newton", "evaluate.scores")
    )
    aimed = dataclasses.replace(newton.query.model, beta=np.array([-3.0, 900.0, 1.0]))
    other = dataclasses.replace(newton, query=dataclasses.replace(newton.query, model=aimed))
    due = {one.analysis: one for one in Coordinator().ready().advance().replay.due}
    asked_now = say.Question("logistic", 0, "moments", due["logistic"].digest, b"")
    return [
        *(question(one) for one in (FLOW, newton, scores, other)),
        question(dataclasses.replace(MOMENTS, rows_bound=2 * MOMENTS.rows_bound)),
        question(dataclasses.replace(SUMMARY, query=SummaryQuery(("age",)))),
        question(MOMENTS, 1),
        question(MOMENTS, -1),
        question(MOMENTS, 2**63 - 1),
        question(MOMENTS, 0, "summary"),
        question(MOMENTS, 0, "cox"),
        dataclasses.replace(asked_now, kind="summary"),
        dataclasses.replace(asked_now, digest=bytes(32)),
        dataclasses.replace(asked_now, digest=due["summary"].digest),
    ]


@pytest.mark.parametrize("which", range(len(odd())))
def test_a_verified_hospital_answers_no_question_but_what_its_program_asks_now(which: int) -> None:
    coordinator, asked = Coordinator().ready().advance().told_all(), odd()[which]
    moments, summary = (one for one in coordinator.steps(["h00"])["h00"].questions)
    for questions in ((asked,), (asked, summary), (moments, asked), (moments, summary, asked)):
        for name in NAMES:
            with pytest.raises(Refused) as refusal:
                coordinator.sessions[name].step(coordinator.step(*questions))
            assert refusal.value.code == "not_next"
    for store in coordinator.stores.values():
        assert [one.analysis for one in store.ledger()] == ["flow"]
    assert len(coordinator.ask()["h00"].answers) == 2, "the honest step is answered still"


def test_a_verified_hospital_answers_all_that_is_asked_now_or_nothing() -> None:
    coordinator = Coordinator().ready().advance().told_all()
    moments, summary = coordinator.steps(["h00"])["h00"].questions
    for questions in ((moments,), (summary,), (summary, moments), (moments, moments), (moments,) * 3):
        with pytest.raises(Refused) as refusal:
            coordinator.sessions["h00"].step(coordinator.step(*questions))
        assert refusal.value.code == "not_next"
    assert len(coordinator.stores["h00"].ledger()) == 1


def test_a_query_sent_along_is_not_even_read_by_a_verified_hospital() -> None:
    coordinator = Coordinator().ready()
    (asked,) = coordinator.steps(["h00"])["h00"].questions
    widened = encode(dataclasses.replace(FLOW, rows_bound=1))
    answer = coordinator.reply("h00", "ask", coordinator.steps(["h00"])["h00"])
    for body in (widened, b"anything"):
        sent = coordinator.step(dataclasses.replace(asked, asked=body))
        assert coordinator.reply("h00", "ask", sent) == answer


WIDE = study_of(
    {**LOGISTIC, "subgroups": {"sex": [], "age": [50]}},
    {"kind": "summary"},
    {"kind": "forest", "trees": 2, "depth": 2},
    {"kind": "fedavg", "estimator": "MLPClassifier", "hidden": [2], "rounds": 2},
    {"kind": "importance", "model": "forest", "part": "train", "repeats": 2},
    privacy={"min_hospitals": 3, "plan": "trusted"},
)
COORDINATOR = Coordinator(WIDE).ready().told_all()
SENT = {encode(asked): asked for asked in driven(WIDE).asked}


@pytest.mark.filterwarnings("ignore::RuntimeWarning")
@given(st.sampled_from(list(SENT)), st.data())
def test_a_garbled_query_is_answered_masked_or_refused(sent: bytes, data: st.DataObject) -> None:
    garbled = bytearray(sent)
    for _ in range(data.draw(st.integers(1, 4))):
        garbled[data.draw(st.integers(0, len(garbled) - 1))] = data.draw(st.integers(0, 255))
    asked, index = SENT[sent], data.draw(st.integers(0, 2**62))
    body = bytes(garbled)
    try:
        answer = COORDINATOR.sessions["h00"].step(COORDINATOR.step(raw(asked, body, index)))
    except (Refused, ProtocolError) as error:
        assert "." not in getattr(error, "code", "")
    else:
        assert isinstance(answer, say.Answers)
        assert is_noise(answer.answers[0].sealed)


@given(st.binary(max_size=100) | st.sampled_from([None, "text", 3]))
def test_garbage_gets_the_one_word_protocol_and_an_audit_entry(body: object) -> None:
    node = Node(NodeStore())
    for action in say.ACTIONS:
        assert say.MESSAGES.decode(node.reply(action, body), say.Refusal).code == "protocol"
    assert len(node._store.entries()) == len(say.ACTIONS)


def test_a_refusal_says_its_code_and_nothing_of_the_reason() -> None:
    coordinator, node = trusting(), Node(NodeStore())
    session = coordinator.sessions["h00"]
    node.open(session)
    body = coordinator.step(question(dataclasses.replace(MOMENTS, rows_bound=4)))
    reply = node.reply("ask", encode(body))
    assert reply == encode(say.Refusal("rows_bound"))
    assert node._store.entries()[-1][0] == "refuse"


# --- the gate ---


def request(hospitals: tuple[str, ...] = NAMES, usable_rows: int = 500) -> Request:
    masks = Masks({name: bytes(32) for name in hospitals if name != "h00"}, bytes(32))
    return Request(STUDY, "h00", hospitals, b"b", b"e", "logistic", 0, "k", bytes(32), usable_rows, masks)


def contribution() -> Contribution:
    cohort = Coordinator().cohorts["h01"]
    return MOMENTS.query.answer(cohort, layout_of(STUDY, MOMENTS))


def gate(found: Contribution, asked: Request, policy: Policy | None = None) -> str:
    store = NodeStore()
    with pytest.raises(Refused) as refusal:
        release(found, layout_of(STUDY, MOMENTS), asked, policy or Policy.of(STUDY), store)
    assert store.ledger() == [] and store.entries() == []
    assert store.answer(asked.binding, asked.epoch, asked.analysis, asked.index) is None
    return refusal.value.code


def test_a_contribution_over_its_bound_does_not_pass_the_gate() -> None:
    found, layout = contribution(), layout_of(STUDY, MOMENTS)
    for field in layout.fields:
        limit = layout.limit(field, found.rows)
        for wrong in (limit + 1, -limit - 1, np.full(field.shape, -(2**63))):
            arrays = {**found.arrays, field.name: np.asarray(wrong, np.int64).reshape(field.shape)}
            assert gate(Contribution(found.rows, arrays), request()) == "bounds"


def test_a_contribution_of_another_form_does_not_pass_the_gate() -> None:
    found = contribution()
    fewer = dict(found.arrays)
    fewer.pop("n")
    for arrays in (
        fewer,
        {**found.arrays, "more": np.zeros(1, np.int64)},
        {**found.arrays, "n": np.zeros(2, np.int64)},
        {**found.arrays, "n": np.zeros((), np.float64)},
    ):
        assert gate(Contribution(found.rows, arrays), request()) == "layout"
    assert gate(Contribution(MOMENTS.rows_bound + 1, found.arrays), request()) == "rows_bound"
    assert gate(Contribution(-1, found.arrays), request()) == "rows_bound"


def test_the_gate_holds_the_floors_again_at_every_release() -> None:
    found, stricter = contribution(), Policy.of(STUDY).model_copy(update={"min_cell": 20})
    assert gate(found, request(), stricter) == "policy"
    assert gate(found, request(usable_rows=9)) == "min_rows"
    assert gate(found, request(NAMES[:2])) == "min_hospitals"
    assert gate(found, dataclasses.replace(request(), cover=Masks({}, bytes(32)))) == "min_hospitals"
    assert gate(found, request(("h01", "h02", "h03"))) == "min_hospitals"
    assert gate(found, request(("h00", "h01", "h01"))) == "min_hospitals"


def test_nothing_leaves_bare_of_a_study_that_does_not_say_so() -> None:
    signed: list[bytes] = []
    bare = Bare(lambda answer: signed.append(answer) or b"")  # type: ignore[func-returns-value]
    assert gate(contribution(), dataclasses.replace(request(), cover=bare)) == "seal"
    assert signed == []


def test_what_holds_private_values_prints_as_its_name() -> None:
    coordinator = Coordinator().ready()
    coordinator.advance()
    cohort = coordinator.cohorts["h00"]
    opened = coordinator.sessions["h00"]._participant
    masks, bare = request().cover, Bare(lambda answer: answer)
    sealed = release(contribution(), layout_of(STUDY, MOMENTS), request(), Policy.of(STUDY), NodeStore())
    private = [cohort, contribution(), sealed, request(), masks, bare, opened]
    private += [coordinator.identities["h00"], coordinator.sessions["h00"], coordinator.stores["h00"]]
    names = ["Cohort", "Contribution", "Sealed", "Request", "Masks", "Bare", "Participant"]
    names += ["Identity", "Session", "NodeStore"]
    assert [f"{one!r}{one}" for one in private] == [f"{name}(...){name}(...)" for name in names]
    assert repr(opened.epoch) == "OpenEpoch(1, ...)"
    assert opened.epoch.group.hex() not in repr(opened.kept)
    for one in (cohort.keys, next(cohort.blocks())):
        assert repr(one).startswith("<wardround_common.cohort.")


def test_a_session_and_an_identity_cannot_be_pickled_by_mistake() -> None:
    coordinator = Coordinator()
    for one in (coordinator.sessions["h00"], coordinator.identities["h00"]):
        with pytest.raises(TypeError):
            pickle.dumps(one)


def test_a_question_is_what_its_kind_says_and_asked_as_that() -> None:
    coordinator = trusting()
    lying = dataclasses.replace(question(SUMMARY), kind="evaluate.scores")
    with pytest.raises(ProtocolError, match="another kind than its question says"):
        coordinator.ask_all(lying)
    body = coordinator.step(question(SUMMARY))
    for action in ("train", "evaluate"):
        assert coordinator.reply("h00", action, body) == say.Refusal("protocol")
    answers = coordinator.reply("h00", "ask", body)
    assert isinstance(answers, say.Answers)
    assert answers.answers[0].analysis == "summary"
    verified = Coordinator().ready()
    for action in ("train", "evaluate"):
        assert verified.reply("h00", action, verified.steps()["h00"]) == say.Refusal("protocol")
