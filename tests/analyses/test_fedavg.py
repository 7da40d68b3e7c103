"""Federated averaging equals Flower's own run without sealing, and keeps what it promises of the contract.

An average of models depends on which rows lie in which hospital, so partition invariance is not promised.
"""

from __future__ import annotations

import json
from functools import lru_cache
from typing import Any, ClassVar

import numpy as np
import pytest
from flwr.app import Array, ArrayRecord, ConfigRecord, Context, Message, MetricRecord, RecordDict
from flwr.clientapp import ClientApp
from flwr.serverapp import Grid, ServerApp
from sklearn.linear_model import SGDClassifier
from sklearn.metrics import roc_auc_score

from tests.analyses.contract import answer_of, cohorts, cut, driven, pooled, replayed
from tests.support import federate, layout_of, published, study_data, study_of
from wardround_common.analyses.fedavg import (
    ROBUST,
    SETTINGS,
    FedAvgFit,
    LocalTraining,
    UpdateQuery,
    plain_mean,
)
from wardround_common.analysis import Reply
from wardround_common.cohort import Cohort
from wardround_common.errors import FitError, ReplayDiverged, StudyError
from wardround_common.local_training import Training, start, train
from wardround_common.plan import QUERY_RECORDS, Findings
from wardround_common.program import Asked
from wardround_common.replay import Replay
from wardround_common.sealing.record import EpochRecord
from wardround_common.study import Study, parse_study
from wardround_common.wire import encode
from wardround_server.conductor import conduct
from wardround_server.grid import LocalGrid
from wardround_server.strategies import STRATEGIES, flower
from wardround_server.transcript import Transcript

PREDICTORS = ["age", "chol", "bmi", "sex", "cp"]


def fedavg(**keys: Any) -> Study:
    spec = {"kind": "fedavg", "predictors": PREDICTORS, "rounds": 4, **keys}
    outcome = {"outcome": "bmi"} if keys.get("estimator") == "SGDRegressor" else {}
    bare = {"privacy": {"seal": "none"}} if keys.get("strategy") in ROBUST else {}
    return study_of(spec, **outcome, **bare)


REGRESSION = {"estimator": "SGDRegressor", "outcome": "bmi", "predictors": ["age", "chol", "sex", "disease"]}
PERCEPTRON = {"estimator": "MLPClassifier", "hidden": [5, 3], "learning_rate": 0.1}
STUDIES = {
    "SGDClassifier by FedAvg": fedavg(),
    "SGDClassifier by FedAvgM": fedavg(strategy="FedAvgM", server_momentum=0.7, server_learning_rate=0.9),
    "SGDClassifier by FedAdam": fedavg(strategy="FedAdam", eta=0.05),
    "SGDClassifier by FedYogi": fedavg(strategy="FedYogi", beta_2=0.9),
    "SGDClassifier by FedProx": fedavg(proximal=5.0, epochs=2),
    "SGDRegressor by FedAvg": fedavg(**REGRESSION),
    "SGDRegressor by FedAdam": fedavg(**REGRESSION, strategy="FedAdam"),
    "MLPClassifier by FedAvg": fedavg(**PERCEPTRON),
    "MLPClassifier by FedAvgM": fedavg(**PERCEPTRON, strategy="FedAvgM", server_momentum=0.5),
    "MLPClassifier by FedProx": fedavg(**PERCEPTRON, proximal=1.0, epochs=2, activation="tanh"),
    "SGDClassifier by FedMedian": fedavg(strategy="FedMedian"),
    "MLPClassifier by FedTrimmedAvg": fedavg(**PERCEPTRON, strategy="FedTrimmedAvg", beta=0.3),
    "SGDClassifier by Krum": fedavg(strategy="Krum"),
    "SGDRegressor by MultiKrum": fedavg(**REGRESSION, strategy="MultiKrum", num_nodes_to_select=3),
}


def fit_of(study: Study, found: Any) -> FedAvgFit:
    fit = found.analyses["fedavg"].result
    assert isinstance(fit, FedAvgFit)
    return fit


@lru_cache
def _over_four(manifest: bytes) -> tuple[Transcript, Findings]:
    study, transcript = Study.model_validate_json(manifest), Transcript()
    return transcript, federate(study, cohorts(study, 4), transcript)


