"""Three made-up hospitals with fixed keys, and courses of a study over them, message by message.

The hospitals are real clients and the coordinator a real coordination; only their keys, rows and audit heads
are said here, so that every run has the same bytes.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import pandas as pd

from tests.support import cohort_of, layout_of, vector_of
from wardround_client.app import Node
from wardround_client.decision import approve_study
from wardround_client.gate import Policy
from wardround_client.session import CONFIRMED, CONFIRMED_BYTES, Session
from wardround_client.store import NodeStore
from wardround_common import messages as say
from wardround_common.analyses.flow import LABEL
from wardround_common.errors import ProtocolError
from wardround_common.replay import Due, Replay
from wardround_common.sealing.coordination import Coordination
from wardround_common.sealing.epoch import AuditHead, Epoch
from wardround_common.sealing.identity import Identity
from wardround_common.sealing.mask import MaskingKey
from wardround_common.sealing.record import EpochRecord, StepRecord, position
from wardround_common.sealing.roster import Roster, fingerprint
from wardround_common.strategies import installed
from wardround_common.study import Study, parse_study
from wardround_common.typing import Ints
from wardround_common.wire import encode

NAMES = ("avon", "brook", "cedar")
COORDINATOR = "coordinator"
VARIABLES = {
    "age": {"kind": "number", "range": [0, 128]},
    "sex": {"kind": "category", "levels": ["f", "m"]},
    "ill": {"kind": "category", "levels": ["no", "yes"]},
}
ANALYSES: tuple[dict[str, Any], ...] = (
    {"kind": "summary", "variables": ["sex", "ill"]},
    {"kind": "logistic", "predictors": ["age"], "missing": "drop"},
)


def study_of(*analyses: dict[str, Any], **privacy: str) -> Study:
    """Return the study, of these analyses."""
    return parse_study(
        {
            "wardround": 1,
            "name": "vectors",
            "variables": VARIABLES,
            "outcome": "ill",
            "max_rows": 1000,
            "analyses": list(analyses),
            "privacy": {"min_hospitals": 2, "min_rows": 3, "min_cell": 1, **privacy},
        }
    )


STUDY = study_of(*ANALYSES)
TRUSTED = study_of(*ANALYSES, plan="trusted")
UNSEALED = study_of(
    {"kind": "fedavg", "predictors": ["sex"], "strategy": "FedMedian", "rounds": 1}, seal="none"
)
# Of cedar's rows too few have an age, so that it takes no part in the logistic model, which it may since it
# says `allow`.
ROWS: dict[str, dict[str, list[Any]]] = {
    "avon": {
        "age": [41, 67, 35, 80, 52, 73],
        "sex": ["f", "m", "m", "f", "m", "f"],
        "ill": ["no", "yes", "yes", "yes", "no", "no"],
    },
    "brook": {
        "age": [29, 61, 70, 48, 55],
        "sex": ["m", "m", "f", "f", "f"],
        "ill": ["no", "yes", "no", "yes", "no"],
    },
    "cedar": {
        "age": [None, 59, None, 44],
        "sex": ["f", "m", "f", "m"],
        "ill": ["yes", "yes", "no", "no"],
    },
}
LEAVE = {"avon": "never", "brook": "group", "cedar": "allow"}


def secret(what: str) -> bytes:
    """Return 32 fixed bytes: the SHA-256 of what they are for."""
    return hashlib.sha256(f"wardround test vectors: {what}".encode()).digest()


def identity_of(name: str) -> Identity:
    """Return a hospital's identity."""
    return Identity.from_bytes(secret(f"identity of {name}"))


def masking_of(name: str) -> MaskingKey:
    """Return a hospital's masking key."""
    return MaskingKey.from_bytes(secret(f"masking key of {name}"))


def audit_of(name: str, count: int) -> AuditHead:
    """Return how a hospital's audit log stands after so many entries."""
    return AuditHead(count, secret(f"audit log of {name} after {count} entries"))


@dataclass(frozen=True)
class Said:
    """One message on its way."""

    sender: str
    receiver: str
    message: Any
    action: str = ""  # of what a coordinator sends

    def shown(self) -> dict[str, str]:
        """Return it as the vectors hold it."""
        return {
            "from": self.sender,
            "to": self.receiver,
            **({"action": self.action} if self.action else {}),
            "message": type(self.message).__name__,
            "bytes": encode(self.message).hex(),
        }


