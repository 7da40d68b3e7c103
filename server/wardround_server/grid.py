"""Flower's Grid in one process, and a step's exchange of messages over any Grid.

``LocalGrid`` hands each message to a hospital's real ClientApp, as Flower's simulation does but without
Ray, processes or polling. This module and the client's ``link`` alone touch flwr's internals; flwr is
pinned exactly.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

from flwr.app import ConfigRecord, Context, Message, RecordDict
from flwr.clientapp import ClientApp
from flwr.common.constant import SUPERLINK_NODE_ID
from flwr.serverapp import Grid
from flwr.supercore.run import Run
from flwr.supercore.task_identity import TaskIdentity

from wardround_common.errors import ProtocolError
from wardround_common.messages import FIELD, RECORD, message_type


class LocalGrid(Grid):
    """A Grid over ClientApps of this process, by node id. Answers are computed when messages are pushed."""

    def __init__(self, apps: Mapping[int, Callable[[], ClientApp]], threads: int | None = None) -> None:
        self._apps = {node: make() for node, make in apps.items()}
        self._contexts = {node: Context(1, node, {}, RecordDict(), {}) for node in apps}
        self._replies: dict[str, Message] = {}
        self._sent = 0
        self._pool = ThreadPoolExecutor(threads or os.cpu_count() or 1, "hospital")
        self._run = Run.create_empty(1)
        TaskIdentity.task_id = TaskIdentity.run_id = 1
        TaskIdentity.node_id = SUPERLINK_NODE_ID

    def set_run(self, run: Run) -> None:
        """Operate in another run."""
        self._run = run

    @property
    def run(self) -> Run:
        """The run."""
        return self._run

    def create_message(
        self,
        content: RecordDict,
        message_type: str,
        dst_node_id: int,
        group_id: str,
        ttl: float | None = None,
    ) -> Message:
        """Make a message."""
        return Message(content, dst_node_id, message_type, ttl=ttl, group_id=group_id)

    def get_node_ids(self) -> Iterable[int]:
        """Return all nodes."""
        return list(self._apps)

    def push_messages(self, messages: Iterable[Message]) -> Iterable[str]:
        """Let every addressed ClientApp answer; return the messages' ids."""
        pushed = []
        for message in messages:
            self._sent += 1
            message.metadata.__dict__["_message_id"] = str(self._sent)
            pushed.append(message)
        replies = list(self._pool.map(self._call, pushed))
        for message, reply in zip(pushed, replies, strict=True):
            self._replies[message.metadata.message_id] = reply
        return [message.metadata.message_id for message in pushed]

    def _call(self, message: Message) -> Message:
        node = message.metadata.dst_node_id
        return self._apps[node](message, self._contexts[node])

    def pull_messages(self, message_ids: Iterable[str]) -> Iterable[Message]:
        """Return the replies to messages, once each."""
        return [self._replies.pop(one) for one in message_ids if one in self._replies]

    def send_and_receive(
        self, messages: Iterable[Message], *, timeout: float | None = None
    ) -> Iterable[Message]:
        """Push and pull; ``timeout`` never passes here."""
        return self.pull_messages(self.push_messages(messages))

    def close(self) -> None:
        """Stop the hospitals' threads; what they compute is finished first."""
        self._pool.shutdown(cancel_futures=True)


@dataclass(frozen=True)
class Timing:
    """How a Grid is polled, in seconds."""

    first_s: float = 0.002
    most_s: float = 0.25
    deadline_s: float = 600.0


Address = tuple[str, int]  # an action, and the node that is to act


def exchange(grid: Grid, bodies: Mapping[Address, bytes], timing: Timing = Timing()) -> dict[Address, bytes]:
    """Send each node its body under its action; return the replies' bodies by the same addresses.

    Raises ProtocolError for a reply of another form, or when a node has not replied by the deadline.
    """
    messages = [
        Message(RecordDict({RECORD: ConfigRecord({FIELD: body})}), node, message_type(action))
        for (action, node), body in bodies.items()
    ]
    waiting = dict(zip(grid.push_messages(messages), bodies, strict=True))
    replies: dict[Address, bytes] = {}
    pause, end = timing.first_s, time.monotonic() + timing.deadline_s
    while waiting:
        for reply in grid.pull_messages(list(waiting)):
            address = waiting.pop(reply.metadata.reply_to_message_id, None)
            if address is None or address[1] != reply.metadata.src_node_id:
                raise ProtocolError("a reply comes from another node than was asked")
            replies[address] = _body(reply)
        if waiting and time.monotonic() > end:
            late = {node for _, node in waiting.values()}
            raise ProtocolError(f"{len(late)} hospitals did not answer within {timing.deadline_s:g} s")
        if waiting:
            time.sleep(pause)
            pause = min(2 * pause, timing.most_s)
    return replies


def _body(reply: Message) -> bytes:
    if reply.has_error():
        raise ProtocolError(f"a hospital's app failed (Flower's error code {reply.error.code})")
    record = reply.content.get(RECORD)
    body = record.get(FIELD) if isinstance(record, ConfigRecord) else None
    if not isinstance(body, bytes):
        raise ProtocolError("a hospital's reply has another form")
    return body
