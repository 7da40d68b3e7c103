"""The conductor: drives a study's program, from the transcript as far as it goes and then from the members.

Each step merges the queries of all programs that are ready into one message per hospital. A sum is
written to the transcript before the program sees it, so a study that was killed anywhere goes on from
the same sums to the same bits.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

from wardround_common.errors import ReplayDiverged
from wardround_common.plan import Findings
from wardround_common.replay import Due, Replay
from wardround_common.sealing.record import EpochRecord, StepRecord
from wardround_server.transcript import Transcript


class Members(Protocol):
    """Whoever answers a step: the hospitals of an epoch."""

    def ask(self, due: Sequence[Due], course: Sequence[EpochRecord | StepRecord]) -> StepRecord:
        """Return the opened sum of each query over the hospitals of its analysis."""


@dataclass(frozen=True)
class Progress:
    """What is told to whoever watches: the step, whether it was replayed, and what it asked."""

    step: int
    replayed: bool
    kinds: tuple[tuple[str, str], ...]  # (analysis, query kind)


Observer = Callable[[Progress], None]


def conduct(
    replay: Replay,
    transcript: Transcript,
    members: Members | None,
    observe: Observer = lambda progress: None,
) -> Findings:
    """Drive a study's program, from its beginning, to its end; return what it found.

    ``members`` None replays only. Raises ReplayDiverged where the transcript does not fit the program,
    and whatever the program raises.
    """

    def take(record: StepRecord, *, replayed: bool) -> None:
        sums = replay.open(record)
        if not replayed:  # what can't be opened is not kept, or the study could never go on
            transcript.append(record)
        observe(Progress(replay.steps, replayed, tuple((due.analysis, due.kind) for due in replay.due)))
        replay.take(record, sums)

    for record in transcript.course:
        if isinstance(record, EpochRecord):
            replay.begin(record.epoch)
        else:
            take(record, replayed=True)
    while replay.findings is None:
        if members is None:
            raise ReplayDiverged(replay.steps, "the transcript ends before the program does")
        take(members.ask(replay.due, transcript.course), replayed=False)
    return replay.findings
