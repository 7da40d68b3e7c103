"""The coordinator's side of a study's hospitals: carries what ``Coordination`` says over Flower, and back."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from typing import TypeVar

from flwr.serverapp import Grid

from wardround_common.analyses.flow import LABEL
from wardround_common.errors import ProtocolError, StudyError, listed
from wardround_common.messages import (
    MESSAGES,
    Answers,
    Approval,
    Behind,
    Entry,
    EpochProposal,
    EpochSignature,
    Invitation,
    Refusal,
    RosterProposal,
    Statement,
    StatementRequest,
    Step,
)
from wardround_common.replay import Due
from wardround_common.sealing.coordination import Coordination
from wardround_common.sealing.epoch import Epoch
from wardround_common.sealing.record import EpochRecord, StepRecord, position
from wardround_common.sealing.roster import Member, Roster
from wardround_common.study import Study
from wardround_common.wire import encode
from wardround_server.grid import Address, Late, Patience, Post, exchange, post
from wardround_server.transcript import Approvals, Proposed, Transcript, Wrapped

T = TypeVar("T")
_TRIES = 3  # of an epoch that a hospital takes for outdated, since another study went on meanwhile
_LOOK_S, _SELDOM_S = 1.0, 5.0  # between asking a hospital whose officer has to decide
Waiting = Callable[[tuple[str, ...]], None]  # is told which hospitals' officers are waited for


class Federation:
    """The members of one study, once they have begun an epoch.

    ``held`` is told which hospitals' officers have to release an answer, and may raise to give up; without
    it there is no waiting.
    """

    def __init__(
        self,
        way: Post,
        study: Study,
        coordination: Coordination,
        nodes: Mapping[str, int],
        patience: Patience = Patience(),
        held: Waiting | None = None,
    ) -> None:
        self._way, self._coordination, self._nodes, self._patience = way, coordination, nodes, patience
        self._held = held
        self._verified = study.privacy.plan == "verified"
        self._names = {node: name for name, node in nodes.items()}
        self._epoch: Epoch | None = None

    @property
    def epoch(self) -> Epoch:
        """The epoch that computes now. ProtocolError before there is one."""
        if self._epoch is None:
            raise ProtocolError("no epoch was signed yet")
        return self._epoch

    def bring_up(self, course: Sequence[EpochRecord | StepRecord]) -> None:
        """Tell the hospitals that are here what they lack of the course, before they sign what follows."""
        told = self._told(course)
        names = sorted(self._nodes)
        while names and told:
            bodies = self._bodies(self._coordination.telling(told, names))
            names = []
            for (_, node), reply in self._talk(bodies, Behind).items():
                self._coordination.behind(self._names[node], reply.records, told)
                if reply.records < len(told):
                    names.append(self._names[node])

    def begin_epoch(self, proposal: EpochProposal) -> EpochRecord:
        """Have every hospital of the epoch sign it; return the record with which it begins."""
        epoch, body = proposal.epoch, encode(proposal)
        nodes = {name: self._nodes[name] for name in epoch.hospitals}
        replies = self._talk({("epoch", node): body for node in nodes.values()}, EpochSignature)
        record = self._coordination.begun(
            epoch, {name: replies["epoch", node] for name, node in nodes.items()}
        )
        self._epoch = epoch
        return record

    def ask(self, due: Sequence[Due], course: Sequence[EpochRecord | StepRecord]) -> StepRecord:
        """Ask each hospital the queries of its analyses, in one message; return the opened sums."""
        told = self._told(course)
        answers: dict[str, Answers] = {}
        names: Sequence[str] = self.epoch.hospitals
        pause = _LOOK_S
        while names:
            bodies = self._bodies(self._coordination.steps(due, told, names))
            names, waits = [], []
            for (_, node), reply in _replies(self._way, bodies, self._names, self._patience).items():
                name = self._names[node]
                if isinstance(reply, Behind):
                    self._coordination.behind(name, reply.records, told)
                    names.append(name)
                elif isinstance(reply, Refusal) and reply.code == "held" and self._held is not None:
                    waits.append(name)
                else:
                    answers[name] = _expected(reply, (Answers,), name, "ask")
            if waits and self._held is not None:
                self._held(tuple(sorted(waits)))
                time.sleep(pause)
                pause = min(1.2 * pause, _SELDOM_S)
            names += waits
        return self._coordination.opened(due, self.epoch, answers, len(told))

    def _told(self, course: Sequence[EpochRecord | StepRecord]) -> list[EpochRecord | StepRecord]:
        """Return what hospitals are told of the course: no sums where they don't follow the program."""
        return [one for one in course if self._verified or isinstance(one, EpochRecord)]

    def _bodies(self, steps: Mapping[str, Step]) -> dict[Address, bytes]:
        """Return the messages; hospitals that are told the same sums and asked the same share one's bytes."""
        encoded: dict[tuple[object, ...], bytes] = {}
        found: dict[Address, bytes] = {}
        for name, step in steps.items():
            same = step.first, step.wrapped, step.questions
            if same not in encoded:
                encoded[same] = encode(step)
            found[step.action, self._nodes[name]] = encoded[same]
        return found

    def _talk(self, bodies: Mapping[Address, bytes], *expected: type[T]) -> dict[Address, T]:
        return talk(self._way, bodies, expected, self._names, self._patience)

    def statements(self, analyses: Sequence[str]) -> list[tuple[str, Statement]]:
        """Ask every hospital how each model does there; return what those tell whose policy allows it."""
        found: list[tuple[str, Statement]] = []
        for analysis in analyses:
            names = {self._nodes[name]: name for name in self.epoch.of(analysis)}
            body = encode(StatementRequest(self.epoch.binding, self.epoch.digest, analysis))
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
    entries = talk(way, {("join", node): invitation for node in nodes}, (Entry,), {}, Patience())
    members = {node: entry.member for (_, node), entry in entries.items()}
    begun = transcript.opening
    if begun is not None and {one.name for one in members.values()} != set(begun.roster.names):
        raise StudyError(
            "the transcript holds sums over other hospitals than take part now; go on with the same, or "
            "start anew with another transcript"
        )
    return agree(way, study, transcript, members)


