"""A small federation of real sessions and an honest coordinator, for ``test_protocol_machine``.

What the coordinator does stands first, then what must hold whatever happened; ``lies`` has what others do.
The rows are known here, so contributions, sums and results are computed beside the protocol and compared
with it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache

import numpy as np

from tests.properties.truth import direct, labels_of, told_of, true_sum
from tests.support import cohort_of, layout_of, patients, study_of, vector_of
from wardround_client.app import Node
from wardround_client.decision import approve_study
from wardround_client.gate import Policy
from wardround_client.session import BEHIND, CONFIRMED, CONFIRMED_BYTES, KEPT, Session
from wardround_client.store import NodeStore
from wardround_common import messages as say
from wardround_common.analyses.flow import LABEL
from wardround_common.analyses.logistic import LogisticFit
from wardround_common.cohort import Cohort
from wardround_common.errors import ProtocolError, Refused
from wardround_common.plan import Findings
from wardround_common.replay import Due, Replay
from wardround_common.sealing.coordination import Coordination
from wardround_common.sealing.epoch import AuditHead, Epoch
from wardround_common.sealing.lane import lane, pad
from wardround_common.sealing.mask import MODULUS, query_context, seal, unseal
from wardround_common.sealing.participant import OpenEpoch
from wardround_common.sealing.record import EpochRecord, StepRecord
from wardround_common.sealing.roster import Roster, fingerprint
from wardround_common.strategies import installed
from wardround_server.federation import Federation, HospitalRefuses
from wardround_server.grid.post import Letter
from wardround_server.simulation import simulated_keys

STUDY = study_of(
    {"kind": "logistic", "predictors": ["age"]},
    {"kind": "summary", "variables": ["age", "sex"]},
    privacy={"min_hospitals": 3, "min_rows": 1, "min_cell": 1},
)
FLOOR = STUDY.privacy.min_hospitals
LABELS = labels_of(STUDY)
NAMES = tuple(f"h{i:02d}" for i in range(8))
UNKNOWING = "h03"  # has no outcome, and so takes no part in the fit
KEYS = {name: simulated_keys(STUDY, name) for name in NAMES}  # the same in every run, so failures repeat
NO_LIMIT = 1 << 30
LOST = ("no_roster", "unknown_epoch")  # what a hospital says that signed and forgot it
Record = EpochRecord | StepRecord


@lru_cache
def cohorts() -> dict[str, Cohort]:
    """Return ten rows or so of each hospital. No three hospitals' outcomes are separated by age."""
    found = {}
    for i, name in enumerate(NAMES):
        table = patients().iloc[14 * i : 14 * i + 9 + i % 3]
        found[name] = cohort_of(STUDY, table.assign(disease=None) if name == UNKNOWING else table, name)
    return found


def abstaining(hospitals: Sequence[str]) -> dict[str, tuple[str, ...]]:
    """Return who takes no part, by analysis."""
    return {"logistic": tuple(name for name in hospitals if name == UNKNOWING)}


@lru_cache
def direct_findings(hospitals: tuple[str, ...]) -> Findings:
    """Return what a direct run over some hospitals' rows finds."""
    return direct(STUDY, {name: cohorts()[name] for name in hospitals}, abstaining(hospitals))[0]


@lru_cache(maxsize=4096)
def _contribution(name: str, query: bytes, due: _ByQuery) -> bytes:
    layout = layout_of(STUDY, due.due.asked)
    return vector_of(due.due.asked.query.answer(cohorts()[name], layout), layout).tobytes()


@dataclass(frozen=True)
class _ByQuery:
    """A query as a key of a cache: equal where its bytes are."""

    query: bytes
    due: Due = field(compare=False)


def contribution(name: str, due: Due) -> np.ndarray:
    """Return what a hospital's rows truly contribute."""
    return np.frombuffer(_contribution(name, due.query, _ByQuery(due.query, due)), np.int64)


