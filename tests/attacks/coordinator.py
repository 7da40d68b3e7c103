"""A coordinator that holds the real sessions of some hospitals and may send them anything."""

from __future__ import annotations

import dataclasses
import hashlib
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager

import numpy as np
import pytest

from tests.analyses.contract import cohorts, driven
from tests.support import study_of
from wardround_client.app import Node
from wardround_client.decision import approve_study
from wardround_client.gate import Policy
from wardround_client.session import CONFIRMED, CONFIRMED_BYTES, Session
from wardround_client.store import NodeStore
from wardround_common import messages as say
from wardround_common.analyses.flow import LABEL
from wardround_common.cohort import Cohort
from wardround_common.errors import Refused
from wardround_common.program import Asked
from wardround_common.replay import Due, Replay
from wardround_common.sealing.coordination import Coordination
from wardround_common.sealing.epoch import Epoch, audits_digest
from wardround_common.sealing.identity import Identity
from wardround_common.sealing.record import EpochRecord, StepRecord
from wardround_common.sealing.roster import Roster, fingerprint
from wardround_common.strategies import installed
from wardround_common.study import Study
from wardround_common.typing import Ints
from wardround_common.wire import encode

LOGISTIC = {"kind": "logistic", "predictors": ["age", "sex"]}
STUDY = study_of(LOGISTIC, {"kind": "summary"}, privacy={"min_hospitals": 3})
TRUSTED = study_of(LOGISTIC, {"kind": "summary"}, privacy={"min_hospitals": 3, "plan": "trusted"})
NAMES = ("h00", "h01", "h02", "h03")
LABELS = (LABEL, "logistic", "summary")


