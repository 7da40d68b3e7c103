"""What a node is sent and what a coordinator is answered: the other side may be anybody."""

from __future__ import annotations

import asyncio
import dataclasses
import tempfile
from base64 import b64encode
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from functools import lru_cache
from pathlib import Path
from typing import Any

from tests.fuzz.decoders import enrolment, request
from tests.fuzz.edits import Script, edited_bytes, edited_json, edited_record
from tests.fuzz.target import scripted
from tests.fuzz.world import NAMES, VICTIM, World, small, trusted, wide
from wardround_common import messages as say
from wardround_common.enrolment import LATEST
from wardround_common.errors import ProtocolError
from wardround_common.messages import MESSAGES
from wardround_common.plan import QUERY_RECORDS
from wardround_common.replay import Replay
from wardround_common.sealing.epoch import Opening, sign_epoch
from wardround_common.sealing.record import EpochRecord, StepRecord
from wardround_common.strategies import installed
from wardround_common.wire import encode
from wardround_server.conductor import Progress, conduct
from wardround_server.federation import agree
from wardround_server.gateway import ENROL, FLEET, HELLO, Gateway, answer
from wardround_server.gathering import Gathered, Terms, gather
from wardround_server.grid.post import Letter
from wardround_server.registry import HospitalRecord, Registry
from wardround_server.transcript import Transcript

REPLIES: Mapping[str, tuple[type[Any], ...]] = {
    "join": (say.Entry,),
    "roster": (say.Approval,),
    "epoch": (say.EpochSignature,),
    "state": (say.Statement,),
    **dict.fromkeys(("ask", "train", "evaluate"), (say.Answers, say.Behind)),
}


# --- a node ---


def _node(name: str, world: Callable[[], World], state: str) -> None:
    @scripted(f"node-{name}")
    def run(data: bytes) -> None:
        script, moment = Script(data), world().moments[state]
        node, store = world().victim(state)
        try:
            action, body = _sent(world(), moment.action, moment.body, script)
            reply: Any = MESSAGES.decode(node.reply(action, body), object)
        finally:
            store.close()
        if isinstance(reply, say.Refusal):
            # `trouble` is for what is wrong at the hospital, which no message is
            assert reply.code != "trouble", f"{action}: {body[:200]!r}"
            raise ProtocolError(reply.code)
        assert isinstance(reply, REPLIES[action])


def _sent(world: World, action: str, body: bytes, script: Script) -> tuple[str, bytes]:
    """Return a message that a coordinator may send: the next one, another one, or no one, changed."""
    way = script.below(8)
    if way == 7:
        return script.of(list(say.ACTIONS)), script.take(1 << 16)
    if way >= 5:
        others = [(one, sent) for name, one, sent, _ in world.said if name == VICTIM and len(sent) < 1 << 16]
        action, body = script.of(others)
        action = script.of((action, *say.ACTIONS))
    mend = script.below(16)
    changed = edited_record(body, script, MESSAGES, (QUERY_RECORDS,))
    if mend < 8 and changed != body:
        try:
            changed = encode(world.mended(MESSAGES.decode(changed, object), mend))
        except (ProtocolError, UnicodeEncodeError):
            return action, changed
    return action, changed


for _name, _world, _state in (
    ("approved", small, "approved"),
    ("joined", small, "joined"),
    ("rostered", small, "rostered"),
    ("signed", small, "signed"),
    ("midway", small, "step 2"),
    ("fitting", wide, "step 4"),
    ("ended", small, "ended"),
    ("trusted", trusted, "signed"),
):
    _node(_name, _world, _state)


# --- a coordinator ---


class _Enough(Exception):
    """The changed reply has been dealt with."""


