"""A session answers a question once, as it was asked first, within its bounds; all else is a refusal."""

from __future__ import annotations

import dataclasses
import pickle

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.analyses.contract import driven
from tests.attacks.coordinator import FLOW, LOGISTIC, MOMENTS, NAMES, STUDY, SUMMARY, Coordinator, question
from tests.support import layout_of, study_of
from wardround_client.app import Node
from wardround_client.gate import Policy, Request, Sealed, release
from wardround_client.store import NodeStore
from wardround_common import messages as say
from wardround_common.analyses.flow import FlowQuery
from wardround_common.analyses.summary import SummaryQuery
from wardround_common.errors import ProtocolError, Refused
from wardround_common.query import Contribution
from wardround_common.sealing.epoch import Epoch, Membership
from wardround_common.sealing.mask import open_masks
from wardround_common.wire import encode


def test_an_honest_coordinator_opens_the_sum_and_only_the_sum() -> None:
    coordinator = Coordinator().ready()
    sealed = [np.frombuffer(one.data, "<u8") for one in coordinator.ask(question(MOMENTS))]
    n, positive, negative = open_masks(sealed)[:3]
    assert (n, positive + negative) == (600, 600)
    for vector in sealed:
        assert (vector > 2**32).all()
    partial = open_masks(sealed[:3]).view(np.uint64)
    assert (partial > 2**32).all()


def test_the_same_question_gets_the_same_bytes_even_if_the_rows_have_changed() -> None:
    coordinator = Coordinator().ready()
    first = coordinator.ask(question(SUMMARY))
    for cohort in coordinator.cohorts.values():
        for column in cohort.columns.values():
            column[:] = column[::-1] * 0
    assert [one.data for one in coordinator.ask(question(SUMMARY))] == [one.data for one in first]
    assert len(coordinator.stores["h00"].ledger()) == 1


def test_another_query_under_a_number_that_was_answered_is_refused() -> None:
    coordinator = Coordinator().ready()
    coordinator.ask(question(SUMMARY))
    other = dataclasses.replace(SUMMARY, query=SummaryQuery(("age",)))
    wider = dataclasses.replace(SUMMARY, rows_bound=2 * SUMMARY.rows_bound)
    for asked in (other, wider, FLOW):
        with pytest.raises(Refused) as refusal:
            coordinator.ask(question(asked, 0, "summary"))
        assert refusal.value.code == "other_query"
    with pytest.raises(Refused, match="another query"):
        coordinator.ask(say.Question("summary", 0, "summary", b"anything"))


def test_a_query_of_a_kind_that_the_study_does_not_ask_there_is_refused() -> None:
    coordinator = Coordinator().ready()
    scores = next(one for one in driven(STUDY).asked if one.query.kind == "evaluate.scores")
    for asked in (
        dataclasses.replace(MOMENTS, analysis="summary"),
        dataclasses.replace(scores, analysis="summary"),
        dataclasses.replace(FLOW, analysis="logistic"),
        dataclasses.replace(SUMMARY, analysis="flow"),
    ):
        with pytest.raises(Refused) as refusal:
            coordinator.ask(question(asked))
        assert refusal.value.code == "not_in_study"
    with pytest.raises(Refused, match="does not ask"):
        coordinator.ask(question(MOMENTS, 0, "summary"))
    with pytest.raises(ProtocolError, match="does not name"):
        coordinator.ask(question(MOMENTS, 0, "cox"))


def test_an_analysis_that_only_the_epoch_knows_is_no_way_in() -> None:
    coordinator = Coordinator().enrolled()
    memberships = tuple(Membership(label, NAMES) for label in ("cox", "flow"))
    epoch = Epoch(coordinator.roster().digest, 1, NAMES, memberships, b"")
    signatures = coordinator.begin(epoch)
    coordinator.sessions["h00"].open_epoch(epoch.digest, signatures)
    with pytest.raises(ProtocolError):
        coordinator.sessions["h00"].answer(question(dataclasses.replace(MOMENTS, analysis="cox")))


@pytest.mark.parametrize("bound", [-1, 0, 1, 10])
def test_a_row_bound_below_the_hospitals_rows_is_refused(bound: int) -> None:
    coordinator = Coordinator().ready()
    for asked in (FLOW, MOMENTS, SUMMARY):
        with pytest.raises((Refused, ProtocolError)) as refusal:
            coordinator.ask(question(dataclasses.replace(asked, rows_bound=bound)))
        assert getattr(refusal.value, "code", "rows_bound") == "rows_bound"
    assert all(not store.ledger() for store in coordinator.stores.values())


@pytest.mark.parametrize("index", [-1, -(2**63)])
def test_a_number_below_zero_is_refused(index: int) -> None:
    with pytest.raises(ProtocolError, match="below 0"):
        Coordinator().ready().ask(question(MOMENTS, index))


@pytest.mark.parametrize(
    "query",
    [
        FlowQuery(("age", "ssn"), (), ()),
        FlowQuery(("age",), ("logistic",), (("ssn",),)),
        FlowQuery(("age",), ("a", "b"), (("age",),) * 9),
    ],
)
def test_a_query_about_something_else_than_the_dictionary_is_refused(query: FlowQuery) -> None:
    coordinator = Coordinator().ready()
    with pytest.raises(ProtocolError, match="cannot be answered"):
        coordinator.ask(question(dataclasses.replace(FLOW, query=query)))