def over_four(study: Study) -> tuple[Transcript, Findings]:
    """Return the transcript and the findings of a study over four hospitals."""
    return _over_four(study.manifest())


def updates(study: Study) -> list[LocalTraining]:
    """Return the queries for updates that the study asks over four hospitals."""
    transcript, _ = over_four(study)
    replay, asked = Replay(study, flower, transcript.epochs[0].epoch.binding), []
    for record in transcript.course:
        if isinstance(record, EpochRecord):
            replay.begin(record.epoch)
            continue
        asked += [due.asked.query for due in replay.due if isinstance(due.asked.query, LocalTraining)]
        replay.take(record, replay.open(record))
    return asked


def flowers_own(study: Study, hospitals: dict[str, Cohort], first: LocalTraining) -> list[np.ndarray]:
    """Return the parameters after Flower's own run: one reply a hospital, no seal, no clipping.

    Everything is Flower's: its strategy's `start`, its messages, its aggregation.
    """
    (spec,) = study.analyses

    def client(cohort: Cohort) -> ClientApp:
        app = ClientApp()

        @app.train()
        def training(message: Message, context: Context) -> Message:
            current = [array.numpy() for array in message.content["arrays"].values()]
            number = int(message.content["config"]["server-round"])
            x, y, keys = first._rows(cohort)
            arrays = train(first.training, current, x, y, keys, number)
            record = ArrayRecord({f"{i:04d}": Array(array) for i, array in enumerate(arrays)})
            metrics = MetricRecord({"num-examples": len(y)})
            return Message(RecordDict({"arrays": record, "metrics": metrics}), reply_to=message)

        return app

    grid = LocalGrid({i + 1: (lambda c=c: client(c)) for i, c in enumerate(hospitals.values())}, 2)
    found: list[ArrayRecord] = []
    server = ServerApp()

    @server.main()
    def main(grid: Grid, context: Context) -> None:
        strategy = STRATEGIES[spec.strategy](fraction_evaluate=0.0, **spec.settings())
        initial = ArrayRecord({f"{i:04d}": Array(array) for i, array in enumerate(first.parameters)})
        result = strategy.start(grid, initial, num_rounds=spec.rounds, train_config=ConfigRecord())
        found.append(result.arrays)

    try:
        server(grid, Context(1, 0, {}, RecordDict(), {}))
    finally:
        grid.close()
    return [array.numpy() for array in found[0].values()]


class TestFedAvg:
    studies: ClassVar = STUDIES

    def test_equals_flowers_own_run_without_sealing(self, study: Study) -> None:
        _, found = over_four(study)
        (spec,) = study.analyses
        first = updates(study)[0]
        expected = flowers_own(study, cohorts(study, 4), first)
        model = fit_of(study, found).model
        assert fit_of(study, found).clipped == 0
        if spec.estimator == "MLPClassifier":
            mine = [a for pair in zip(model.weights, model.biases, strict=True) for a in pair]
            expected[0] = expected[0] * first.factor[:, None]
        else:
            scale, shift = (first.sd, first.mean) if spec.estimator == "SGDRegressor" else (1.0, 0.0)
            mine = [model.beta[1:], model.beta[:1]]
            expected = [expected[0] * first.factor * scale, expected[1] * scale + shift]
        for a, b in zip(mine, expected, strict=True):
            np.testing.assert_allclose(a, b, rtol=1e-9, atol=1e-9)

    def test_every_query_survives_the_wire(self, study: Study) -> None:
        for asked in driven(study).asked:
            sent = encode(asked)
            received = QUERY_RECORDS.decode(sent, Asked)
            assert encode(received) == sent
            assert answer_of(study, received, pooled(study)) == answer_of(study, asked, pooled(study))

    def test_the_order_of_a_hospitals_rows_changes_no_bit(self, study: Study) -> None:
        whole = pooled(study)
        shuffled = whole.take(np.random.default_rng(3).permutation(whole.rows))
        for asked in driven(study).asked:
            assert answer_of(study, asked, shuffled) == answer_of(study, asked, whole)


def figures(study: Study, found: Any) -> str:
    shown = published(study, found)["analyses"]
    return json.dumps({**shown["fedavg"], "seconds": None}, sort_keys=True)


