"""Robust strategies stand a hospital that lies, on updates that are opened one by one; all else stays sealed.

The heart data, all four files shuffled and dealt to five hospitals. One of them lies, as a real session does:
by rows whose outcome is turned round, or by turning its update round and sending it as long as it may.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import math
import os
import subprocess
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import yaml
from flwr.app import Context, RecordDict
from pytest import MonkeyPatch

import wardround_server.demo
import wardround_server.federation as federation
from tests.analyses.contract import cut
from tests.analyses.test_processors import ROOT, dispatched
from tests.support import cohort_of, layout_of, published, study_data, vector_of
from wardround_client.app import Node, client_app
from wardround_client.decision import approve_study
from wardround_client.gate import Policy
from wardround_client.session import Session
from wardround_client.store import NodeStore
from wardround_common.alone import alone
from wardround_common.analyses.fedavg import ROBUST, FedAvgFit, ShareQuery, UpdateQuery
from wardround_common.analysis import Plan, Reply, Usable
from wardround_common.cohort import Cohort
from wardround_common.errors import ProtocolError, Refused, StudyError
from wardround_common.evaluation.scores import area_under_curve
from wardround_common.messages import Answers, Behind, Step
from wardround_common.plan import QUERY_RECORDS, Findings
from wardround_common.program import Asked
from wardround_common.query import Contribution, Layout, Shares, Sum
from wardround_common.replay import Due, Replay
from wardround_common.sealing.coordination import Coordination
from wardround_common.sealing.epoch import Epoch
from wardround_common.sealing.fixed_point import on_grid
from wardround_common.sealing.record import EpochRecord, Opened, StepRecord
from wardround_common.study import KINDS, Study, parse_study
from wardround_common.wire import encode
from wardround_server.app import server_app
from wardround_server.conductor import conduct
from wardround_server.grid import LocalGrid
from wardround_server.simulation import simulated_keys
from wardround_server.strategies import STRATEGIES, flower
from wardround_server.transcript import Transcript

DEMO = Path(wardround_server.demo.__file__).parent
NAMES = ("h1", "h2", "h3", "h4", "h5")
LIAR = "h3"
SETTINGS: Mapping[str, dict[str, Any]] = {
    "FedAvg": {},
    "FedMedian": {},
    "FedTrimmedAvg": {},
    "Krum": {"num_malicious_nodes": 1},
    "MultiKrum": {"num_malicious_nodes": 1, "num_nodes_to_select": 3},
}


def heart(strategy: str, **keys: Any) -> Study:
    """Return a study of the heart data by one strategy, told that one hospital may lie."""
    data = yaml.safe_load((DEMO / "heart-disease.yaml").read_text())
    fedavg = {"kind": "fedavg", "strategy": strategy, "rounds": 15, **SETTINGS[strategy], **keys}
    seal = "none" if strategy in ROBUST else "sums"
    privacy = {**data["privacy"], "seal": seal}
    return parse_study({**data, "ids": "shared", "analyses": [fedavg], "privacy": privacy})


@lru_cache
def dealt() -> dict[str, pd.DataFrame]:
    """Return the patients of five hospitals."""
    files = [pd.read_csv(path, dtype=str) for path in sorted((DEMO / "data").glob("*.csv"))]
    whole = pd.concat(files, ignore_index=True)
    order = np.random.default_rng(1).permutation(len(whole))
    return {name: whole.iloc[rows] for name, rows in zip(NAMES, np.array_split(order, 5), strict=True)}


@lru_cache
def _cohorts(manifest: bytes) -> dict[str, Cohort]:
    study = Study.model_validate_json(manifest)
    return {name: cohort_of(study, table, name) for name, table in dealt().items()}


def cohorts(study: Study) -> dict[str, Cohort]:
    """Return the five hospitals' cohorts."""
    return _cohorts(study.manifest())


def turned(cohort: Cohort) -> Cohort:
    """Return a cohort with every outcome turned round."""
    return dataclasses.replace(cohort, columns={**cohort.columns, "disease": 1 - cohort.columns["disease"]})


