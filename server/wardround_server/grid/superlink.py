"""Flower's SuperLink as a process of its own: its stock app on loopback, and behind a filter outside.

Run by `coordinator serve` as `python -m wardround_server.grid.superlink HOME PARENT`. Both listeners are in
one process, so a node's request passes no second server. Ends when its parent does.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import logging
import os
import signal
import socket
import ssl
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import uvicorn
from flwr.common.constant import ISOLATION_MODE_SUBPROCESS, TRANSPORT_TYPE_GRPC_RERE
from flwr.supercore.constant import FLEET_HTTP_PUBLIC_KEY_HEADER
from flwr.superlink.cli.flower_superlink import SuperLinkLifespan
from flwr.superlink.config_loader import SuperLinkLifespanConfig, load_control_authn_plugin
from flwr.superlink.main import create_app
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from wardround_common.enrolment import split_address
from wardround_common.errors import WardroundError
from wardround_common.files import read_private
from wardround_common.home import open_log
from wardround_server.gateway import App, Gateway, bodies_whole
from wardround_server.home import CoordinatorHome

LOOPBACK = "127.0.0.1"
_PARENT_S = 0.2
_GRACE_S = 3
_BACKLOG = 256
_HEAD_S = 20.0  # in which a request's headers have to come
_HEAD_BYTES = 64 << 10


def flower_app(home: CoordinatorHome) -> App:
    """Return Flower's SuperLink app: TLS, node authentication, ServerApps as processes of their own."""
    files = (home.ca_file, home.server_file, home.server_key_file)
    certificates = (files[0].read_bytes(), files[1].read_bytes(), read_private(files[2]))
    config = SuperLinkLifespanConfig(
        control_address=f"{LOOPBACK}:{home.config.control_port}",
        health_server_address=None,
        host=LOOPBACK,
        port=home.config.control_port,
        insecure=False,
        certificates=certificates,
        superexec_auth_secret=None,
        authn_plugin=load_control_authn_plugin(),
        event_log_plugin=None,
        fleet_event_log_plugin=None,
        enable_event_log=False,
        artifact_provider=None,
        enable_supernode_auth=True,
        fleet_api_type=TRANSPORT_TYPE_GRPC_RERE,
        fleet_api_address=None,
        simulation=False,
        ssl_ca_certfile=str(files[0]),
        ssl_certfile=str(files[1]),
        ssl_keyfile=str(files[2]),
        database=home.database,
        isolation=ISOLATION_MODE_SUBPROCESS,
        runtime_dependency_install=False,
    )
    app: Any = create_app(config, SuperLinkLifespan)
    return bodies_whole(app)


class _Server(uvicorn.Server):
    """One of two listeners; signals are for both."""

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Leave signals alone."""
        yield


class Brisk(HttpToolsProtocol):
    """uvicorn's HTTP, which hangs up where a request's headers don't come, or don't end.

    uvicorn itself would wait for ever, and keep all of them in memory.
    """

    _waiting: asyncio.TimerHandle | None = None
    _head = 0

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Begin to wait for the first request."""
        super().connection_made(transport)
        self._wait()

    def data_received(self, data: bytes) -> None:
        """Take bytes; those that do not make a request whole are counted."""
        super().data_received(data)
        if self.cycle is not None and not self.cycle.response_complete:
            self._rest()
            return
        self._head += len(data)
        self._wait()
        if self._head > _HEAD_BYTES:
            self.transport.close()

    def connection_lost(self, exc: Exception | None) -> None:
        """Wait no longer."""
        self._rest()
        super().connection_lost(exc)

    def _wait(self) -> None:
        if self._waiting is None:
            self._waiting = self.loop.call_later(_HEAD_S, self.transport.close)

    def _rest(self) -> None:
        if self._waiting is not None:
            self._waiting.cancel()
        self._waiting, self._head = None, 0


def _server(app: App, home: CoordinatorHome, lifespan: Any) -> _Server:
    config = uvicorn.Config(
        app,
        http=Brisk,
        access_log=False,
        log_config=None,
        lifespan=lifespan,
        ws="none",
        server_header=False,
        timeout_graceful_shutdown=_GRACE_S,
        limit_concurrency=1000,
        ssl_keyfile=home.server_key_file,
        ssl_certfile=home.server_file,
    )
    config.load()
    if config.ssl is None:
        raise RuntimeError("uvicorn has no TLS")
    config.ssl.minimum_version = ssl.TLSVersion.TLSv1_3
    return _Server(config)


def bound(host: str, port: int) -> socket.socket:
    """Return a socket that listens there. WardroundError where it can't be had."""
    bare = host.strip("[]")
    listener = socket.socket(socket.AF_INET6 if ":" in bare else socket.AF_INET)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listener.bind((bare, port))
        listener.listen(_BACKLOG)
    except OSError as error:
        listener.close()
        what = "another program uses this port" if error.errno == errno.EADDRINUSE else error.strerror
        raise WardroundError(
            f"{host}:{port}: cannot listen there ({what}); stop that program, or change "
            "`listen` or `control_port`"
        ) from None
    return listener


async def _run(home: CoordinatorHome, parent: int) -> None:
    host, port = split_address(home.config.listen)
    sockets = [bound(LOOPBACK, home.config.control_port), bound(host, port)]
    app = flower_app(home)
    gateway = Gateway(app, home.registry, home.config.name, FLEET_HTTP_PUBLIC_KEY_HEADER)
    inside, outside = _server(app, home, "on"), _server(gateway, home, "off")

    def stop() -> None:
        inside.should_exit = outside.should_exit = True

    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop)

    async def watch() -> None:
        while os.getppid() == parent:
            await asyncio.sleep(_PARENT_S)
        stop()

    watching = asyncio.create_task(watch())
    await asyncio.gather(*(one.serve([at]) for one, at in zip((inside, outside), sockets, strict=True)))
    watching.cancel()


def main(home: str, parent: str) -> int:
    """Serve until told to stop, or until the parent is gone."""
    os.umask(0o077)  # Flower's database is for its owner only
    opened = CoordinatorHome(Path(home))
    open_log(opened.path / "logs" / "superlink.log", quiet=True)
    logging.getLogger("uvicorn.error").setLevel(logging.WARNING)
    try:
        with asyncio.Runner(loop_factory=_loop()) as runner:
            runner.run(_run(opened, int(parent)))
    except WardroundError as error:
        sys.stderr.write(f"error: {error}\n")
        return 2
    return 0


def _loop() -> Any:
    """Return the faster event loop that comes with uvicorn, where it does."""
    return uvicorn.Config("", loop="auto").get_loop_factory()


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
