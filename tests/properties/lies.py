"""Every lie that a coordinator or a hospital may tell in ``machine``'s small federation.

Each method tells one and fails if it is believed.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from tests.properties.machine import NO_LIMIT, STUDY, Record, World
from wardround_common import messages as say
from wardround_common.analyses.flow import LABEL
from wardround_common.errors import ProtocolError, Refused
from wardround_common.replay import Due, Replay
from wardround_common.sealing.epoch import Membership, Opening, audits_digest
from wardround_common.sealing.mask import LANE_BYTES, MODULUS
from wardround_common.sealing.record import EpochRecord, Opened, StepRecord
from wardround_common.strategies import installed

QUESTIONS, EPOCHS, OPENINGS = 11, 20, 7  # ways in which a question, an epoch and its opening can be false
UNSIGNED = {9, 12, 16, 17, 18, 19}  # epochs that no hospital signs, wherever it stands


class LyingWorld(World):
    """A world whose coordinator and hospitals may lie."""

    def records(self, name: str) -> int:
        """Ask a hospital how much of the course it has."""
        reply = self.tell(name, say.Step(self.binding, b"", NO_LIMIT, (), (), ()))
        assert isinstance(reply, say.Behind)
        return reply.records

    def told(self, name: str, course: Sequence[Record], first: int, **changes: object) -> say.Step:
        """Return a step with what a hospital takes part in, changed; ``course`` is what it is told."""
        epoch = self.current
        assert epoch is not None
        mine = [due for due in self.replay.due if name in epoch.of(due.analysis)]
        step = say.Step(
            *(self.binding, epoch.digest, first, tuple(course), self.wrapped_for(name, course)),
            tuple(say.Question(due.analysis, due.index, due.kind, due.digest, b"") for due in mine),
        )
        return dataclasses.replace(step, **changes)  # type: ignore[arg-type]

    def wrapped_for(self, name: str, course: Sequence[Record]) -> tuple[bytes, ...]:
        """Return the group secrets of a course's epochs, as a hospital is sent them."""
        return tuple(
            self.coordination.wrapped_for(name, one.epoch) for one in course if isinstance(one, EpochRecord)
        )

    def honest_after(self, told: Sequence[Record], record: EpochRecord) -> tuple[say.Question, ...]:
        """Return what the program would ask under an epoch, after a course that need not be true."""
        replay = Replay(STUDY, installed, self.binding)
        for one in (*told, record):
            if isinstance(one, EpochRecord):
                replay.begin(one.epoch)
            else:
                replay.take(one, replay.open(one))
        return tuple(say.Question(one.analysis, one.index, one.kind, one.digest, b"") for one in replay.due)

    def refused(self, name: str, step: say.Step) -> None:
        """Send a step that must be refused."""
        reply = self.tell(name, step)
        assert isinstance(reply, (Refused, ProtocolError)), f"{name} took a lie: {type(reply).__name__}"

    def lie_about_a_sum(self, name: str, which: int, how: int, place: int, bit: int) -> None:
        """Tell one sum of those that a hospital lacks as another."""
        have = self.records(name)
        epoch, able = None, []
        for i, record in enumerate(self.course):
            if isinstance(record, EpochRecord):
                epoch = record.epoch
            elif i >= have and epoch is not None and name in epoch.hospitals:
                able.append(i)
        if not able or self.current is None:
            return
        at = able[which % len(able)]
        true = self.course[at]
        assert isinstance(true, StepRecord)
        lie = _changed_step(true, how, place, bit)
        told = [*self.course[have:at], lie, *self.course[at + 1 :]]
        self.refused(name, self.told(name, told, have))

    def lie_of_a_hospital(self, liar: str, victim: str, bit: int) -> None:
        """A hospital changes one bit of its answer, vector or lane; another is told the sum that follows."""
        epoch = self.current
        if not self.ready or epoch is None or victim not in epoch.hospitals or self.replay.findings:
            return
        answers = self.ask(epoch.hospitals)
        if liar not in answers or liar == victim or set(answers) != self.everyone_asked():
            return
        first, *rest = answers[liar].answers
        changed = bytearray(first.sealed)
        at = bit % (8 * len(changed))
        changed[at // 8] ^= 1 << at % 8
        lies = say.Answers((dataclasses.replace(first, sealed=bytes(changed)), *rest))
        record = self.coordination.opened(self.replay.due, epoch, {**answers, liar: lies}, len(self.course))
        self.federation([victim]).bring_up(self.course)
        assert self.records(victim) == len(self.course)
        self.refused(victim, self.told(victim, [record], len(self.course), questions=()))

    def lie_about_questions(self, name: str, which: int) -> None:
        """Ask something else than the program does, in every way there is."""
        epoch = self.current
        if not self.ready or epoch is None or name not in epoch.hospitals:
            return
        for how in range(QUESTIONS):
            have = self.records(name)
            step = self.told(name, self.course[have:], have)
            lie = _changed_questions(step, how, which)
            if lie != step and lie.questions:
                self.refused(name, lie)

    def ask_old(self, name: str, which: int, *, prefix: bool) -> None:
        """Ask again what was asked earlier; with ``prefix``, of who is told no more than was then."""
        epoch = self.current
        if not self.asked or epoch is None:
            return
        length, then, due = self.asked[which % len(self.asked)]
        if length == len(self.course) or not (mine := [d for d in due if name in then.of(d.analysis)]):
            return
        steps = sum(isinstance(record, StepRecord) for record in self.course[:length])
        questions = tuple(say.Question(d.analysis, d.index, d.kind, d.digest, b"") for d in mine)
        have = self.records(name)
        if not prefix or have > length:
            told: Sequence[Record] = self.course[have:]
        else:
            told = self.course[have:length]
        for digest in {then.digest, epoch.digest}:
            step = self.told(name, told, have, questions=questions, epoch=digest)
            reply = self.tell(name, step)
            if isinstance(reply, say.Answers):  # nothing that follows it was verified here
                present = _known(due) == _known(self.replay.due)
                assert present or self._verified(name) <= steps, f"{name} went back"

    def _verified(self, name: str) -> int:
        """Return how many steps a hospital has verified."""
        record = self.hospitals[name].store.study(STUDY.digest)
        assert record is not None
        return record.steps

    def disorder(self, name: str, how: int, which: int) -> None:
        """Drop, repeat or swap records that a hospital lacks, or tell another ``first``."""
        if self.current is None:
            return
        have = self.records(name)
        lacking = self.course[have:]
        told, first = list(lacking), have
        at = which % max(len(lacking), 1)
        if how == 0 and lacking:
            del told[at]
        elif how == 1 and len(lacking) > 1:
            at %= len(lacking) - 1
            told[at], told[at + 1] = told[at + 1], told[at]
        elif how == 2 and lacking:
            told.insert(at, told[at])
        elif how == 3 and lacking and have:
            first = have - 1 - which % have  # it skips what it has, and so loses some
        elif how == 4 and self.course:
            told, first = [*lacking, self.course[which % len(self.course)]], have
        else:
            first = have + 1 + which
            reply = self.tell(name, self.told(name, lacking, first))
            assert isinstance(reply, say.Behind) and reply.records == have
            return
        reply = self.tell(name, self.told(name, told, first))
        assert not isinstance(reply, say.Answers), f"{name} answered after a course in disorder"

    def lie_about_epoch(self, names: Sequence[str], how: int, which: int) -> None:
        """Propose another epoch to some than is honest, and tell them that all signed it."""
        proposal = self.propose(self.current.hospitals if self.current else self.names)
        if isinstance(proposal, str):
            return
        changed, honest = _changed_epoch(proposal, how, which, self.names), proposal.epoch
        lie, audits = changed.epoch, changed.audits
        replies: dict[str, say.EpochSignature] = {}
        for name in names:
            if name not in self.gone and name in lie.hospitals:
                try:
                    replies[name] = self.hospitals[name].session.sign_epoch(lie, audits)
                except (Refused, ProtocolError):
                    continue
        assert not replies or how not in UNSIGNED, f"{sorted(replies)} signed an impossible epoch ({how})"
        if not replies:
            return
        whole = set(replies) == set(lie.hospitals)
        if whole and (lie.previous, lie.steps, lie.head) == (honest.previous, honest.steps, honest.head):
            self.adopt(self.coordination.begun(lie, replies), audits)  # an epoch as good as any
            return
        some = next(iter(replies.values()))
        signed = [replies.get(name, some) for name in lie.hospitals]
        opening = Opening(
            tuple(one.signature for one in signed),
            tuple(one.leave for one in signed),
            tuple(one.audit for one in signed),
        )
        for name in replies:
            have = self.records(name)
            told = [*self.course[have:], EpochRecord(lie, opening)]
            leader = replies.get(lie.leader)
            own = b"" if leader is None else leader.wrapped[lie.hospitals.index(name)]
            wrapped = (*self.wrapped_for(name, told[:-1]), own)
            self.refused(
                name,
                say.Step(
                    *(self.binding, lie.digest, have, tuple(told), wrapped),
                    tuple(say.Question(d.analysis, d.index, d.kind, d.digest, b"") for d in self.replay.due),
                ),
            )

    def forge_opening(self, name: str, how: int, which: int) -> None:
        """Tell a hospital an epoch's opening as its members did not sign it, or another wrapped secret."""
        epoch = self.current
        have = self.records(name)
        if epoch is None or not self.ready or have >= len(self.course):
            return
        last = max(i for i, one in enumerate(self.course) if isinstance(one, EpochRecord))
        record = self.course[last]
        if last < have or epoch.digest in self.hospitals[name].opened() or name not in epoch.hospitals:
            return
        assert isinstance(record, EpochRecord)
        lie, secret = _changed_opening(record, how, which), self.coordination.wrapped_for(name, epoch)
        told = [*self.course[have:last], lie, *self.course[last + 1 :]]
        *earlier, _ = self.wrapped_for(name, told)
        kind = how % OPENINGS
        if kind in (4, 5) and name == epoch.leader:  # it makes the secret itself
            return
        if kind == 4:
            at = which % len(secret)
            secret = secret[:at] + bytes([secret[at] ^ 1]) + secret[at + 1 :]
        elif kind == 5:
            secret = b""
        wrapped = (*earlier, secret) if kind < 6 else (*earlier,)
        self.refused(name, self.told(name, told, have, wrapped=wrapped))

    def propose_again(self, names: Sequence[str], which: int) -> None:
        """Ask for the signature under an epoch that was signed: the last again, an older one never."""
        epochs = [one.epoch for one in self.course if isinstance(one, EpochRecord)]
        if not epochs:
            return
        epoch = epochs[which % len(epochs)]
        audits = self.audits[epoch.digest]
        for name in names:
            one = self.hospitals[name]
            if name not in epoch.hospitals:
                continue
            if one.signed() == epoch.digest:
                reply = one.session.sign_epoch(epoch, audits)
                assert self.coordination.roster.member(name).identity == one.identity.public
                assert reply.leave == one.policy.leave
            else:
                try:
                    one.session.sign_epoch(epoch, audits)
                except Refused:
                    continue
                assert one.is_restored, f"{name} signed an older epoch"


def _known(due: Sequence[Due]) -> list[tuple[str, int, bytes]]:
    return [(one.analysis, one.index, one.digest) for one in due]


def _changed_step(record: StepRecord, how: int, place: int, bit: int) -> StepRecord:
    """Return a step's sums with something changed."""
    first, *rest = record.sums
    vector, proof = first.vector.view(np.uint64).copy(), bytearray(first.proof)
    at = place % len(vector)
    changes: list[Callable[[], StepRecord]] = [
        lambda: _first(record, vector=_flipped(vector, at, bit)),
        lambda: _first(record, vector=_moved(vector, at, bit)),
        lambda: _first(record, vector=np.append(first.vector, 0)),
        lambda: _first(record, proof=bytes(_bit(proof, bit))),
        lambda: _first(record, vector=first.vector * (2 + bit), proof=_times(proof, 2 + bit)),
        lambda: _first(record, proof=bytes(proof) + bytes(1)),
        lambda: _first(record, question=bytes(32)),
        lambda: _first(record, index=first.index + 1 + bit),
        lambda: _first(record, analysis="summary" if first.analysis != "summary" else LABEL),
        lambda: dataclasses.replace(record, sums=tuple(rest)),
        lambda: dataclasses.replace(record, sums=(*record.sums, first)),
        lambda: dataclasses.replace(record, epoch=record.epoch + 1 + bit),
    ]
    return changes[how % len(changes)]()


def _first(record: StepRecord, **changes: object) -> StepRecord:
    first: Opened = dataclasses.replace(record.sums[0], **changes)  # type: ignore[arg-type]
    return dataclasses.replace(record, sums=(first, *record.sums[1:]))


def _flipped(words: np.ndarray, at: int, bit: int) -> np.ndarray:
    words[at] ^= np.uint64(1 << bit % 64)
    return words.view(np.int64)


def _moved(words: np.ndarray, at: int, bit: int) -> np.ndarray:
    """Return the same total, with something taken from one element and given to the next."""
    by = np.uint64(1 << bit % 64)
    words[at : at + 1] += by
    after = (at + 1) % len(words)
    words[after : after + 1] -= by
    return words.view(np.int64) if len(words) > 1 else _flipped(words, at, bit)


def _times(proof: bytearray, by: int) -> bytes:
    """Return the lanes' sum of so many times the vectors, were there nothing but vectors in it."""
    return (int.from_bytes(proof, "little") * by % MODULUS).to_bytes(LANE_BYTES, "little")


def _bit(raw: bytearray, bit: int) -> bytearray:
    raw[bit // 8 % LANE_BYTES] ^= 1 << bit % 8
    return raw


def _changed_questions(step: say.Step, how: int, which: int) -> say.Step:
    """Return a step that asks something else, or under another epoch or study."""
    if not step.questions:
        return step
    at = which % len(step.questions)
    one = step.questions[at]
    others = [
        dataclasses.replace(one, digest=bytes(32)),
        dataclasses.replace(one, index=one.index + 1 + which),
        dataclasses.replace(one, index=one.index - 1 - which),
        dataclasses.replace(one, analysis="summary" if one.analysis != "summary" else "logistic"),
        dataclasses.replace(one, kind="squares" if one.kind != "squares" else "flow"),
    ]
    asked: Mapping[int, tuple[say.Question, ...]] = {
        **{i: (*step.questions[:at], other, *step.questions[at + 1 :]) for i, other in enumerate(others)},
        5: (*step.questions, one),
        6: (*step.questions[:at], *step.questions[at + 1 :]),
        7: step.questions[::-1],
        8: (*step.questions, dataclasses.replace(one, index=one.index + 1)),
    }
    if how in asked:
        return dataclasses.replace(step, questions=asked[how])
    return dataclasses.replace(step, **{"binding" if how == len(asked) else "epoch": bytes(32)})


def _changed_epoch(
    honest: say.EpochProposal, how: int, which: int, names: Sequence[str]
) -> say.EpochProposal:
    """Return another epoch than the honest one."""
    epoch, heads = honest.epoch, honest.audits
    at = which % len(epoch.hospitals)
    head_of = dict(zip(epoch.hospitals, heads, strict=True))
    fewer = tuple(name for i, name in enumerate(epoch.hospitals) if i != at)
    halves = epoch.hospitals[::2] if which % 2 else epoch.hospitals[1::2]
    rest = tuple(name for name in names if name not in epoch.hospitals)
    other = bytes([1 + which % 255] * 32)

    def with_(**changes: Any) -> say.EpochProposal:
        return dataclasses.replace(honest, epoch=dataclasses.replace(epoch, **changes))

    def telling(heads: tuple[bytes, ...], **changes: Any) -> say.EpochProposal:
        return dataclasses.replace(with_(audits=audits_digest(heads), **changes), audits=heads)

    def over(hospitals: tuple[str, ...]) -> say.EpochProposal:
        members = tuple(
            Membership(one.analysis, tuple(name for name in one.abstaining if name in hospitals))
            for one in epoch.analyses
        )
        told = tuple(head_of.get(name, heads[0]) for name in hospitals)
        return telling(told, hospitals=hospitals, analyses=members)

    abstaining_too = tuple(
        dataclasses.replace(one, abstaining=tuple(sorted({*one.abstaining, epoch.hospitals[at]})))
        for one in epoch.analyses
    )
    shuffled = (*heads[1:], heads[0])
    changes: list[Callable[[], say.EpochProposal]] = [
        lambda: honest,
        lambda: with_(number=epoch.number + 1 + which),
        lambda: with_(number=max(epoch.number - 1 - which, -1)),
        lambda: with_(steps=epoch.steps + 1 + which % 3),
        lambda: with_(steps=epoch.steps - 1 - which % 3),
        lambda: with_(head=other),
        lambda: with_(steps=epoch.steps + 1, head=other),
        lambda: with_(previous=other),
        lambda: with_(previous=b""),
        lambda: with_(binding=bytes(32)),
        lambda: with_(analyses=abstaining_too),
        lambda: telling(shuffled),
        lambda: with_(analyses=epoch.analyses[::-1]),
        lambda: over(fewer),
        lambda: over(halves),
        lambda: over(tuple(sorted((*epoch.hospitals, *rest[:1])))),
        lambda: over(epoch.hospitals[::-1]),
        lambda: dataclasses.replace(honest, audits=shuffled),
        lambda: telling(heads[:-1] if which % 2 else (*heads, heads[0])),
        lambda: with_(audits=other),
    ]
    return changes[how]()


def _changed_opening(record: EpochRecord, how: int, which: int) -> EpochRecord:
    """Return an epoch with one of its members' signature, terms or audit head changed; 4: as it is."""
    opening = record.opening
    at, how = which % len(opening.signatures), how % OPENINGS
    signatures, leaves, audits = map(list, dataclasses.astuple(opening))
    if how == 0:
        signatures[at] = signatures[at][:-1] + bytes([signatures[at][-1] ^ 1])
    elif how == 1:
        signatures[at] = signatures[at - 1]
    elif how == 2:
        leaves[at] = "never" if leaves[at] != "never" else "allow"
    elif how == 3:
        audits[at] = bytes([audits[at][0] ^ 1]) + audits[at][1:]
    return EpochRecord(record.epoch, Opening(tuple(signatures), tuple(leaves), tuple(audits)))