def agree(
    way: Post,
    study: Study,
    transcript: Transcript,
    members: Mapping[int, Member],
    patience: Patience = Patience(),
    *,
    unconfirmed: Waiting | None = None,
    held: Waiting | None = None,
) -> Federation:
    """Have the members, by node, approve their roster and sign the next epoch, and record both.

    A study that has begun goes on with its own roster, of which members may be left out. ``unconfirmed`` is
    told which hospitals' officers have to confirm others before they approve, and may raise to give up;
    without it there is no waiting. ``held`` likewise, of officers who have to release an answer. StudyError
    where a hospital refuses or too few can take part.
    """
    by_name = {member.name: node for node, member in members.items()}
    opening = transcript.opening
    roster = (
        Roster(study.digest, tuple(sorted(members.values(), key=lambda member: member.name)))
        if opening is None
        else opening.roster
    )
    if any(roster.member(one.name) != one for one in members.values()):
        raise StudyError(
            "a hospital takes part with other keys than when the study began, so its sums can't be gone on "
            "with; begin anew, with another transcript"
        )
    coordination = _coordination(study, roster, transcript)
    federation = Federation(way, study, coordination, by_name, patience, held)
    names = {node: name for name, node in by_name.items()}
    for tried in range(_TRIES):
        _approved(way, coordination, names, patience, unconfirmed)
        if transcript.opening is None:
            transcript.append(Approvals(study.manifest(), roster, coordination.approvals()))
        federation.bring_up(transcript.course)
        proposal = _next_epoch(study, coordination, by_name, transcript.course)
        transcript.append(Proposed(proposal.epoch.number))
        try:
            record = federation.begin_epoch(proposal)
        except HospitalRefuses as error:
            if error.code not in ("restored", "old_epoch") or tried == _TRIES - 1:
                raise
            continue
        break
    exposed = coordination.exposed(record, transcript.course, study.privacy.min_hospitals)
    if exposed:
        raise StudyError(
            f"with these hospitals, sums would tell of {listed(exposed)} apart from the others, which their "
            "own terms (`leave` in policy.toml) don't allow; go on with those that began the study, or leave "
            f"out {study.privacy.min_hospitals} or more together"
        )
    transcript.append(Wrapped(record.epoch.digest, coordination.wrapped(record.epoch)))
    transcript.append(record)
    return federation