class Turncoat(Session):
    """A hospital that sends the opposite of its update, as long as the clip allows."""

    def _compute(self, asked: Asked) -> tuple[Contribution, Layout]:
        answer, layout = super()._compute(asked)
        if not asked.query.kind.startswith("train."):
            return answer, layout
        field, n, clip = layout.fields[2], answer.rows, asked.query.clip
        update = -np.ldexp(answer.arrays["update"].astype(float), -layout.bits(field)) / n
        update *= clip / np.linalg.norm(update)
        forged = on_grid(n * update, field.row_bound, n, layout.rows_bound)
        return Contribution(n, {**answer.arrays, "update": forged}), layout


@dataclass
class Ran:
    """A study that was run over real sessions: what it found, and each hospital's own record of it."""

    study: Study
    transcript: Transcript
    findings: Findings
    stores: Mapping[str, NodeStore]

    @property
    def binding(self) -> bytes:
        """H(manifest, roster)."""
        return self.transcript.epochs[0].epoch.binding

    def due(self) -> list[tuple[Due, Opened]]:
        """Return every query that was asked, with what was opened."""
        replay, found = Replay(self.study, flower, self.binding), []
        for record in self.transcript.course:
            if isinstance(record, EpochRecord):
                replay.begin(record.epoch)
                continue
            found += list(zip(replay.due, record.sums, strict=True))
            replay.take(record, replay.open(record))
        return found

    def again(self, name: str) -> Session:
        """Open a hospital's session once more, as after its node was started again."""
        identity, _ = simulated_keys(self.study, name)
        cohort, policy = cohorts(self.study)[name], Policy.of(self.study)
        return Session(name, identity, policy, self.stores[name], self.study, cohort, everyone=True)

    @property
    def fit(self) -> FedAvgFit:
        """The fit."""
        found = self.findings.analyses["fedavg"].result
        assert isinstance(found, FedAvgFit)
        return found

    @property
    def auc(self) -> float:
        """The model's AUC on the true held-out rows of all hospitals, whatever the liar says of its own."""
        output, has = [], []
        for cohort in cohorts(self.study).values():
            for block in cohort.blocks(cohort.usable("test", ("disease",))):
                output.append(self.fit.model.output(block))
                has.append(block.codes("disease") == 1)
        values, cell = np.unique(np.concatenate(output), return_inverse=True)
        outcome = np.concatenate(has)
        without, with_outcome = (np.bincount(cell[one], minlength=len(values)) for one in (~outcome, outcome))
        return area_under_curve(without, with_outcome)


def run(
    study: Study,
    changed: Mapping[str, Cohort] | None = None,
    liars: Mapping[str, type[Session]] | None = None,
    transcript: Transcript | None = None,
) -> Ran:
    """Conduct a study over five hospitals' sessions; some with other rows, or of another kind."""
    own = {**cohorts(study), **(changed or {})}
    stores, nodes = {}, []
    for name, cohort in own.items():
        store, (identity, masking) = NodeStore(), simulated_keys(study, name)
        approve_study(store, identity, study, masking)
        node = Node(store)
        kind = (liars or {}).get(name, Session)
        node.open(kind(name, identity, Policy.of(study), store, study, cohort, everyone=True, new=True))
        stores[name] = store
        nodes.append(node)
    grid = LocalGrid({i + 1: (lambda node=node: client_app(node)) for i, node in enumerate(nodes)}, 2)
    delivered: list[Findings] = []
    course = transcript or Transcript()
    try:
        app = server_app(study, course, delivered.append, lambda progress: None)
        app(grid, Context(1, 0, {}, RecordDict(), {}))
    finally:
        grid.close()
    return Ran(study, course, delivered[0], stores)


@lru_cache
def honest(strategy: str, **keys: Any) -> Ran:
    """Return a study in which nobody lies."""
    return run(heart(strategy, **keys))


@lru_cache
def against_a_turncoat(strategy: str) -> Ran:
    """Return a study in which one hospital turns its updates round."""
    return run(heart(strategy), liars={LIAR: Turncoat})