class Coordinator:
    """Every step that an honest coordinator takes, for a test to depart from."""

    def __init__(
        self,
        study: Study = STUDY,
        policies: Mapping[str, Policy] | None = None,
        *,
        everyone: bool = True,
        names: Sequence[str] = NAMES,
        stores: Mapping[str, NodeStore] | None = None,
        at: Coordinator | None = None,
    ) -> None:
        """Have the hospitals approve the study. ``at``: another study of hospitals of which all are."""
        self.study, self.everyone, self.names = study, everyone, tuple(names)
        self.policies = {name: (policies or {}).get(name, Policy.of(study)) for name in names}
        if at is None:
            tables = zip(names, cohorts(study, len(names)).values(), strict=True)
            self.cohorts: dict[str, Cohort] = {name: thawed(table) for name, table in tables}
            self.identities = {name: Identity.generate() for name in names}
            self.stores = {name: (stores or {}).get(name) or NodeStore() for name in names}
        else:
            self.cohorts = {name: at.cohorts[name] for name in names}
            self.identities = {name: at.identities[name] for name in names}
            self.stores = {name: at.stores[name] for name in names}
        for name in names:
            approve_study(self.stores[name], self.identities[name], study)
        self.sessions = {name: self.session(name) for name in names}
        self.course: list[EpochRecord | StepRecord] = []
        self.audits: dict[bytes, tuple[bytes, ...]] = {}  # that were shown with epochs, by digest

    def session(self, name: str) -> Session:
        """Take a hospital's session up anew from its store, as a node does that was started again."""
        return Session(
            *(name, self.identities[name], self.policies[name], self.stores[name], self.study),
            self.cohorts[name],
            everyone=self.everyone,
        )

    def again(self, name: str) -> Session:
        """Start a hospital's node again: the session that was is gone."""
        self.sessions[name] = self.session(name)
        return self.sessions[name]

    def confirm(self, at: Sequence[str], whom: Sequence[str]) -> Coordinator:
        """Have the officers of some hospitals confirm others."""
        for name in at:
            for other in whom:
                words = fingerprint(other, self.identities[other].public)[:CONFIRMED_BYTES]
                self.stores[name].say(other, words, CONFIRMED)
        return self

    def reply(self, name: str, action: str, message: object) -> object:
        """Send a hospital's node any message, as bytes; return its reply."""
        node = Node(self.stores[name])
        node.open(self.sessions[name])
        return say.MESSAGES.decode(node.reply(action, encode(message)), object)

    def roster(self) -> Roster:
        return Roster(self.study.digest, tuple(self.sessions[name].join() for name in self.names))

    @property
    def verified(self) -> bool:
        return self.study.privacy.plan == "verified"

    def enrolled(self) -> Coordinator:
        """Have all approve the roster."""
        self.coordination = Coordination(self.roster(), self.verified)
        self.replay = Replay(self.study, installed, self.roster().digest)
        self.approved()
        return self

    def approved(self) -> None:
        for name in self.names:
            approval = self.sessions[name].approve_roster(self.coordination.roster)
            self.coordination.approved(name, approval)

    def epoch(self, hospitals: Sequence[str] | None = None, *, tell: bool = True, **changes: object) -> Epoch:
        """Return the next epoch that an honest coordinator would propose, or with some fields changed.

        ``tell``: those of it are told the course first, or they would sign nothing that follows from it.
        """
        hospitals = self.names if hospitals is None else hospitals
        if self.course:
            if tell:
                self.tell(hospitals)
            self.approved()  # with each hospital's audit head as it is now
        labels = (LABEL, *(spec.label for spec in self.study.analyses))
        epochs = [one.epoch for one in self.course if isinstance(one, EpochRecord)]
        together = {label: tuple(hospitals) for label in sorted(labels)}
        proposed = self.coordination.propose(
            tuple(hospitals), together, epochs[-1] if epochs else None, self.replay.steps, self.replay.head
        )
        self.heading(proposed.audits)
        return dataclasses.replace(proposed.epoch, **changes)  # type: ignore[arg-type]

    def heading(self, audits: Sequence[bytes]) -> bytes:
        """Return what an epoch says of these audit heads, which are shown with it from now on."""
        digest = audits_digest(audits)
        self.audits[digest] = tuple(audits)
        return digest

    def proposal(self, epoch: Epoch) -> say.EpochProposal:
        return say.EpochProposal(epoch, self.audits.get(epoch.audits, ()))

    def offer(self, name: str, epoch: Epoch) -> object:
        """Propose an epoch to a hospital's node; return its reply."""
        return self.reply(name, "epoch", self.proposal(epoch))

    def sign(self, name: str, epoch: Epoch) -> say.EpochSignature:
        """Have a hospital sign an epoch. Raises what it refuses by."""
        return self.sessions[name].sign_epoch(epoch, self.proposal(epoch).audits)

    def signatures(self, epoch: Epoch, names: Sequence[str] | None = None) -> dict[str, say.EpochSignature]:
        return {name: self.sign(name, epoch) for name in names or epoch.hospitals}

    def begin(self, epoch: Epoch) -> EpochRecord:
        """Have all of an epoch's hospitals sign it, and go on under it."""
        record = self.coordination.begun(epoch, self.signatures(epoch))
        self.course.append(record)
        self.replay.begin(epoch)
        return record

    def ready(self) -> Coordinator:
        self.enrolled().begin(self.epoch())
        return self

    def branch(self, length: int) -> Coordinator:
        """Go on from a part of the course, as if the rest had not been."""
        self.course = self.course[:length]
        self.replay = Replay(self.study, installed, self.coordination.roster.digest)
        for record in self.course:
            if isinstance(record, EpochRecord):
                self.replay.begin(record.epoch)
            else:
                self.replay.take(record, self.replay.open(record))
        return self

    @property
    def told(self) -> list[EpochRecord | StepRecord]:
        """What hospitals are sent of the course."""
        return [one for one in self.course if self.verified or isinstance(one, EpochRecord)]

    @property
    def current(self) -> Epoch:
        return next(one.epoch for one in reversed(self.course) if isinstance(one, EpochRecord))

    def steps(
        self, names: Sequence[str] | None = None, due: Sequence[Due] | None = None
    ) -> dict[str, say.Step]:
        """Return what an honest coordinator sends next, by hospital."""
        return self.coordination.steps(
            self.replay.due if due is None else due, self.told, names or self.current.hospitals
        )

    def ask(self, steps: Mapping[str, say.Step] | None = None) -> dict[str, say.Answers]:
        """Send steps, the honest ones by default, and tell again who says that it is behind."""
        sent, answers = dict(self.steps() if steps is None else steps), {}
        while sent:
            replies = {name: self.sessions[name].step(step) for name, step in sent.items()}
            answers.update({name: one for name, one in replies.items() if isinstance(one, say.Answers)})
            behind = {name: one for name, one in replies.items() if isinstance(one, say.Behind)}
            for name, one in behind.items():
                self.coordination.behind(name, one.records, self.told)
            sent = {name: self.steps([name])[name] for name in behind}
        return answers

    def advance(self, times: int = 1) -> Coordinator:
        """Take honest steps."""
        for _ in range(times):
            self.take(self.ask())
        return self

    def take(self, answers: Mapping[str, say.Answers]) -> StepRecord:
        """Open the sums of what was due, and go on from them."""
        record = self.coordination.opened(self.replay.due, self.current, answers, len(self.told))
        sums = self.replay.open(record)
        self.course.append(record)
        self.replay.take(record, sums)
        return record

    def step(self, *questions: say.Question) -> say.Step:
        """Return a step with any questions, to hospitals that have the whole course."""
        binding = self.coordination.roster.digest
        return say.Step(binding, self.current.digest, len(self.told), (), (), questions)

    def retold(
        self, name: str, sent: say.Step, course: Sequence[EpochRecord | StepRecord], first: int = 0
    ) -> say.Step:
        """Return a step that tells a hospital these records, with its group secret of each epoch."""
        epochs = [one.epoch for one in course if isinstance(one, EpochRecord)]
        wrapped = tuple(self.coordination.wrapped_for(name, epoch) for epoch in epochs)
        return dataclasses.replace(sent, first=first, course=tuple(course), wrapped=wrapped)

    def put(self, asked: Asked, index: int = 0, analysis: str | None = None) -> dict[str, bytes]:
        """Ask all hospitals any query, as a coordinator may under `plan: trusted`; return what they send."""
        return self.ask_all(question(asked, index, analysis))

    def ask_all(self, asked: say.Question) -> dict[str, bytes]:
        """Ask all hospitals one question; return what they send."""
        found = {}
        for name in self.current.hospitals:
            reply = self.sessions[name].step(self.step(asked))
            assert isinstance(reply, say.Answers)
            found[name] = reply.answers[0].sealed
        return found

    @property
    def released(self) -> dict[str, int]:
        """How many numbers, by hospital, its ledger says left it."""
        return {name: sum(one.numbers for one in store.ledger()) for name, store in self.stores.items()}

    def tell(
        self, names: Sequence[str], course: Sequence[EpochRecord | StepRecord] | None = None
    ) -> Coordinator:
        """Tell hospitals what they lack of the course, or of another, without a question."""
        course = self.told if course is None else course
        left = list(names)
        while left and course:
            name = left.pop()
            (step,) = self.coordination.telling(course, [name]).values()
            reply = self.sessions[name].step(step)
            assert isinstance(reply, say.Behind)
            if reply.records < len(course):
                self.coordination.behind(name, reply.records, course)
                left.append(name)
        return self

    def told_all(self) -> Coordinator:
        """Bring all hospitals of the epoch to where the course is."""
        return self.tell(self.current.hospitals)


