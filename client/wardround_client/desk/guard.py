"""What every request to the desk passes before a page is made: an ASGI filter.

In order: Host (against DNS rebinding), method, where the browser says the request comes from, session, the
length of the body, its form key. A body is read last, and no longer than a form is.
"""

from __future__ import annotations

import asyncio
import logging
import traceback
from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any, Final
from urllib.parse import parse_qs

from wardround_client.desk.door import Denied, Door
from wardround_common.home import LOG

Scope = MutableMapping[str, Any]
Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
App = Callable[[Scope, Receive, Send], Awaitable[None]]
Form = dict[str, list[str]]

FORM: Final = "wardround.form"  # the key of a checked form in the ASGI scope
KEY: Final = "key"  # the field in which a form carries its key
ENTER: Final = "/enter"
STYLE: Final = "/style.css"
MOST_BODY: Final = 64 << 10
BODY_S: Final = 10.0  # in which a form has to come
_MOST_FIELDS: Final = 1000
_HEADERS: Final = {
    b"content-security-policy": b"default-src 'none'; style-src 'self'; form-action 'self'; base-uri 'none'; "
    b"frame-ancestors 'none'",
    b"x-content-type-options": b"nosniff",
    b"x-frame-options": b"DENY",
    b"cache-control": b"no-store",
    b"cross-origin-opener-policy": b"same-origin",
    b"cross-origin-resource-policy": b"same-origin",
    b"connection": b"close",
}
# Under `no-referrer` a browser sends `Origin: null` with forms, as any sandboxed frame can. Only the answer
# to the URL with the token says that; pages, whose URLs hold no secret, tell their origin to themselves.
_NO_REFERRER: Final = b"no-referrer"
_OWN_REFERRER: Final = b"same-origin"


class Guard:
    """The filter before ``app``. ``denied`` makes the page of a request that is not served."""

    def __init__(self, app: App, door: Door, port: int, denied: Callable[[int, str], bytes]) -> None:
        self._app, self._door, self._denied = app, door, denied
        self._hosts = {f"127.0.0.1:{port}", f"localhost:{port}"}

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request."""
        if scope["type"] != "http":
            return
        protected = _Protected(send, _NO_REFERRER if scope["path"] == ENTER else _OWN_REFERRER)
        try:
            await self._serve(scope, receive, protected)
        except Denied as no:
            await _answer(protected, no.status, self._denied(no.status, str(no)))
        except Exception as error:  # noqa: BLE001 (a page without a traceback, whose text may hold anything)
            where = traceback.extract_tb(error.__traceback__)[-1]
            logging.getLogger(LOG).error(
                "desk: %s in %s", type(error).__name__, f"{where.name}:{where.lineno}"
            )
            if not protected.begun:
                await _answer(protected, 500, self._denied(500, fault(error)))

    async def _serve(self, scope: Scope, receive: Receive, send: Send) -> None:
        headers = _headers(scope)
        method, path = scope["method"], scope["path"]
        host = headers.get("host", "")
        if host not in self._hosts:
            raise Denied(
                421, "This desk is reached as 127.0.0.1 or localhost, with its own port, and not else."
            )
        if method not in ("GET", "POST"):
            raise Denied(405, "Pages are got, and forms are posted.")
        if headers.get("sec-fetch-site", "none") not in ("none", "same-origin"):
            raise Denied(403, "Another page led here. Copy the URL into the address bar instead.")
        if path == ENTER and method == "GET":
            await self._enter(scope, send)
            return
        if path != STYLE and not self._door.knows(headers.get("cookie", "")):
            raise Denied(
                403, "Nobody is logged in here, or the time is over. Open the URL that the terminal shows."
            )
        if method == "POST":
            scope[FORM] = await self._form(path, headers, receive)
        await self._app(scope, receive, send)

    async def _enter(self, scope: Scope, send: Send) -> None:
        """Take the token, and lead away from the URL that holds it."""
        try:
            query = parse_qs(scope["query_string"].decode("ascii"), max_num_fields=4)
        except ValueError:
            query = {}
        session = self._door.enter(query.get("token", [""])[0])
        cookie = f"{self._door.cookie}={session}{self._door.set_cookie}"
        await _answer(send, 303, b"", [(b"location", b"/"), (b"set-cookie", cookie.encode())])

    async def _form(self, path: str, headers: dict[str, str], receive: Receive) -> Form:
        """Return a form's fields. Denied unless one of this session's own pages posts it."""
        if headers.get("origin") != f"http://{headers['host']}":
            raise Denied(403, "This form does not come from a page of the desk.")
        if headers.get("content-type", "").partition(";")[0].strip() != "application/x-www-form-urlencoded":
            raise Denied(415, "This is not a form.")
        announced = headers.get("content-length", "0")
        if (
            not announced.isascii()
            or not announced.isdigit()
            or len(announced) > 9
            or int(announced) > MOST_BODY
        ):
            raise Denied(413, "This form is longer than any of the desk's.")
        try:
            async with asyncio.timeout(BODY_S):
                body = await _body(receive)
        except TimeoutError:
            raise Denied(408, "The form did not come in time.") from None
        try:
            form = parse_qs(
                body.decode("ascii"),
                keep_blank_values=True,
                strict_parsing=True,
                errors="strict",
                max_num_fields=_MOST_FIELDS,
            )
        except ValueError:
            raise Denied(400, "This is not a form.") from None
        if not self._door.fits(path, form.get(KEY, [""])[0]):
            raise Denied(403, "This form is of another session or another page. Load the page again.")
        return form


def fault(error: Exception) -> str:
    """Return what is said of a fault of the program; its own text may hold anything."""
    return f"A fault of the program ({type(error).__name__}); look at the study again before you decide."


class _Protected:
    """A ``send`` that puts the headers of every answer in place of those of the same name."""

    def __init__(self, send: Send, referrer: bytes) -> None:
        self._send, self._fixed = send, {**_HEADERS, b"referrer-policy": referrer}
        self.begun = False

    async def __call__(self, message: Message) -> None:
        if message["type"] == "http.response.start":
            self.begun = True
            own = [(name, value) for name, value in message["headers"] if name.lower() not in self._fixed]
            message = {**message, "headers": [*own, *self._fixed.items()]}
        await self._send(message)


def _headers(scope: Scope) -> dict[str, str]:
    """Return the headers by name. Denied where one that is judged here comes twice."""
    found: dict[str, str] = {}
    for name, value in scope["headers"]:
        key = name.decode("latin-1").lower()
        if key in found and key in ("host", "origin", "content-length", "content-type", "sec-fetch-site"):
            raise Denied(400, "A header comes twice.")
        found[key] = f"{found[key]}; {value.decode('latin-1')}" if key in found else value.decode("latin-1")
    return found


async def _body(receive: Receive) -> bytes:
    parts, size, more = [], 0, True
    while more:
        message = await receive()
        if message["type"] != "http.request":
            raise Denied(400, "The form broke off.")
        part = message.get("body", b"")
        size += len(part)
        if size > MOST_BODY:
            raise Denied(413, "This form is longer than any of the desk's.")
        parts.append(part)
        more = message.get("more_body", False)
    return b"".join(parts)


async def _answer(
    send: Send, status: int, page: bytes, more: list[tuple[bytes, bytes]] | None = None
) -> None:
    headers = [
        (b"content-type", b"text/html; charset=utf-8"),
        (b"content-length", str(len(page)).encode()),
        *(more or ()),
    ]
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": page})
