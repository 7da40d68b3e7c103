"""Large HTTP bodies, handed to httpx piece by piece.

httpcore writes a body to TLS 16 KiB at a time and copies what is left after each, so a body of 64 MB in one
piece is copied some four thousand times.
"""

from __future__ import annotations

from collections.abc import Iterator

import httpx

_PIECE = 64 << 10


class _Pieces(httpx.SyncByteStream):
    def __init__(self, body: bytes) -> None:
        self._body = body

    def __iter__(self) -> Iterator[bytes]:
        view = memoryview(self._body)
        for start in range(0, len(view), _PIECE):
            yield bytes(view[start : start + _PIECE])


def in_pieces(request: httpx.Request) -> None:
    """Have a request's body sent in pieces; its announced length stays. A hook for ``httpx.Client``."""
    body = request.read()
    if len(body) > _PIECE:
        request.stream = _Pieces(body)