class Store(NodeStore):
    """A store whose audit log has as many entries as the real one, and heads that don't tell the time."""

    def __init__(self, name: str) -> None:
        super().__init__()
        self._name = name

    def audit_head(self) -> AuditHead:
        return audit_of(self._name, len(self.entries()))

    def had(self, head: AuditHead) -> bool:
        return head.count <= len(self.entries()) and head == audit_of(self._name, head.count)


class Hospital:
    """The real client of one hospital that has approved a study, and whose officer confirmed everyone."""

    def __init__(self, name: str, study: Study, leave: str) -> None:
        self.name, self.study = name, study
        self.policy = Policy.of(study).model_copy(update={"leave": leave})
        self.cohort = cohort_of(study, pd.DataFrame(ROWS[name]), name)
        self.store = Store(name)
        self.analyses: tuple[str, ...] = ()  # in which it takes part, as it said last
        self.approving: list[AuditHead] = []
        self.signing: list[AuditHead] = []
        self.contributions: dict[tuple[str, int], Ints] = {}
        approve_study(self.store, identity_of(name), study, masking_of(name))
        for other in NAMES:
            stands_for = fingerprint(other, identity_of(other).public)
            self.store.say(other, stands_for[:CONFIRMED_BYTES], CONFIRMED)
        self.start()

    def start(self) -> None:
        """Start the node, or start it again."""
        self._node = Node(self.store)
        self._node.open(
            Session(self.name, identity_of(self.name), self.policy, self.store, self.study, self.cohort)
        )

    def reply(self, action: str, message: Any) -> Any:
        """Return the reply. ProtocolError if it is a refusal."""
        reply = say.MESSAGES.decode(self._node.reply(action, encode(message)), object)
        if isinstance(reply, say.Refusal):
            raise ProtocolError(f"{self.name}: {reply.code}: {self.store.entries()[-1]}")
        if isinstance(reply, say.Approval):
            self.analyses = reply.analyses
            self.approving.append(AuditHead.of(reply.audit))
        if isinstance(reply, say.EpochSignature):
            self.signing.append(AuditHead.of(reply.audit))
        return reply

    def note(self, due: Due) -> None:
        """Note what it contributes to a query."""
        layout = layout_of(self.study, due.asked)
        found = vector_of(due.asked.query.answer(self.cohort, layout), layout)
        self.contributions[due.analysis, due.index] = found