def _coordination(study: Study, roster: Roster, transcript: Transcript) -> Coordination:
    """Return the state machine of a study's hospitals, as far as the transcript tells."""
    proposed = [one.number for one in transcript.records if isinstance(one, Proposed)]
    found = Coordination(roster, study.privacy.plan == "verified", max(proposed, default=0))
    for one in transcript.records:
        if isinstance(one, Wrapped):
            found.remember(one.epoch, one.secrets)
    return found


def _approved(
    way: Post,
    coordination: Coordination,
    names: Mapping[int, str],
    patience: Patience,
    unconfirmed: Waiting | None,
) -> None:
    """Have every hospital approve the roster, again and again where its officer has to confirm others."""
    proposal = encode(RosterProposal(coordination.roster))
    left, pause = dict(names), _LOOK_S
    while left:
        replies = _replies(way, {("roster", node): proposal for node in left}, names, patience)
        for (_, node), reply in replies.items():
            if isinstance(reply, Refusal) and reply.code == "unconfirmed" and unconfirmed is not None:
                continue
            coordination.approved(left.pop(node), _expected(reply, (Approval,), names[node], "roster"))
        if left and unconfirmed is not None:
            unconfirmed(tuple(sorted(left.values())))
            time.sleep(pause)
            pause = min(1.2 * pause, _SELDOM_S)


def _next_epoch(
    study: Study,
    coordination: Coordination,
    here: Mapping[str, int],
    course: Sequence[EpochRecord | StepRecord],
) -> EpochProposal:
    """Return the epoch of the hospitals that are here. StudyError where they are too few."""
    labels = sorted([LABEL, *(spec.label for spec in study.analyses)])
    taking_part = {label: coordination.taking_part(label) for label in labels}
    privacy = study.privacy
    for label, names in taking_part.items():
        if len(names) < privacy.min_hospitals:
            what = "the study" if label == LABEL else f"analysis `{label}`"
            raise StudyError(
                f"{what}: {len(names)} of {len(here)} hospitals have {privacy.min_rows} usable "
                f"rows or more (`privacy.min_rows`); at least {privacy.min_hospitals} must "
                "(`privacy.min_hospitals`)"
            )
    present, everyone = len(taking_part[LABEL]), len(coordination.roster.members)
    if 2 * present <= everyone:
        raise StudyError(
            f"{present} of the {everyone} hospitals that began the study are here; more than half must be, "
            "so that no two sets of them can be kept from each other"
        )
    epochs = [record.epoch for record in course if isinstance(record, EpochRecord)]
    before = epochs[-1] if epochs else None
    steps, head = position(coordination.roster.digest, course)
    if before is not None and steps > before.steps:
        stay = sorted(set(before.hospitals) & set(taking_part[LABEL]))
        if len(stay) < privacy.min_hospitals:
            raise StudyError(
                f"{len(stay)} of those hospitals that verified the last sums are here; at least "
                f"{privacy.min_hospitals} must (`privacy.min_hospitals`)"
            )
    return coordination.propose(taking_part[LABEL], taking_part, before, steps, head)