class _Hospitals:
    """A Post whose hospitals say what they said when it was recorded, but for one reply, edited.

    Epochs are signed anew, whatever they are: an edited reply may change what is proposed.
    """

    def __init__(self, world: World, script: Script) -> None:
        self._world, self._script = world, script
        self.left = script.below(16)  # replies before the one that is edited
        self._letters: dict[str, Letter] = {}
        self._said = {(name, action, _asked(body)): reply for name, action, body, reply in world.said}

    def send(self, action: str, bodies: Mapping[int, bytes]) -> dict[int, str]:
        sent = {}
        for node, body in bodies.items():
            reply = self._reply(NAMES[node], action, body)
            if self.left == 0:
                reply = self._edited(NAMES[node], body, reply)
            self.left -= 1
            sent[node] = f"{len(self._letters)}"
            self._letters[sent[node]] = Letter(sent[node], node, reply)
        return sent

    def collect(self, message_ids: Sequence[str]) -> list[Letter]:
        return [self._letters[one] for one in message_ids]

    def nodes(self) -> dict[int, float]:
        return dict.fromkeys(range(len(NAMES)), 0.0)

    def _reply(self, name: str, action: str, body: bytes) -> bytes:
        if action == "epoch":
            proposal = MESSAGES.decode(body, say.EpochProposal)
            return encode(self._signed(name, proposal.epoch))
        return self._said.get((name, action, _asked(body)), encode(say.Refusal("not_next")))

    def _signed(self, name: str, epoch: Any) -> say.EpochSignature:
        recorded = next(
            reply for who, action, _, reply in self._world.said if (who, action) == (name, "epoch")
        )
        told = MESSAGES.decode(recorded, say.EpochSignature)
        return self._signing(name, epoch, told)

    def _signing(self, name: str, epoch: Any, told: say.EpochSignature) -> say.EpochSignature:
        signature = sign_epoch(self._world.identities[name], epoch, told.leave, told.audit)
        return dataclasses.replace(told, signature=signature)

    def _edited(self, name: str, body: bytes, reply: bytes) -> bytes:
        script = self._script
        if script.below(8) == 7:
            return script.take(1 << 16)
        changed = edited_record(reply, script, MESSAGES)
        if changed == reply or script.below(4) == 3:
            return changed
        try:
            told = MESSAGES.decode(changed, object)
            if isinstance(told, say.EpochSignature):
                proposal = MESSAGES.decode(body, say.EpochProposal)
                return encode(self._signing(name, proposal.epoch, told))
        except ProtocolError:
            return changed
        return changed


def _asked(body: bytes) -> Any:
    """Return what tells a step from others, whatever the epoch."""
    message: Any = MESSAGES.decode(body, object)
    if isinstance(message, say.Step):
        return tuple((one.analysis, one.index, one.digest) for one in message.questions)
    return getattr(message, "analysis", "")


def _coordinator(name: str, world: Callable[[], World]) -> None:
    @scripted(f"coordinator-{name}")
    def run(data: bytes) -> None:
        script = Script(data)
        hospitals = _Hospitals(world(), script)
        skipped = script.below(2) * script.below(44)  # so that later steps are reached too
        hospitals.left += skipped

        def observe(progress: Progress) -> None:
            if hospitals.left < -8:
                raise _Enough

        transcript = Transcript()
        members = dict(enumerate(world().roster.members))
        federation = agree(hospitals, world().study, transcript, members)
        replay = Replay(world().study, installed, federation.epoch.binding)
        with suppress(_Enough):
            conduct(replay, transcript, federation, observe)
            federation.statements(["logistic"])


_coordinator("small", small)
_coordinator("wide", wide)


@scripted("coordinator-gathering")
def _gathering(data: bytes) -> None:
    world = small()
    hospitals = _Hospitals(world, Script(data))
    records = [
        HospitalRecord(name, world.identities[name].public, b"", "admitted", node, 0, ())
        for node, name in enumerate(NAMES)
    ]

    def tell(gathered: Gathered) -> None:
        if gathered.declined or gathered.waiting:
            raise ProtocolError("one of them is refused")

    joined = gather(hospitals, world.study, Transcript(), lambda: records, Terms(), tell)
    assert all(
        (one.name, one.identity) == (records[i].name, records[i].identity) for i, one in joined.items()
    )


# --- sums ---


@scripted("program-sums")
def _program_sums(data: bytes) -> None:
    """A program must end calmly whatever the sums are: one hospital that lies changes them all."""
    script, world = Script(data), wide()
    replay = Replay(world.study, installed, world.roster.digest)
    chosen = script.below(len(world.record) - 1)
    for i, record in enumerate(world.record):
        if isinstance(record, EpochRecord):
            replay.begin(record.epoch)
            continue
        if i - 1 == chosen:
            record = _lied(record, script)
        sums = replay.open(record)
        replay.take(record, sums)
        if i - 1 == chosen and record is not world.record[i]:
            break
    for due in replay.due:
        assert len(due.digest) == 32  # what it asks next can be sent