class Run:
    """A study's course, and all that was said, in order. All hospitals have entered the roster."""

    def __init__(self, study: Study = STUDY, leave: Mapping[str, str] = LEAVE) -> None:
        self.study, self.said = study, list[Said]()
        self.hospitals = {name: Hospital(name, study, leave[name]) for name in NAMES}
        invitation = say.Invitation(study.manifest())
        entries = [self.tell(name, "join", invitation) for name in NAMES]
        self.roster = Roster(study.digest, tuple(one.member for one in entries))
        self.course: list[EpochRecord | StepRecord] = []
        self.proposals: list[say.EpochProposal] = []
        self.coordination = Coordination(self.roster, self.verified)
        self.wrapped: dict[bytes, tuple[bytes, ...]] = {}  # group secrets by epoch, as a transcript has them
        self.replay = Replay(study, installed, self.roster.digest)

    @property
    def verified(self) -> bool:
        """Whether hospitals follow the program."""
        return self.study.privacy.plan == "verified"

    @property
    def epochs(self) -> list[EpochRecord]:
        """All epochs that began."""
        return [one for one in self.course if isinstance(one, EpochRecord)]

    @property
    def epoch(self) -> Epoch:
        """The epoch that computes."""
        return self.epochs[-1].epoch

    @property
    def to_tell(self) -> list[EpochRecord | StepRecord]:
        """What hospitals are sent of the course."""
        return [one for one in self.course if self.verified or isinstance(one, EpochRecord)]

    def told(self, name: str) -> list[Said]:
        """Return what a hospital was sent, in order, once it had entered."""
        return [one for one in self.said if one.receiver == name][1:]

    def tell(self, name: str, action: str, message: Any) -> Any:
        """Send a hospital something; return its reply."""
        reply = self.hospitals[name].reply(action, message)
        self.said += Said(COORDINATOR, name, message, action), Said(name, COORDINATOR, reply)
        return reply

    # --- what an honest coordinator does ---

    def propose(self, names: Sequence[str] = NAMES) -> say.EpochProposal:
        """Have these hospitals approve the roster, tell them the course, and return the next epoch."""
        last = self.epoch if self.epochs else None
        self.coordination = Coordination(self.roster, self.verified, 0 if last is None else last.number)
        for epoch, secrets in self.wrapped.items():
            self.coordination.remember(epoch, secrets)
        for name in names:
            approval = self.tell(name, "roster", say.RosterProposal(self.roster))
            self.coordination.approved(name, approval)
        self._bring_up(names)
        labels = sorted([LABEL, *(spec.label for spec in self.study.analyses)])
        taking_part = {label: self.coordination.taking_part(label) for label in labels}
        return self.coordination.propose(names, taking_part, last, *position(self.roster.digest, self.course))

    def begin(self, names: Sequence[str] = NAMES) -> Run:
        """Begin an epoch of these hospitals, as a coordinator that was started."""
        proposal = self.propose(names)
        return self.sign(proposal, {name: self.tell(name, "epoch", proposal) for name in names})

    def sign(self, proposal: say.EpochProposal, signatures: Mapping[str, say.EpochSignature]) -> Run:
        """Go on under an epoch with these signatures."""
        self.proposals.append(proposal)
        self.course.append(self.coordination.begun(proposal.epoch, signatures))
        self.wrapped[proposal.epoch.digest] = self.coordination.wrapped(proposal.epoch)
        self.replay.begin(proposal.epoch)
        return self

    def _bring_up(self, names: Sequence[str]) -> None:
        while names and self.to_tell:
            steps, names = self.coordination.telling(self.to_tell, names), []
            for name, step in steps.items():
                reply = self.tell(name, step.action, step)
                self.coordination.behind(name, reply.records, self.to_tell)
                if reply.records < len(self.to_tell):
                    names.append(name)

    def advance(self, times: int = 1) -> Run:
        """Ask what is due, and go on from the sums."""
        for _ in range(times):
            record = self.coordination.opened(self.replay.due, self.epoch, self._answers(), len(self.to_tell))
            sums = self.replay.open(record)
            self.course.append(record)
            self.replay.take(record, sums)
        return self

    def _answers(self) -> dict[str, say.Answers]:
        answers: dict[str, say.Answers] = {}
        for due in self.replay.due:
            for name in self.epoch.of(due.analysis):
                self.hospitals[name].note(due)
        names: Sequence[str] = self.epoch.hospitals
        while names:
            steps, names = self.steps(names), []
            for name, step in steps.items():
                reply = self.tell(name, step.action, step)
                if isinstance(reply, say.Behind):
                    self.coordination.behind(name, reply.records, self.to_tell)
                    names.append(name)
                else:
                    answers[name] = reply
        return answers

    def steps(self, names: Sequence[str] | None = None) -> dict[str, say.Step]:
        """Return what is sent next."""
        return self.coordination.steps(self.replay.due, self.to_tell, names or self.epoch.hospitals)

    def end(self) -> Run:
        """Tell the last sums, which is not answered here."""
        for name, last in self.steps().items():
            self.said.append(Said(COORDINATOR, name, last, last.action))
        return self


def honest_run(leave: Mapping[str, str] = LEAVE, study: Study = STUDY) -> Run:
    """Drive one epoch for three steps; before the last, brook is started again and is brought up."""
    run = Run(study, leave).begin().advance(2)
    run.hospitals["brook"].start()
    return run.advance().end()


def changing_run() -> Run:
    """Drive three epochs: of all, without cedar, and of all again. At last, brook is started again."""
    run = Run().begin().advance()
    run.begin(NAMES[:2]).advance(2)
    run.begin().advance()
    run.hospitals["brook"].start()
    return run.advance().end()


def text(data: Any) -> str:
    """Return JSON as the vectors are written: keys in their order, two spaces, ASCII."""
    return json.dumps(data, indent=2) + "\n"
