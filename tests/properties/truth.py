"""What hospitals' rows add up to, computed from the rows themselves: no masks, no protocol.

Shared by the tests of what follows a program from its sums (``test_replay``) and of the whole protocol
(``machine``).
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from fractions import Fraction
from itertools import combinations
from typing import TypeVar

import numpy as np

from tests.support import layout_of, vector_of
from wardround_common.analyses.flow import LABEL
from wardround_common.cohort import Cohort
from wardround_common.plan import Findings, study_program
from wardround_common.program import Asked
from wardround_common.query import open_sum
from wardround_common.replay import Due, Replay
from wardround_common.sealing.epoch import Epoch, Membership, audits_digest
from wardround_common.sealing.record import EpochRecord, Opened, StepRecord
from wardround_common.strategies import installed
from wardround_common.study import Study
from wardround_common.typing import Ints

Who = TypeVar("Who", str, bytes)
BINDING = bytes([5] * 32)


def true_sum(study: Study, asked: Asked, cohorts: Mapping[str, Cohort], hospitals: Sequence[str]) -> Ints:
    """Return the sum over some hospitals of what each would have masked."""
    layout = layout_of(study, asked)
    parts = [vector_of(asked.query.answer(cohorts[name], layout), layout) for name in hospitals]
    total: Ints = np.sum(parts, axis=0, dtype=np.int64)
    return total


def direct(
    study: Study, cohorts: Mapping[str, Cohort], abstaining: Mapping[str, Sequence[str]] | None = None
) -> tuple[Findings, list[tuple[Asked, ...]]]:
    """Run a study's program over some hospitals; return what it found, and what it asked in each step."""
    program, sums = study_program(study, installed), None
    steps: list[tuple[Asked, ...]] = []
    while True:
        try:
            asked = next(program) if sums is None else program.send(sums)
        except StopIteration as stop:
            return stop.value, steps
        steps.append(asked)
        opened = []
        for one in asked:
            names = tuple(name for name in cohorts if name not in (abstaining or {}).get(one.analysis, ()))
            opened.append(open_sum(layout_of(study, one), 1, names, true_sum(study, one, cohorts, names)))
        sums = tuple(opened)


def labels_of(study: Study) -> tuple[str, ...]:
    """Return the analyses that an epoch names, in its order."""
    return tuple(sorted([LABEL, *(spec.label for spec in study.analyses)]))


def rank(rows: list[list[int]]) -> int:
    """Return a matrix's rank by elimination over the rationals."""
    left = [[Fraction(value) for value in row] for row in rows]
    done = 0
    for column in range(len(rows[0]) if rows else 0):
        pivot = next((i for i in range(done, len(left)) if left[i][column]), None)
        if pivot is None:
            continue
        left[done], left[pivot] = left[pivot], left[done]
        for i in range(done + 1, len(left)):
            factor = left[i][column] / left[done][column]
            left[i] = [a - factor * b for a, b in zip(left[i], left[done], strict=True)]
        done += 1
    return done


def told_of(sets: Sequence[Collection[Who]], floor: int) -> set[frozenset[Who]]:
    """Return the smallest sets of fewer than ``floor`` hospitals of which sums over all these sets tell.

    A combination of the sums that is of some hospitals only is one of the rows that is zero in all others'
    columns: there is one if leaving these columns out lowers the rank.
    """
    known = sorted(set().union(*sets))
    whole = rank([[int(who in one) for who in known] for one in sets])
    found: set[frozenset[Who]] = set()
    for size in range(1, floor):
        for some in map(frozenset, combinations(known, size)):
            others = [[int(who in one) for who in known if who not in some] for one in sets]
            if rank(others) < whole and not any(one < some for one in found):
                found.add(some)
    return found


class Course:
    """A replay that is told the true sums, and what was recorded on its way."""

    def __init__(self, study: Study, cohorts: Mapping[str, Cohort]) -> None:
        self.study, self.cohorts = study, cohorts
        self.replay = Replay(study, installed, BINDING)
        self.records: list[EpochRecord | StepRecord] = []
        self.asked: list[tuple[Due, ...]] = []

    def begin(
        self, hospitals: Sequence[str], abstaining: Mapping[str, tuple[str, ...]] | None = None
    ) -> Course:
        """Go on under a new epoch; nobody signs it."""
        epochs = [one.epoch for one in self.records if isinstance(one, EpochRecord)]
        epoch = Epoch(
            BINDING,
            len(epochs) + 1,
            tuple(hospitals),
            tuple(Membership(label, (abstaining or {}).get(label, ())) for label in labels_of(self.study)),
            epochs[-1].digest if epochs else b"",
            self.replay.steps,
            self.replay.head,
            audits_digest(()),
        )
        self.replay.begin(epoch)
        self.records.append(EpochRecord(epoch, None))  # type: ignore[arg-type]  # a replay checks no signature
        return self

    def step(self) -> StepRecord:
        """Return the true sums of what is due."""
        epoch = self.replay.epoch
        assert epoch is not None
        return StepRecord(
            epoch.number,
            tuple(
                Opened(
                    *(due.analysis, due.index, due.digest),
                    true_sum(self.study, due.asked, self.cohorts, epoch.of(due.analysis)),
                    bytes(16),
                )
                for due in self.replay.due
            ),
        )

    def advance(self, times: int = 1) -> Course:
        """Take so many steps."""
        for _ in range(times):
            record = self.step()
            self.asked.append(self.replay.due)
            self.replay.take(record, self.replay.open(record))
            self.records.append(record)
        return self

    def finish(self) -> Findings:
        """Take all steps that are left."""
        while self.replay.findings is None:
            self.advance()
        return self.replay.findings