@lru_cache
def against_turned_labels(strategy: str) -> Ran:
    """Return a study in which one hospital's outcomes are turned round."""
    study = heart(strategy)
    return run(study, {LIAR: turned(cohorts(study)[LIAR])})


# --- what it is for ---


@pytest.mark.parametrize("strategy", ROBUST)
def test_a_robust_strategy_stands_one_liar_of_five(strategy: str) -> None:
    found = [honest(strategy), against_turned_labels(strategy), against_a_turncoat(strategy)]
    aucs = [one.auc for one in found]
    print(f"\n{strategy:>14}: " + "  ".join(f"{auc:.3f}" for auc in aucs))
    assert honest("FedAvg").auc - aucs[0] < 0.03
    assert max(abs(auc - aucs[0]) for auc in aucs) < 0.03


def test_the_mean_does_not() -> None:
    aucs = [one("FedAvg").auc for one in (honest, against_turned_labels, against_a_turncoat)]
    print(f"\n{'FedAvg':>14}: " + "  ".join(f"{auc:.3f}" for auc in aucs))
    assert aucs[0] - aucs[1] > 0.03
    assert aucs[2] < 0.5


def test_under_the_seal_a_short_clip_is_what_holds_a_liar() -> None:
    study = heart("FedAvg", clip=0.3)
    before, after = run(study), run(study, liars={LIAR: Turncoat})
    print(f"\n  FedAvg, clip .3: {before.auc:.3f}  {after.auc:.3f}")
    assert before.auc - after.auc < 0.03


def test_without_a_liar_median_and_trimmed_mean_come_near_the_mean() -> None:
    mean = honest("FedAvg").fit.model.beta
    for strategy in ("FedMedian", "FedTrimmedAvg"):
        assert np.abs(honest(strategy).fit.model.beta - mean).max() < 0.25 * np.abs(mean).max()


# --- what is opened, and what stays sealed ---


def test_updates_alone_travel_bare_and_signed_all_else_is_masked() -> None:
    found = honest("FedMedian")
    epoch = found.transcript.epochs[0].epoch.digest
    kinds = set()
    for due, opened in found.due():
        layout = layout_of(found.study, due.asked)
        kinds.add((due.kind, due.sealed))
        for i, name in enumerate(NAMES):
            kept = found.stores[name].answer(found.binding, epoch, due.analysis, due.index)
            assert kept is not None
            own = vector_of(due.asked.query.answer(cohorts(found.study)[name], layout), layout)
            bare = kept[1][: 8 * layout.size] == own.astype("<i8").tobytes()
            if due.kind == "train.share":
                assert bare
                assert len(kept[1]) == 8 * layout.size + 64
                assert opened.proof[64 * i : 64 * i + 64] == kept[1][-64:]
            else:
                assert not bare, due.kind
                assert len(kept[1]) == 8 * layout.size + 16
    assert {kind for kind, sealed in kinds if not sealed} == {"train.share"}
    assert {"flow", "fedavg.spread", "evaluate.scores"} <= {kind for kind, sealed in kinds if sealed}


def test_the_mean_of_a_study_that_is_sealed_is_all_that_is_opened() -> None:
    assert all(due.sealed for due, _ in honest("FedAvg").due())


def test_the_results_say_how_updates_were_opened() -> None:
    shown = {name: published(honest(name).study, honest(name).findings) for name in ("FedAvg", "Krum")}
    sealed, bare = (shown[name]["analyses"]["fedavg"] for name in ("FedAvg", "Krum"))
    assert (sealed["strategy"], sealed["updates_opened"]) == ("FedAvg", "as_a_sum")
    assert (bare["strategy"], bare["updates_opened"]) == ("Krum", "one_by_one")
    assert json.loads(honest("Krum").study.manifest())["privacy"]["seal"] == "none"


def test_a_hospital_whose_policy_keeps_the_seal_refuses_the_study() -> None:
    study = heart("FedMedian")
    store, (identity, masking) = NodeStore(), simulated_keys(study, "h1")
    approve_study(store, identity, study, masking)
    with pytest.raises(Refused, match=r"`privacy\.seal` is `none`") as refused:
        Session("h1", identity, Policy(), store, study, cohorts(study)["h1"], everyone=True)
    assert refused.value.code == "policy"