def _lied(record: StepRecord, script: Script) -> StepRecord:
    if script.is_over:
        return record
    sums = list(record.sums)
    for _ in range(1 + script.below(3)):
        i = script.below(len(sums))
        vector = sums[i].vector.copy()
        way, place = script.below(5), script.below(max(1, len(vector)))
        value = script.of((0, 1, -1, 2**31, 2**62, 2**63 - 1, -(2**63), 7, 1000, -(2**40)))
        if way == 0:
            vector[:] = value
        elif way == 1:
            vector[place:] = value
        elif way == 2:
            vector = -vector
        elif way == 3:
            vector = vector[::-1].copy()
        elif len(vector):
            vector[place] = value
        sums[i] = dataclasses.replace(sums[i], vector=vector)
    return StepRecord(record.epoch, tuple(sums))


@scripted("node-outside")
def _outside(data: bytes) -> None:
    """A hospital that does not belong to an epoch can't check its sums, and follows them all the same."""
    script, world = Script(data), wide()
    node, store = world.victim("rostered")
    others = tuple(name for name in NAMES if name != VICTIM)
    memberships = tuple(dataclasses.replace(one, abstaining=()) for one in world.epoch.analyses)
    first = next(one for one in world.record if isinstance(one, EpochRecord))
    epoch = dataclasses.replace(world.epoch, hospitals=others, analyses=memberships)
    opening = Opening((b"",) * 3, ("allow",) * 3, first.opening.audits[:3])
    steps = [one for one in world.record[: 2 + script.below(8)] if isinstance(one, StepRecord)]
    course = (EpochRecord(epoch, opening), *steps[:-1], _lied(steps[-1], script))
    step = say.Step(b"", b"", 0, course, (b"",), ())
    try:
        reply: Any = MESSAGES.decode(node.reply("ask", encode(world.mended(step, 1))), object)
    finally:
        store.close()
    if isinstance(reply, say.Refusal):
        assert reply.code != "trouble"
        raise ProtocolError(reply.code)
    assert reply == say.Behind(len(course))


# --- the coordinator's door ---


@dataclasses.dataclass(frozen=True)
class _Door:
    """A gateway, an enrolment that it takes, and the folder of its registry."""

    gateway: Gateway
    request: bytes
    folder: tempfile.TemporaryDirectory[str]


@lru_cache
def _door() -> _Door:
    async def inside(scope: Any, receive: Any, send: Any) -> None:
        await receive()
        await answer(send, 200, "inside")

    folder = tempfile.TemporaryDirectory(prefix="fuzz-")
    registry = Registry(Path(folder.name) / "coordinator.db")
    token = registry.invite("North", LATEST, 0)
    gateway = Gateway(inside, registry, "Registry", "x-key", clock=lambda: next(_clock))
    registry.enrol(enrolment(), token, 0)
    return _Door(gateway, request(token), folder)


_clock = iter(range(1_790_000_000, 2**60, 61))  # a minute later each time, so that nobody is told to wait
_STATUS = {200, 400, 401, 403, 404, 408, 409, 410, 413, 426}


@scripted("gateway")
def _gateway(data: bytes) -> None:
    script = Script(data)
    path = script.of((ENROL, HELLO, *FLEET, "/", "/v1/control/start-run", f"{ENROL}/", "/wardround/%65nrol"))
    body = script.take(1 << 10) if script.below(4) == 3 else edited_json(_door().request, script)
    key = b64encode(enrolment().node_key)
    headers = [
        (b"x-key", edited_bytes(key, script) if script.below(2) else key),
        (b"content-length", script.of((str(len(body)).encode(), b"-1", b"9" * 30, b"\xb2", b"", b"1e3"))),
        (b"wardround-protocol", script.of((b"2", b"1", b"", b"\xff"))),
    ]
    scope = {
        "type": "http",
        "path": path,
        "method": script.of(("POST", "GET", "PUT", "")),
        "headers": headers[script.below(3) :],
        "query_string": script.of((b"", b"a=1")),
    }
    sent: list[Any] = []

    async def receive() -> dict[str, Any]:
        return {"type": "http.request", "body": body, "more_body": False}

    async def send(message: Any) -> None:
        sent.append(message)

    asyncio.run(_door().gateway(scope, receive, send))
    assert [one["type"] for one in sent] == ["http.response.start", "http.response.body"]
    assert sent[0]["status"] in _STATUS
    if sent[0]["status"] >= 400:
        raise ProtocolError("refused")
