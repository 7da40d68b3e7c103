"""What faces the outside: an ASGI filter before Flower's app that lets only a node's own routes through.

Every route is spelled out; Flower's Control and Runtime APIs, which have no login, are not among them. A
key that is not admitted is refused before a byte of the body is read, and a body longer than the route's
is refused when it is announced. Bodies are handed on whole, since Flower's middlewares take each piece of
a body through four layers.
"""

from __future__ import annotations

import asyncio
import binascii
import json
import logging
import time
from base64 import b64decode
from collections.abc import Awaitable, Callable, MutableMapping
from importlib.metadata import version
from typing import Any, Final

from wardround_common.enrolment import (
    PROTOCOL,
    PROTOCOL_HEADER,
    EnrolmentRefused,
    EnrolmentReply,
    EnrolmentRequest,
)
from wardround_common.errors import ProtocolError, WardroundError
from wardround_common.home import LOG
from wardround_server.registry import Registry

Scope = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[MutableMapping[str, Any]]]
Send = Callable[[MutableMapping[str, Any]], Awaitable[None]]
App = Callable[[Scope, Receive, Send], Awaitable[None]]

_SMALL: Final = 1 << 20
_OBJECT: Final = 256 << 20  # a forest's largest step is 64 MiB
_ENROLMENT: Final = 16 << 10
FLEET: Final = {  # what a node needs, and the longest body of each
    "/v1/fleet/activate-node": _SMALL,
    "/v1/fleet/deactivate-node": _SMALL,
    "/v1/fleet/send-node-heartbeat": _SMALL,
    "/v1/fleet/pull-messages": _SMALL,
    "/v1/fleet/push-messages": _SMALL,
    "/v1/fleet/push-object": _OBJECT,
    "/v1/fleet/pull-object": _SMALL,
    "/v1/fleet/confirm-message-received": _SMALL,
}
STOCK: Final = {
    "/v1/fleet/get-run": _SMALL,
    "/v1/fleet/get-fab": _SMALL,
}  # a stock flower-supernode's beside them
ENROL: Final = "/wardround/enrol"
HELLO: Final = "/wardround/hello"
_FRESH_S: Final = 1.0  # how old what is known of the registry may be
_TRIES: Final = 30  # refused enrolments a minute
_BODY_S: Final = 30.0  # in which a body has to come, and a second more per ``_SLOWEST`` bytes of its limit
_SLOWEST: Final = 64 << 10
_HTTP: Final = {  # of refused enrolments
    "token_unknown": 401,
    "token_used": 409,
    "token_expired": 410,
    "name_other": 403,
    "name_taken": 409,
    "key_taken": 409,
    "protocol": 426,
    "bad_signature": 400,
}


class TooLong(Exception):
    """A body is longer than its route allows."""


class TooSlow(Exception):
    """A body does not come."""


class Gone(Exception):
    """The other side hung up."""


