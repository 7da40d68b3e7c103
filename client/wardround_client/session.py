"""One study at one hospital, from approval to its last answer: drives the protocol, computes, keeps.

What may be believed and answered is decided by ``sealing.participant``. A session keeps what must last
before anything is sent, computes answers from the cohort that was pinned, and hands them to the gate. What
was answered before is sent again from the store, never computed again: a row that changed meanwhile would
give two sums under one mask.
"""

from __future__ import annotations

import hashlib
import threading
from collections.abc import Callable, Sequence
from functools import partial

from wardround_client.decision import check_approval
from wardround_client.gate import Bare, Judged, Masks, Policy, Request, Sealed, release, state
from wardround_client.store import NodeStore, SeenHead, StudyRecord
from wardround_common.analyses.flow import LABEL, FlowQuery, usable_rows
from wardround_common.cohort import Cohort
from wardround_common.enrolment import check_name
from wardround_common.errors import ProtocolError, Refused, WardroundError
from wardround_common.evaluation.scores import ScoresQuery, area_under_curve
from wardround_common.messages import (
    Answer,
    Answers,
    Approval,
    Behind,
    EpochSignature,
    Seen,
    Statement,
    StatementRequest,
    Step,
)
from wardround_common.plan import QUERY_RECORDS
from wardround_common.program import Asked
from wardround_common.query import Contribution, Frame, Layout
from wardround_common.replay import Replay
from wardround_common.sealing.epoch import AuditHead, Epoch
from wardround_common.sealing.identity import Identity
from wardround_common.sealing.mask import MaskingKey
from wardround_common.sealing.participant import (
    Floors,
    Kept,
    OpenEpoch,
    Participant,
    Surroundings,
    Wanted,
    group_of,
)
from wardround_common.sealing.record import COURSE, EpochRecord, StepRecord
from wardround_common.sealing.roster import RUNTIMES, Member, Roster, fingerprint
from wardround_common.strategies import installed
from wardround_common.study import KINDS, Study
from wardround_common.wire import Registry, encode

CONFIRMED_BYTES = 10  # of a fingerprint, as many as words are read out
CONFIRMED, REVOKED = "confirmed", "revoked"  # what an officer says of a hospital
BEHIND = "behind"  # an audit entry: the head that others saw of this hospital's log, packed, in hex
KEPT = Registry((Roster, Member, OpenEpoch, *COURSE))  # what a session keeps of what it signed