@pytest.mark.parametrize(
    "name", ["SGDClassifier by FedAdam", "SGDRegressor by FedAvg", "MLPClassifier by FedAvgM"]
)
def test_a_study_cut_after_any_step_resumes_to_the_same_bits(name: str) -> None:
    study = STUDIES[name]
    transcript, found = over_four(study)
    expected = figures(study, found)
    for steps in range(len(transcript.steps) + 1):
        again = federate(study, cohorts(study, 4), cut(transcript, steps))
        assert figures(study, again) == expected
    assert figures(study, replayed(study, transcript)) == expected


def test_a_round_travels_as_flowers_train_and_an_evaluation_as_evaluate(monkeypatch: Any) -> None:
    seen: set[str] = set()
    push = LocalGrid.push_messages

    def watched(self: LocalGrid, messages: Any) -> Any:
        messages = list(messages)
        seen.update(message.metadata.message_type for message in messages)
        return push(self, messages)

    monkeypatch.setattr(LocalGrid, "push_messages", watched)
    study = STUDIES["SGDClassifier by FedAvg"]
    federate(study, cohorts(study, 4))
    assert seen == {"query.join", "query.roster", "query.epoch", "query.ask", "train", "evaluate"}


def test_an_update_longer_than_the_clip_is_cut_to_it_and_counted() -> None:
    study = fedavg(clip=1e-3, rounds=2)
    hospitals = cohorts(study, 4)
    _, found = over_four(study)
    fit = fit_of(study, found)
    assert fit.clipped == 2 * len(hospitals)
    assert all(norm <= 1e-3 * (1 + 1e-9) for norm in fit.norms)
    for one in updates(study):
        for cohort in hospitals.values():
            asked = Asked("fedavg", 1024, one)
            answer = answer_of(study, asked, cohort)
            layout = layout_of(study, asked)
            vector = np.ldexp(answer.arrays["update"].astype(float), -layout.bits(layout.fields[2]))
            assert np.linalg.norm(vector) / answer.rows == pytest.approx(1e-3, rel=1e-9)


def test_a_hospital_of_one_outcome_takes_part() -> None:
    study = STUDIES["MLPClassifier by FedAvg"]
    hospitals = cohorts(study, 4)
    shares = {cohort.columns["disease"].mean() for cohort in hospitals.values()}
    assert {0.0, 1.0} <= shares
    _, found = over_four(study)
    assert fit_of(study, found).n == 600


def test_training_on_one_table_comes_near_scikit_learns_own_estimator() -> None:
    study = fedavg(rounds=30)
    evaluation = driven(study).findings.analyses["fedavg"].evaluations[0]
    asked = next(one.query for one in driven(study).asked if isinstance(one.query, UpdateQuery))
    x, y, _ = asked._rows(pooled(study))
    own = SGDClassifier(loss="log_loss", learning_rate="constant", eta0=0.01, max_iter=30, tol=None).fit(x, y)
    expected = roc_auc_score(y, own.decision_function(x))
    assert evaluation.auc == pytest.approx(expected, abs=0.01)


def test_the_proximal_term_keeps_a_hospital_near_the_common_parameters() -> None:
    study = STUDIES["SGDClassifier by FedAvg"]
    first = updates(study)[0]
    cohort = next(iter(cohorts(study, 4).values()))
    x, y, keys = first._rows(cohort)
    lengths = []
    for proximal in (0.0, 1.0, 10.0, 1000.0):
        training = Training("SGDClassifier", 5, 8, 0.01, 1e-4, proximal, (), "", 0)
        begun = [np.full(x.shape[1], 0.3), np.zeros(1)]
        moved = train(training, begun, x, y, keys, 1)
        lengths.append(float(np.linalg.norm(moved[0] - begun[0])))
    assert lengths == sorted(lengths, reverse=True)
    assert lengths[-1] < 0.1 * lengths[0]


def test_a_perceptrons_first_weights_follow_from_the_seed_alone() -> None:
    def first(seed: int) -> list[np.ndarray]:
        return start(Training("MLPClassifier", 1, 32, 0.1, 0.0, 0.0, (4,), "relu", seed), 3)

    assert [array.shape for array in first(1)] == [(3, 4), (4,), (4, 1), (1,)]
    assert all(np.array_equal(a, b) for a, b in zip(first(1), first(1), strict=True))
    assert not np.array_equal(first(1)[0], first(2)[0])


