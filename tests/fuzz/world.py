"""A federation of the real parts, recorded: what was said, how each hospital was then, and all keys.

With the keys of all but one hospital and the group secret, a fuzzer can sign and prove what it changed, as a
coordinator could with which those hospitals collude; what is behind the signatures is reached so.
"""

from __future__ import annotations

import dataclasses
import hashlib
from collections.abc import Callable
from functools import lru_cache
from typing import Any

from tests.support import cohort_of, study_of, tables_of
from wardround_client.app import Node
from wardround_client.decision import approve_study
from wardround_client.gate import Policy
from wardround_client.session import Session
from wardround_client.store import NodeStore, StudyRecord
from wardround_common import messages as say
from wardround_common.analyses.flow import LABEL
from wardround_common.replay import Replay
from wardround_common.sealing.coordination import Coordination
from wardround_common.sealing.epoch import Opening, audits_digest, sign_epoch
from wardround_common.sealing.identity import Identity
from wardround_common.sealing.lane import lane
from wardround_common.sealing.mask import LANE_BYTES, MaskingKey, query_context
from wardround_common.sealing.record import EpochRecord, Opened, StepRecord, position
from wardround_common.sealing.roster import RUNTIMES, Roster, enter
from wardround_common.strategies import installed
from wardround_common.study import Study
from wardround_common.wire import encode

NAMES = ("h00", "h01", "h02", "h03")
VICTIM = "h03"  # has most rows, and is not the leader, so it is sent the group secret
SPLIT = {"column": "fold", "test": "0"}
SMALL = (
    {"kind": "logistic", "predictors": ["age", "sex"]},
    {"kind": "summary", "variables": ["age", "sex", "disease"]},
)
WIDE = (
    *SMALL,
    {"kind": "forest", "trees": 2, "depth": 2, "bins": 4, "predictors": ["age", "sex"]},
    {"kind": "fedavg", "predictors": ["age", "sex"], "rounds": 2},
    {"kind": "importance", "model": "logistic", "repeats": 2},
)


@dataclasses.dataclass(frozen=True)
class Moment:
    """The victim before it was sent ``body`` under ``action``; ``course`` is what it had taken."""

    database: bytes
    course: tuple[EpochRecord | StepRecord, ...]
    action: str
    body: bytes