class Session:
    """A hospital's side of one approved study. ``cohort`` is pinned here and never read again.

    ``everyone``: all members count as confirmed, where one person holds all hospitals' tables. ``new``: the
    databases are new though the study may not be, as in a simulation that is gone on with. ``pinned``: the
    rows were compared with those of other studies when it was approved, which the gate then asks for.
    """

    def __init__(
        self,
        hospital: str,
        identity: Identity,
        policy: Policy,
        store: NodeStore,
        study: Study,
        cohort: Cohort,
        runtime: str = RUNTIMES[0],
        *,
        everyone: bool = False,
        new: bool = False,
        pinned: bool = False,
    ) -> None:
        policy.check(study)
        self._hospital, self._policy, self._store = hospital, policy, store
        self._identity = identity
        self._study, self._cohort, self._everyone, self._new = study, cohort, everyone, new
        self._digest = study.digest
        self._officers = store.officers()
        self._working = threading.Lock()  # one step asked twice at once is answered once
        # the last evaluation on held-out rows and its model's digest, by analysis
        self._judged: dict[str, tuple[Asked, str]] = {}
        self._usable = {spec.label: usable_rows(cohort, spec.needed()) for spec in study.analyses}
        self._usable[LABEL] = cohort.rows
        kinds = {spec.label: KINDS[spec.kind] for spec in study.analyses}
        evaluation = KINDS["evaluate"].queries
        self._kinds = {
            label: {*analysis.queries, *(evaluation if analysis.is_model else ())}
            for label, analysis in kinds.items()
        }
        self._kinds[LABEL] = {FlowQuery}
        record = store.study(self._digest)
        if record is None:
            raise Refused("not_approved", "a study that this hospital has not approved")
        self._pinned = record.cohort if pinned else None
        self._make = self._maker(identity, check_approval(store, identity, record), runtime)
        self._stored = self._left(record)
        self._participant = self._make(self._stored)

    def __repr__(self) -> str:
        return "Session(...)"

    def _left(self, record: StudyRecord) -> Kept:
        """Return where this study was left."""
        opened = [
            (KEPT.decode(one, OpenEpoch), computes) for one, computes in self._store.opened(self._digest)
        ]
        return Kept(
            None if record.roster is None else KEPT.decode(record.roster, Roster),
            None if record.epoch is None else KEPT.decode(record.epoch, Epoch),
            tuple(one for one, _ in opened),
            frozenset(one.epoch.digest for one, computes in opened if computes),
            record.steps,
            record.head,
        )

    def _maker(self, identity: Identity, masking: MaskingKey, runtime: str) -> Callable[[Kept], Participant]:
        """Return what makes this hospital's participant from where the study was left."""
        policy, privacy = self._policy, self._study.privacy
        rows, labels = policy.floor("min_rows", self._study), sorted(self._usable)
        make = partial(
            Participant,
            name=self._hospital,
            identity=identity,
            masking=masking,
            study=self._digest,
            analyses=labels,
            taking_part=self._taking_part(labels, rows),
            floors=Floors(policy.floor("min_hospitals", self._study), policy.max_epochs, policy.leave),
            replay=self._replay if privacy.plan == "verified" else None,
            confirmed=self._is_confirmed,
            runtime=runtime,
        )
        return lambda kept: make(kept=kept)

    def _replay(self, binding: bytes) -> Replay:
        return Replay(self._study, installed, binding)

    def _is_confirmed(self, member: Member) -> bool:
        says = self._officers.get(fingerprint(member.name, member.identity)[:CONFIRMED_BYTES], ("", ""))[1]
        if says == REVOKED:
            raise Refused("revoked", "this hospital's officer has revoked one of the hospitals")
        return self._everyone or says == CONFIRMED

    @property
    def study(self) -> bytes:
        """The digest of the approved study."""
        return self._digest

    @property
    def binding(self) -> bytes | None:
        """H(manifest, roster), once there is a roster."""
        roster = self._participant.kept.roster
        return None if roster is None else roster.digest

    def join(self) -> Member:
        """Return this hospital's entry for the roster."""
        return self._participant.enter()

    def approve_roster(self, roster: Roster) -> Approval:
        """Sign study and roster; note who is in it for the officer."""
        with self._working:
            self._officers = self._store.officers()
            self._participant.check_roster(roster)
            if not self._everyone:
                _check_names(roster)
            for member in roster.members:
                if member.name != self._hospital:
                    self._store.meet(member.name, member.identity)
            signature = self._participant.approve_roster(roster)
            self._keep()
            seen = {} if self._new else self._store.seen()
            signed = self._participant.kept.signed
            return Approval(
                signature,
                tuple(self._participant.taking_part),
                0 if signed is None else signed.number,
                self._participant.records,
                self._store.audit_head().packed(),
                tuple(Seen(one.name, *seen[one.identity]) for one in roster.members if one.identity in seen),
            )

    def sign_epoch(self, epoch: Epoch, audits: Sequence[bytes]) -> EpochSignature:
        """Sign the set that computes together; ``audits`` as in ``EpochProposal``."""
        with self._working:
            self._officers = self._store.officers()
            try:
                self._participant.sign_epoch(epoch, audits, self._surroundings())
            except Refused as error:
                if error.code == "restored":
                    self._note_behind(AuditHead.of(audits[epoch.hospitals.index(self._hospital)]))
                raise
            self._keep()
            if self._pinned is not None:  # a simulation's hospitals keep no log
                self._store.checkpoint(self._identity, self._hospital)
            return self._participant.signature(epoch, self._store.audit_head())

    def _note_behind(self, told: AuditHead) -> None:
        """Note which head of its own audit log this hospital lacks, for the officer to forgive."""
        entry = (BEHIND, self._study.name, told.packed().hex())
        if not self._store.had(told) and entry not in self._store.entries():
            self._store.audit(*entry)

    def step(self, step: Step) -> Answers | Behind:
        """Take what this hospital lacks of the study's course, and answer its questions through the gate."""
        with self._working:
            participant = self._participant
            if step.binding != participant.roster.digest:
                raise Refused("no_roster", "a study whose roster this hospital has not approved")
            if not 0 <= step.first <= participant.records:
                return Behind(participant.records)
            self._officers = self._store.officers()
            try:
                for record, wrapped in _told(step)[participant.records - step.first :]:
                    participant.take(record, wrapped)
                    self._keep()
            except (ProtocolError, Refused):
                self._participant = self._make(participant.kept)  # it begins again, from what is believed
                raise
            if not step.questions:
                return Behind(participant.records)
            wanted = participant.wanted(step, self._surroundings)
            self._keep()
            answers = self._released(wanted)
            return Answers(
                tuple(
                    Answer(one.analysis, one.index, sealed.data)
                    for one, sealed in zip(step.questions, answers, strict=True)
                )
            )

    def _released(self, wanted: Sequence[Wanted]) -> list[Sealed]:
        """Return all answers. Refused where one is; what waits for a person is noted of all of them first."""
        answers, held = [], None
        for one in wanted:
            try:
                answers.append(self._answer(one))
            except Refused as error:
                if error.code != "held":
                    raise
                held = error
        if held is not None:
            raise held
        return answers

    def _surroundings(self) -> Surroundings:
        store = self._store
        if self._new:
            return Surroundings(lambda head: True, {}, store.groups())
        seen = {who: AuditHead.of(one.audit) for who, one in store.seen().items()}
        return Surroundings(store.had, seen, store.groups())

    def _keep(self) -> None:
        """Keep what must last, before anything is sent that follows from it."""
        before, now, name = self._stored, self._participant.kept, self._study.name
        if now is before:
            return
        if now.roster is not None and now.roster is not before.roster:
            self._store.signed_roster(self._digest, encode(now.roster), name, now.roster.digest.hex())
        if now.signed is not None and now.signed is not before.signed:
            self._store.signed_epoch(self._digest, encode(now.signed), name, now.signed.digest.hex())
        for one in now.opened[len(before.opened) :]:
            self._opened(one)
        for one in now.opened:
            if one.epoch.digest in now.computing - before.computing:
                group = group_of(EpochRecord(one.epoch, one.opening), self._participant.roster)
                self._store.computes(self._digest, one.epoch.number, group)
        if now.steps != before.steps:
            self._store.verified(self._digest, now.steps, now.head)
        self._stored = now

    def _opened(self, one: OpenEpoch) -> None:
        roster, seen, epoch = self._participant.roster, self._store.seen(), one.epoch
        heads: dict[bytes, SeenHead] = {}
        signed = zip(
            *(epoch.hospitals, one.opening.audits, one.opening.leaves, one.opening.signatures), strict=True
        )
        for name, packed, leave, signature in signed:
            identity = roster.member(name).identity
            if name == self._hospital:
                continue
            before = seen.get(identity)
            if before is not None and AuditHead.of(packed).count < AuditHead.of(before.audit).count:
                self._store.audit("restored", self._study.name, f"{name}: its audit log went back")
            heads[identity] = SeenHead(packed, epoch.digest, leave, signature)
        self._store.opened_epoch(self._digest, epoch.number, encode(one), heads)

    def _taking_part(self, labels: Sequence[str], rows: int) -> list[str]:
        """Return the analyses in which this hospital takes part: all, if it may not be told from the others.

        Sums of one analysis over all hospitals, less those of another without this one, are its own numbers.
        """
        enough = [label for label in labels if self._usable[label] >= rows]
        return enough if self._policy.leave == "allow" or len(enough) == len(labels) else []

    def _answer(self, wanted: Wanted) -> Sealed:
        question, epoch = wanted.question, self._participant.epoch
        binding, under = self._participant.roster.digest, epoch.epoch.digest
        kept = self._store.answer(binding, under, question.analysis, question.index)
        if kept is not None and kept[0] != wanted.context:
            raise Refused("other_query", "another query was answered under this number")
        asked = wanted.asked or _decoded(question.asked, question.digest)
        if isinstance(asked.query, ScoresQuery) and asked.query.rows.part == "test":
            self._judged[question.analysis] = asked, asked.query.model.sha256
            if kept is None and "metrics" in self._policy.statements:
                self._store.judge(binding, question.analysis, encode(asked))
        if kept is not None:
            return Sealed(kept[1])
        if self._policy.hold and self._store.waits(self._digest, wanted.context):
            raise Refused("held", "a release waits for this hospital's officer")
        if asked.analysis != question.analysis or type(asked.query) not in self._kinds.get(
            asked.analysis, ()
        ):
            raise Refused("not_in_study", "a query that the approved study does not ask")
        if asked.query.kind != question.kind:
            raise ProtocolError("a query of another kind than its question says")
        contribution, layout = self._compute(asked)
        cover = (
            Masks(self._participant.secrets(wanted.hospitals), epoch.group)
            if wanted.sealed
            else Bare(lambda answer: self._participant.sign_unsealed(wanted.context, answer))
        )
        request = Request(
            self._study,
            self._hospital,
            wanted.hospitals,
            binding,
            under,
            question.analysis,
            question.index,
            asked.query.kind,
            wanted.context,
            self._usable[question.analysis],
            cover,
            asked,
            self._all_rows(question.analysis),
            self._pinned,
        )
        return release(contribution, layout, request, self._policy, self._store)

    def _all_rows(self, analysis: str) -> int | None:
        """Return how many rows of all hospitals an analysis uses, once the verified sums have told.

        Refused where so few are held out that a sum over them would be about a handful of patients.
        """
        flow = self._participant.flow
        if flow is None or analysis == LABEL:
            return None
        usable, least = flow.usable[analysis], self._policy.floor("min_cell", self._study)
        if 0 < min(usable.train, usable.test) < least:
            raise Refused("min_cell", f"`{analysis}` would ask sums over fewer than {least} rows")
        return usable.train + usable.test

    def state(self, request: StatementRequest) -> Statement:
        """Tell how the model does here that this session evaluated. Refused unless policy allows it."""
        with self._working:
            if request.epoch != self._participant.epoch.epoch.digest:
                raise Refused("unknown_epoch", "a wish under an epoch that this hospital did not sign")
            return self._state(request.analysis)

    def _state(self, analysis: str) -> Statement:
        binding = self._participant.roster.digest
        asked, model = self._judged.get(analysis, (None, ""))
        if asked is None:  # it was evaluated before the node was started again
            noted = self._store.judged(binding, analysis)
            if noted is not None:
                asked = QUERY_RECORDS.decode(noted, Asked)
                model = asked.query.model.sha256 if isinstance(asked.query, ScoresQuery) else ""
        if asked is None:
            raise Refused("no_statement", "a statement on a model that was not evaluated here")
        contribution, _ = self._compute(asked)
        without, with_outcome = contribution.arrays["cells"]
        counts = int(without.sum()), int(with_outcome.sum())
        auc = area_under_curve(without, with_outcome) if min(counts) else 0.5
        judged = Judged(binding, analysis, model, *counts, auc)
        return state(judged, self._study, self._policy, self._store)

    def _compute(self, asked: Asked) -> tuple[Contribution, Layout]:
        """Compute the answer; a query that makes no sense is a ProtocolError that quotes nothing."""
        try:
            layout = asked.query.layout(Frame(self._study.dictionary, asked.rows_bound))
            return asked.query.answer(self._cohort, layout), layout
        except (LookupError, ValueError, TypeError, AttributeError, ArithmeticError, MemoryError):
            raise ProtocolError(f"a `{asked.query.kind}` query that cannot be answered") from None


def _check_names(roster: Roster) -> None:
    """Refuse names that no officer could tell apart. ProtocolError."""
    try:
        for name in roster.names:
            check_name(name)
    except WardroundError:
        raise ProtocolError("the roster holds a name that no hospital may have") from None


def _told(step: Step) -> list[tuple[EpochRecord | StepRecord, bytes]]:
    """Return a step's records, each epoch's with the group secret that was wrapped for this hospital."""
    epochs = sum(isinstance(one, EpochRecord) for one in step.course)
    if epochs != len(step.wrapped):
        raise ProtocolError("a step does not hold a group secret for each of its epochs")
    secrets = iter(step.wrapped)
    return [(one, next(secrets) if isinstance(one, EpochRecord) else b"") for one in step.course]


def _decoded(asked: bytes, digest: bytes) -> Asked:
    """Return a query that the coordinator chose, under `plan: trusted`."""
    if hashlib.sha256(asked).digest() != digest:
        raise ProtocolError("a query of another digest than its question says")
    return QUERY_RECORDS.decode(asked, Asked)
