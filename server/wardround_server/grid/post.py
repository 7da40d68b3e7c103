"""How messages go to nodes and back: over any Grid by its public methods, over Flower's own in few requests.

Flower's HttpGrid fetches each of a reply's three objects, waits a second where one is still being
uploaded, and sleeps three between polls. ``NetworkPost`` speaks the same Runtime API through the grid's
own client: one request for all replies that are there, one for each body.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from datetime import datetime
from hashlib import sha256
from typing import Protocol

from flwr.app import ConfigRecord, Message, RecordDict
from flwr.app.message.message import remove_content_from_message
from flwr.common.serde import message_from_proto, message_to_proto
from flwr.proto.message_pb2 import (
    ConfirmMessageReceivedRequest,
    ObjectTree,
    PullObjectRequest,
    PushObjectRequest,
)
from flwr.proto.runtime_pb2 import GetNodesRequest, PullAppMessagesRequest, PushAppMessagesRequest
from flwr.serverapp import Grid
from flwr.supercore.inflatable.inflatable_object import (
    _get_computed_object_ids,
    get_all_nested_objects,
    get_object_tree,
    no_object_id_recompute,
)
from flwr.superlink.grid import HttpGrid

from wardround_common.envelope import unwrapped, wrapped
from wardround_common.errors import ProtocolError
from wardround_common.messages import FIELD, RECORD, message_type
from wardround_common.pieces import in_pieces

_THREADS = 4
_UPLOAD_S = 0.2  # how long to wait for a body at a time; most are there within that


@dataclass(frozen=True)
class Letter:
    """What came back for a message: a body, or None where Flower says that there will be none.

    The body is empty, which no message of ours is, where a reply has another form.
    """

    message_id: str
    node: int
    body: bytes | None


class Post(Protocol):
    """How messages go to nodes and back."""

    def send(self, action: str, bodies: Mapping[int, bytes]) -> dict[int, str]:
        """Send each node its body; return the messages' ids by node."""

    def collect(self, message_ids: Sequence[str]) -> list[Letter]:
        """Return what came back for these messages since the last call."""

    def nodes(self) -> dict[int, float]:
        """Return the nodes that are online, with when each came (unix seconds; 0 where that is not known)."""


def post(grid: Grid, whole: bool = True) -> Post:
    """Return the way that suits a Grid. ``whole`` False: no stock SuperNode is there to read all objects."""
    return NetworkPost(grid, whole) if isinstance(grid, HttpGrid) else GridPost(grid)


def _messages(action: str, bodies: Mapping[int, bytes]) -> list[Message]:
    # one record for all nodes that are sent the same, so that Flower stores and hashes it once
    records: dict[int, RecordDict] = {}
    for body in bodies.values():
        if id(body) not in records:
            records[id(body)] = RecordDict({RECORD: ConfigRecord({FIELD: body})})
    return [Message(records[id(body)], node, message_type(action)) for node, body in bodies.items()]


class GridPost:
    """Over any Grid, by its public methods."""

    def __init__(self, grid: Grid) -> None:
        self._grid = grid

    def send(self, action: str, bodies: Mapping[int, bytes]) -> dict[int, str]:
        """Send each node its body."""
        return dict(zip(bodies, self._grid.push_messages(_messages(action, bodies)), strict=True))

    def collect(self, message_ids: Sequence[str]) -> list[Letter]:
        """Return what came back."""
        return [
            Letter(
                reply.metadata.reply_to_message_id,
                reply.metadata.src_node_id,
                None if reply.has_error() else _body(reply.content.get(RECORD)),
            )
            for reply in self._grid.pull_messages(message_ids)
        ]

    def nodes(self) -> dict[int, float]:
        """Return the nodes."""
        return dict.fromkeys(self._grid.get_node_ids(), 0.0)


