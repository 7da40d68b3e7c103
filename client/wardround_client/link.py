"""Flower's fleet protocol, spoken by one long-lived process.

This is the one module here that touches flwr's internals. Pull a message, hand it to the ClientApp, push
the reply, tell that one is alive: nothing more. A FAB (the archive in which Flower ships an app's code) is
never asked for, so a coordinator cannot bring code here. Of a message's three objects only the innermost
is fetched, since the other two say nothing that the message itself does not. flwr is pinned exactly, and
``tests/network/test_flower_contract.py`` tells when what stands here no longer fits it.
"""

from __future__ import annotations

import ssl
from collections.abc import Callable
from contextlib import suppress
from email.utils import parsedate_to_datetime
from hashlib import sha256
from time import monotonic, sleep, time
from typing import TypeVar

import httpx
from cryptography.hazmat.primitives.asymmetric.ec import EllipticCurvePrivateKey
from flwr.app import ConfigRecord, Message, RecordDict
from flwr.app.message.message import make_message, remove_content_from_message
from flwr.common.serde import message_from_proto, message_to_proto
from flwr.proto.fleet_pb2 import (
    ActivateNodeRequest,
    DeactivateNodeRequest,
    PullMessagesRequest,
    PushMessagesRequest,
)
from flwr.proto.heartbeat_pb2 import SendNodeHeartbeatRequest
from flwr.proto.message_pb2 import (
    ConfirmMessageReceivedRequest,
    ObjectTree,
    PullObjectRequest,
    PushObjectRequest,
)
from flwr.proto.node_pb2 import Node
from flwr.supercore.error import ApiErrorCode, FlowerError
from flwr.supercore.inflatable.inflatable_object import (
    _get_computed_object_ids,
    get_object_tree,
    no_object_id_recompute,
)
from flwr.supercore.primitives.asymmetric import public_key_to_bytes
from flwr.supernode.fleet_http_client import FleetHttpClient
from flwr.supernode.node_auth_http_interceptor import NodeAuthHttpInterceptor

from wardround_common.enrolment import PROTOCOL, PROTOCOL_HEADER
from wardround_common.envelope import unwrapped, wrapped
from wardround_common.errors import LinkError, ProtocolError
from wardround_common.messages import FIELD, RECORD
from wardround_common.pieces import in_pieces

HEARTBEAT_S = 10.0  # the shortest that Flower accepts; it takes a node for gone after two
MOST_BYTES = 256 << 20  # of one response; a forest's largest step is 64 MiB
_CLOCK_AHEAD_S, _CLOCK_BEHIND_S = 5.0, 305.0  # Flower refuses signed times beyond these
_UPLOAD_S = 30.0
_PASSING = {408, 425, 429, 500, 502, 503, 504}

T = TypeVar("T")


class Unreachable(LinkError):
    """The coordinator does not answer now; trying again is right."""


class NotAdmitted(LinkError):
    """The coordinator does not know this node's key, or no longer."""


class AlreadyOnline(LinkError):
    """The coordinator still takes this node for online: it was killed a moment ago, or runs twice."""


class RunOver(LinkError):
    """The run that a message belonged to has ended, so nobody waits for its reply."""


class Reply:
    """A reply as it is sent: its envelope, and its body in Flower's form, held once.

    ``seconds`` is how long its making took.
    """

    def __init__(self, message: Message, seconds: float) -> None:
        record = message.content[RECORD]
        body = record[FIELD] if isinstance(record, ConfigRecord) else b""
        self.content = wrapped(body if isinstance(body, bytes) else b"")
        self.leaf = sha256(self.content).hexdigest()
        self.run_id = message.metadata.run_id
        with no_object_id_recompute():
            # Flower would make the innermost object anew each time that it needs this
            record.__dict__["_object_id"] = self.leaf
            _get_computed_object_ids().add(self.leaf)
            message.metadata.__dict__["_message_id"] = message.object_id
            self._tree = get_object_tree(message)
        self._proto, self._seconds = message_to_proto(remove_content_from_message(message)), seconds

    def envelope(self, node: Node) -> PushMessagesRequest:
        """Return the request that announces it."""
        return PushMessagesRequest(
            node=node,
            messages_list=[self._proto],
            message_object_trees=[self._tree],
            clientapp_runtime_list=[self._seconds],
        )


