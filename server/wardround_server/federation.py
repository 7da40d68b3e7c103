"""The coordinator's side of a study's hospitals: roster, epoch, and the opening of sums."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import TypeVar

import numpy as np
from flwr.serverapp import Grid

from wardround_common.analyses.flow import LABEL
from wardround_common.errors import ProtocolError, StudyError, listed
from wardround_common.messages import (
    MESSAGES,
    Answers,
    Approval,
    Entry,
    EpochProposal,
    EpochSignature,
    Invitation,
    Question,
    Questions,
    Refusal,
    RosterProposal,
    Statement,
    StatementRequest,
)
from wardround_common.sealing.epoch import EPOCH, Epoch, Membership
from wardround_common.sealing.identity import verify
from wardround_common.sealing.mask import open_masks
from wardround_common.sealing.roster import APPROVAL, Member, Roster
from wardround_common.study import Study
from wardround_common.typing import Ints, Words
from wardround_common.wire import encode
from wardround_server.grid import Address, Late, Patience, Post, exchange, post
from wardround_server.transcript import EpochRecord, Opening, Transcript

T = TypeVar("T")


class Federation:
    """The members of one study, after ``form`` gathered them."""

    def __init__(
        self, way: Post, roster: Roster, nodes: Mapping[str, int], patience: Patience = Patience()
    ) -> None:
        self._way, self._roster, self._nodes, self._patience = way, roster, nodes, patience
        self._names = {node: name for name, node in nodes.items()}
        self._signatures: tuple[bytes, ...] = ()
        self._epoch: Epoch | None = None

    @property
    def epoch(self) -> Epoch:
        """The epoch that computes now. ProtocolError before there is one."""
        if self._epoch is None:
            raise ProtocolError("no epoch was signed yet")
        return self._epoch

    def begin_epoch(self, epoch: Epoch) -> tuple[bytes, ...]:
        """Have every hospital of the epoch sign it; return the signatures in order."""
        body = encode(EpochProposal(epoch))
        nodes = {name: self._nodes[name] for name in epoch.hospitals}
        replies = self._talk({("epoch", node): body for node in nodes.values()}, EpochSignature)
        signatures = {name: replies["epoch", node].signature for name, node in nodes.items()}
        for name, signature in signatures.items():
            with _by(name):
                verify(self._roster.member(name).identity, signature, EPOCH, epoch.digest)
        self._epoch, self._signatures = epoch, tuple(signatures[name] for name in epoch.hospitals)
        return self._signatures

    def ask(self, questions: Sequence[Question]) -> list[Ints]:
        """Ask each hospital the questions of its analyses, one message an action; return the opened sums."""
        taking_part = [self.epoch.of(question.analysis) for question in questions]
        bodies: dict[Address, bytes] = {}
        encoded: dict[tuple[int, ...], bytes] = {}
        for action in sorted({question.action for question in questions}):
            for name in self.epoch.hospitals:
                own = tuple(
                    i for i, q in enumerate(questions) if q.action == action and name in taking_part[i]
                )
                if own and own not in encoded:
                    asked = tuple(questions[i] for i in own)
                    encoded[own] = encode(
                        Questions(self._roster.digest, self.epoch.digest, self._signatures, asked)
                    )
                if own:
                    bodies[action, self._nodes[name]] = encoded[own]
        replies = self._talk(bodies, Answers)
        vectors: dict[tuple[str, int], dict[str, Words]] = {}
        for (action, node), reply in replies.items():
            name = self._names[node]
            wanted = [
                (q.analysis, q.index)
                for q, names in zip(questions, taking_part, strict=True)
                if q.action == action and name in names
            ]
            if [(answer.analysis, answer.index) for answer in reply.answers] != wanted:
                raise ProtocolError(f"`{name}` answers other questions than it was asked")
            for answer in reply.answers:
                vectors.setdefault((answer.analysis, answer.index), {})[name] = _vector(name, answer.sealed)
        return [open_masks(_of_one_length(q, vectors[q.analysis, q.index])) for q in questions]

    def _talk(self, bodies: Mapping[Address, bytes], expected: type[T]) -> dict[Address, T]:
        return talk(self._way, bodies, expected, self._names, self._patience)

    def statements(self, analyses: Sequence[str]) -> list[tuple[str, Statement]]:
        """Ask every hospital how each model does there; return what those tell whose policy allows it."""
        found: list[tuple[str, Statement]] = []
        for analysis in analyses:
            names = {self._nodes[name]: name for name in self.epoch.of(analysis)}
            body = encode(
                StatementRequest(self._roster.digest, self.epoch.digest, self._signatures, analysis)
            )
            asked = {("state", node): body for node in names}
            for (_, node), reply in sorted(_exchanged(self._way, asked, names, self._patience).items()):
                try:
                    told = MESSAGES.decode(reply, object)
                except ProtocolError:  # no reason to lose the study at its end
                    continue
                # one that no honest hospital makes counts as none, as a refusal does
                if isinstance(told, Statement) and told.analysis == analysis and _is_possible(told):
                    found.append((names[node], told))
        return found


def form(grid: Grid, study: Study, transcript: Transcript) -> Federation:
    """Invite every node of the Grid and form the federation of those; for a Grid whose nodes are all there.

    StudyError where a hospital refuses or too few can take part.
    """
    way = post(grid)
    nodes = sorted(way.nodes())
    invitation = encode(Invitation(study.manifest()))
    entries = talk(way, {("join", node): invitation for node in nodes}, Entry, {}, Patience())
    return agree(way, study, transcript, {node: entry.member for (_, node), entry in entries.items()})


def agree(
    way: Post,
    study: Study,
    transcript: Transcript,
    members: Mapping[int, Member],
    patience: Patience = Patience(),
) -> Federation:
    """Have the members, by node, approve their roster and sign the next epoch, and record both.

    StudyError where a hospital refuses or too few can take part.
    """
    by_name = {member.name: node for node, member in members.items()}
    roster = Roster(study.digest, tuple(sorted(members.values(), key=lambda member: member.name)))
    roster.verify()
    proposal = encode(RosterProposal(roster))
    names = {node: name for name, node in by_name.items()}
    asked = {("roster", by_name[name]): proposal for name in roster.names}
    replies = talk(way, asked, Approval, names, patience)
    approvals = {name: replies["roster", by_name[name]] for name in roster.names}
    for name, approval in approvals.items():
        with _by(name):
            verify(roster.member(name).identity, approval.signature, APPROVAL, roster.digest)
    federation = Federation(way, roster, by_name, patience)
    labels = [LABEL, *(spec.label for spec in study.analyses)]
    taking_part = {
        label: tuple(name for name in roster.names if label in approvals[name].analyses) for label in labels
    }
    epoch = _next_epoch(study, roster, taking_part, transcript.epochs)
    if transcript.opening is None:
        transcript.append(
            Opening(study.manifest(), roster, tuple(approvals[name].signature for name in roster.names))
        )
    transcript.append(EpochRecord(epoch, federation.begin_epoch(epoch)))
    return federation


def _next_epoch(
    study: Study, roster: Roster, taking_part: Mapping[str, tuple[str, ...]], before: Sequence[EpochRecord]
) -> Epoch:
    privacy = study.privacy
    for label, names in taking_part.items():
        if len(names) < privacy.min_hospitals:
            what = "the study" if label == LABEL else f"analysis `{label}`"
            raise StudyError(
                f"{what}: {len(names)} of {len(roster.members)} hospitals have {privacy.min_rows} usable "
                f"rows or more (`privacy.min_rows`); at least {privacy.min_hospitals} must "
                "(`privacy.min_hospitals`)"
            )
    memberships = tuple(Membership(label, names) for label, names in taking_part.items())
    if before and (before[-1].epoch.hospitals, before[-1].epoch.analyses) != (
        taking_part[LABEL],
        memberships,
    ):
        raise StudyError(
            "the transcript holds sums over other hospitals than take part now; go on with the same, or "
            "start anew with another transcript"
        )
    number, previous = (before[-1].epoch.number + 1, before[-1].epoch.digest) if before else (1, b"")
    return Epoch(roster.digest, number, taking_part[LABEL], memberships, previous)


def talk(
    way: Post,
    bodies: Mapping[Address, bytes],
    expected: type[T],
    names: Mapping[int, str],
    patience: Patience,
) -> dict[Address, T]:
    """Exchange messages, decode the replies. StudyError, naming the hospital, if one refuses or is late."""
    found: dict[Address, T] = {}
    for (action, node), body in _exchanged(way, bodies, names, patience).items():
        who = f"`{names[node]}`" if node in names else "a hospital"
        try:
            reply = MESSAGES.decode(body, object)
        except ProtocolError as error:
            raise ProtocolError(f"{who}: its reply to `{action}` cannot be read ({error})") from None
        if isinstance(reply, Refusal):
            raise StudyError(f"{who} refuses: {refusal(reply.code)}")
        if not isinstance(reply, expected):
            raise ProtocolError(f"{who}: its reply to `{action}` has another type")
        found[action, node] = reply
    return found


def _exchanged(
    way: Post, bodies: Mapping[Address, bytes], names: Mapping[int, str], patience: Patience
) -> dict[Address, bytes]:
    try:
        return exchange(way, bodies, patience)
    except Late as late:
        who = listed(sorted(names.get(node, str(node)) for node in late.nodes))
        raise LateHospitals(f"{who}: no answer within {patience.deadline_s:g} s") from None


def _is_possible(statement: Statement) -> bool:
    return statement.rows >= 0 and 0 <= statement.auc <= 1


@contextmanager
def _by(name: str) -> Iterator[None]:
    """Name the hospital whose message is checked within."""
    try:
        yield
    except ProtocolError as error:
        raise ProtocolError(f"`{name}`: {error}") from None


class LateHospitals(StudyError):
    """Hospitals did not answer by the deadline; the study can go on when they are back."""


def refusal(code: str) -> str:
    """Say what a refusal's code means."""
    if code in _CODES:
        return f"{_CODES[code]} ({code})"
    return f"its officer sees why in `wardround hospital` ({code})"


_CODES = {
    "not_approved": "it has not approved this study",
    "policy": "its policy asks for more protection than the study gives",
    "min_rows": "it has too few usable rows",
    "min_hospitals": "too few hospitals take part",
    "rows_bound": "it has more rows than the study's `max_rows`",
    "bounds": "a contribution exceeds its bound",
    "protocol": "it could not accept the message",
    "not_in_study": "the approved study does not ask this",
    "trouble": "it has trouble of its own (a full disk, a key or file it cannot read); its log says which",
    "second_roster": "it signed another roster for this study; approved anew there, the study can begin anew",
    "old_epoch": "it has gone further with this study under another transcript",
}


def _vector(name: str, sealed: bytes) -> Words:
    if len(sealed) % 8:
        raise ProtocolError(f"`{name}`: an answer is not a vector of 64-bit words")
    return np.frombuffer(sealed, "<u8")


def _of_one_length(question: Question, vectors: Mapping[str, Words]) -> list[Words]:
    (usual, _), *others = Counter(map(len, vectors.values())).most_common()
    if others:
        odd = listed(name for name, vector in vectors.items() if len(vector) != usual)
        raise ProtocolError(f"{odd}: an answer to `{question.analysis}` has another length than the others'")
    return list(vectors.values())