@pytest.mark.parametrize("name", list(STRATEGIES))
def test_our_defaults_are_flowers(name: str) -> None:
    theirs = STRATEGIES[name]()
    assert {key: getattr(theirs, key) for key in SETTINGS[name]} == dict(SETTINGS[name])


def test_a_training_that_diverges_says_so() -> None:
    study = fedavg(strategy="FedAvgM", server_learning_rate=1e6, rounds=200, clip=1e6)
    with pytest.raises((FitError, StudyError)):
        federate(study, cohorts(study, 4))


def test_the_plain_mean_knows_no_other_strategy() -> None:
    with pytest.raises(StudyError, match="`FedAdam` is Flower's"):
        plain_mean("FedAdam", {})
    (mean,) = plain_mean("FedAvg", {})(1, [np.zeros(2)], [Reply((np.ones(2),), 30)])
    assert mean.tolist() == [1.0, 1.0]


@pytest.mark.parametrize("name", [name for name in STRATEGIES if name not in ROBUST])
def test_the_mean_as_one_reply_gives_what_a_reply_from_each_hospital_gives(name: str) -> None:
    rng, settings = np.random.default_rng(2), SETTINGS[name]
    one_by_one, at_once = flower(name, settings), flower(name, settings)
    first, second = [np.zeros(5)], [np.zeros(5)]
    for number in range(1, 8):
        rows = rng.integers(10, 300, 4)
        updates = rng.normal(size=(4, 5))
        each = [Reply((first[0] + one,), int(n)) for one, n in zip(updates, rows, strict=True)]
        mean = Reply((second[0] + rows @ updates / rows.sum(),), int(rows.sum()))
        first, second = one_by_one(number, first, each), at_once(number, second, [mean])
        np.testing.assert_allclose(first[0], second[0], rtol=1e-9, atol=1e-12)


def test_a_replay_with_another_strategy_diverges() -> None:
    study = STUDIES["SGDClassifier by FedAvgM"]
    transcript, _ = over_four(study)
    with pytest.raises(ReplayDiverged):
        conduct(
            Replay(
                study, lambda name, settings: plain_mean("FedAvg", {}), transcript.epochs[0].epoch.binding
            ),
            transcript,
            None,
        )


@pytest.mark.parametrize(
    ("keys", "message"),
    [
        ({"hidden": [4]}, "hidden: belongs to `estimator: MLPClassifier`"),
        ({"activation": "relu"}, "activation: belongs to"),
        ({"eta": 0.1}, "eta: `strategy: FedAvg` has no such setting"),
        ({"strategy": "FedAdam", "server_momentum": 0.5}, "server_momentum: `strategy: FedAdam` has no such"),
        ({"estimator": "SGDRegressor"}, "estimator: the outcome `disease` has two levels"),
        ({"outcome": "bmi", "predictors": ["age"], "estimator": "SGDClassifier"}, "`bmi` is a number"),
        ({"outcome": "bmi", "predictors": ["age"], "threshold": 0.4}, "threshold: `bmi` is a number"),
        ({"estimator": "SVC"}, "estimator"),
        ({"strategy": "FedSgd"}, "strategy"),
        ({"rounds": 0}, "rounds"),
        ({"clip": 0}, "clip"),
        ({"estimator": "MLPClassifier", "hidden": []}, "hidden"),
        ({"learning_rat": 0.1}, "unknown key .did you mean `learning_rate`"),
    ],
)
def test_a_spec_that_cannot_work_is_refused_by_key(keys: dict[str, Any], message: str) -> None:
    with pytest.raises(StudyError, match=message):
        parse_study(study_data([{"kind": "fedavg", **keys}]))


def test_the_defaults_of_estimator_and_strategy_are_written_down() -> None:
    (spec,) = study_of({"kind": "fedavg", "estimator": "MLPClassifier", "strategy": "FedYogi"}).analyses
    assert (spec.hidden, spec.activation, spec.eta, spec.tau) == ((16,), "relu", 0.01, 1e-3)
    assert spec.server_momentum is None
    assert study_of({"kind": "fedavg", "outcome": "bmi"}).analyses[0].estimator == "SGDRegressor"
    study = study_of({"kind": "fedavg", "estimator": "MLPClassifier"})
    assert Study.model_validate_json(study.manifest()).manifest() == study.manifest()