# --- a coordinator that changes an update ---


def _other_number(one: Opened) -> Opened:
    vector = one.vector.copy()
    vector[-1] += 1
    return replace(one, vector=vector)


def _other_signature(one: Opened) -> Opened:
    return replace(one, proof=one.proof[:-1] + bytes([one.proof[-1] ^ 1]))


def _no_signature(one: Opened) -> Opened:
    return replace(one, proof=one.proof[:-64])


def _two_swapped(one: Opened) -> Opened:
    vector, size = one.vector.copy(), len(one.vector) // len(NAMES)
    vector[: 2 * size] = np.concatenate([vector[size : 2 * size], vector[:size]])
    return replace(one, vector=vector, proof=one.proof[64:128] + one.proof[:64] + one.proof[128:])


CHANGES = (_other_number, _other_signature, _no_signature, _two_swapped)


@pytest.mark.parametrize("change", CHANGES)
def test_a_member_takes_no_update_that_its_hospital_did_not_sign(
    change: Callable[[Opened], Opened],
) -> None:
    found = honest("FedMedian", rounds=2)
    course, false = found.transcript.course, []
    for record in course:
        if isinstance(record, StepRecord):
            kinds = [due.kind for due, opened in found.due() if opened in record.sums]
            if "train.share" in kinds:
                record = replace(record, sums=tuple(map(change, record.sums)))
        false.append(record)
    epoch = found.transcript.epochs[0].epoch

    def told(records: list[Any]) -> Any:
        return found.again("h1").step(Step(found.binding, epoch.digest, 0, tuple(records), (b"",), ()))

    assert told(course) == Behind(len(course))
    with pytest.raises(ProtocolError, match="signature"):
        told(false)


def test_an_update_of_another_round_is_not_taken_for_this_ones() -> None:
    found = honest("FedMedian", rounds=2)
    shares = [opened for due, opened in found.due() if due.kind == "train.share"]
    course = [
        replace(
            record,
            sums=tuple(replace(shares[0], index=one.index, question=one.question) for one in record.sums),
        )
        if isinstance(record, StepRecord) and record.sums[0].index == shares[1].index
        else record
        for record in found.transcript.course
    ]
    epoch = found.transcript.epochs[0].epoch
    with pytest.raises(ProtocolError, match="signature"):
        found.again("h1").step(Step(found.binding, epoch.digest, 0, tuple(course), (b"",), ()))


def test_hospitals_stop_a_study_whose_coordinator_changes_an_update(monkeypatch: MonkeyPatch) -> None:
    class Forger(Coordination):
        def opened(
            self, due: Any, epoch: Epoch, answers: Mapping[str, Answers], course_length: int
        ) -> StepRecord:
            record = super().opened(due, epoch, answers, course_length)
            false = (
                one if ask.sealed else _other_number(one) for ask, one in zip(due, record.sums, strict=True)
            )
            return replace(record, sums=tuple(false))

    monkeypatch.setattr(federation, "Coordination", Forger)
    with pytest.raises(StudyError, match="refuses"):
        run(heart("FedMedian", rounds=2))


# --- what a lying hospital may send ---


def shares_of(found: Ran) -> tuple[ShareQuery, Layout, Opened]:
    """Return the first query for updates, and what was opened."""
    due, opened = next(both for both in found.due() if both[0].kind == "train.share")
    assert isinstance(due.asked.query, ShareQuery)
    return due.asked.query, layout_of(found.study, due.asked), opened


def test_an_update_longer_than_the_clip_is_cut_by_whoever_opens_it() -> None:
    query, _, _ = shares_of(honest("FedMedian"))
    size = sum(array.size for array in query.parameters)
    long = Sum(1, ("h3",), {"n": np.array(2), "clipped": np.array(0), "update": np.full(size, 1e6)}, {})
    short = replace(long, arrays={**long.arrays, "update": np.full(size, 1e-3)})
    first, second = query.read(Shares((long, short)))
    assert math.isclose(float(np.linalg.norm(first.update)), query.clip)
    assert np.array_equal(second.update, np.full(size, 5e-4))
    sealed = UpdateQuery(**{field.name: getattr(query, field.name) for field in dataclasses.fields(query)})
    (mean,) = sealed.read(long)
    assert np.array_equal(mean.update, first.update)


