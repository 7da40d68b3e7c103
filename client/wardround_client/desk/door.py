"""Who may use the desk: the one person who has the URL that was printed, for as long as was said.

The URL's token of 256 bits serves once and opens the desk's only session. Of both only the SHA-256 is
kept.
"""

from __future__ import annotations

import hashlib
import hmac
import secrets
import time
from collections.abc import Callable
from http import HTTPStatus
from typing import Final

TOKEN_S: Final = 300.0  # for which the printed URL is good
MOST_FAILED: Final = 5  # wrong tokens, after which the desk stops itself
CLOSED: Final = "closed by its officer"
TIME: Final = "its time is over"
NOBODY: Final = "nobody opened the URL in time"
GUESSED: Final = "somebody tried wrong tokens"
STATUS: Final = {one.value: one.phrase for one in HTTPStatus}


class Denied(Exception):
    """A request that is not served, with the HTTP status and a sentence for whoever sent it."""

    def __init__(self, status: int, sentence: str) -> None:
        super().__init__(sentence)
        self.status = status


class Door:
    """The token, the session that it opens, and the keys of that session's forms.

    ``minutes``: how long a session lasts; ``clock`` tells seconds.
    """

    def __init__(self, minutes: int, clock: Callable[[], float] = time.monotonic) -> None:
        self._minutes, self._clock = minutes, clock
        self._key = secrets.token_bytes(32)
        self._token: bytes | None = None
        self._session: bytes | None = None
        self._ends = 0.0
        self._failed = 0
        self._closed = False
        # browsers send cookies to all ports of a host, so another desk's must have another name
        self.cookie = f"desk-{secrets.token_hex(8)}"

    def __repr__(self) -> str:
        return "Door(...)"

    def token(self) -> str:
        """Return a new token; the one before it is void."""
        token = secrets.token_urlsafe(32)
        self._token, self._ends = _hashed(token), self._clock() + TOKEN_S
        return token

    def enter(self, token: str) -> str:
        """Return the secret of a new session. Denied unless the token is fresh and unused."""
        known = self._token
        if known is None or self.over() or not hmac.compare_digest(_hashed(token), known):
            self._failed += 1
            raise Denied(
                403,
                "This URL is not valid: it serves once, and for five minutes. If nobody but you had it, "
                "close the desk in the terminal and start it again; else tell who runs this machine.",
            )
        session = secrets.token_urlsafe(32)
        self._token, self._session = None, _hashed(session)
        self._ends = self._clock() + 60.0 * self._minutes
        return session

    def knows(self, cookies: str) -> bool:
        """Tell whether a Cookie header holds the session's secret."""
        if self._session is None or self.over():
            return False
        pairs = [one.strip().partition("=") for one in cookies.split(";")]
        given = [value for name, _, value in pairs if name == self.cookie]
        return any(hmac.compare_digest(_hashed(one), self._session) for one in given)

    @property
    def set_cookie(self) -> str:
        """What follows the name and secret in a Set-Cookie header."""
        return f"; HttpOnly; SameSite=Strict; Path=/; Max-Age={60 * self._minutes}"

    def form_key(self, action: str) -> str:
        """Return what a form of this session that posts to ``action`` must carry."""
        return hmac.new(self._key, (self._session or b"") + action.encode(), "sha256").hexdigest()

    def fits(self, action: str, key: str) -> bool:
        """Tell whether a form carries its key."""
        return self._session is not None and hmac.compare_digest(key.encode(), self.form_key(action).encode())

    def close(self) -> None:
        """End the session; nobody comes in any more."""
        self._closed, self._token, self._session = True, None, None

    def over(self) -> str:
        """Return why the desk is over, or nothing."""
        if self._closed:
            return CLOSED
        if self._failed >= MOST_FAILED:
            return GUESSED
        if self._ends and self._clock() >= self._ends:
            return NOBODY if self._session is None else TIME
        return ""


def _hashed(secret: str) -> bytes:
    return hashlib.sha256(secret.encode("utf-8", "surrogatepass")).digest()
