"""The contract that every analysis keeps. A new analysis inherits these tests and adds its own oracle.

Its class names its ``studies``, one for each way to run it; every test here that takes a ``study`` is run
over all of them.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from functools import lru_cache, reduce
from operator import add
from typing import ClassVar

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.support import (
    ROWS,
    Driven,
    cohort_of,
    drive,
    exact,
    federate,
    layout_of,
    patients,
    spread,
    tables_of,
)
from wardround_common.cohort import Cohort, concatenate
from wardround_common.errors import ReplayDiverged
from wardround_common.plan import QUERY_RECORDS, Findings
from wardround_common.program import Asked
from wardround_common.query import Contribution
from wardround_common.replay import Replay
from wardround_common.sealing.record import Opened, StepRecord
from wardround_common.study import Study
from wardround_common.wire import encode
from wardround_server.conductor import Observer, Progress, conduct
from wardround_server.simulation import simulate
from wardround_server.strategies import flower
from wardround_server.transcript import Transcript


class AnalysisContract:
    """Inherited by one test class per analysis."""

    studies: ClassVar[Mapping[str, Study]]

    @given(seed=st.integers(0, 2**32 - 1), cuts=st.lists(st.integers(0, ROWS), max_size=5))
    def test_answers_add_up_over_any_split_and_order_of_rows(
        self, study: Study, seed: int, cuts: list[int]
    ) -> None:
        whole = rows_of(study)
        shuffled = np.random.default_rng(seed).permutation(whole.rows)
        pieces = [whole.take(part) for part in np.split(shuffled, np.sort(cuts))]
        together = concatenate(pieces)
        for asked, answer in zip(driven(study).asked, answers(study), strict=True):
            parts = [answer_of(study, asked, piece) for piece in pieces]
            assert reduce(add, parts) == answer, asked.query.kind
            assert answer_of(study, asked, together) == answer, asked.query.kind

    def test_answers_add_up_row_by_row(self, study: Study) -> None:
        whole = rows_of(study, 60)
        rows = [whole.take(np.array([row])) for row in range(whole.rows)]
        nobody = whole.take(np.zeros(0, np.int64))
        for asked in driven(study).asked:
            parts = [answer_of(study, asked, row) for row in (nobody, *rows, nobody)]
            assert reduce(add, parts) == answer_of(study, asked, whole), asked.query.kind

    def test_answers_add_up_over_rows_that_fill_many_blocks(self, study: Study) -> None:
        whole = rows_of(study, 40_000)
        pieces = [whole.take(part) for part in np.split(np.arange(whole.rows), [1, 16_385, 20_000])]
        for asked in {one.query.kind: one for one in driven(study).asked}.values():
            roomy = dataclasses.replace(asked, rows_bound=1 << 20)
            parts = [answer_of(study, roomy, piece) for piece in pieces]
            assert reduce(add, parts) == answer_of(study, roomy, whole), asked.query.kind

    def test_answers_of_tables_that_were_read_apart_add_up(self, study: Study) -> None:
        for asked in driven(study).asked:
            parts = [answer_of(study, asked, cohort) for cohort in cohorts(study, 4).values()]
            assert reduce(add, parts) == answer_of(study, asked, pooled(study)), asked.query.kind

    def test_every_query_survives_the_wire(self, study: Study) -> None:
        for asked, answer in zip(driven(study).asked, answers(study), strict=True):
            sent = encode(asked)
            received = QUERY_RECORDS.decode(sent, Asked)
            assert encode(received) == sent
            assert answer_of(study, received, rows_of(study)) == answer

    @pytest.mark.parametrize("hospitals", [3, 4, 20])
    def test_the_split_over_hospitals_changes_no_bit_of_the_results(
        self, study: Study, hospitals: int
    ) -> None:
        assert min(map(len, spread(hospitals).values())) == 11
        found = federate(study, cohorts(study, hospitals))
        assert exact(study, found) == exact(study, driven(study).findings)

    def test_tables_of_20_hospitals_give_the_bits_of_one_table(self) -> None:
        study = next(iter(self.studies.values()))
        found = simulate(study, tables_of(20))
        assert len(found.results["hospitals"]) == 20
        assert exact(study, found.findings) == exact(study, driven(study).findings)

    def test_the_transcript_alone_gives_the_results_again(self, study: Study) -> None:
        transcript, expected = recorded(study)
        found = replayed(study, transcript)
        assert exact(study, found) == expected

    def test_a_study_cut_after_any_step_resumes_to_the_same_bits(self, study: Study) -> None:
        transcript, expected = recorded(study)
        hospitals = cohorts(study, 4)
        for steps in range(len(transcript.steps) + 1):
            again, seen = cut(transcript, steps), []
            found = federate(study, hospitals, again, seen.append)
            assert exact(study, found) == expected
            assert [one.replayed for one in seen] == [i < steps for i in range(len(transcript.steps))]

    def test_a_transcript_whose_sums_were_changed_diverges(self, study: Study) -> None:
        transcript, _ = recorded(study)
        steps = transcript.steps
        if len(steps) == 1:
            pytest.skip("no query depends on a sum")
        first = steps[0].sums[0]
        changed = cut(transcript, 0)
        opened = Opened(first.analysis, first.index, first.question, first.vector * 5, first.proof)
        for record in (StepRecord(steps[0].epoch, (opened,)), *steps[1:]):
            changed.append(record)
        with pytest.raises(ReplayDiverged, match="part at step 1"):
            replayed(study, changed)

    def test_a_transcript_that_goes_on_after_the_end_diverges(self, study: Study) -> None:
        transcript, _ = recorded(study)
        longer = cut(transcript, len(transcript.steps))
        longer.append(transcript.steps[-1])
        with pytest.raises(ReplayDiverged, match="the program has ended"):
            replayed(study, longer)

    def test_a_transcript_that_ends_early_is_no_result(self, study: Study) -> None:
        transcript, _ = recorded(study)
        seen: list[Progress] = []
        short = cut(transcript, len(transcript.steps) - 1)
        with pytest.raises(ReplayDiverged, match="ends before the program does"):
            replayed(study, short, seen.append)
        assert len(seen) == len(transcript.steps) - 1


def pooled(study: Study) -> Cohort:
    """Return all patients as one cohort of the study."""
    return _pooled(study.manifest())


@lru_cache
def _pooled(manifest: bytes) -> Cohort:
    return cohort_of(_study(manifest), patients())


def rows_of(study: Study, rows: int | None = None) -> Cohort:
    """Return the first rows of the pooled cohort, from the start again where it ends; None: each once."""
    whole = pooled(study)
    return whole.take(np.arange(whole.rows if rows is None else rows) % whole.rows)


def cohorts(study: Study, hospitals: int) -> dict[str, Cohort]:
    """Return the cohorts of unevenly spread hospitals, read from a table each."""
    return _cohorts(study.manifest(), hospitals)


@lru_cache
def _cohorts(manifest: bytes, hospitals: int) -> dict[str, Cohort]:
    study = _study(manifest)
    return {name: cohort_of(study, table, name) for name, table in tables_of(hospitals).items()}


def driven(study: Study) -> Driven:
    """Return the study's findings over the pooled cohort, and the queries that it asked."""
    return _driven(study.manifest())