class Gateway:
    """The filter. ``key_header`` is the HTTP header in which a node names its key, base64 of PEM.

    ``clock`` tells unix seconds.
    """

    def __init__(
        self, app: App, registry: Registry, name: str, key_header: str, clock: Callable[[], float] = time.time
    ) -> None:
        self._app, self._registry, self._name, self._clock = app, registry, name, clock
        self._key_header = key_header.lower().encode()
        self._reading = asyncio.Lock()
        self._log = logging.getLogger(LOG)
        self._read_at = 0.0
        self._admitted: set[bytes] = set()
        self._stock = False
        self._refused: list[float] = []

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request."""
        if scope["type"] == "lifespan":
            raise RuntimeError("the app's life is another listener's")
        if scope["type"] != "http":
            return
        try:
            await self._serve(scope, receive, send)
        except TooLong:
            await answer(send, 413, "longer than this route allows", close=True)
        except TooSlow:
            await answer(send, 408, "the body did not come", close=True)
        except Gone:
            pass

    async def _serve(self, scope: Scope, receive: Receive, send: Send) -> None:
        path, method = scope["path"], scope["method"]
        # of a header that comes twice Flower reads the first, so the first is what is judged here
        headers = dict(reversed(list(scope["headers"])))
        # each route has one spelling: a proxy before this one may judge an escaped path otherwise
        if scope.get("query_string") or scope.get("raw_path", path.encode()) != path.encode():
            await answer(send, 404, "there is nothing here", close=True)
        elif path == HELLO and method == "GET":
            about = {
                "coordinator": self._name,
                "wardround": version("wardround"),
                "protocol": PROTOCOL,
                "time": self._clock(),
            }
            await answer(send, 200, about)
        elif path == ENROL and method == "POST":
            await self._enrol(headers, receive, send)
        elif method == "POST" and (path in FLEET or path in STOCK):
            await self._fleet(path, headers, scope, receive, send)
        else:
            await answer(send, 404, "there is nothing here", close=True)

    async def _fleet(
        self, path: str, headers: dict[bytes, bytes], scope: Scope, receive: Receive, send: Send
    ) -> None:
        if headers.get(PROTOCOL_HEADER.encode(), str(PROTOCOL).encode()) != str(PROTOCOL).encode():
            await answer(send, 426, f"this coordinator speaks protocol {PROTOCOL}", close=True)
            return
        await self._refresh()
        if path in STOCK and not self._stock:
            await answer(send, 404, "there is nothing here", close=True)
        elif _key(headers.get(self._key_header, b"")) not in self._admitted:
            await answer(send, 401, "this node's key is not admitted", close=True)
        else:
            body = await whole(headers, receive, {**FLEET, **STOCK}[path])
            await self._app(scope, given(body, receive), send)

    async def _enrol(self, headers: dict[bytes, bytes], receive: Receive, send: Send) -> None:
        now = self._clock()
        self._refused = [at for at in self._refused if abs(now - at) < 60]
        if len(self._refused) >= _TRIES:
            await answer(send, 429, "too many refused enrolments; wait a minute", close=True)
            return
        body = await whole(headers, receive, _ENROLMENT)
        try:
            request = EnrolmentRequest.from_json(body)
            record = await asyncio.to_thread(self._registry.enrol, request.enrolment, request.token, now)
            status, reply = 200, EnrolmentReply(digest=record.digest)
            self._read_at = 0.0
            self._log.info("enrolled `%s`: %s", record.name, " ".join(record.words))
        except EnrolmentRefused as error:
            status, reply = _HTTP[error.code], EnrolmentReply(code=error.code)
        except ProtocolError:
            self._refused.append(now)
            await answer(send, 400, "this is no enrolment", close=True)
            return
        except WardroundError as error:  # a full disk, a locked registry
            self._log.error("enrolment: %s", error)
            await answer(send, 503, "not now; try again", close=True)
            return
        if status != 200:
            self._refused.append(now)
            self._log.warning("an enrolment was refused: %s", reply.code)
        await answer(send, status, reply.to_json())

    async def _refresh(self) -> None:
        """Know who is admitted, a moment old at most."""
        async with self._reading:  # whoever comes meanwhile waits, and is not judged by what was known before
            if time.monotonic() - self._read_at <= _FRESH_S:
                return
            self._read_at = time.monotonic()
            try:
                records = await asyncio.to_thread(self._registry.hospitals)
            except WardroundError as error:  # go on with what is known
                self._log.error("%s", error)
                return
            self._admitted = {one.node_key for one in records if one.state == "admitted"}
            self._stock = any(one.stock and one.state == "admitted" for one in records)


def _key(header: bytes) -> bytes:
    try:
        return b64decode(header, validate=True) if len(header) < 2048 else b""
    except binascii.Error:
        return b""


def bodies_whole(app: App) -> App:
    """Return the app with each request's body handed to it in one piece."""

    async def run(scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await app(scope, receive, send)
            return
        try:
            body = await whole(dict(scope["headers"]), receive, _OBJECT)
        except TooLong:
            await answer(send, 413, "longer than any message", close=True)
        except TooSlow:
            await answer(send, 408, "the body did not come", close=True)
        except Gone:
            pass
        else:
            await app(scope, given(body, receive), send)

    return run


async def whole(headers: dict[bytes, bytes], receive: Receive, most: int) -> bytes:
    """Return a request's whole body.

    TooLong if more is announced or comes, TooSlow if it takes too long, Gone if the sender hangs up.
    """
    announced = headers.get(b"content-length", b"0")
    if not announced.isdigit() or len(announced) > 19 or int(announced) > most:
        raise TooLong
    try:
        async with asyncio.timeout(_BODY_S + most / _SLOWEST):
            return await _read(receive, most)
    except TimeoutError:
        raise TooSlow from None


async def _read(receive: Receive, most: int) -> bytes:
    parts, size, more = [], 0, True
    while more:
        message = await receive()
        if message["type"] != "http.request":
            raise Gone
        part = message.get("body", b"")
        size += len(part)
        if size > most:
            raise TooLong
        parts.append(part)
        more = message.get("more_body", False)
    return b"".join(parts)


def given(body: bytes, receive: Receive) -> Receive:
    """Return a ``receive`` that gives the body first, and what the connection says after it."""
    waiting = [body]
    del body

    async def one() -> MutableMapping[str, Any]:
        if waiting:
            return {"type": "http.request", "body": waiting.pop(), "more_body": False}
        return await receive()

    return one


async def answer(send: Send, status: int, content: object, *, close: bool = False) -> None:
    """Send a short JSON answer, and hang up after it where the body was not read."""
    if isinstance(content, str):
        content = {"detail": content}
    body = content if isinstance(content, bytes) else json.dumps(content).encode()
    headers = [(b"content-type", b"application/json"), (b"content-length", str(len(body)).encode())]
    if close:
        headers.append((b"connection", b"close"))
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": body})
