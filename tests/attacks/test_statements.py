"""A statement about one hospital leaves only where its policy says so, rounded, of one model, once."""

from __future__ import annotations

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
from wardround_common.sealing.identity import Identity
from wardround_common.study import Study
from wardround_common.wire import encode
from wardround_server import simulation
from wardround_server.simulation import Hospital, StudyResult, run
from wardround_server.transcript import Transcript

STUDY = study_of({"kind": "logistic", "predictors": ["age", "sex"]}, split={"test": 0.5, "seed": 3})
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


def conducted(policies: dict[str, dict[str, Any]], transcript: Transcript | None = None) -> Run:
    transcript, hospitals = transcript or Transcript(), []
    for name, table in tables().items():
        policy = Policy.of(STUDY).model_copy(update=policies.get(name, {}))
        opened = lambda t=table, n=name: of_frame(t, n)  # noqa: E731
        hospitals.append(Hospital(name, opened, Identity.generate(), policy))
    result = run(STUDY, hospitals, transcript, lambda progress: None)
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


def session_with(monkeypatch: pytest.MonkeyPatch) -> Any:
    """Return the large hospital's session after a whole study."""
    sessions: list[Any] = []
    opened = simulation.Session

    def watched(*arguments: Any) -> Any:
        sessions.append(opened(*arguments))
        return sessions[-1]

    monkeypatch.setattr(simulation, "Session", watched)
    conducted({"large": TELLING})
    return sessions[0]


def test_another_model_of_the_same_analysis_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    session = session_with(monkeypatch)
    assert session.state("logistic") == session.state("logistic")
    asked, _ = session._judged["logistic"]
    assert isinstance(asked.query, ScoresQuery)
    assert isinstance(asked.query.model, LogisticModel)
    aimed = replace(asked.query.model, beta=np.array([0.0, 9.0, 0.0]))
    crafted = Asked("logistic", asked.rows_bound, replace(asked.query, model=aimed))
    session.answer(say.Question("logistic", 99, crafted.query.kind, encode(crafted)))
    with pytest.raises(Refused, match="another model of this analysis"):
        session.state("logistic")


def test_a_model_that_was_not_evaluated_here_gets_no_statement(monkeypatch: pytest.MonkeyPatch) -> None:
    session = session_with(monkeypatch)
    for analysis in ("flow", "nothing", ""):
        with pytest.raises(Refused, match="not evaluated here"):
            session.state(analysis)


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
    session = session_with(monkeypatch)
    again = Session(
        session._hospital,
        session._identity,
        session._policy,
        session._store,
        session._study,
        session._cohort,
    )
    assert again.state("logistic") == session.state("logistic")
