"""The hospital's Flower app: one handler for each action, by Flower's message types.

`query.join`, `query.roster`, `query.epoch`, `query.ask`, `query.state`, `train` and `evaluate`.
Each message holds one ConfigRecord with one bytes field (three objects on Flower's wire instead of six);
its meaning is in ``wardround_common.messages``. A refusal is an answer like any other, a code without
data; the reason stays here, in the audit log.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

from flwr.app import ConfigRecord, Context, Message, RecordDict
from flwr.clientapp import ClientApp

from wardround_client.session import Session
from wardround_client.store import NodeStore
from wardround_common import messages as say
from wardround_common.errors import ProtocolError, Refused
from wardround_common.wire import encode


class Node:
    """A hospital's sessions by study digest, and what each kind of message does with them."""

    def __init__(self, store: NodeStore) -> None:
        self._store = store
        self._sessions: dict[bytes, Session] = {}

    def open(self, session: Session) -> None:
        """Take up a study that this hospital has approved."""
        self._sessions[session.study] = session

    def _study(self, digest: bytes) -> Session:
        if digest not in self._sessions:
            raise Refused("not_approved", "a study that this hospital has not approved")
        return self._sessions[digest]

    def _bound(self, binding: bytes) -> Session:
        for session in self._sessions.values():
            if session.binding == binding:
                return session
        raise Refused("no_roster", "a study whose roster this hospital has not approved")

    def join(self, message: say.Invitation) -> say.Entry:
        """Enter the roster of an approved study."""
        return say.Entry(self._study(hashlib.sha256(message.manifest).digest()).join())

    def roster(self, message: say.RosterProposal) -> say.Approval:
        """Approve the roster."""
        return say.Approval(*self._study(message.roster.study).approve_roster(message.roster))

    def epoch(self, message: say.EpochProposal) -> say.EpochSignature:
        """Sign the epoch."""
        return say.EpochSignature(self._bound(message.epoch.binding).sign_epoch(message.epoch))

    def answer(self, message: say.Questions, action: str) -> say.Answers:
        """Answer those questions of a step that belong to one action."""
        session = self._bound(message.binding)
        session.open_epoch(message.epoch, message.signatures)
        if any(question.action != action for question in message.questions):
            raise ProtocolError(f"a question that is not asked as `{action}`")
        answers = [say.Answer(q.analysis, q.index, session.answer(q).data) for q in message.questions]
        return say.Answers(tuple(answers))

    def state(self, message: say.StatementRequest) -> say.Statement:
        """Tell how a model does here, where this hospital's policy allows it."""
        session = self._bound(message.binding)
        session.open_epoch(message.epoch, message.signatures)
        return session.state(message.analysis)

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
            if not isinstance(body, bytes):
                raise ProtocolError("a message without a body")
            return encode(act[action](say.MESSAGES.decode(body, say.ACTIONS[action])))
        except Refused as error:
            self._store.audit("refuse", action, f"{error.code}: {error}")
            return encode(say.Refusal(error.code))
        except ProtocolError as error:
            self._store.audit("refuse", action, f"protocol: {error}")
            return encode(say.Refusal("protocol"))


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
