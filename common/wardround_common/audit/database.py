"""The audit log in a home's node.db or coordinator.db, opened to be read only, and whose log that is."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from pydantic import BaseModel

from wardround_common.audit.log import AuditLog
from wardround_common.audit.note import COORDINATOR, HOSPITAL, Origin
from wardround_common.errors import ProtocolError, WardroundError
from wardround_common.files import read_private
from wardround_common.home import Name, read_toml
from wardround_common.sealing.identity import Identity

SQLITE: Final = b"SQLite format 3\0"  # how a database's file begins
_BUSY_S: Final = 10.0


_SIDES: Final = {  # the database's name, the mark in its header, the key that signs
    HOSPITAL: ("node.db", 0x57524F4E, "identity.key"),
    COORDINATOR: ("coordinator.db", 0x57524F43, "audit.key"),
}


class _Named(BaseModel):
    name: Name


class _Config(BaseModel):
    """What config.toml of either home says of its name; other keys are its side's to check."""

    hospital: _Named | None = None
    coordinator: _Named | None = None


@dataclass(frozen=True)
class AuditHome:
    """A database with an audit log, and the home around it."""

    database: Path
    side: str

    @property
    def origin(self) -> Origin:
        """Whose log it is, by the home's config.toml."""
        file = self.database.parent / "config.toml"
        found = getattr(read_toml(file, _Config, f"deploy/samples/{self.side}-advanced.toml"), self.side)
        if found is None:
            raise WardroundError(f"{file}: names no {self.side}; is it the home of {self.database.name}?")
        return Origin(self.side, found.name)

    @property
    def identity(self) -> Identity:
        """The key that signs the log's checkpoints, from the home's keys."""
        file = self.database.parent / "keys" / _SIDES[self.side][2]
        try:
            return Identity.from_pem(read_private(file))
        except ProtocolError as error:
            raise WardroundError(f"{file}: {error}; restore it from your back-up") from None

    @contextmanager
    def open(self) -> Iterator[AuditLog]:
        """Give the log while the block runs; what cannot be read is a WardroundError."""
        try:
            with closing(_connected(self.database)) as db:
                yield AuditLog(db)
        except sqlite3.Error as error:
            raise _unreadable(self.database, str(error)) from None


def find_log(path: Path) -> AuditHome:
    """Return the log of a home, or of a database. WardroundError where there is none of ours."""
    if not path.is_dir():
        return _of(path)
    there = [path / name for name, *_ in _SIDES.values() if (path / name).exists()]
    if len(there) == 1:
        return _of(there[0])
    if there:
        raise WardroundError(f"{path}: holds both a node.db and a coordinator.db; name one of the files")
    raise WardroundError(
        f"{path}: no audit log yet (node.db or coordinator.db); give the home's folder with --home or "
        "WARDROUND_HOME"
    )


def _of(file: Path) -> AuditHome:
    try:
        with closing(_connected(file)) as db:
            application = db.execute("pragma application_id").fetchone()[0]
            tables = {name for (name,) in db.execute("select name from sqlite_master where type = 'table'")}
    except sqlite3.Error as error:
        raise _unreadable(file, str(error)) from None
    side = next((side for side, (_, mark, _) in _SIDES.items() if mark == application), None)
    if side is None:
        raise WardroundError(f"{file}: another program's database; give a home's node.db or coordinator.db")
    if not {"audit_entries", "checkpoints"} <= tables:
        raise WardroundError(
            f"{file}: no audit log in it; if an earlier version of Wardround made it, `wardround {side} "
            "status` brings it up to date, else restore it from your back-up"
        )
    return AuditHome(file, side)


def _connected(file: Path) -> sqlite3.Connection:
    if not file.exists():
        raise WardroundError(f"{file}: there is no such file")
    db = sqlite3.connect(f"{file.absolute().as_uri()}?mode=ro", uri=True, timeout=_BUSY_S)
    try:
        db.execute("pragma trusted_schema = off")
        db.execute("pragma query_only = on")
    except BaseException:
        db.close()
        raise
    return db


def _unreadable(file: Path, why: str) -> WardroundError:
    return WardroundError(f"{file}: cannot be read ({why}); if it is damaged, restore it from your back-up")
