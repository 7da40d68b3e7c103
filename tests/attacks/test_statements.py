"""A statement about one hospital leaves only where its policy says so, rounded, of one model, once.

| attack | refused by |
|---|---|
| asking where the policy is silent, of few rows | the gate |
| asking about many models of one analysis, made to measure | `no_statement`; `not_next` where verified |
| asking of a model that was not evaluated here, or under another epoch | `no_statement`, `unknown_epoch` |
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pytest
from sklearn.metrics import roc_auc_score

from tests.support import cohort_of, patients, study_of
from wardround_client.gate import Judged, Policy, state
from wardround_client.session import Session
from wardround_client.sources import of_frame
from wardround_client.store import NodeStore
from wardround_common import messages as say
from wardround_common.errors import Refused
from wardround_common.evaluation.scores import ScoresQuery
from wardround_common.models import LogisticModel
from wardround_common.program import Asked
from wardround_common.study import Study
from wardround_common.wire import encode
from wardround_server import simulation
from wardround_server.simulation import Hospital, StudyResult, run
from wardround_server.transcript import Transcript

LOGISTIC = {"kind": "logistic", "predictors": ["age", "sex"]}
STUDY = study_of(LOGISTIC, split={"test": 0.5, "seed": 3})
TRUSTED = study_of(LOGISTIC, split={"test": 0.5, "seed": 3}, privacy={"plan": "trusted"})
TELLING = {"statements": ("metrics",)}


@dataclass(frozen=True)
class Run:
    """A study over three hospitals of 300, 260 and 40 patients."""

    result: StudyResult
    transcript: Transcript
    stores: dict[str, NodeStore]


def tables() -> dict[str, Any]:
    frame = patients()
    return {"large": frame.iloc[:300], "middle": frame.iloc[300:560], "small": frame.iloc[560:]}


def conducted(
    policies: dict[str, dict[str, Any]], transcript: Transcript | None = None, study: Study = STUDY
) -> Run:
    transcript, hospitals = transcript or Transcript(), []
    for name, table in tables().items():
        policy = Policy.of(study).model_copy(update=policies.get(name, {}))
        opened = lambda t=table, n=name: of_frame(t, n)  # noqa: E731
        hospitals.append(Hospital(name, opened, policy=policy))
    result = run(study, hospitals, transcript, lambda progress: None)
    return Run(result, transcript, {one.name: one.store for one in hospitals})


def stated(found: Run) -> Any:
    return found.result.results["statements"]


def test_nothing_is_stated_by_default() -> None:
    found = conducted({})
    assert stated(found) == {}
    assert not [entry for store in found.stores.values() for entry in store.entries() if entry[0] == "state"]


def test_a_hospital_whose_policy_allows_it_states_its_auc_rounded() -> None:
    found = conducted({"large": TELLING, "small": TELLING})
    frame = tables()["large"]
    cohort = cohort_of(STUDY, frame, "large")
    test = cohort.part("test")
    (block,) = cohort.blocks(test)
    model = found.result.findings.analyses["logistic"].result.model
    auc = roc_auc_score(block.codes("disease"), model.output(block))
    assert stated(found) == {"logistic": {"large": {"auc": round(auc, 2), "rows": round(test.sum(), -1)}}}
    assert [one[0] for one in found.stores["large"].entries()].count("state") == 1
    refusals = [one[2] for one in found.stores["small"].entries() if one[0] == "refuse"]
    assert any("fewer than 100 held-out rows" in one for one in refusals), "the small hospital stays silent"


def test_a_replay_and_a_resume_tell_the_same_and_ask_nobody_again() -> None:
    first = conducted({"large": TELLING})
    again = conducted({}, first.transcript)
    assert stated(again) == stated(first) != {}
    assert not [one for one in again.stores["large"].entries() if one[0] == "state"]


def test_a_statement_travels_as_rounded_numbers_only() -> None:
    told = say.Statement("logistic", 150, 0.81)
    assert say.MESSAGES.decode(encode(told), say.Statement) == told
    assert json.dumps([told.analysis, told.rows, told.auc]) == '["logistic", 150, 0.81]'


def session_with(monkeypatch: pytest.MonkeyPatch, study: Study) -> Session:
    """Return the large hospital's session after a whole study."""
    sessions: list[Session] = []
    opened = simulation.Session

    def watched(*arguments: Any, **keywords: Any) -> Session:
        sessions.append(opened(*arguments, **keywords))
        return sessions[-1]

    monkeypatch.setattr(simulation, "Session", watched)
    conducted({"large": TELLING}, study=study)
    return sessions[0]


