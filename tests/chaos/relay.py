"""A relay between hospitals and coordinator whose connections can be cut, as a bad line's."""

from __future__ import annotations

import asyncio
import contextlib
import threading
import time


class Relay:
    """Listens on one port of loopback and passes bytes to and from another."""

    def __init__(self, listen: int, to: int) -> None:
        self._to = to
        self._down_until = 0.0
        self._open: set[asyncio.StreamWriter] = set()
        self._loop = asyncio.new_event_loop()
        started = threading.Event()
        self._thread = threading.Thread(target=self._run, args=(listen, started), daemon=True)
        self._thread.start()
        started.wait(10)

    def _run(self, listen: int, started: threading.Event) -> None:
        asyncio.set_event_loop(self._loop)
        server = self._loop.run_until_complete(asyncio.start_server(self._serve, "127.0.0.1", listen))
        started.set()
        self._loop.run_forever()
        server.close()
        for writer in self._open:
            writer.transport.abort()
        self._loop.run_until_complete(asyncio.sleep(0.05))
        self._loop.close()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if time.monotonic() < self._down_until:
            writer.transport.abort()
            return
        try:
            far_reader, far_writer = await asyncio.open_connection("127.0.0.1", self._to)
        except OSError:
            writer.transport.abort()
            return
        self._open |= {writer, far_writer}
        await asyncio.gather(self._pass(reader, far_writer), self._pass(far_reader, writer))
        self._open -= {writer, far_writer}

    @staticmethod
    async def _pass(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(OSError, asyncio.CancelledError):
            while data := await reader.read(1 << 16):
                writer.write(data)
                await writer.drain()
        writer.transport.abort()

    def cut(self, seconds: float) -> None:
        """Drop every connection at once, and refuse new ones for a while."""
        self._down_until = time.monotonic() + seconds

        def drop() -> None:
            for writer in self._open:
                writer.transport.abort()

        self._loop.call_soon_threadsafe(drop)

    def close(self) -> None:
        """Stop."""
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(10)