WIDE = study_of(
    {**LOGISTIC, "subgroups": {"sex": [], "age": [50]}},
    {"kind": "summary"},
    {"kind": "forest", "trees": 2, "depth": 2},
    {"kind": "fedavg", "estimator": "MLPClassifier", "hidden": [2], "rounds": 2},
    {"kind": "importance", "model": "forest", "part": "train", "repeats": 2},
    privacy={"min_hospitals": 3},
)
COORDINATOR = Coordinator(WIDE).ready()
SENT = {encode(asked): asked for asked in driven(WIDE).asked}


@pytest.mark.filterwarnings("ignore::RuntimeWarning")
@given(st.sampled_from(list(SENT)), st.data())
def test_a_garbled_query_is_answered_masked_or_refused(sent: bytes, data: st.DataObject) -> None:
    garbled = bytearray(sent)
    for _ in range(data.draw(st.integers(1, 4))):
        garbled[data.draw(st.integers(0, len(garbled) - 1))] = data.draw(st.integers(0, 255))
    asked, index = SENT[sent], data.draw(st.integers(0, 2**62))
    try:
        asked_as = say.Question(asked.analysis, index, asked.query.kind, bytes(garbled))
        answer = COORDINATOR.sessions["h00"].answer(asked_as)
    except (Refused, ProtocolError) as error:
        assert "." not in getattr(error, "code", "")
    else:
        assert isinstance(answer, Sealed)


@given(st.binary(max_size=100) | st.sampled_from([None, "text", 3]))
def test_garbage_gets_the_one_word_protocol_and_an_audit_entry(body: object) -> None:
    node = Node(NodeStore())
    for action in say.ACTIONS:
        assert say.MESSAGES.decode(node.reply(action, body), say.Refusal).code == "protocol"
    assert len(node._store.entries()) == len(say.ACTIONS)


def test_a_refusal_says_its_code_and_nothing_of_the_reason() -> None:
    coordinator, node = Coordinator().ready(), Node(NodeStore())
    session = coordinator.sessions["h00"]
    node.open(session)
    epoch, asked = coordinator.epoch(), dataclasses.replace(MOMENTS, rows_bound=4)
    assert session.binding is not None
    body = say.Questions(session.binding, epoch.digest, coordinator.begin(epoch), (question(asked),))
    reply = node.reply("ask", encode(body))
    assert reply == encode(say.Refusal("rows_bound"))
    assert node._store.entries()[-1][0] == "refuse"


# --- the gate ---


def request(hospitals: tuple[str, ...] = NAMES, usable_rows: int = 500) -> Request:
    secrets = {name: bytes(32) for name in hospitals if name != "h00"}
    return Request(STUDY, "h00", hospitals, b"b", b"e", "logistic", 0, "k", bytes(32), usable_rows, secrets)


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
    assert gate(found, dataclasses.replace(request(), secrets={})) == "min_hospitals"
    assert gate(found, request(("h01", "h02", "h03"))) == "min_hospitals"
    assert gate(found, request(("h00", "h01", "h01"))) == "min_hospitals"


def test_what_holds_private_values_prints_as_its_name() -> None:
    coordinator = Coordinator().ready()
    cohort = coordinator.cohorts["h00"]
    private = [cohort, contribution(), coordinator.ask(question(MOMENTS))[0], request()]
    private += [coordinator.identities["h00"], coordinator.sessions["h00"], coordinator.stores["h00"]]
    names = ["Cohort", "Contribution", "Sealed", "Request", "Identity", "Session", "NodeStore"]
    assert [f"{one!r}{one}" for one in private] == [f"{name}(...){name}(...)" for name in names]
    for one in (cohort.keys, next(cohort.blocks())):
        assert repr(one).startswith("<wardround_common.cohort.")


def test_a_session_and_an_identity_cannot_be_pickled_by_mistake() -> None:
    coordinator = Coordinator()
    for one in (coordinator.sessions["h00"], coordinator.identities["h00"]):
        with pytest.raises(TypeError):
            pickle.dumps(one)


def test_a_question_is_what_its_kind_says_and_asked_as_that() -> None:
    coordinator = Coordinator().ready()
    lying = dataclasses.replace(question(SUMMARY), kind="evaluate.scores")
    with pytest.raises(ProtocolError, match="another kind than its question says"):
        coordinator.ask(lying)
    session = coordinator.sessions["h00"]
    node, epoch = Node(coordinator.stores["h00"]), coordinator.epoch()
    node.open(session)
    signatures = coordinator.begin(epoch)
    body = encode(say.Questions(coordinator.roster().digest, epoch.digest, signatures, (question(SUMMARY),)))
    for action in ("train", "evaluate"):
        assert say.MESSAGES.decode(node.reply(action, body), say.Refusal).code == "protocol"
    assert say.MESSAGES.decode(node.reply("ask", body), say.Answers).answers[0].analysis == "summary"
