"""A study's program, driven by sums that are already there: what it asks next follows from them alone.

The coordinator drives it from its transcript and goes on from there; a hospital drives it from the sums that
it verified, and answers what it derives itself. A change of hospitals begins the analyses that are not
finished anew, or from where they are, as each says (``on_change``); finished ones are kept.
"""

from __future__ import annotations

import hashlib
from collections import Counter
from dataclasses import dataclass
from functools import cached_property

from wardround_common.analyses.flow import Flow
from wardround_common.analysis import Strategies
from wardround_common.errors import FitError, ProtocolError, ReplayDiverged
from wardround_common.plan import Course, Findings, study_program
from wardround_common.program import Asked, StudyProgram
from wardround_common.query import Frame, Shares, Sum, is_sealed, open_sum
from wardround_common.sealing.epoch import Epoch
from wardround_common.sealing.record import Opened, StepRecord, first_head, next_head
from wardround_common.study import Study
from wardround_common.typing import Ints
from wardround_common.wire import encode


@dataclass(frozen=True)
class Due:
    """A query that the program asks next; ``index`` numbers it within its analysis."""

    analysis: str
    index: int
    asked: Asked

    @cached_property
    def query(self) -> bytes:
        """The query's bytes."""
        return encode(self.asked)

    @cached_property
    def digest(self) -> bytes:
        """SHA-256 of the query's bytes."""
        return hashlib.sha256(self.query).digest()

    @property
    def kind(self) -> str:
        """The query's kind."""
        return self.asked.query.kind

    @property
    def sealed(self) -> bool:
        """Whether only the sum of its answers may be seen."""
        return is_sealed(self.asked.query)


class Replay:
    """A study's program and how far it is. ``due`` is empty once it has ended."""

    def __init__(self, study: Study, strategies: Strategies, binding: bytes) -> None:
        self._study, self._strategies = study, strategies
        self._course = Course()
        self._numbers: Counter[str] = Counter()
        self._epoch: Epoch | None = None
        self._program: StudyProgram[Findings] | None = None
        self.steps, self.head = 0, first_head(binding)
        self.due: tuple[Due, ...] = ()
        self.findings: Findings | None = None

    @property
    def epoch(self) -> Epoch | None:
        """The epoch that computes now."""
        return self._epoch

    @property
    def flow(self) -> Flow | None:
        """The counts of rows over the hospitals that compute now, once they are known."""
        return self._course.flow

    def begin(self, epoch: Epoch) -> None:
        """Go on under an epoch; where its hospitals are others, as the study's analyses say.

        StudyError if one of them can't go on with others.
        """
        before, self._epoch = self._epoch, epoch
        if before is None or (before.together() != epoch.together() and self.findings is None):
            if before is not None:
                self._course.change(self._study)
            self._program = study_program(self._study, self._strategies, self._course)
            self._advance(None)

    def open(self, record: StepRecord) -> tuple[Sum | Shares, ...]:
        """Return the sums of what is due. ReplayDiverged if the record is of something else."""
        if self._epoch is None or record.epoch != self._epoch.number:
            raise ReplayDiverged(self.steps, "a step under another epoch")
        if not self.due:
            raise ReplayDiverged(self.steps, "the program has ended")
        if len(self.due) != len(record.sums):
            raise ReplayDiverged(self.steps, "another number of queries")
        epoch = self._epoch
        return tuple(self._open(epoch, *both) for both in zip(self.due, record.sums, strict=True))

    def _open(self, epoch: Epoch, due: Due, opened: Opened) -> Sum | Shares:
        if (due.analysis, due.index) != (opened.analysis, opened.index):
            raise ReplayDiverged(self.steps, f"`{due.analysis}` asks where `{opened.analysis}` was recorded")
        if due.digest != opened.question:
            raise ReplayDiverged(self.steps, f"`{due.analysis}` asks another query {due.index}")
        return opened_sum(self._study, epoch, due, opened.vector)

    def take(self, record: StepRecord, sums: tuple[Sum | Shares, ...]) -> None:
        """Go on from the sums of what was due, as ``open`` gave them. Raises what the program raises."""
        assert self._epoch is not None  # noqa: S101 (open has raised)
        self.head = next_head(self.head, self._epoch.digest, record)
        self.steps += 1
        self._advance(sums)

    def _advance(self, sums: tuple[Sum | Shares, ...] | None) -> None:
        program, self.due = self._program, ()
        if program is None:
            return
        try:
            asked = next(program) if sums is None else program.send(sums)
        except StopIteration as stop:
            self.findings = stop.value
            return
        except (ArithmeticError, ValueError, LookupError) as error:  # no honest sums, within whatever bounds
            raise FitError(
                f"the sums that were opened make no sense, so a hospital's answers are false "
                f"({type(error).__name__} at step {self.steps})"
            ) from None
        due = []
        for one in asked:
            due.append(Due(one.analysis, self._numbers[one.analysis], one))
            self._numbers[one.analysis] += 1
            if not one.query.kind.startswith("evaluate."):
                self._course.latest[one.analysis] = one.query
        self.due = tuple(due)


def opened_sum(study: Study, epoch: Epoch, due: Due, vector: Ints) -> Sum | Shares:
    """Return what an opened vector means. ProtocolError if it has another length than its query asks."""
    layout = due.asked.query.layout(Frame(study.dictionary, due.asked.rows_bound))
    hospitals = epoch.of(due.analysis)
    shape = (layout.size,) if due.sealed else (len(hospitals) * layout.size,)
    if vector.shape != shape:
        raise ProtocolError(f"`{due.analysis}`: a sum has another length than its query asks")
    if due.sealed:
        return open_sum(layout, epoch.number, hospitals, vector)
    each = vector.reshape(len(hospitals), layout.size)
    return Shares(
        tuple(open_sum(layout, epoch.number, (name,), one) for name, one in zip(hospitals, each, strict=True))
    )