@lru_cache
def _driven(manifest: bytes) -> Driven:
    return drive(_study(manifest), _pooled(manifest))


def answers(study: Study) -> tuple[Contribution, ...]:
    """Return the answers of the pooled cohort's rows to all queries of the study."""
    return _answers(study.manifest())


@lru_cache
def _answers(manifest: bytes) -> tuple[Contribution, ...]:
    study = _study(manifest)
    return tuple(answer_of(study, asked, rows_of(study)) for asked in _driven(manifest).asked)


def answer_of(study: Study, asked: Asked, cohort: Cohort) -> Contribution:
    """Return one cohort's answer."""
    return asked.query.answer(cohort, layout_of(study, asked))


def recorded(study: Study) -> tuple[Transcript, str]:
    """Return the transcript of the study over four hospitals, and the exact results."""
    return _recorded(study.manifest())


@lru_cache
def _recorded(manifest: bytes) -> tuple[Transcript, str]:
    study, transcript = _study(manifest), Transcript()
    found = federate(study, cohorts(study, 4), transcript)
    return transcript, exact(study, found)


def replayed(study: Study, transcript: Transcript, observe: Observer = lambda progress: None) -> Findings:
    """Return what a transcript alone gives."""
    opening = transcript.opening
    assert opening is not None
    return conduct(Replay(study, flower, opening.roster.digest), transcript, None, observe)


def cut(transcript: Transcript, steps: int) -> Transcript:
    """Return a copy of a transcript with its first steps only."""
    left = set(map(id, transcript.steps[steps:]))
    copy = Transcript()
    for record in transcript.records:
        if id(record) not in left:
            copy.append(record)
    return copy


def _study(manifest: bytes) -> Study:
    return Study.model_validate_json(manifest)
