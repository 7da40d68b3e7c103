"""The hospital's Flower app: one handler for each action, by Flower's message types.

`query.join`, `query.roster`, `query.epoch`, `query.ask`, `query.state`, `train` and `evaluate`.
Each message holds one ConfigRecord with one bytes field (three objects on Flower's wire instead of six);
its meaning is in ``wardround_common.messages``. A refusal is an answer like any other, a code without
data; the reason stays here, in the audit log.
"""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

from flwr.app import ConfigRecord, Context, Message, RecordDict
from flwr.clientapp import ClientApp

from wardround_client.approval import approve_standing, take_up
from wardround_client.database import NODE
from wardround_client.home import HospitalHome
from wardround_client.session import Session
from wardround_client.store import OFFERED, NodeStore, StudyRecord
from wardround_common import messages as say
from wardround_common.errors import ProtocolError, Refused, WardroundError
from wardround_common.home import LOG
from wardround_common.sealing.roster import RUNTIMES
from wardround_common.study import Study, read_manifest
from wardround_common.wire import encode

TakeUp = Callable[[StudyRecord], Session]  # open the session of an approved study
MOST_OFFERS = 100  # studies that wait for an officer; beyond these, new ones are not even noted
_MOST_DETAIL = 500  # letters of a refusal's reason, which may quote what was sent


class Node:
    """A hospital's sessions by study digest, and what each kind of message does with them.

    ``take_up`` opens what the store says was approved; without it, only what ``open`` was given is there.
    ``standing`` may approve a study that was just offered; ``policy`` tells which policy is in force: when
    that changes, sessions are opened anew.
    """

    def __init__(
        self,
        store: NodeStore,
        take_up: TakeUp | None = None,
        standing: Callable[[Study], bool] = lambda _: False,
        policy: Callable[[], object] = lambda: None,
    ) -> None:
        self._store, self._take_up, self._standing, self._policy = store, take_up, standing, policy
        self._sessions: dict[bytes, Session] = {}
        self._opened: dict[bytes, tuple[object, object]] = {}

    def open(self, session: Session) -> None:
        """Take up a study that this hospital has approved."""
        self._sessions[session.study] = session

    def _look(self, record: StudyRecord | None) -> None:
        """Open or close the session of a study as its officer last decided."""
        if self._take_up is None or record is None:
            return
        now = record.approved_at, None if record.approved_at is None else self._policy()
        if now != self._opened.get(record.digest, (None, None)):
            self._sessions.pop(record.digest, None)
            if record.approved_at is not None:
                self._sessions[record.digest] = self._take_up(record)
            self._opened[record.digest] = now

    def _study(self, digest: bytes) -> Session:
        self._look(self._store.study(digest))
        if digest not in self._sessions:
            raise Refused("not_approved", "a study that this hospital has not approved")
        return self._sessions[digest]

    def _bound(self, binding: bytes) -> Session:
        """Return the session of a roster, as the officer last decided on its study, and under what policy."""
        found = [one for one in self._sessions.values() if one.binding == binding]
        for record in [self._store.study(one.study) for one in found] or self._store.studies():
            self._look(record)
        for session in self._sessions.values():
            if session.binding == binding:
                return session
        raise Refused("no_roster", "a study whose roster this hospital has not approved")

    def join(self, message: say.Invitation) -> say.Entry:
        """Enter the roster of an approved study; one that is new here is noted for the officer."""
        digest = hashlib.sha256(message.manifest).digest()
        if self._take_up is not None and self._store.study(digest) is None:
            self._offered(digest, message.manifest)
        return say.Entry(self._study(digest).join())

    def _offered(self, digest: bytes, manifest: bytes) -> None:
        study = read_manifest(manifest)
        if sum(record.state == OFFERED for record in self._store.studies()) >= MOST_OFFERS:
            raise Refused("too_many_offers", f"{MOST_OFFERS} studies wait for approval already")
        self._store.offer(digest, study.name, manifest)
        self._store.audit("offer", study.name, digest.hex())
        self._standing(study)

    def roster(self, message: say.RosterProposal) -> say.Approval:
        """Approve the roster."""
        return self._study(message.roster.study).approve_roster(message.roster)

    def epoch(self, message: say.EpochProposal) -> say.EpochSignature:
        """Sign the epoch."""
        return self._bound(message.epoch.binding).sign_epoch(message.epoch, message.audits)

    def answer(self, message: say.Step, action: str) -> say.Answers | say.Behind:
        """Answer a step."""
        if message.action != action:
            raise ProtocolError(f"a step that is not asked as `{action}`")
        return self._bound(message.binding).step(message)

    def state(self, message: say.StatementRequest) -> say.Statement:
        """Tell how a model does here, where this hospital's policy allows it."""
        return self._bound(message.binding).state(message)

    def reply(self, action: str, body: Any) -> bytes:
        """Decode, act, encode; a refusal becomes its code and an audit entry."""
        act: Mapping[str, Callable[[Any], Any]] = {
            "join": self.join,
            "roster": self.roster,
            "epoch": self.epoch,
            "state": self.state,
            **{one: partial(self.answer, action=one) for one in ("ask", "train", "evaluate")},
        }
        try:
            try:
                if not isinstance(body, bytes):
                    raise ProtocolError("a message without a body")
                return encode(act[action](say.MESSAGES.decode(body, say.ACTIONS[action])))
            except Refused as error:
                # what waits for a person is noted, and the coordinator asks until it is decided
                if error.code not in ("not_approved", "unconfirmed", "held"):
                    self._store.audit("refuse", action, f"{error.code}: {error}"[:_MOST_DETAIL])
                return encode(say.Refusal(error.code))
            except ProtocolError as error:
                self._store.audit("refuse", action, f"protocol: {error}"[:_MOST_DETAIL])
                return encode(say.Refusal("protocol"))
        except WardroundError as error:  # a full disk, a key or a cohort that cannot be read
            if self._take_up is None:  # a simulation, where whoever runs it should hear of it
                raise
            logging.getLogger(LOG).error("%s: %s", action, error)
            return encode(say.Refusal("trouble"))


def node_of(home: HospitalHome, runtime: str = RUNTIMES[0]) -> Node:
    """Return the node of a hospital's home, which heeds what its officer decides and writes meanwhile."""
    home.store.actor = NODE
    return Node(
        home.store,
        partial(take_up, home, runtime=runtime),
        partial(approve_standing, home),
        partial(_written, home),
    )


def _written(home: HospitalHome) -> int | None:
    """Return when policy.toml was last written, in ns."""
    return home.policy_file.stat().st_mtime_ns if home.policy_file.exists() else None


def client_app(node: Node) -> ClientApp:
    """Return the Flower app of a node."""
    app = ClientApp()

    def serve(action: str) -> Callable[[Message, Context], Message]:
        def handle(message: Message, context: Context) -> Message:  # noqa: ARG001 (Flower's signature)
            record = message.content.get(say.RECORD)
            body = record.get(say.FIELD) if isinstance(record, ConfigRecord) else None
            reply = ConfigRecord({say.FIELD: node.reply(action, body)})
            return Message(RecordDict({say.RECORD: reply}), reply_to=message)

        return handle

    for action in say.ACTIONS:
        if action not in ("train", "evaluate"):
            app.query(action)(serve(action))
    app.train()(serve("train"))  # local training of federated averaging
    app.evaluate()(serve("evaluate"))
    return app