@pytest.mark.parametrize("n", [0, -5])
def test_an_update_of_no_rows_names_its_hospital(n: int) -> None:
    query, _, _ = shares_of(honest("FedMedian"))
    total = Sum(1, ("h3",), {"n": np.array(n), "clipped": np.array(0), "update": np.zeros(1)}, {})
    with pytest.raises(ProtocolError, match="`h3`: an update of no rows"):
        query.read(Shares((total,)))


def test_an_update_query_survives_the_wire() -> None:
    query, _, _ = shares_of(honest("FedMedian"))
    sent = encode(Asked("fedavg", 1024, query))
    assert encode(QUERY_RECORDS.decode(sent, Asked)) == sent
    assert b"ShareQuery" in sent


# --- the same bits everywhere ---


def figures(found: Ran) -> str:
    shown = published(found.study, found.findings)["analyses"]["fedavg"]
    return json.dumps({**shown, "seconds": None}, sort_keys=True)


@pytest.mark.parametrize("strategy", ROBUST)
def test_the_transcript_alone_gives_the_results_again(strategy: str) -> None:
    found = honest(strategy)
    replayed = conduct(Replay(found.study, flower, found.binding), found.transcript, None)
    assert figures(replace(found, findings=replayed)) == figures(found)


@pytest.mark.parametrize("strategy", ["FedTrimmedAvg", "Krum"])
def test_a_study_cut_after_any_step_resumes_to_the_same_bits(strategy: str) -> None:
    found = honest(strategy, rounds=2)
    for steps in range(len(found.transcript.steps) + 1):
        assert figures(run(found.study, transcript=cut(found.transcript, steps))) == figures(found)


def some_replies(hospitals: int) -> list[Reply]:
    rng = np.random.default_rng(3)
    return [
        Reply((rng.normal(size=(4, 3)), 1e3 * rng.normal(size=3)), int(rng.integers(20, 200)))
        for _ in range(hospitals)
    ]


@pytest.mark.parametrize("strategy", ROBUST)
def test_the_order_in_which_hospitals_stand_changes_no_bit(strategy: str) -> None:
    replies, zeros = some_replies(12), [np.zeros((4, 3)), np.zeros(3)]
    orders = [np.random.default_rng(i).permutation(12) for i in range(30)]
    found = set()
    for order in orders:
        step = flower(strategy, SETTINGS[strategy])
        found.add(b"".join(array.tobytes() for array in step(1, zeros, [replies[i] for i in order])))
    assert len(found) == 1


def steps_digest() -> str:
    """Return a digest of some rounds of every strategy."""
    digest = hashlib.sha256()
    for name in STRATEGIES:
        step, current = flower(name, SETTINGS.get(name, {})), [np.zeros((4, 3)), np.zeros(3)]
        for number in range(1, 200):
            replies = some_replies(21 if name in ROBUST else 1)
            current = step(number, current, replies)
            digest.update(b"".join(array.tobytes() for array in current))
    return digest.hexdigest()