class World:
    """A study that four hospitals have gone through to its end."""

    def __init__(self, study: Study) -> None:
        self.study = study
        self.cohorts = {name: cohort_of(study, table, name) for name, table in tables_of(4).items()}
        self.identities = {name: Identity.generate() for name in NAMES}
        self._stores = {name: NodeStore() for name in NAMES}
        self.moments: dict[str, Moment] = {}
        self.said: list[tuple[str, str, bytes, bytes]] = []  # hospital, action, body, reply
        self.record: list[EpochRecord | StepRecord] = []
        for name, store in self._stores.items():
            approve_study(store, self.identities[name], study)
        self._run()

    def _run(self) -> None:
        nodes = {name: self._node(name, store) for name, store in self._stores.items()}
        verified = self.study.privacy.plan == "verified"

        def tell(name: str, action: str, message: Any) -> Any:
            body, told = encode(message), tuple(self.record if verified else self.record[:1])
            if name == VICTIM:
                database = self._stores[name]._db.serialize()  # no way but SQLite's own copies all of it
                state = self._state(action)
                self.moments[state] = Moment(database, told[: getattr(message, "first", 0)], action, body)
            reply = nodes[name].reply(action, body)
            self.said.append((name, action, body, reply))
            return say.MESSAGES.decode(reply, object)

        invitation = say.Invitation(self.study.manifest())
        members = tuple(tell(name, "join", invitation).member for name in NAMES)
        self.roster = Roster(self.study.digest, members)
        coordination = Coordination(self.roster, verified)
        for name in NAMES:
            coordination.approved(name, tell(name, "roster", say.RosterProposal(self.roster)))
        labels = sorted([LABEL, *(spec.label for spec in self.study.analyses)])
        taking = {label: coordination.taking_part(label) for label in labels}
        proposal = coordination.propose(NAMES, taking, None, *position(self.roster.digest, ()))
        self.epoch = proposal.epoch
        signed = {name: tell(name, "epoch", proposal) for name in NAMES}
        self.record.append(coordination.begun(self.epoch, signed))
        self._follow(coordination, tell)
        asked = say.StatementRequest(self.roster.digest, self.epoch.digest, "logistic")
        tell(VICTIM, "state", asked)
        leader = self._stores[self.epoch.leader].study(self.study.digest)
        assert leader is not None
        assert leader.masking is not None
        self.group = MaskingKey.from_bytes(leader.masking).group_secret(self.epoch.digest)

    def _follow(self, coordination: Coordination, tell: Callable[[str, str, Any], Any]) -> None:
        replay = Replay(self.study, installed, self.roster.digest)
        replay.begin(self.epoch)
        while replay.findings is None:
            told = self.record if self.study.privacy.plan == "verified" else self.record[:1]
            steps = coordination.steps(replay.due, told, NAMES)
            answers = {name: tell(name, step.action, step) for name, step in steps.items()}
            step = coordination.opened(replay.due, self.epoch, answers, len(told))
            self.record.append(step)
            replay.take(step, replay.open(step))
        self.findings = replay.findings

    def _state(self, action: str) -> str:
        return {"join": "approved", "roster": "joined", "epoch": "rostered", "state": "ended"}.get(
            action, "signed" if len(self.record) == 1 else f"step {len(self.record) - 1}"
        )

    def _node(self, name: str, store: NodeStore) -> Node:
        policy = Policy.of(self.study).model_copy(update={"statements": ("metrics",)})

        def take_up(record: StudyRecord) -> Session:
            cohort = self.cohorts[name]
            return Session(name, self.identities[name], policy, store, self.study, cohort, everyone=True)

        return Node(store, take_up)

    def victim(self, state: str) -> tuple[Node, NodeStore]:
        """Return the victim's node as it was in a state, with what it had taken of the course."""
        moment, store = self.moments[state], NodeStore()
        store._db.deserialize(moment.database)
        node = self._node(VICTIM, store)
        if moment.course:
            first = say.MESSAGES.decode(self.moments["signed"].body, say.Step)
            course = dataclasses.replace(first, course=moment.course, questions=())
            reply = say.MESSAGES.decode(node.reply("ask", encode(course)), object)
            assert reply == say.Behind(len(moment.course)), reply
        return node, store

    # --- what hospitals that collude can do for a coordinator ---

    def mended(self, message: Any, which: int) -> Any:
        """Return a message with what its signatures and digests say made true, but for bits of ``which``."""
        if isinstance(message, say.RosterProposal):
            return say.RosterProposal(self._signed_roster(message.roster, which))
        if isinstance(message, say.EpochProposal):
            audits = message.epoch.audits if which & 1 else audits_digest(message.audits)
            epoch = dataclasses.replace(message.epoch, binding=self.roster.digest, audits=audits)
            return dataclasses.replace(message, epoch=epoch)
        if isinstance(message, say.Step):
            return self._proven_step(message, which)
        return message

    def _signed_roster(self, roster: Roster, which: int) -> Roster:
        """Have every member but the victim sign its entry, whatever it says; ``which`` & 1: in order."""
        study = roster.study if which & 2 else self.study.digest
        members = []
        for one in roster.members:
            signed = one
            if one.name != VICTIM and one.runtime in RUNTIMES:
                identity = self.identities.get(one.name) or Identity.generate()
                signed = enter(identity, study, one.name, one.masking, one.runtime)
            members.append(signed)
        return Roster(study, tuple(sorted(members, key=lambda one: one.name) if which & 1 else members))

    def _proven_step(self, step: say.Step, which: int) -> say.Step:
        epoch, course = self.epoch, []
        for record in step.course:
            if isinstance(record, EpochRecord):
                record = self._signed_record(record)
                epoch = record.epoch
            elif not which & 1:
                sums = tuple(self._proven(one, epoch.digest) for one in record.sums)
                record = StepRecord(record.epoch, sums)
            course.append(record)
        questions = tuple(
            dataclasses.replace(one, digest=hashlib.sha256(one.asked).digest()) if one.asked else one
            for one in step.questions
        )
        current = step.epoch if which & 2 else epoch.digest
        binding = step.binding if which & 4 else self.roster.digest
        return dataclasses.replace(
            step, binding=binding, epoch=current, course=tuple(course), questions=questions
        )

    def _signed_record(self, record: EpochRecord) -> EpochRecord:
        """Have all hospitals of an epoch that the roster knows sign it; the victim too, as if tricked."""
        epoch, opening = record.epoch, record.opening
        signed = [
            sign_epoch(self.identities[name], epoch, leave, audit) if name in self.identities else b""
            for name, leave, audit in zip(epoch.hospitals, opening.leaves, opening.audits, strict=False)
        ]
        return EpochRecord(epoch, Opening(tuple(signed), opening.leaves, opening.audits))

    def _proven(self, one: Opened, epoch: bytes) -> Opened:
        """Return a sum with the check lane that makes the victim believe it."""
        if one.vector.ndim != 1 or not 0 <= one.index < 2**63:
            return one
        context = query_context(self.roster.digest, epoch, one.analysis, one.index, one.question)
        proof = lane(one.vector, self.group, context).to_bytes(LANE_BYTES, "little")
        return dataclasses.replace(one, proof=proof)


STUDIES = {
    "small": study_of(*SMALL, split=SPLIT, privacy={"min_hospitals": 3}),
    "wide": study_of(*WIDE, split=SPLIT, privacy={"min_hospitals": 3}),
    "trusted": study_of(*WIDE, split=SPLIT, privacy={"min_hospitals": 3, "plan": "trusted"}),
}


@lru_cache
def _tried(name: str) -> World | Exception:
    try:
        return World(STUDIES[name])
    except Exception as error:  # noqa: BLE001 (remembered, or it would be tried for each input)
        return error


def _world(name: str) -> World:
    found = _tried(name)
    if isinstance(found, Exception):  # must not be taken for a refusal of what is fuzzed
        raise RuntimeError("the federation that is fuzzed does not run") from found
    return found


def small() -> World:
    """Return a federation of a small study."""
    return _world("small")


def wide() -> World:
    """Return a federation of a study with every kind of analysis."""
    return _world("wide")


def trusted() -> World:
    """Return a federation of a study whose questions the coordinator chooses."""
    return _world("trusted")