def thawed(cohort: Cohort) -> Cohort:
    """Return a copy whose arrays can be written, as a careless reader might have left them."""
    return dataclasses.replace(cohort, columns={name: one.copy() for name, one in cohort.columns.items()})


def raw(asked: Asked, body: bytes, index: int) -> say.Question:
    """Return a question with any bytes for its query."""
    return say.Question(asked.analysis, index, asked.query.kind, hashlib.sha256(body).digest(), body)


@contextmanager
def refuses(code: str) -> Iterator[None]:
    """Expect a refusal with this code within."""
    with pytest.raises(Refused) as refusal:
        yield
    assert refusal.value.code == code


def is_noise(words: Ints | bytes) -> bool:
    """Tell whether 64-bit words look drawn at random: as good as none of them is a small number."""
    found = np.frombuffer(words, "<u8") if isinstance(words, bytes) else words.view(np.uint64)
    small = np.minimum(found, -found) < 2**40  # as signed numbers, either way from zero
    return int(np.count_nonzero(small)) <= len(found) // 1000


def question(asked: Asked, index: int = 0, analysis: str | None = None) -> say.Question:
    """Return a question as it is put under `plan: trusted`."""
    label = asked.analysis if analysis is None else analysis
    body = encode(asked)
    return say.Question(label, index, asked.query.kind, hashlib.sha256(body).digest(), body)


def asked_of(kind: str) -> Asked:
    return next(one for one in driven(STUDY).asked if one.query.kind == kind)


FLOW, MOMENTS, SUMMARY = (asked_of(kind) for kind in ("flow", "moments", "summary"))
