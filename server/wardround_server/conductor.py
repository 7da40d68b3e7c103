"""The conductor: drives a study's program, from the transcript as far as it goes and then from the members.

Each step merges the queries of all programs that are ready into one message per hospital. A sum is
written to the transcript before the program sees it, so a study that was killed anywhere goes on from
the same sums to the same bits.
"""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol, TypeVar

from wardround_common.dictionary import Dictionary
from wardround_common.errors import ProtocolError, ReplayDiverged
from wardround_common.messages import Question
from wardround_common.program import Asked, StudyProgram
from wardround_common.query import Frame, Sum, open_sum
from wardround_common.sealing.epoch import Epoch
from wardround_common.typing import Ints
from wardround_common.wire import encode
from wardround_server.transcript import Opened, StepRecord, Transcript

R = TypeVar("R")


class Members(Protocol):
    """Whoever answers a step: the hospitals of an epoch."""

    @property
    def epoch(self) -> Epoch:
        """The epoch that computes now."""

    def ask(self, questions: Sequence[Question]) -> list[Ints]:
        """Return the opened sum of each question over the hospitals of its analysis."""


@dataclass(frozen=True)
class Progress:
    """What is told to whoever watches: the step, whether it was replayed, and what it asked."""

    step: int
    replayed: bool
    kinds: tuple[tuple[str, str], ...]  # (analysis, query kind)


Observer = Callable[[Progress], None]


def conduct(
    program: StudyProgram[R],
    dictionary: Dictionary,
    transcript: Transcript,
    members: Members | None,
    observe: Observer = lambda progress: None,
) -> R:
    """Run the program to its end and return its result.

    ``members`` None replays only. Raises ReplayDiverged where the transcript does not fit the program,
    and whatever the program raises.
    """
    recorded = transcript.steps
    epochs = {record.epoch.number: record.epoch for record in transcript.epochs}
    numbers: Counter[str] = Counter()
    step, sums = 0, None
    while True:
        try:
            asked = next(program) if sums is None else program.send(sums)
        except StopIteration as stop:
            if step < len(recorded):
                raise ReplayDiverged(step, "the program has ended") from None
            result: R = stop.value
            return result
        questions = _number(asked, numbers)
        replayed = step < len(recorded)
        if replayed:
            record = recorded[step]
            _same(step, questions, record)
        elif members is None:
            raise ReplayDiverged(step, "the transcript ends before the program does")
        else:
            record = _ask(questions, members)
            epochs[members.epoch.number] = members.epoch
        sums = tuple(
            _open(dictionary, one, opened.vector, epochs[record.epoch])
            for one, opened in zip(asked, record.sums, strict=True)
        )
        if not replayed:  # what can't be opened is not kept, or the study could never go on
            transcript.append(record)
        observe(Progress(step, replayed, tuple((one.analysis, one.query.kind) for one in asked)))
        step += 1


def _number(asked: tuple[Asked, ...], numbers: Counter[str]) -> list[Question]:
    questions = []
    for one in asked:
        questions.append(Question(one.analysis, numbers[one.analysis], one.query.kind, encode(one)))
        numbers[one.analysis] += 1
    return questions


def _ask(questions: list[Question], members: Members) -> StepRecord:
    vectors = members.ask(questions)
    opened = tuple(
        Opened(q.analysis, q.index, hashlib.sha256(q.asked).digest(), vector)
        for q, vector in zip(questions, vectors, strict=True)
    )
    return StepRecord(members.epoch.number, opened)


def _same(step: int, questions: list[Question], record: StepRecord) -> None:
    if len(questions) != len(record.sums):
        raise ReplayDiverged(step, "another number of queries")
    for question, opened in zip(questions, record.sums, strict=True):
        if (question.analysis, question.index) != (opened.analysis, opened.index):
            raise ReplayDiverged(step, f"`{question.analysis}` asks where `{opened.analysis}` was recorded")
        if hashlib.sha256(question.asked).digest() != opened.question:
            raise ReplayDiverged(step, f"`{question.analysis}` asks another query {question.index}")


def _open(dictionary: Dictionary, asked: Asked, vector: Ints, epoch: Epoch) -> Sum:
    layout = asked.query.layout(Frame(dictionary, asked.rows_bound))
    if vector.shape != (layout.size,):
        raise ProtocolError(f"`{asked.analysis}`: a sum has another length than its query asks")
    return open_sum(layout, epoch.number, epoch.of(asked.analysis), vector)