def talk(
    way: Post,
    bodies: Mapping[Address, bytes],
    expected: tuple[type[T], ...],
    names: Mapping[int, str],
    patience: Patience,
) -> dict[Address, T]:
    """Exchange messages, decode the replies. StudyError, naming the hospital, if one refuses or is late."""
    return {
        (action, node): _expected(reply, expected, names.get(node), action)
        for (action, node), reply in _replies(way, bodies, names, patience).items()
    }


def _replies(
    way: Post, bodies: Mapping[Address, bytes], names: Mapping[int, str], patience: Patience
) -> dict[Address, object]:
    found: dict[Address, object] = {}
    for (action, node), body in _exchanged(way, bodies, names, patience).items():
        try:
            found[action, node] = MESSAGES.decode(body, object)
        except ProtocolError as error:
            who = _who(names.get(node))
            raise ProtocolError(f"{who}: its reply to `{action}` cannot be read ({error})") from None
    return found


def _expected(reply: object, expected: tuple[type[T], ...], name: str | None, action: str) -> T:
    if isinstance(reply, Refusal):
        raise HospitalRefuses(_who(name), reply.code)
    if not isinstance(reply, expected):
        raise ProtocolError(f"{_who(name)}: its reply to `{action}` has another type")
    return reply


def _who(name: str | None) -> str:
    return "a hospital" if name is None else f"`{name}`"


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


class HospitalRefuses(StudyError):
    """A hospital declines; ``code`` is all that it says."""

    def __init__(self, who: str, code: str) -> None:
        super().__init__(f"{who} refuses: {refusal(code)}")
        self.code = code


class LateHospitals(StudyError):
    """Hospitals did not answer by the deadline; the study can go on when they are back."""


def refusal(code: str) -> str:
    """Say what a refusal's code means."""
    if code in _CODES:
        return f"{_CODES[code]} ({code})"
    return f"its officer sees why in `wardround hospital` ({code})"


_CODES = {
    "not_approved": "it has not approved this study",
    "no_roster": "it has not approved this study, or has taken that back",
    "policy": "its policy asks for more protection than the study gives",
    "min_rows": "it has too few usable rows",
    "min_hospitals": "too few hospitals take part",
    "rows_bound": "it has more rows than the study's `max_rows`",
    "bounds": "a contribution exceeds its bound",
    "protocol": "it could not accept the message",
    "not_in_study": "the approved study does not ask this",
    "trouble": "it has trouble of its own (a full disk, a key or file it cannot read); its log says which",
    "unconfirmed": "its officer has confirmed too few of the hospitals (`wardround hospital confirm`)",
    "held": "its officer has to release each answer (`wardround hospital releases`)",
    "declined": "its officer declined to release an answer",
    "differencing": "its answers would tell of few rows by their difference from others",
    "max_queries": "its policy allows no more queries of this study (`max_queries`)",
    "max_queries_month": "its policy allows no more queries this month (`max_queries_month`)",
    "min_cell": "an analysis would ask sums over fewer than `min_cell` rows",
    "max_share": "it has so many of the rows that the sum would be nearly its own (`max_share`)",
    "revoked": "its officer has revoked one of the hospitals",
    "leave": "a hospital is left out whose own terms don't allow it, alone or at all (`leave`)",
    "max_epochs": "its policy allows no more changes of the set of hospitals (`max_epochs`)",
    "restored": "its node's database, or another hospital's, is older than others saw it",
    "false_sum": "it was told a sum that is not the hospitals' own",
    "diverged": "its program and the coordinator's part; do both run the same version?",
    "not_next": "the study's program does not ask this now",
    "other_course": "it has verified another course of this study; begin anew: coordinator launch --again",
    "second_roster": "it signed another roster for this study; approved anew there, the study can begin anew",
    "behind": "it was not told all sums of this study yet",
    "membership": "it would take part in other analyses than it can",
    "old_epoch": "it has gone further with this study under another transcript",
}
