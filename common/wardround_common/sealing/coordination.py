"""The coordinator's side of one study's hospitals, as a state machine: roster, epoch, steps, sums.

It reads no file, clock or socket: whoever drives it (``wardround_server.federation``) carries the messages,
by hospital's name, and keeps the records. Every reply is checked before it is used; ProtocolError names the
hospital that sent what no honest one does.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager

import numpy as np

from wardround_common.errors import ProtocolError, listed
from wardround_common.messages import Answers, Approval, EpochProposal, EpochSignature, Question, Step
from wardround_common.replay import Due
from wardround_common.sealing.epoch import (
    AuditHead,
    Epoch,
    Membership,
    Opening,
    audits_digest,
    verify_epoch,
    verify_signed,
)
from wardround_common.sealing.identity import verify
from wardround_common.sealing.leaving import left_for_good, unwilling
from wardround_common.sealing.mask import LANE_BYTES, query_context, unseal
from wardround_common.sealing.participant import UNSEALED, group_of
from wardround_common.sealing.record import EpochRecord, Opened, StepRecord
from wardround_common.sealing.roster import APPROVAL, Roster

_MOST_TRIED = 1 << 20  # epochs that hospitals signed and that never began
_MORE_TRIES = 5  # a hospital may be started again while it is brought up
_MOST_COURSE = 32 << 20  # bytes of sums in one message to a hospital that lacks many


class Coordination:
    """One study's members. ``verified``: hospitals follow the program, so they are sent the sums.

    ``last_number``: of the last epoch that was proposed.
    """

    def __init__(self, roster: Roster, verified: bool, last_number: int = 0) -> None:
        roster.verify()
        self._last_number = last_number
        self.roster, self._verified = roster, verified
        self._approvals: dict[str, Approval] = {}
        self._wrapped: dict[bytes, tuple[bytes, ...]] = {}  # group secrets by epoch
        self._taken: dict[str, int] = {}  # records that a hospital has, as far as is known
        self._asked_again: Counter[str] = Counter()  # since its last answer

    # --- roster and epoch ---

    def approved(self, name: str, approval: Approval) -> None:
        """Take a hospital's approval."""
        with _by(name):
            verify(self.roster.member(name).identity, approval.signature, APPROVAL, self.roster.digest)
            AuditHead.of(approval.audit)
            if not 0 <= approval.number <= self._last_number + _MOST_TRIED:
                raise ProtocolError("the number of an epoch that there can't have been")
            for one in approval.seen:
                signer = self.roster.member(one.hospital).identity
                verify_signed(one.epoch, signer, one.signature, one.leave, one.audit)
        self._approvals[name] = approval
        self._taken[name] = max(approval.records, 0)

    def approvals(self) -> tuple[bytes, ...]:
        """Return all signatures under study and roster, in its order."""
        return tuple(self._approvals[name].signature for name in self.roster.names)

    def taking_part(self, label: str) -> tuple[str, ...]:
        """Return the hospitals that approved and have enough rows for an analysis."""
        return tuple(
            name
            for name in self.roster.names
            if name in self._approvals and label in self._approvals[name].analyses
        )

    def propose(
        self,
        hospitals: Sequence[str],
        analyses: Mapping[str, Sequence[str]],
        before: Epoch | None,
        steps: int,
        head: bytes,
    ) -> EpochProposal:
        """Return the next epoch: its hospitals, and by analysis those of them that take part."""
        members = tuple(
            Membership(label, tuple(name for name in hospitals if name not in names))
            for label, names in analyses.items()
        )
        used = [one.number for one in self._approvals.values()] + [0 if before is None else before.number]
        heads: dict[str, AuditHead] = {}
        for one in (seen for approval in self._approvals.values() for seen in approval.seen):
            head_of = AuditHead.of(one.audit)
            if one.hospital not in heads or heads[one.hospital].count < head_of.count:
                heads[one.hospital] = head_of
        # what others saw comes first: a log that was put back may have grown longer since
        heads = {name: AuditHead.of(one.audit) for name, one in self._approvals.items()} | heads
        audits = tuple(heads[name].packed() for name in hospitals)
        epoch = Epoch(
            *(self.roster.digest, max(used) + 1, tuple(hospitals), members),
            *(b"" if before is None else before.digest, steps, head, audits_digest(audits)),
        )
        self._last_number = epoch.number
        return EpochProposal(epoch, audits)

    def begun(self, epoch: Epoch, replies: Mapping[str, EpochSignature]) -> EpochRecord:
        """Take all hospitals' signatures; return the record with which the epoch begins."""
        for name in epoch.hospitals:
            reply, identity = replies[name], self.roster.member(name).identity
            with _by(name):
                verify_epoch(epoch, identity, reply.signature, reply.leave, reply.audit)
        wrapped = replies[epoch.leader].wrapped
        if len(wrapped) != len(epoch.hospitals):
            raise ProtocolError(f"`{epoch.leader}`: the epoch's secret is not there for every hospital")
        self.remember(epoch.digest, wrapped)
        of_all = [replies[name] for name in epoch.hospitals]
        return EpochRecord(
            epoch,
            Opening(
                tuple(one.signature for one in of_all),
                tuple(one.leave for one in of_all),
                tuple(one.audit for one in of_all),
            ),
        )

    def remember(self, epoch: bytes, wrapped: tuple[bytes, ...]) -> None:
        """Note an epoch's group secret as its leader wrapped it for each of its hospitals."""
        self._wrapped[epoch] = wrapped

    def wrapped(self, epoch: Epoch) -> tuple[bytes, ...]:
        """Return an epoch's group secret, wrapped for each of its hospitals."""
        return self._wrapped.get(epoch.digest, ())

    def wrapped_for(self, name: str, epoch: Epoch) -> bytes:
        """Return an epoch's group secret for one hospital, empty if it is none of its."""
        every = dict(zip(epoch.hospitals, self.wrapped(epoch), strict=False))
        return every.get(name, b"")

    def exposed(
        self, record: EpochRecord, course: Sequence[EpochRecord | StepRecord], min_hospitals: int
    ) -> tuple[str, ...]:
        """Return the hospitals that sums of this epoch and the course's would expose against their terms."""
        groups = [group_of(one, self.roster) for one in course if isinstance(one, EpochRecord)]
        after = group_of(record, self.roster)
        held = set().union(*unwilling([*groups, after], min_hospitals))
        held |= {who for one in groups for who in left_for_good(one, after)}
        return tuple(one.name for one in self.roster.members if one.identity in held)

    # --- steps ---

    def behind(self, name: str, records: int, course: Sequence[EpochRecord | StepRecord]) -> None:
        """Note how much of the course a hospital says it has. ProtocolError if it can't be brought up."""
        self._asked_again[name] += 1
        if not 0 <= records <= len(course) or self._asked_again[name] > len(course) + _MORE_TRIES:
            raise ProtocolError(f"`{name}`: it can't be brought up to where the study is")
        self._taken[name] = records

    def telling(self, course: Sequence[EpochRecord | StepRecord], names: Sequence[str]) -> dict[str, Step]:
        """Return what tells these hospitals the course as far as it is, without a question."""
        return {name: self._step(name, _last(course), (), course) for name in names}

    def steps(
        self, due: Sequence[Due], course: Sequence[EpochRecord | StepRecord], names: Sequence[str]
    ) -> dict[str, Step]:
        """Return what each of these hospitals is sent: what it lacks of the course, and its questions.

        Who lacks more than fits into one message is sent a part, and no question. A hospital that takes
        part in nothing that is due is not sent anything.
        """
        epoch = _last(course)
        return {
            name: self._step(name, epoch, mine, course)
            for name in names
            if (mine := [one for one in due if name in epoch.of(one.analysis)])
        }

    def _step(
        self, name: str, epoch: Epoch, due: Sequence[Due], course: Sequence[EpochRecord | StepRecord]
    ) -> Step:
        first = min(self._taken.get(name, 0), len(course))
        told: list[EpochRecord | StepRecord] = []
        size = 0
        for record in course[first:]:
            size += 0 if isinstance(record, EpochRecord) else sum(one.vector.nbytes for one in record.sums)
            if told and size > _MOST_COURSE:
                break
            told.append(record)
        whole = first + len(told) == len(course)
        questions = tuple(
            Question(one.analysis, one.index, one.kind, one.digest, b"" if self._verified else one.query)
            for one in (due if whole else ())
        )
        return Step(
            *(self.roster.digest, epoch.digest, first, tuple(told)),
            tuple(self.wrapped_for(name, one.epoch) for one in told if isinstance(one, EpochRecord)),
            questions,
        )

    def opened(
        self, due: Sequence[Due], epoch: Epoch, answers: Mapping[str, Answers], course_length: int
    ) -> StepRecord:
        """Take every hospital's answers to a step; return the sums."""
        by_query: dict[tuple[str, int], dict[str, bytes]] = {(one.analysis, one.index): {} for one in due}
        for name, reply in answers.items():
            wanted = [(one.analysis, one.index) for one in due if name in epoch.of(one.analysis)]
            if [(one.analysis, one.index) for one in reply.answers] != wanted:
                raise ProtocolError(f"`{name}` answers other questions than it was asked")
            for one in reply.answers:
                by_query[one.analysis, one.index][name] = one.sealed
            self._taken[name] = course_length
            self._asked_again[name] = 0
        return StepRecord(
            epoch.number,
            tuple(self._sum(one, epoch, by_query[one.analysis, one.index]) for one in due),
        )

    def _sum(self, due: Due, epoch: Epoch, sealed: Mapping[str, bytes]) -> Opened:
        hospitals = epoch.of(due.analysis)
        _check_lengths(due, sealed)
        if due.sealed:
            vector, lanes = unseal([sealed[name] for name in hospitals])
            return Opened(due.analysis, due.index, due.digest, vector, lanes.to_bytes(LANE_BYTES, "little"))
        context = query_context(self.roster.digest, epoch.digest, due.analysis, due.index, due.digest)
        for name in hospitals:
            with _by(name):
                answer, signature = sealed[name][:-64], sealed[name][-64:]
                verify(self.roster.member(name).identity, signature, UNSEALED, context, answer)
        vectors = [np.frombuffer(sealed[name][:-64], "<i8") for name in hospitals]
        proof = b"".join(sealed[name][-64:] for name in hospitals)
        return Opened(due.analysis, due.index, due.digest, np.concatenate(vectors), proof)


def _check_lengths(due: Due, sealed: Mapping[str, bytes]) -> None:
    beside = LANE_BYTES if due.sealed else 64
    lengths = [len(one) for one in sealed.values()]
    usual = max(set(lengths), key=lengths.count)
    odd = [name for name, one in sealed.items() if len(one) != usual]
    if odd:
        raise ProtocolError(
            f"{listed(odd)}: an answer to `{due.analysis}` has another length than the others'"
        )
    if usual < beside or (usual - beside) % 8:
        raise ProtocolError(f"`{due.analysis}`: the answers are not vectors of 64-bit words")


def _last(course: Sequence[EpochRecord | StepRecord]) -> Epoch:
    for record in reversed(course):
        if isinstance(record, EpochRecord):
            return record.epoch
    raise ProtocolError("no epoch was signed yet")


@contextmanager
def _by(name: str) -> Iterator[None]:
    """Name the hospital whose message is checked within."""
    try:
        yield
    except ProtocolError as error:
        raise ProtocolError(f"`{name}`: {error}") from None
