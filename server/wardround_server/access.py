"""Who may do what at the coordinator: users with roles, each with a token of 256 bits that expires.

On the coordinator's machine file permissions decide: who can write the home owns the coordinator, and a token
there only tells who did what. Where nobody can reach the files, as over HTTP, tokens decide. Of a token only
its SHA-256 is kept.
"""

from __future__ import annotations

import os
import re
import secrets
import sqlite3
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from wardround_common.enrolment import LATEST, check_name
from wardround_common.errors import WardroundError, did_you_mean, listed
from wardround_common.files import read_private
from wardround_server.home import CoordinatorHome
from wardround_server.registry import Registry, day, hashed

OPERATOR, ANALYST, AUDITOR = ROLES = ("operator", "analyst", "auditor")
TOKEN, TOKEN_FILE = "WARDROUND_TOKEN", "WARDROUND_TOKEN_FILE"

MAY: Final[Mapping[str, tuple[str, ...]]] = {  # the one table of who may do what
    "serve": (OPERATOR,),
    "renew-certificate": (OPERATOR,),
    "invite": (OPERATOR,),
    "admit": (OPERATOR,),
    "revoke": (OPERATOR,),  # and note that a hospital has left
    "leave out": (OPERATOR,),  # resume without a hospital, or with it again
    "user": (OPERATOR,),  # add, renew, revoke
    "first operator": (OPERATOR,),
    "recover": (OPERATOR,),
    "users": (OPERATOR, AUDITOR),
    "audit": (OPERATOR, AUDITOR),
    "launch": (OPERATOR, ANALYST),
    "stop": (OPERATOR, ANALYST),
    "resume": (OPERATOR, ANALYST),
    "results": (OPERATOR, ANALYST),
    "hospitals": (OPERATOR, ANALYST, AUDITOR),
    "status": (OPERATOR, ANALYST, AUDITOR),
}
# What whoever owns the files may do without a token even where those are required: else a network could lock
# itself out, and a service that starts after a power cut has no person beside it.
ALONE: Final = ("first operator", "recover")  # here a token that is set is not even looked at: it may be bad
_BY_FILES: Final = ("serve", *ALONE)
_FORM: Final = re.compile(r"[A-Za-z0-9_-]{43}")
_MOST_STUDY: Final = 64  # characters of what stands in for a study's name where it may be none
_SELECT: Final = "select name, role, made_at, expires, revoked_at from users"


class Denied(WardroundError):
    """Whoever asks may not do this; ``code`` says why, and stands in the audit log.

    ``actor``: who it was, where that is known.
    """

    def __init__(self, code: str, message: str, actor: str | None = None) -> None:
        super().__init__(message)
        self.code, self.actor = code, actor


@dataclass(frozen=True)
class User:
    """A user; times are unix seconds. A revoked name stays so: the audit log means one person by it."""

    name: str
    role: str
    made_at: int
    expires: int
    revoked_at: int | None

    def state(self, now: float) -> str:
        """Return `active`, `expired` or `revoked`."""
        if self.revoked_at is not None:
            return "revoked"
        return "active" if now < self.expires else "expired"


@dataclass(frozen=True)
class Actor:
    """Who acts: ``name`` as the audit log has it, `user:NAME` or what stands for the files' owner."""

    name: str
    role: str


class Users:
    """The users in a registry. Each change is audited; a token is returned once and kept as its hash."""

    def __init__(self, registry: Registry) -> None:
        self._registry = registry

    def all(self) -> list[User]:
        """Return all users, by name."""
        with self._registry.transaction("deferred") as db:
            return _found(db, "order by name")

    def by_token(self, token: str) -> User | None:
        """Return the user of a token, in whatever state."""
        with self._registry.transaction("deferred") as db:
            return next(iter(_found(db, "where token_hash = ?", hashed(token))), None)

    def add(self, name: str, role: str, expires: int, now: float) -> str:
        """Return a new user's token. WardroundError for a name that is or was a user's, or another role."""
        check_name(name)
        if role not in ROLES:
            raise WardroundError(f"--role {role}: there is none; choose from {listed(ROLES)}")
        token = _new_token(expires, now)
        with self._registry.transaction() as db:
            there = next(iter(_found(db, "where name = ?", name)), None)
            if there is not None:
                raise WardroundError(
                    f"{name} is a user already, {there.role}, {there.state(now)}; choose another name, or "
                    f"make a new token: wardround coordinator user renew {name}"
                )
            _insert(db, User(name, role, int(now), expires, None), token)
            self._registry.note("user add", detail=f"{name}, {role}, until {day(expires)}")
        return token

    def renew(self, name: str, expires: int, now: float) -> str:
        """Return a user's new token; the one before ends. WardroundError for an unknown or revoked name."""
        token = _new_token(expires, now)
        with self._registry.transaction() as db:
            self._check_known(db, name)
            _renew(db, name, token, expires)
            self._registry.note("user renew", detail=f"{name}, until {day(expires)}")
        return token

    def revoke(self, name: str, now: float) -> None:
        """End a user's token and name for good. WardroundError for an unknown name, or one revoked before."""
        with self._registry.transaction() as db:
            self._check_known(db, name)
            db.execute("update users set revoked_at = ? where name = ?", (int(now), name))
            self._registry.note("user revoke", detail=name)

    def recover(self, name: str, expires: int, now: float) -> str:
        """Return the token of an operator, made new if need be, where no operator's token is left.

        WardroundError for a revoked name.
        """
        check_name(name)
        token = _new_token(expires, now)
        with self._registry.transaction() as db:
            if _found(db, "where name = ?", name):
                self._check_known(db, name)
                _renew(db, name, token, expires)
                db.execute("update users set role = ? where name = ?", (OPERATOR, name))
            else:
                _insert(db, User(name, OPERATOR, int(now), expires, None), token)
            self._registry.note("recover", detail=f"{name}, operator without a token, until {day(expires)}")
        return token

    def _check_known(self, db: sqlite3.Connection, name: str) -> None:
        known = {one.name: one for one in _found(db, "")}
        if name not in known:
            raise WardroundError(f"no user is named {ascii(name)[:80]}{did_you_mean(name, known)}")
        if known[name].revoked_at is not None:
            raise WardroundError(f"{name} was revoked, for good; choose another name")


