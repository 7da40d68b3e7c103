"""Flower's Grid in one process.

``LocalGrid`` hands each message to a hospital's real ClientApp, as Flower's simulation does but without
Ray, processes or polling.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor

from flwr.app import Context, Message, RecordDict
from flwr.clientapp import ClientApp
from flwr.common.constant import SUPERLINK_NODE_ID
from flwr.serverapp import Grid
from flwr.supercore.run import Run
from flwr.supercore.task_identity import TaskIdentity


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