class Link:
    """A node's connection to its coordinator.

    ``address`` is `host:port`; ``tls`` trusts the coordinator's CA alone. Every method raises Unreachable
    where trying again is right, and another LinkError where a person has to act.
    """

    def __init__(self, address: str, tls: ssl.SSLContext, key: EllipticCurvePrivateKey) -> None:
        self._address = address
        self._public = public_key_to_bytes(key.public_key())
        self._node = Node()
        self._client = FleetHttpClient(
            f"https://{address}", interceptors=[NodeAuthHttpInterceptor(key, key.public_key())], verify=tls
        )
        http = self._client._client
        http.follow_redirects = False  # a coordinator has no business elsewhere
        http.headers[PROTOCOL_HEADER] = str(PROTOCOL)
        http.event_hooks = {"request": [in_pieces], "response": [_check_length]}

    @property
    def node_id(self) -> int:
        """The node's number at the coordinator, 0 before it was activated."""
        return self._node.node_id

    def activate(self, known: int | None = None) -> int:
        """Tell the coordinator that this node is here; return its number there.

        ``known``: the number it had before, so that a node which was killed need not wait until it is
        taken for gone (20 s).
        """
        request = ActivateNodeRequest(public_key=self._public, heartbeat_interval=HEARTBEAT_S)
        try:
            found = self._call(lambda: self._client.ActivateNode(request))
        except AlreadyOnline:
            if known is None:
                raise
            self._call(lambda: self._client.DeactivateNode(DeactivateNodeRequest(node_id=known)))
            found = self._call(lambda: self._client.ActivateNode(request))
        self._node = Node(node_id=found.node_id)
        return self.node_id

    def resume(self, known: int) -> None:
        """Speak for a node that is online already under this number, beside the process that is."""
        self._node = Node(node_id=known)

    def heartbeat(self) -> None:
        """Tell that this node is alive."""
        request = SendNodeHeartbeatRequest(node=self._node, heartbeat_interval=HEARTBEAT_S)
        if not self._call(lambda: self._client.SendNodeHeartbeat(request)).success:
            raise NotAdmitted(f"{self._address}: the coordinator no longer knows this node")

    def receive(self) -> Message | None:
        """Return the next message with its body, or None where there is none. RunOver if it came too late."""
        pulled = self._call(lambda: self._client.PullMessages(PullMessagesRequest(node=self._node)))
        if not pulled.messages_list:
            return None
        envelope = message_from_proto(pulled.messages_list[0])
        run = envelope.metadata.run_id
        try:
            leaf = _leaf(pulled.message_object_trees[0])
            record = ConfigRecord({FIELD: bytes(unwrapped(self._fetch(run, leaf)))})
        except ProtocolError:  # the ClientApp says so, as for any message that is not ours
            record = ConfigRecord()
        done = ConfirmMessageReceivedRequest(
            node=self._node, run_id=run, message_object_id=envelope.metadata.message_id
        )
        with suppress(RunOver):
            self._call(lambda: self._client.ConfirmMessageReceived(done))
        return make_message(metadata=envelope.metadata, content=RecordDict({RECORD: record}))

    def _fetch(self, run: int, name: str) -> bytes:
        """Return an object's content, which its sender may still be uploading. RunOver if it never comes."""
        request = PullObjectRequest(node=self._node, run_id=run, object_id=name)
        end, pause = monotonic() + _UPLOAD_S, 0.002
        while True:
            found = self._call(lambda: self._client.PullObject(request))
            if found.object_found and found.object_available:
                return found.object_content
            if not found.object_found or monotonic() > end:
                raise RunOver("a message's body is no longer there")
            sleep(pause)
            pause = min(2 * pause, 0.1)

    def reply(self, reply: Reply) -> None:
        """Push a reply, whole. May be called again after Unreachable."""
        wanted = self._call(lambda: self._client.PushMessages(reply.envelope(self._node)))
        # the coordinator reads the innermost object only
        if reply.leaf in wanted.objects_to_push:
            request = PushObjectRequest(
                node=self._node,
                run_id=reply.run_id,
                session_id=wanted.session_id,
                object_id=reply.leaf,
                object_content=reply.content,
            )
            if not self._call(lambda: self._client.PushObject(request)).stored:
                raise Unreachable(f"{self._address}: a part of a reply was not kept")

    def close(self, *, say_so: bool = True) -> None:
        """Close the connection; ``say_so`` tells the coordinator first, where it can be reached."""
        if say_so and self.node_id:
            with suppress(LinkError):
                self._call(lambda: self._client.DeactivateNode(DeactivateNodeRequest(node_id=self.node_id)))
        self._client.close()

    def _call(self, call: Callable[[], T]) -> T:
        """Make a request; what goes wrong becomes a LinkError that says what to do."""
        try:
            return call()
        except httpx.HTTPStatusError as error:
            raise self._refusal(error.response) from None
        except (httpx.RequestError, ssl.SSLError) as error:
            raise Unreachable(f"{self._address}: {_reason(error)}") from None
        except ValueError:  # not protobuf
            raise Unreachable(f"{self._address}: what answers there is no coordinator") from None

    def _refusal(self, response: httpx.Response) -> LinkError:
        status = response.status_code
        said = FlowerError.from_json(response.text)
        code = said.code if said is not None else 0
        if code == ApiErrorCode.FLEET_RUN_STATUS_NOT_ALLOWED:
            return RunOver("the study's run has ended")
        if status == httpx.codes.UNAUTHORIZED:
            return _clock(response) or NotAdmitted(
                f"{self._address}: the coordinator does not know this node's key; it was not admitted yet, "
                "or was revoked: ask the coordinator"
            )
        if code == ApiErrorCode.FLEET_NODE_ACTIVATION_FAILED:
            return AlreadyOnline(
                f"{self._address}: the coordinator takes this node for online already, or has not admitted it"
            )
        if status == httpx.codes.UPGRADE_REQUIRED:
            return LinkError(
                f"{self._address}: the coordinator speaks another version of Wardround's protocol than "
                f"{PROTOCOL}; install the version that it runs"
            )
        if status in _PASSING:
            return Unreachable(f"{self._address}: not ready (HTTP {status})")
        return LinkError(
            f"{self._address}: refused with HTTP {status}; see `wardround hospital doctor`, and whether "
            "a proxy or a firewall answers in the coordinator's place"
        )


