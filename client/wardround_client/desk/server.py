"""The desk's one listener: uvicorn on 127.0.0.1, until its officer closes it, or its time is over."""

from __future__ import annotations

import asyncio
import contextlib
import socket
from collections.abc import Iterator
from typing import Final

import uvicorn
from uvicorn.protocols.http.h11_impl import H11Protocol

from wardround_client.desk.door import Door
from wardround_client.desk.guard import App
from wardround_common.errors import WardroundError

LOOPBACK: Final = "127.0.0.1"
HEAD_S: Final = 10.0  # in which a request's headers have to come
LIFE_S: Final = 600.0  # in which a page has to be made, and taken
_HEAD_BYTES: Final = 16 << 10
_CONNECTIONS: Final = 32
_GRACE_S: Final = 5


class Prompt(H11Protocol):
    """uvicorn's HTTP, one request a connection, which hangs up on who is slow; itself it would wait."""

    _limit: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Wait for the headers, but not for ever."""
        super().connection_made(transport)
        self._limit = self.loop.call_later(HEAD_S, transport.abort)

    def data_received(self, data: bytes) -> None:
        """Take bytes; once they are a request, the page has its own time."""
        waited = self.cycle is None
        super().data_received(data)
        if waited and self.cycle is not None:
            self._rest()
            self._limit = self.loop.call_later(LIFE_S, self.transport.abort)

    def connection_lost(self, exc: Exception | None) -> None:
        """Wait no longer."""
        self._rest()
        super().connection_lost(exc)

    def _rest(self) -> None:
        if self._limit is not None:
            self._limit.cancel()


class DeskServer(uvicorn.Server):
    """The listener. It stops when the door says that the desk is over; signals are for who started it."""

    def __init__(self, app: App, door: Door) -> None:
        config = uvicorn.Config(
            app,
            http=Prompt,
            loop="asyncio",
            h11_max_incomplete_event_size=_HEAD_BYTES,
            ws="none",
            lifespan="off",
            access_log=False,
            log_config=None,
            log_level="critical",  # what uvicorn says of bad requests helps nobody, and may hold their bytes
            server_header=False,
            proxy_headers=False,
            limit_concurrency=_CONNECTIONS,
            timeout_graceful_shutdown=_GRACE_S,
        )
        super().__init__(config)
        self._door = door

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Leave signals alone."""
        yield

    async def on_tick(self, counter: int) -> bool:
        """Tell whether to stop."""
        return bool(self._door.over()) or await super().on_tick(counter)


def listen(port: int) -> socket.socket:
    """Return a socket that is bound to loopback; port 0 takes a free one. WardroundError if it is taken."""
    listener = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind((LOOPBACK, port))
    except OSError as error:
        listener.close()
        raise WardroundError(
            f"--port {port}: cannot be listened on ({error.strerror}); choose another, or none"
        ) from None
    return listener