class NetworkPost:
    """Over Flower's Runtime API.

    A body that several nodes get is uploaded once. ``whole``: upload too the two objects around it, which a
    stock SuperNode asks for and ours does not.
    """

    def __init__(self, grid: HttpGrid, whole: bool) -> None:
        self._whole = whole
        self._client = grid._runtime_client
        self._client._client.event_hooks = {"request": [in_pieces]}
        self._node = grid.node
        self._run = grid.run.run_id
        self._pool = ThreadPoolExecutor(_THREADS, "post")
        self._arriving: dict[str, _Arriving] = {}  # by the message that each replies to

    def send(self, action: str, bodies: Mapping[int, bytes]) -> dict[int, str]:
        """Send each node its body."""
        messages = _messages(action, bodies)
        contents: dict[str, bytes] = {}
        with no_object_id_recompute():
            for message, body in zip(messages, bodies.values(), strict=True):
                _name(message, body, contents)
            wanted = self._client.PushMessages(
                PushAppMessagesRequest(
                    messages_list=[message_to_proto(remove_content_from_message(one)) for one in messages],
                    message_object_trees=[get_object_tree(one) for one in messages],
                )
            )
            around: dict[str, bytes] = {}
            if self._whole:
                objects = {
                    k: one for message in messages for k, one in get_all_nested_objects(message).items()
                }
                around = {name: one.deflate() for name, one in objects.items() if name not in contents}
        # the innermost last: a node that has it confirms, and Flower forgets the message
        for name, content in (*around.items(), *contents.items()):
            if name in wanted.objects_to_push:
                self._push(wanted.session_id, name, content)
        return dict(zip(bodies, wanted.message_ids, strict=True))

    def _push(self, session: str, name: str, content: bytes) -> None:
        request = PushObjectRequest(
            node=self._node,
            run_id=self._run,
            session_id=session,
            object_id=name,
            object_content=content,
        )
        self._client.PushObject(request)  # one that is not kept is sent again, like any that is lost

    def collect(self, message_ids: Sequence[str]) -> list[Letter]:
        """Return what came back whole; bodies are fetched side by side, once they have been uploaded."""
        # Flower hands a reply's envelope out once, and calls the message lost if it is asked for again
        asked = [one for one in message_ids if one not in self._arriving]
        pulled = self._client.PullMessages(PullAppMessagesRequest(message_ids=asked))
        for proto, tree in zip(pulled.messages_list, pulled.message_object_trees, strict=True):
            reply = message_from_proto(proto)
            self._arriving[reply.metadata.reply_to_message_id] = _Arriving(
                reply.metadata.message_id,
                reply.metadata.src_node_id,
                None if reply.has_error() else _leaf(tree),
            )
        wanted = set(message_ids)
        self._arriving = {one: about for one, about in self._arriving.items() if one in wanted}
        end, pause = time.monotonic() + _UPLOAD_S, 0.004
        found: list[Letter] = []
        while self._arriving and not found:
            found = [one for one in self._pool.map(self._letter, list(self._arriving)) if one is not None]
            if found or time.monotonic() > end:
                break
            time.sleep(pause)
            pause *= 1.5
        for letter in found:
            del self._arriving[letter.message_id]
        return found

    def _letter(self, message_id: str) -> Letter | None:
        """Return what came back for a message; None while its body is on its way."""
        about = self._arriving[message_id]
        if about.leaf is None:
            return Letter(message_id, about.node, None)
        request = PullObjectRequest(node=self._node, run_id=self._run, object_id=about.leaf)
        found = self._client.PullObject(request)
        if found.object_found and not found.object_available:
            return None
        done = ConfirmMessageReceivedRequest(
            node=self._node, run_id=self._run, message_object_id=about.reply_id
        )
        self._client.ConfirmMessageReceived(done)
        if not found.object_found:
            return Letter(message_id, about.node, None)
        try:
            return Letter(message_id, about.node, bytes(unwrapped(found.object_content)))
        except ProtocolError:
            return Letter(message_id, about.node, b"")

    def nodes(self) -> dict[int, float]:
        """Return the nodes that are online, with when each came."""
        found = self._client.GetNodes(GetNodesRequest()).nodes
        return {node.node_id: datetime.fromisoformat(node.last_activated_at).timestamp() for node in found}


@dataclass(frozen=True)
class _Arriving:
    """A reply whose body may still be on its way. ``leaf`` None: an error instead of a body."""

    reply_id: str
    node: int
    leaf: str | None


def _leaf(tree: ObjectTree) -> str:
    """Return the id of the innermost object."""
    while tree.children:
        tree = tree.children[0]
    return str(tree.object_id)


def _name(message: Message, body: bytes, contents: dict[str, bytes]) -> None:
    """Give a message its id; Flower would make its innermost object anew each time that it needs this."""
    record = message.content[RECORD]
    if "_object_id" not in record.__dict__:
        content = wrapped(body)
        record.__dict__["_object_id"] = sha256(content).hexdigest()
        contents[record.__dict__["_object_id"]] = content
    _get_computed_object_ids().add(record.__dict__["_object_id"])
    message.metadata.__dict__["_message_id"] = message.object_id


def _body(record: object) -> bytes:
    body = record.get(FIELD) if isinstance(record, ConfigRecord) else None
    return body if isinstance(body, bytes) else b""