class Access:
    """Decides for one way in.

    ``caller`` is what the audit log calls whoever shows no good token; ``by_files``: it can write the home
    itself, as a command on the coordinator's machine can. Whoever offers this to a network limits how often
    it may be tried, since each denial is an entry of the audit log.
    """

    def __init__(
        self, home: CoordinatorHome, caller: str, *, by_files: bool, clock: Callable[[], float] = time.time
    ) -> None:
        self._home, self._caller, self._by_files, self._clock = home, caller, by_files, clock

    def check(self, token: str | None, action: str, study: str = "") -> Actor:
        """Return who acts, if they may. Denied, which is audited without the token, if not.

        ``action`` is a key of ``MAY``; no token is None.
        """
        try:
            actor = self._owner(action) if token is None else self._user(token)
            if actor.role not in MAY[action]:
                raise Denied(
                    "role",
                    f"{actor.name.removeprefix('user:')} is {actor.role} and may not do this (`{action}`); "
                    f"that is for {listed(MAY[action])}",
                    actor.name,
                )
        except Denied as denied:
            self._home.registry.audit(
                "denied", study[:_MOST_STUDY], f"{action}: {denied.code}", denied.actor or self._caller
            )
            raise
        return actor

    def _owner(self, action: str) -> Actor:
        """Return who acts without a token. Denied where one is needed."""
        if self._by_files and (action in _BY_FILES or self._home.access.tokens == "optional"):
            return Actor(self._caller, OPERATOR)
        raise Denied(
            "token_missing",
            f"this needs a token; put yours into a file of mode 0600, and the file's path into {TOKEN_FILE} "
            "(an operator makes tokens: wardround coordinator user add NAME --role ROLE)",
        )

    def _user(self, token: str) -> Actor:
        """Return whose token it is. Denied unless it is good."""
        if not _FORM.fullmatch(token):
            raise Denied("token_malformed", f"this is no token; see what {TOKEN_FILE} or {TOKEN} gives")
        user = Users(self._home.registry).by_token(token)
        if user is None:
            raise Denied(
                "token_unknown",
                "nobody here has this token; take the one that you were given last, or ask an operator for a "
                "new one",
            )
        name, state = f"user:{user.name}", user.state(self._clock())
        if state == "revoked":
            raise Denied("token_revoked", f"{user.name} was revoked; ask an operator", name)
        if state == "expired":
            raise Denied(
                "token_expired",
                f"the token of {user.name} expired on {day(user.expires)}; an operator makes a new one: "
                f"wardround coordinator user renew {user.name} (if no operator's is left, who owns the home: "
                "wardround coordinator user recover NAME)",
                name,
            )
        return Actor(name, user.role)


def given_token() -> str | None:
    """Return the token that the environment gives, None where it gives none.

    WardroundError for two at once, or a file that others can read.
    """
    file, token = os.environ.get(TOKEN_FILE), os.environ.get(TOKEN)
    if file and token:
        raise WardroundError(f"{TOKEN_FILE} and {TOKEN} are both set; unset one of them")
    if not file:
        return token or None
    return read_private(Path(file), most=1024).decode("ascii", "replace").strip()


def without_token(environment: Mapping[str, str]) -> dict[str, str]:
    """Return an environment for processes that act for nobody in particular."""
    return {name: value for name, value in environment.items() if name not in (TOKEN, TOKEN_FILE)}


def _new_token(expires: int, now: float) -> str:
    if not now < expires <= LATEST:
        raise WardroundError("a token has to expire in the future, before the year 10000")
    return secrets.token_urlsafe(32)


def _insert(db: sqlite3.Connection, user: User, token: str) -> None:
    db.execute(
        "insert into users (name, role, token_hash, made_at, expires) values (?, ?, ?, ?, ?)",
        (user.name, user.role, hashed(token), user.made_at, user.expires),
    )


def _renew(db: sqlite3.Connection, name: str, token: str, expires: int) -> None:
    db.execute("update users set token_hash = ?, expires = ? where name = ?", (hashed(token), expires, name))


def _found(db: sqlite3.Connection, where: str, *values: object) -> list[User]:
    users = [User(*row) for row in db.execute(f"{_SELECT} {where}", values)]
    for one in users:
        times = (one.made_at, one.expires, 0 if one.revoked_at is None else one.revoked_at)
        known = isinstance(one.name, str) and one.role in ROLES
        # SQLite itself keeps anything anywhere
        if not (known and all(type(at) is int and 0 <= at <= LATEST for at in times)):
            raise WardroundError(
                "coordinator.db: the entry of a user is damaged; restore it from your back-up"
            )
    return users
