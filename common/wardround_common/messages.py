"""What a coordinator and a hospital say to each other, as frozen types with one encoding.

    coordinator               hospital
    Invitation        ->      Entry             study offered; masking key for it, signed
    RosterProposal    ->      Approval          H(manifest, roster) signed; analyses it has rows for
    EpochProposal     ->      EpochSignature    the set that computes together, signed by each
    Step              ->      Answers           the sums so far; the queries of all programs that are ready
                      or      Behind            how much of the course this hospital has, to be sent the rest
    StatementRequest  ->      Statement         a rounded fact about one hospital, where its policy allows it

A hospital that declines says ``Refusal`` with a fixed code. Steps travel as Flower's message types
`query.ask`, `train` and `evaluate`, by the kinds of their queries, since local training and evaluation are
what a user of Flower looks for there. ``sealing/PROTOCOL.md`` says what each side checks.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from wardround_common.sealing.epoch import Epoch
from wardround_common.sealing.record import COURSE, EpochRecord, StepRecord
from wardround_common.sealing.roster import Member, Roster
from wardround_common.wire import Registry


@dataclass(frozen=True)
class Invitation:
    """A study's manifest: canonical JSON."""

    manifest: bytes


@dataclass(frozen=True)
class Entry:
    """A hospital's signed entry for the roster."""

    member: Member


@dataclass(frozen=True)
class RosterProposal:
    """All entries."""

    roster: Roster


@dataclass(frozen=True)
class Seen:
    """The audit head of another hospital, packed, as it last told it: under which epoch, signed how."""

    hospital: str
    audit: bytes
    epoch: bytes
    leave: str
    signature: bytes


@dataclass(frozen=True)
class Approval:
    """Signature under study and roster, and what the coordinator needs to propose an epoch.

    ``analyses``: for which this hospital has enough rows; ``number``: of the last epoch that it signed, 0 if
    none; ``records``: how much of the course it has; ``audit``: its own audit head, packed; ``seen``: those
    of others.
    """

    signature: bytes
    analyses: tuple[str, ...]
    number: int
    records: int
    audit: bytes
    seen: tuple[Seen, ...]


@dataclass(frozen=True)
class EpochProposal:
    """The set that is to compute together, and each one's audit head, packed, as others last saw it."""

    epoch: Epoch
    audits: tuple[bytes, ...]


@dataclass(frozen=True)
class EpochSignature:
    """A member's signature under the epoch, its terms of leaving and its audit head, packed.

    The epoch's leader adds the group secret, ``wrapped`` for each hospital in order, empty for itself.
    """

    signature: bytes
    leave: str
    audit: bytes
    wrapped: tuple[bytes, ...]


@dataclass(frozen=True)
class Question:
    """One query of a ``kind``, known by its ``digest``; ``index`` numbers it in its analysis.

    ``asked`` encodes ``program.Asked`` under `plan: trusted`. It is empty under `plan: verified`, where
    hospitals derive the query themselves.
    """

    analysis: str
    index: int
    kind: str
    digest: bytes
    asked: bytes


@dataclass(frozen=True)
class Step:
    """What a hospital lacks of the study's course, and what it is asked now.

    ``epoch``: digest of the epoch that computes; ``first``: how many records come before those of ``course``;
    ``wrapped``: of each epoch of ``course`` in order, the group secret for this hospital, empty where it does
    not belong to it, or leads it.
    """

    binding: bytes
    epoch: bytes
    first: int
    course: tuple[EpochRecord | StepRecord, ...]
    wrapped: tuple[bytes, ...]
    questions: tuple[Question, ...]

    @property
    def action(self) -> str:
        """The action under which it travels: `train` or `evaluate` if its questions are of that kind."""
        return action_of(question.kind for question in self.questions)


@dataclass(frozen=True)
class Answer:
    """A sealed vector: little-endian words of 64 bits, then the check lane, 16 bytes."""

    analysis: str
    index: int
    sealed: bytes


@dataclass(frozen=True)
class Answers:
    """The answers to a step, in its order."""

    answers: tuple[Answer, ...]


@dataclass(frozen=True)
class Behind:
    """A hospital has only the first ``records`` of the course, and answers once it has all."""

    records: int


@dataclass(frozen=True)
class StatementRequest:
    """A wish for a statement on how the model of ``analysis`` does at one hospital."""

    binding: bytes
    epoch: bytes
    analysis: str


@dataclass(frozen=True)
class Statement:
    """A model's AUC on one hospital's held-out rows, to two decimals; ``rows`` rounded to 10."""

    analysis: str
    rows: int
    auc: float


@dataclass(frozen=True)
class Refusal:
    """A fixed word that depends on no row."""

    code: str


RECORD, FIELD = "wardround", "body"  # where a message's bytes stand in Flower's RecordDict
ACTIONS = {
    "join": Invitation,
    "roster": RosterProposal,
    "epoch": EpochProposal,
    "ask": Step,
    "train": Step,
    "evaluate": Step,
    "state": StatementRequest,
}


def action_of(kinds: Iterable[str]) -> str:
    """Return the action of a step whose queries have these kinds."""
    heads = {kind.partition(".")[0] for kind in kinds}
    return "train" if "train" in heads else "evaluate" if heads == {"evaluate"} else "ask"


def message_type(action: str) -> str:
    """Return Flower's message type of an action."""
    return action if action in ("train", "evaluate") else f"query.{action}"


MESSAGES = Registry(
    (
        *ACTIONS.values(),
        *(Entry, Approval, Seen, EpochSignature, Question, Answer, Answers, Behind, Statement, Refusal),
        *(Member, Roster, *COURSE),
    )
)