def _leaf(tree: ObjectTree) -> str:
    """Return the id of the one record that a message of ours holds. ProtocolError for another form."""
    while tree.children:
        if len(tree.children) != 1:
            raise ProtocolError("a message with other records than ours")
        tree = tree.children[0]
    return tree.object_id


def _check_length(response: httpx.Response) -> None:
    """Refuse a response before it is read if it is longer than any of ours, or does not tell its length."""
    length = response.headers.get("content-length", "")
    if not length.isascii() or not length.isdigit() or int(length) > MOST_BYTES:
        response.close()
        raise httpx.RemoteProtocolError(
            f"a response longer than {MOST_BYTES >> 20} MiB, or of unknown length"
        )


def _clock(response: httpx.Response) -> LinkError | None:
    """Return what to say if this machine's clock is why a signed time was refused."""
    try:
        ahead = time() - parsedate_to_datetime(response.headers["date"]).timestamp()
    except (KeyError, ValueError):
        return None
    if -_CLOCK_BEHIND_S < ahead < _CLOCK_AHEAD_S:
        return None
    where = "ahead of" if ahead > 0 else "behind"
    return LinkError(
        f"this machine's clock is {abs(ahead):.0f} s {where} the coordinator's; set it (NTP) and start again"
    )


def _reason(error: Exception) -> str:
    """Say in one line why there is no connection."""
    text = " ".join(str(error).split()) or type(error).__name__
    if "CERTIFICATE_VERIFY_FAILED" in text:
        return f"its certificate is not one of the coordinator's CA ({text.partition(': ')[2] or text})"
    return f"no connection ({text})"