def test_a_step_has_the_same_bits_whatever_kernels_numpy_chooses() -> None:
    if not dispatched():
        pytest.skip("numpy has one set of kernels for this processor")
    ask = "from tests.analyses.test_robust import steps_digest; print(steps_digest())"
    command = [sys.executable, "-W", "ignore", "-c", ask]
    own = {**os.environ, "NPY_DISABLE_CPU_FEATURES": " ".join(dispatched())}
    done = subprocess.run(command, cwd=ROOT, env=own, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == steps_digest()


def test_one_table_alone_has_nobody_to_be_robust_against() -> None:
    models = []
    for strategy in ("FedAvg", *ROBUST):
        study = heart(strategy, rounds=3)
        cohort, (spec,) = cohorts(study)["h1"], study.analyses
        usable = Usable(cohort.count("train", spec.needed()), 0, 0)
        plan = Plan("x", study.dictionary, 1, 11, usable, flower, ten_rows_a_term=False)
        program = KINDS["fedavg"].program
        assert program is not None
        models.append(alone(program(plan, spec), cohort).model)
    assert len({model.sha256 for model in models}) == 1


# --- a study that would promise what it does not hold ---


@pytest.mark.parametrize(
    ("strategy", "keys", "message"),
    [
        ("FedTrimmedAvg", {"beta": 0.1}, "`beta: 0.1` of 5 hospitals cuts off none"),
        ("Krum", {"num_malicious_nodes": 2}, "`num_malicious_nodes: 2` needs 7 hospitals, and here are 5"),
        ("MultiKrum", {"num_nodes_to_select": 5}, "`num_nodes_to_select` leaves out too few of 5"),
    ],
)
def test_too_few_hospitals_for_a_strategy_are_told_before_an_update_leaves(
    strategy: str, keys: dict[str, Any], message: str
) -> None:
    transcript = Transcript()
    with pytest.raises(StudyError, match=f"{strategy} would not stand a lying hospital: {message}"):
        run(heart(strategy, **keys), transcript=transcript)
    assert len(transcript.steps) == 3  # flow, moments, spread


def test_krum_never_compares_a_hospital_with_a_single_other() -> None:
    for lying in range(20):
        (spec,) = heart("Krum", num_malicious_nodes=lying).analyses
        enough = next(n for n in range(2, 60) if spec.weakness(n) is None)
        assert enough - lying - 2 >= 2
        assert enough >= 2 * lying + 3


BARE = {"privacy": {"seal": "none"}}
MEDIAN = {"kind": "fedavg", "strategy": "FedMedian"}


@pytest.mark.parametrize(
    ("analyses", "changes", "message"),
    [
        (
            [MEDIAN],
            {},
            r"analyses\[0\].strategy: `FedMedian` compares single hospitals' updates; the study has",
        ),
        ([{"kind": "summary"}, MEDIAN], {}, r"analyses\[1\].strategy"),
        ([{"kind": "fedavg"}], BARE, "privacy.seal: no analysis here needs `none`"),
        ([{"kind": "summary"}], BARE, "privacy.seal: no analysis here needs"),
        ([MEDIAN], {"privacy": {"seal": "none", "plan": "trusted"}}, "privacy.plan: with `seal: none` it is"),
        ([MEDIAN], {"privacy": {"seal": "nobody"}}, "privacy.seal"),
        ([{**MEDIAN, "beta": 0.2}], BARE, "beta: `strategy: FedMedian` has no such setting"),
        ([{**MEDIAN, "strategy": "FedTrimmedAvg", "beta": 0.5}], BARE, "beta"),
        ([{**MEDIAN, "strategy": "FedTrimmedAvg", "beta": 0}], BARE, "beta"),
        (
            [{**MEDIAN, "strategy": "Krum", "num_nodes_to_select": 2}],
            BARE,
            "num_nodes_to_select: `strategy: Krum`",
        ),
        ([{**MEDIAN, "strategy": "Krum", "num_malicious_nodes": -1}], BARE, "num_malicious_nodes"),
        ([{**MEDIAN, "strategy": "Krum", "num_malicious_nodes": 1.5}], BARE, "num_malicious_nodes"),
    ],
)
def test_seal_and_strategy_belong_together(
    analyses: list[dict[str, Any]], changes: dict[str, Any], message: str
) -> None:
    with pytest.raises(StudyError, match=message):
        parse_study(study_data(analyses, **changes))


def test_a_study_that_says_both_stands_and_writes_down_flowers_defaults() -> None:
    plain = {"kind": "logistic"}
    krum = {"kind": "fedavg", "strategy": "MultiKrum"}
    study = parse_study(study_data([plain, krum], **BARE))
    spec = study.analyses[1]
    assert (spec.num_malicious_nodes, spec.num_nodes_to_select, spec.beta) == (0, 1, None)
    assert parse_study(json.loads(study.manifest())).manifest() == study.manifest()