class Hospital:
    """One real node: what it keeps, and the session that is made anew when it is started again."""

    def __init__(self, name: str, leave: str, max_epochs: int) -> None:
        self.name, self.store = name, NodeStore()
        self.identity, self.masking = KEYS[name]
        self.policy = Policy.of(STUDY).model_copy(update={"leave": leave, "max_epochs": max_epochs})
        approve_study(self.store, self.identity, STUDY, self.masking)
        self.restart()
        self.read = 0  # entries of its audit log that were looked at
        self.is_restored = False
        self.copy()

    def restart(self) -> None:
        """Begin again from what was kept."""
        self.session = Session(self.name, self.identity, self.policy, self.store, STUDY, cohorts()[self.name])
        self.node = Node(self.store)
        self.node.open(self.session)

    def copy(self) -> None:
        """Copy the database as it is."""
        self._copy = self.store._db.serialize()

    def restore(self) -> None:
        """Put the copy back in the database's place, and begin again from there."""
        self.store.close()
        self.store, self.is_restored = NodeStore(), True
        self.store._db.deserialize(self._copy)
        self.read = len(self.store.entries())
        self.restart()

    def forgive(self) -> None:
        """Have the officer forgive that entries of the audit log, which others saw, are missing."""
        for event, _, detail in self.store.entries():
            if event == BEHIND:
                self.store.forgive(bytes.fromhex(detail))

    def confirm(self, others: Sequence[str]) -> None:
        """Have the officer confirm other hospitals."""
        for other in others:
            found = fingerprint(other, KEYS[other][0].public)[:CONFIRMED_BYTES]
            self.store.say(other, found, CONFIRMED)

    def opened(self) -> set[bytes]:
        """Return the digests of the epochs that it opened."""
        return {KEPT.decode(one, OpenEpoch).epoch.digest for one, _ in self.store.opened(STUDY.digest)}

    def signed(self) -> bytes:
        """Return the digest of the epoch that it signed last."""
        record = self.store.study(STUDY.digest)
        assert record is not None
        return b"" if record.epoch is None else KEPT.decode(record.epoch, Epoch).digest


class Carrier:
    """Carries a federation's messages to hospitals in this process, as bytes; a ``Post``."""

    def __init__(self, nodes: Mapping[int, Hospital]) -> None:
        self._nodes = nodes
        self._sent = 0
        self._letters: dict[str, Letter] = {}

    def send(self, action: str, bodies: Mapping[int, bytes]) -> dict[int, str]:
        """Have each node answer its body."""
        ids = {}
        for node, body in bodies.items():
            self._sent += 1
            ids[node] = one = str(self._sent)
            self._letters[one] = Letter(one, node, self._nodes[node].node.reply(action, body))
        return ids

    def collect(self, message_ids: Sequence[str]) -> list[Letter]:
        """Return what came back."""
        return [self._letters.pop(one) for one in message_ids if one in self._letters]

    def nodes(self) -> dict[int, float]:
        """Return the nodes."""
        return dict.fromkeys(self._nodes, 0.0)


Reply = say.Answers | say.Behind | Refused | ProtocolError


