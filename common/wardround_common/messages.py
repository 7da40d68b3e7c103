"""What a coordinator and a hospital say to each other, as frozen types with one encoding.

    coordinator               hospital
    Invitation        ->      Entry             study offered; masking key for it, signed
    RosterProposal    ->      Approval          H(manifest, roster) signed; analyses it has rows for
    EpochProposal     ->      EpochSignature    the set that computes together, signed by each
    Questions         ->      Answers           one step: the queries of all programs that are ready
    StatementRequest  ->      Statement         a rounded fact about one hospital, where its policy allows it

A hospital that declines says ``Refusal`` with a fixed code. Questions travel as Flower's message types
`query.ask`, `train` and `evaluate`, by their kind, since local training and evaluation are what a user of
Flower looks for there.
"""

from __future__ import annotations

from dataclasses import dataclass

from wardround_common.sealing.epoch import Epoch, Membership
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
class Approval:
    """Signature under study and roster, and the analyses for which this hospital has enough rows."""

    signature: bytes
    analyses: tuple[str, ...]


@dataclass(frozen=True)
class EpochProposal:
    """The set that is to compute together."""

    epoch: Epoch


@dataclass(frozen=True)
class EpochSignature:
    """A member's signature under the epoch."""

    signature: bytes


@dataclass(frozen=True)
class Question:
    """One query of a ``kind``: ``asked`` encodes ``program.Asked``, ``index`` numbers it in the analysis."""

    analysis: str
    index: int
    kind: str
    asked: bytes

    @property
    def action(self) -> str:
        """The action under which it is asked: `ask`, `train` or `evaluate`."""
        head = self.kind.partition(".")[0]
        return head if head in ("train", "evaluate") else "ask"


@dataclass(frozen=True)
class Questions:
    """A step: ``binding`` is H(manifest, roster), ``epoch`` the epoch's digest.

    ``signatures`` are the epoch's, in the order of its hospitals.
    """

    binding: bytes
    epoch: bytes
    signatures: tuple[bytes, ...]
    questions: tuple[Question, ...]


@dataclass(frozen=True)
class Answer:
    """A sealed vector: little-endian uint64."""

    analysis: str
    index: int
    sealed: bytes


@dataclass(frozen=True)
class Answers:
    """The answers to a step, in its order."""

    answers: tuple[Answer, ...]


@dataclass(frozen=True)
class StatementRequest:
    """A wish for a statement on how the model of ``analysis`` does at one hospital."""

    binding: bytes
    epoch: bytes
    signatures: tuple[bytes, ...]
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
    "ask": Questions,
    "train": Questions,
    "evaluate": Questions,
    "state": StatementRequest,
}


def message_type(action: str) -> str:
    """Return Flower's message type of an action."""
    return action if action in ("train", "evaluate") else f"query.{action}"


MESSAGES = Registry(
    (
        *ACTIONS.values(),
        *(Entry, Approval, EpochSignature, Question, Answer, Answers, Statement, Refusal),
        *(Member, Roster, Epoch, Membership),
    )
)
