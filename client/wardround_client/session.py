"""One study at one hospital, from approval to its last answer: verifies, computes, and hands to the gate.

A session answers a query only if this hospital approved the study, every hospital of the epoch signed
it, the analysis and the query's kind belong to the study, and no other query was answered under the same
number. What was answered before is sent again from the store, never computed again: a row that changed
meanwhile would give two sums under one mask.
"""

from __future__ import annotations

import threading

from wardround_client.gate import Judged, Policy, Request, Sealed, release, state
from wardround_client.store import NodeStore
from wardround_common.analyses.flow import LABEL, FlowQuery, usable_rows
from wardround_common.cohort import Cohort
from wardround_common.errors import ProtocolError, Refused
from wardround_common.evaluation.scores import ScoresQuery, area_under_curve
from wardround_common.messages import Question, Statement
from wardround_common.plan import QUERY_RECORDS
from wardround_common.program import Asked
from wardround_common.query import Contribution, Frame, Layout
from wardround_common.sealing.epoch import Epoch, Membership, sign_epoch, verify_signatures
from wardround_common.sealing.identity import Identity, verify
from wardround_common.sealing.mask import MaskingKey, query_context
from wardround_common.sealing.roster import RUNTIMES, Member, Roster, approve, enter
from wardround_common.study import KINDS, Study
from wardround_common.wire import Registry, encode

STUDY_APPROVAL = "wardround study approval v1"
SIGNED = Registry((Roster, Member, Epoch, Membership))  # what a session keeps of what it signed


def approve_study(store: NodeStore, identity: Identity, study: Study) -> None:
    """Approve a study for this hospital: sign it, make its masking key, and keep both.

    Approved once more, it begins anew: another masking key, so no mask serves twice.
    """
    digest = study.digest
    store.offer(digest, study.name, study.manifest())
    store.approve(digest, identity.sign(STUDY_APPROVAL, digest), MaskingKey().to_bytes())
    store.audit("approve", study.name, digest.hex())


