"""What a coordinator and a hospital say to each other, as frozen types with one encoding.

    coordinator               hospital
    Invitation        ->      Entry             study offered; masking key for it, signed
    RosterProposal    ->      Approval          H(manifest, roster) signed; analyses it has rows for
    EpochProposal     ->      EpochSignature    the set that computes together, signed by each
    Questions         ->      Answers           one step: the queries of all programs that are ready

A hospital that declines says ``Refusal`` with a fixed code.
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
    """One query: ``asked`` is the encoding of ``program.Asked``, ``index`` its number in the analysis."""

    analysis: str
    index: int
    asked: bytes


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
class Refusal:
    """A fixed word that depends on no row."""

    code: str


RECORD, FIELD = "wardround", "body"  # where a message's bytes stand in Flower's RecordDict
ACTIONS = {"join": Invitation, "roster": RosterProposal, "epoch": EpochProposal, "ask": Questions}
MESSAGES = Registry(
    (
        *ACTIONS.values(),
        *(Entry, Approval, EpochSignature, Question, Answer, Answers, Refusal),
        *(Member, Roster, Epoch, Membership),
    )
)
