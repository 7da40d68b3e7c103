"""Gathering a study's hospitals over a network: whoever is admitted, online, and has approved it.

Each hospital is known by its node's number, which Flower checked by the node's key; the name and identity
in its entry must be those that were admitted with that key.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

from wardround_common.errors import ProtocolError, StudyError, listed
from wardround_common.messages import MESSAGES, Entry, Invitation, Refusal
from wardround_common.sealing.roster import Member
from wardround_common.study import Study
from wardround_common.wire import encode
from wardround_server.grid import Late, Patience, Post, exchange
from wardround_server.registry import HospitalRecord
from wardround_server.transcript import Transcript

_LOOK_S, _SELDOM_S = 1.0, 5.0
_JOIN_S = 20.0  # a hospital reads its cohort when it joins


@dataclass(frozen=True)
class Gathered:
    """How far it is: who is in, who has not approved yet, who says no and why, who is not there."""

    joined: tuple[str, ...]
    waiting: tuple[str, ...]
    declined: Mapping[str, str]
    absent: tuple[str, ...]


@dataclass(frozen=True)
class Terms:
    """When to begin: with all that are admitted, or ``wait_s`` after ``quorum`` of them have joined.

    ``without``: hospitals that are left out, be they there or not.
    """

    quorum: int | None = None
    wait_s: float = 60.0
    without: tuple[str, ...] = ()


@dataclass
class _Seen:
    joined: dict[int, Member] = field(default_factory=dict)
    waiting: set[str] = field(default_factory=set)
    declined: dict[str, str] = field(default_factory=dict)
    online: set[str] = field(default_factory=set)


def gather(
    way: Post,
    study: Study,
    transcript: Transcript,
    admitted: Callable[[], list[HospitalRecord]],
    terms: Terms,
    tell: Callable[[Gathered], None],
) -> dict[int, Member]:
    """Wait until the study's hospitals are there; return their entries by node.

    A study that has begun waits for those that began it, less those that are left out. ``tell`` is called
    about once a second, and may raise to give up. StudyError if a hospital has approved the study anew since
    it began, or if those that are not left out are too few.
    """
    opening = transcript.opening
    begun_by = None if opening is None else {member.name: member for member in opening.roster.members}
    if begun_by is not None:
        _check_enough(study, begun_by, terms.without)
    seen = _Seen()
    ready_at: float | None = None
    before, pause = None, _LOOK_S
    while True:
        records = {
            one.node_id: one for one in admitted() if one.state == "admitted" and one.node_id is not None
        }
        names = {one.name for one in records.values()}
        wanted = (names if begun_by is None else set(begun_by)) - set(terms.without)
        here = {
            node: records[node] for node in way.nodes() if node in records and records[node].name in wanted
        }
        seen.online = {one.name for one in here.values()}
        seen.joined = {node: one for node, one in seen.joined.items() if node in here}
        _ask(way, study, {node: one for node, one in here.items() if node not in seen.joined}, seen)
        joined = {member.name for member in seen.joined.values()}
        if begun_by is not None:
            _same(seen.joined, begun_by)
        found = Gathered(
            tuple(sorted(joined)),
            tuple(sorted(seen.waiting)),
            dict(sorted(seen.declined.items())),
            tuple(sorted(wanted - seen.online)),
        )
        tell(found)
        quorum = max(terms.quorum or len(wanted), study.privacy.min_hospitals)
        enough = begun_by is None and terms.quorum is not None and len(joined) >= quorum
        ready_at = (ready_at or time.monotonic()) if enough else None
        patience_over = ready_at is not None and time.monotonic() - ready_at >= terms.wait_s
        if (joined >= wanted and len(joined) >= study.privacy.min_hospitals) or patience_over:
            return seen.joined
        time.sleep(pause)
        pause = _LOOK_S if found != before else min(1.2 * pause, _SELDOM_S)
        before = found


def _ask(way: Post, study: Study, nodes: Mapping[int, HospitalRecord], seen: _Seen) -> None:
    """Invite nodes and note what they say."""
    if not nodes:
        return
    body = encode(Invitation(study.manifest()))
    try:
        replies = exchange(way, {("join", node): body for node in nodes}, Patience(deadline_s=_JOIN_S))
    except Late as late:
        replies = dict(late.replies)
    for (_, node), reply in replies.items():
        record = nodes[node]
        seen.waiting.discard(record.name)
        seen.declined.pop(record.name, None)
        try:
            said = MESSAGES.decode(reply, object)
            if isinstance(said, Entry):
                said.member.verify(study.digest)
        except ProtocolError:
            said = None
        if isinstance(said, Entry):
            if (said.member.name, said.member.identity) == (record.name, record.identity):
                seen.joined[node] = said.member
            else:
                seen.declined[record.name] = "its node speaks in another hospital's name"
        elif isinstance(said, Refusal) and said.code == "not_approved":
            seen.waiting.add(record.name)
        else:
            seen.declined[record.name] = said.code if isinstance(said, Refusal) else "protocol"


def _check_enough(study: Study, begun_by: Mapping[str, Member], without: Sequence[str]) -> None:
    stay, least = set(begun_by) - set(without), study.privacy.min_hospitals
    if len(stay) < least:
        raise StudyError(
            f"{study.name}: without {listed(without)} {len(stay)} hospitals are left, and the study asks for "
            f"{least} at least (`privacy.min_hospitals`); take one back: wardround coordinator resume "
            f"{study.name} --with NAME"
        )


def _same(joined: Mapping[int, Member], begun_by: Mapping[str, Member]) -> None:
    for member in joined.values():
        if begun_by[member.name] != member:
            raise StudyError(
                f"`{member.name}` has approved the study anew since it began, so its sums can't be gone on "
                "with; go on without it (wardround coordinator resume --without NAME), or begin anew: "
                "wardround coordinator launch --again"
            )