class Session:
    """A hospital's side of one approved study. ``cohort`` is pinned here and never read again."""

    def __init__(
        self,
        hospital: str,
        identity: Identity,
        policy: Policy,
        store: NodeStore,
        study: Study,
        cohort: Cohort,
        runtime: str = RUNTIMES[0],
    ) -> None:
        policy.check(study)
        self._hospital, self._identity, self._policy, self._store = hospital, identity, policy, store
        self._study, self._cohort, self._runtime = study, cohort, runtime
        self._digest = study.digest
        self._roster: Roster | None = None
        self._epoch: Epoch | None = None
        self._signed = False
        self._answering = threading.Lock()  # one number asked twice at once is answered once
        self._secrets: dict[str, bytes] = {}
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
        self._masking = self._take_up()

    def __repr__(self) -> str:
        return "Session(...)"

    def _take_up(self) -> MaskingKey:
        """Go on where this study was left; return its masking key."""
        record = self._store.study(self._digest)
        if record is None or record.masking is None:
            raise Refused("not_approved", "a study that this hospital has not approved")
        verify(self._identity.public, record.signature or b"", STUDY_APPROVAL, self._digest)
        masking = MaskingKey.from_bytes(record.masking)
        if record.roster is not None:
            self._roster = SIGNED.decode(record.roster, Roster)
            self._secrets = _secrets(masking, self._roster, self._hospital)
        if record.epoch is not None:
            self._epoch = SIGNED.decode(record.epoch, Epoch)
        return masking

    @property
    def study(self) -> bytes:
        """The digest of the approved study."""
        return self._digest

    @property
    def binding(self) -> bytes | None:
        """H(manifest, roster), once there is a roster."""
        return None if self._roster is None else self._roster.digest

    def join(self) -> Member:
        """Return this hospital's entry for the roster."""
        return enter(self._identity, self._digest, self._hospital, self._masking.public, self._runtime)

    def approve_roster(self, roster: Roster) -> tuple[bytes, tuple[str, ...]]:
        """Sign study and roster; return the signature and the analyses with enough usable rows here."""
        if roster.study != self._digest or roster.member(self._hospital) != self.join():
            raise ProtocolError("the roster does not hold this hospital's own entry")
        roster.verify()
        floor = max(self._policy.min_hospitals, self._study.privacy.min_hospitals)
        if len(roster.members) < floor:
            raise Refused("min_hospitals", f"the roster has fewer than {floor} hospitals")
        if self._roster is not None and self._roster.digest != roster.digest:
            raise Refused("second_roster", "this hospital signed another roster for this study")
        if self._roster is None:
            secrets = _secrets(self._masking, roster, self._hospital)
            self._store.signed_roster(self._digest, encode(roster))
            self._store.audit("roster", self._study.name, roster.digest.hex())
            self._secrets, self._roster = secrets, roster
        rows = max(self._policy.min_rows, self._study.privacy.min_rows)
        taking_part = [label for label in sorted(self._usable) if self._usable[label] >= rows]
        return approve(self._identity, roster), tuple(taking_part)

    def sign_epoch(self, epoch: Epoch) -> bytes:
        """Sign the set that computes together. Numbers only rise, and one number has one epoch."""
        if self._roster is None:
            raise Refused("no_roster", "no roster was approved")
        epoch.verify(self._roster, max(self._policy.min_hospitals, self._study.privacy.min_hospitals))
        before = self._epoch
        if before is not None and epoch != before and epoch.number <= before.number:
            raise Refused("old_epoch", "an epoch with a number that was used")
        if before is None or epoch != before:
            self._store.signed_epoch(self._digest, encode(epoch))
            self._store.audit("epoch", self._study.name, epoch.digest.hex())
            self._epoch, self._signed = epoch, False
        return sign_epoch(self._identity, epoch)

    def open_epoch(self, digest: bytes, signatures: tuple[bytes, ...]) -> None:
        """Check once that every hospital of the current epoch signed it. Raises ProtocolError or Refused."""
        if self._roster is None or self._epoch is None or self._epoch.digest != digest:
            raise Refused("unknown_epoch", "a question under an epoch that this hospital did not sign")
        if not self._signed:
            if len(signatures) != len(self._epoch.hospitals):
                raise ProtocolError("the epoch's signatures are not complete")
            by_name = dict(zip(self._epoch.hospitals, signatures, strict=True))
            verify_signatures(self._epoch, self._roster, by_name)
            self._signed = True

    def answer(self, question: Question) -> Sealed:
        """Answer one query through the gate. Refused or ProtocolError where it may not be answered."""
        epoch = self._epoch
        if epoch is None or not self._signed or self._roster is None:
            raise Refused("unknown_epoch", "a question before its epoch was signed by all")
        hospitals = epoch.of(question.analysis)
        if self._hospital not in hospitals:
            raise Refused("not_taking_part", "a question of an analysis in which this hospital takes no part")
        if question.index < 0 or question.analysis not in self._kinds:
            raise ProtocolError("a question about no analysis of the study, or with a number below 0")
        binding, under = self._roster.digest, epoch.digest
        context = query_context(binding, under, question.analysis, question.index, question.asked)
        with self._answering:
            return self._answered(question, hospitals, binding, under, context)

    def _answered(
        self, question: Question, hospitals: tuple[str, ...], binding: bytes, under: bytes, context: bytes
    ) -> Sealed:
        kept = self._store.answer(binding, under, question.analysis, question.index)
        if kept is not None and kept[0] != context:
            raise Refused("other_query", "another query was answered under this number")
        asked = QUERY_RECORDS.decode(question.asked, Asked)
        if isinstance(asked.query, ScoresQuery) and asked.query.rows.part == "test":
            self._judged[question.analysis] = asked, asked.query.model.sha256
            if kept is None and "metrics" in self._policy.statements:
                self._store.judge(binding, question.analysis, question.asked)
        if kept is not None:
            return Sealed(kept[1])
        if asked.analysis != question.analysis or type(asked.query) not in self._kinds[question.analysis]:
            raise Refused("not_in_study", "a query that the approved study does not ask")
        if asked.query.kind != question.kind:
            raise ProtocolError("a query of another kind than its question says")
        contribution, layout = self._compute(asked)
        request = Request(
            self._study,
            self._hospital,
            hospitals,
            binding,
            under,
            question.analysis,
            question.index,
            asked.query.kind,
            context,
            self._usable[question.analysis],
            {name: self._secrets[name] for name in hospitals if name != self._hospital},
        )
        return release(contribution, layout, request, self._policy, self._store)

    def state(self, analysis: str) -> Statement:
        """Tell how the model does here that this session evaluated. Refused unless policy allows it."""
        asked, model = self._judged.get(analysis, (None, ""))
        if asked is None and self._roster is not None:  # it was evaluated before the node was started again
            noted = self._store.judged(self._roster.digest, analysis)
            if noted is not None:
                asked = QUERY_RECORDS.decode(noted, Asked)
                model = asked.query.model.sha256 if isinstance(asked.query, ScoresQuery) else ""
        if asked is None or self._roster is None:
            raise Refused("no_statement", "a statement on a model that was not evaluated here")
        contribution, _ = self._compute(asked)
        without, with_outcome = contribution.arrays["cells"]
        counts = int(without.sum()), int(with_outcome.sum())
        auc = area_under_curve(without, with_outcome) if min(counts) else 0.5
        judged = Judged(self._roster.digest, analysis, model, *counts, auc)
        return state(judged, self._study, self._policy, self._store)

    def _compute(self, asked: Asked) -> tuple[Contribution, Layout]:
        """Compute the answer; a query that makes no sense is a ProtocolError that quotes nothing."""
        try:
            layout = asked.query.layout(Frame(self._study.dictionary, asked.rows_bound))
            return asked.query.answer(self._cohort, layout), layout
        except (LookupError, ValueError, TypeError, AttributeError, ArithmeticError, MemoryError):
            raise ProtocolError(f"a `{asked.query.kind}` query that cannot be answered") from None


def _secrets(masking: MaskingKey, roster: Roster, own: str) -> dict[str, bytes]:
    """Return the secret shared with each other member, by name."""
    return {one.name: masking.shared_with(one.masking) for one in roster.members if one.name != own}