def wish(session: Session, analysis: str = "logistic") -> say.StatementRequest:
    epoch = session._participant.epoch.epoch
    return say.StatementRequest(epoch.binding, epoch.digest, analysis)


def crafted(session: Session) -> say.Step:
    """Return a step that asks to evaluate a model made to measure."""
    asked, _ = session._judged["logistic"]
    assert isinstance(asked.query, ScoresQuery)
    assert isinstance(asked.query.model, LogisticModel)
    aimed = replace(asked.query.model, beta=np.array([0.0, 9.0, 0.0]))
    question = Asked("logistic", asked.rows_bound, replace(asked.query, model=aimed))
    body = encode(question)
    epoch, participant = session._participant.epoch.epoch, session._participant
    sent = say.Question("logistic", 99, question.query.kind, hashlib.sha256(body).digest(), body)
    return say.Step(epoch.binding, epoch.digest, participant.records, (), (), (sent,))


def test_another_model_of_the_same_analysis_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    session = session_with(monkeypatch, TRUSTED)
    assert session.state(wish(session)) == session.state(wish(session))
    assert isinstance(session.step(crafted(session)), say.Answers)
    with pytest.raises(Refused, match="another model of this analysis"):
        session.state(wish(session))


def test_a_verified_hospital_evaluates_no_other_model_so_it_states_what_it_did(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    session = session_with(monkeypatch, STUDY)
    before = session.state(wish(session))
    with pytest.raises(Refused) as refusal:
        session.step(crafted(session))
    assert refusal.value.code == "not_next"
    assert session.state(wish(session)) == before


@pytest.mark.parametrize("study", [STUDY, TRUSTED], ids=["verified", "trusted"])
def test_a_model_that_was_not_evaluated_here_gets_no_statement(
    monkeypatch: pytest.MonkeyPatch, study: Study
) -> None:
    session = session_with(monkeypatch, study)
    for analysis in ("flow", "nothing", ""):
        with pytest.raises(Refused, match="not evaluated here"):
            session.state(wish(session, analysis))
    with pytest.raises(Refused) as refusal:
        session.state(replace(wish(session), epoch=bytes(32)))
    assert refusal.value.code == "unknown_epoch"


@pytest.mark.parametrize(
    ("without", "with_outcome", "policy"),
    [(50, 49, TELLING), (10, 200, TELLING), (200, 10, TELLING), (200, 200, {})],
)
def test_the_gate_refuses_few_rows_and_a_silent_policy(
    without: int, with_outcome: int, policy: dict[str, Any]
) -> None:
    judged = Judged(b"", "logistic", "00", without, with_outcome, 0.8123)
    store, study = NodeStore(), Study.model_validate_json(STUDY.manifest())
    with pytest.raises(Refused) as refused:
        state(judged, study, Policy.of(study).model_copy(update=policy), store)
    assert refused.value.code == "no_statement"
    assert "0.81" not in str(refused.value)
    assert store.entries() == []
    assert repr(judged) == "Judged(...)"


def test_a_node_that_was_started_again_tells_of_the_model_that_it_evaluated_before(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    session = session_with(monkeypatch, STUDY)
    again = Session(
        *(session._hospital, session._participant._identity, session._policy, session._store),
        *(session._study, session._cohort),
        everyone=True,
    )
    assert again.state(wish(session)) == session.state(wish(session))