class World:
    """Hospitals, their coordinator, and all that was ever released."""

    def __init__(self, leaves: Sequence[str], max_epochs: Sequence[int], confirmed: Sequence[bool]) -> None:
        self.names = NAMES[: len(leaves)]
        self.hospitals = {
            name: Hospital(name, *terms) for name, *terms in zip(self.names, leaves, max_epochs, strict=True)
        }
        for name, yes in zip(self.names, confirmed, strict=True):
            if yes:
                self.hospitals[name].confirm(self.names)
        self.roster = Roster(STUDY.digest, tuple(one.session.join() for one in self.hospitals.values()))
        self.carrier = Carrier(dict(enumerate(self.hospitals.values())))
        self.course: list[Record] = []
        self.audits: dict[bytes, tuple[bytes, ...]] = {}  # with which each of its epochs was proposed
        self.secrets: dict[bytes, tuple[bytes, ...]] = {}  # of each, wrapped
        self.last_number = 0  # of the last that was proposed
        self.gone: set[str] = set()
        self.base: tuple[str, ...] = ()  # over which hospitals a sum was opened last
        self.restart_coordinator()
        # by query context: what the honest program asked, and what was released for it, by hospital
        self.honest: dict[bytes, tuple[Epoch, Due]] = {}
        self.released: dict[bytes, dict[str, bytes]] = {}
        self.computed: list[tuple[str, ...]] = []  # over which hospitals sums can be opened
        self.members: dict[int, tuple[str, ...]] = {}  # of the epochs in which some can
        self.asked: list[tuple[int, Epoch, tuple[Due, ...]]] = []  # and after how many records

    # --- the honest coordinator ---

    @property
    def binding(self) -> bytes:
        """H(manifest, roster)."""
        return self.roster.digest

    @property
    def current(self) -> Epoch | None:
        """The last epoch of the course."""
        return next((one.epoch for one in reversed(self.course) if isinstance(one, EpochRecord)), None)

    def restart_coordinator(self) -> None:
        """Begin again from the course that was recorded."""
        self.coordination = self._coordination()
        self.replay = Replay(STUDY, installed, self.binding)
        for record in self.course:
            if isinstance(record, EpochRecord):
                self.replay.begin(record.epoch)
            else:
                self.replay.take(record, self.replay.open(record))
        self.ready = False  # whether the last epoch can be gone on with
        self.blocked = ""  # why not

    def _coordination(self) -> Coordination:
        found = Coordination(self.roster, verified=True, last_number=self.last_number)
        for epoch, wrapped in self.secrets.items():
            found.remember(epoch, wrapped)
        return found

    def federation(self, names: Sequence[str]) -> Federation:
        """Return the coordinator's way to some hospitals."""
        nodes = {name: self.names.index(name) for name in names}
        return Federation(self.carrier, STUDY, self.coordination, nodes)

    def knows(self, name: str) -> bool:
        """Tell whether a hospital has approved the roster."""
        return self.hospitals[name].session.binding == self.binding

    def approve(self, wanted: Sequence[str]) -> tuple[str, ...]:
        """Begin anew with those wanted who are here and give their approval; return who does."""
        self.ready, self.coordination = False, self._coordination()
        found = []
        for name in sorted(set(wanted) - self.gone):
            try:
                approval = self.hospitals[name].session.approve_roster(self.roster)
            except Refused as refused:
                assert refused.code == "unconfirmed"
                continue
            self.coordination.approved(name, approval)
            found.append(name)
        return tuple(found)

    def propose(self, wanted: Sequence[str]) -> say.EpochProposal | str:
        """Bring up those wanted who are here and approve; return their epoch, or why there is none."""
        here = self.approve(wanted)
        try:
            self.federation(here).bring_up(self.course)
        except HospitalRefuses as refused:
            return refused.code
        taking_part = {label: self.coordination.taking_part(label) for label in LABELS}
        before, steps, head = self.current, self.replay.steps, self.replay.head
        stay = here if before is None or steps == before.steps else {*here} & {*before.hospitals}
        too_few = any(len(names) < FLOOR for names in (stay, *taking_part.values()))
        if too_few or 2 * len(taking_part[LABEL]) <= len(self.names):
            return "too few"
        proposal = self.coordination.propose(taking_part[LABEL], taking_part, before, steps, head)
        self.last_number = proposal.epoch.number
        return proposal

    def begin(self, wanted: Sequence[str]) -> str:
        """Have the next epoch signed and go on under it; return why not, or nothing."""
        proposal = self.propose(wanted)
        if isinstance(proposal, str):
            return proposal
        try:
            record = self.federation(proposal.epoch.hospitals).begin_epoch(proposal)
        except HospitalRefuses as refused:
            return refused.code
        return self.adopt(record, proposal.audits)

    def adopt(self, record: EpochRecord, audits: Sequence[bytes]) -> str:
        """Go on under an epoch that all signed, unless their terms, which are known now, forbid it."""
        held = self.coordination.exposed(record, self.course, FLOOR)
        assert bool(held) == self._is_forbidden(record.epoch), f"held to be exposed: {held}"
        if held:
            return "leave"
        for one in record.epoch.analyses:  # who takes part, and how logs stood, is as each hospital has it
            assert one.abstaining == abstaining(record.epoch.hospitals).get(one.analysis, ())
        for name, packed in zip(record.epoch.hospitals, audits, strict=True):
            assert self.hospitals[name].store.had(AuditHead.of(packed))
        self.course.append(record)
        self.audits[record.epoch.digest] = tuple(audits)
        self.secrets[record.epoch.digest] = self.coordination.wrapped(record.epoch)
        self.replay.begin(record.epoch)
        self.ready = True
        self._note_due()
        return ""

    def _is_forbidden(self, after: Epoch) -> bool:
        """Tell whether sums over an epoch's sets, with those of the course, tell of whom they must not."""
        epochs = [*(one.epoch for one in self.course if isinstance(one, EpochRecord)), after]
        sets = dict.fromkeys(epoch.of(label) for epoch in epochs for label in LABELS)
        says = {name: one.policy.leave for name, one in self.hospitals.items()}
        left = {name for epoch in epochs for name in epoch.hospitals} - {*after.hospitals}
        return "never" in {says[name] for name in left} or any(
            says[name] != "allow" for some in told_of([*sets], FLOOR) for name in some
        )

    def _note_due(self) -> None:
        epoch = self.current
        assert epoch is not None
        self.asked.append((len(self.course), epoch, self.replay.due))
        for due in self.replay.due:
            self.honest[self.context(epoch, due)] = epoch, due

    def context(self, epoch: Epoch, due: Due) -> bytes:
        """Return the digest to which the masks of a query are bound."""
        return query_context(self.binding, epoch.digest, due.analysis, due.index, due.digest)

    def tell(self, name: str, step: say.Step) -> Reply:
        """Send a step; return the reply, or why it was refused. Checks that an answer is what was kept."""
        one = self.hospitals[name]
        try:
            reply = one.session.step(step)
        except (Refused, ProtocolError) as error:
            return error
        if isinstance(reply, say.Answers):
            for answer in reply.answers:
                kept = one.store.answer(self.binding, step.epoch, answer.analysis, answer.index)
                assert kept is not None and kept[1] == answer.sealed, "an answer that was not kept"
        return reply

    def ask(self, names: Sequence[str]) -> dict[str, say.Answers]:
        """Ask what is due; return the answers of those that gave them, and begin no epoch."""
        answers: dict[str, say.Answers] = {}
        left = [name for name in names if name not in self.gone]
        while left:
            steps = self.coordination.steps(self.replay.due, self.course, left)
            left = []
            for name, step in steps.items():
                reply = self.tell(name, step)
                if isinstance(reply, say.Behind):
                    self.coordination.behind(name, reply.records, self.course)
                    left.append(name)
                elif isinstance(reply, say.Answers):
                    answers[name] = reply
                else:
                    # an honest step fails only where the set is too close to another for a policy, or where
                    # a database does not know the epoch any more
                    allowed = {"max_epochs", *(LOST if self.hospitals[name].is_restored else ())}
                    assert isinstance(reply, Refused) and reply.code in allowed, f"{name}: {reply}"
                    self.ready, self.blocked = False, reply.code
        return answers

    def go_on(self, times: int) -> None:
        """Take so many steps, if that can be done."""
        if times and not self.ready and self.current is not None:
            self.begin(self.current.hospitals)
        for _ in range(times):
            self.advance()

    def everyone_asked(self) -> set[str]:
        """Return who has to answer what is due."""
        epoch = self.current
        assert epoch is not None
        return {name for due in self.replay.due for name in epoch.of(due.analysis)}

    def advance(self, *, lose: bool = False) -> bool:
        """Take one step; return whether it was taken. ``lose``: the coordinator dies before that."""
        epoch = self.current
        if not self.ready or epoch is None or self.replay.findings is not None:
            return False
        answers = self.ask(epoch.hospitals)
        if set(answers) != self.everyone_asked():
            return False
        if lose:
            self.restart_coordinator()
            return False
        record = self.coordination.opened(self.replay.due, epoch, answers, len(self.course))
        for due, one in zip(self.replay.due, record.sums, strict=True):
            true = true_sum(STUDY, due.asked, cohorts(), epoch.of(due.analysis))
            assert one.vector.tolist() == true.tolist(), "a sum that is not the hospitals' own was opened"
        self.replay.take(record, self.replay.open(record))
        self.course.append(record)
        self.base = epoch.hospitals
        self._note_due()
        return True

    def finish(self) -> None:
        """Go on honestly to the end; fail if that can't be done, or if the results are not a direct run's."""
        self.gone.clear()
        for one in self.hospitals.values():
            one.confirm(self.names)
        begun = self.current.hospitals if self.current else self.names
        why = [self._finished(hospitals) for hospitals in dict.fromkeys((begun, self.base or begun))]
        if self.replay.findings is None:  # too many sets were tried, for some policy
            assert "max_epochs" in why, f"an honest coordinator can't go on: {why}"
            return
        self._check_findings(self.replay.findings)

    def _finished(self, hospitals: tuple[str, ...]) -> str:
        """Go on with these hospitals; return why they did not come to the end, or nothing."""
        if self.replay.findings is not None:
            return ""
        if not self.ready or self.current is None or self.current.hospitals != hospitals:
            why = self._begun(hospitals)
            if why:
                return why
        while self.replay.findings is None:
            if not self.advance():
                if self.blocked in LOST and not self._begun(hospitals):
                    continue
                return self.blocked
        return ""

    def _begun(self, hospitals: tuple[str, ...]) -> str:
        """Begin with these hospitals, whose officers forgive what databases lack that were put back."""
        why = self.begin(hospitals)
        for _ in self.names:
            if why == "restored":
                for one in self.hospitals.values():
                    one.forgive()
                why = self.begin(hospitals)
        return why

    def _check_findings(self, found: Findings) -> None:
        ended: dict[str, tuple[str, ...]] = {}
        hospitals: tuple[str, ...] = ()
        for record in self.course:
            if isinstance(record, EpochRecord):
                hospitals = record.epoch.hospitals
            else:
                ended.update({one.analysis: hospitals for one in record.sums})
        assert found.flow == direct_findings(ended[LABEL]).flow
        assert found.analyses["summary"] == direct_findings(ended["summary"]).analyses["summary"]
        mine = found.analyses["logistic"].result
        other = direct_findings(ended["logistic"]).analyses["logistic"].result
        assert isinstance(mine, LogisticFit) and isinstance(other, LogisticFit)
        assert mine.n == other.n and mine.coefficients.keys() == other.coefficients.keys()
        for term, one in mine.coefficients.items():
            assert abs(one.value - other.coefficients[term].value) < 1e-8 * (1 + abs(one.value))

    # --- what must hold, whatever happened ---

    def check(self) -> None:
        """Look at all that was released since the last time."""
        complete = [context for name in self.names for context in self._check_releases(self.hospitals[name])]
        for context in complete:
            self._check_sum(context)
            epoch, due = self.honest[context]
            self._check_set(epoch, due.analysis)

    def _check_releases(self, one: Hospital) -> list[bytes]:
        """Check a hospital's new releases; return the contexts for which all have answered now."""
        entries, found = one.store.entries(), []
        fresh, one.read = entries[one.read :], len(entries)
        released = [detail for event, _, detail in fresh if event == "release"]
        if not released:
            return []
        charges = one.store.ledger()
        assert len(charges) == sum(event == "release" for event, _, _ in entries)
        for detail, charge in zip(released, charges[-len(released) :], strict=True):
            context = bytes.fromhex(detail.split()[1])
            assert context in self.honest, f"{one.name} answered what the program does not ask: {detail}"
            epoch, due = self.honest[context]
            hospitals = epoch.of(due.analysis)
            assert (charge.analysis, charge.index, charge.kind) == (due.analysis, due.index, due.kind)
            assert charge.hospitals == hospitals and one.name in hospitals
            answers = self.released.setdefault(context, {})
            kept = one.store.answer(self.binding, epoch.digest, due.analysis, due.index)
            assert kept is not None and kept[0] == context
            if one.name in answers:  # its database does not know
                assert one.is_restored, f"{one.name} released twice under one key"
                assert answers[one.name] == kept[1], f"{one.name} released two answers under one key"
                continue
            answers[one.name] = kept[1]
            self._check_contribution(one, epoch, due, kept[1])
            if len(answers) == len(hospitals):
                found.append(context)
        return found

    def _check_contribution(self, one: Hospital, epoch: Epoch, due: Due, sealed: bytes) -> None:
        """What is under the mask is the hospital's true contribution, and nothing else ever was."""
        context, own = self.context(epoch, due), contribution(one.name, due)
        others = [name for name in epoch.of(due.analysis) if name != one.name]
        secrets = {name: one.masking.shared_with(KEYS[name][1].public) for name in others}
        group = KEYS[epoch.leader][1].group_secret(epoch.digest)
        check = lane(own, group, context)
        if one.name == epoch.of(due.analysis)[0]:
            check += pad(group, context)
        assert sealed == seal(own, check, one.name, secrets, context)

    def _check_sum(self, context: bytes) -> None:
        """What all released opens to the true sum, and its lane holds."""
        epoch, due = self.honest[context]
        hospitals = epoch.of(due.analysis)
        total, lanes = unseal([self.released[context][name] for name in hospitals])
        assert total.tolist() == np.sum([contribution(name, due) for name in hospitals], axis=0).tolist()
        group = KEYS[epoch.leader][1].group_secret(epoch.digest)
        assert (lane(total, group, context) + pad(group, context)) % MODULUS == lanes

    def _check_set(self, epoch: Epoch, analysis: str) -> None:
        """Sums tell only of hospitals that allow it, and who says `never` was never left out."""
        self.computed = [*dict.fromkeys((*self.computed, epoch.of(analysis)))]
        self.members[epoch.number] = epoch.hospitals
        says = {name: one.policy.leave for name, one in self.hospitals.items()}
        for some in told_of(self.computed, FLOOR):
            assert {says[name] for name in some} == {"allow"}, f"sums tell of {sorted(some)}"
        before = {name for number, one in self.members.items() if number < epoch.number for name in one}
        left = before - {*epoch.hospitals}
        assert "never" not in {says[name] for name in left}, "who is never to be left out was"

    def close(self) -> None:
        """Close all databases."""
        for one in self.hospitals.values():
            one.store.close()
