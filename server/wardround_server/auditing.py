"""What the coordinator puts into its audit log by itself: signed checkpoints, and what becomes of studies.

What happens in a running study is read from its files, as everything else that `coordinator serve` looks
after, so nothing is left out where the process that conducted it was killed.
"""

from __future__ import annotations

import hashlib
import re
import time
from typing import Final

from wardround_common.audit.log import AuditLog
from wardround_common.audit.note import COORDINATOR as SIDE
from wardround_common.audit.note import Origin, sign_checkpoint
from wardround_common.errors import WardroundError
from wardround_common.files import write_private
from wardround_common.sealing.identity import Identity
from wardround_server.database import COORDINATOR
from wardround_server.home import CoordinatorHome
from wardround_server.studies import Status, StudyFolder

_BETWEEN_S: Final = 300.0  # from one checkpoint to the next
_OVER: Final = ("finished", "failed", "paused", "stopped")
_BEGINS: Final = ("launch", "relaunch", "resume")
_LOOK_BACK: Final = 1000  # entries of one study
_MOST_NAMES: Final = 20  # of hospitals, since an entry has a longest length; an epoch's digest covers all
_CODE: Final = re.compile(r"refuses: .*\(([a-z_]+)\)$")


def sign(home: CoordinatorHome, *, at_once: bool = False, now: float | None = None) -> bool:
    """Sign how the audit log stands, unless it was signed less than five minutes ago; tell whether it was.

    ``at_once``: however short ago that was. WardroundError where the key can't be had.
    """
    with home.registry.log("immediate") as log:  # one process at a time, so there is one key
        last, size = home.registry.signed(), log.size
        if size == last:
            return False
        if last and not at_once:
            [(_, entry)] = log.entries(last - 1, 1)
            if (time.time() if now is None else now) - entry.at / 1000 < _BETWEEN_S:
                return False
        note = sign_checkpoint(_key(home, new=not last), Origin(SIDE, home.config.name), log.head())
        log.keep(note, size)
    return True


def _key(home: CoordinatorHome, *, new: bool) -> Identity:
    """Return the key that signs; ``new``: it has signed nothing yet, so one that is not there can be made."""
    if new and not home.audit_key_file.exists():  # a home from before there was one
        write_private(home.audit_key_file, Identity.generate().to_pem())
    return home.audit_key


class Watch:
    """Notes in the audit log which epochs studies began, and how each run ended: once, whoever looks."""

    def __init__(self, home: CoordinatorHome) -> None:
        self._home = home
        self._seen: dict[str, str] = {}

    def look(self, folder: StudyFolder, status: Status) -> None:
        """Note what a study has come to since the last look.

        WardroundError if that can't be written, and is tried again at the next look, or once if its
        transcript can't be read.
        """
        if self._seen.get(folder.name) == status.state:
            return
        unread = None
        if status.state in ("running", *_OVER) and not self._is_noted(folder.name, status.state):
            unread = self._note(folder, status)
        self._seen[folder.name] = status.state
        if unread is not None:
            raise unread

    def _is_noted(self, study: str, state: str) -> bool:
        with self._home.registry.log() as log:
            return _stands(_events(log, study)) == state

    def _note(self, folder: StudyFolder, status: Status) -> WardroundError | None:
        unread = None
        try:
            epochs = {one.digest.hex(): one for one in folder.epochs}
        except WardroundError as error:  # how it ended is noted even so
            epochs, unread = {}, error
        registry, detail = self._home.registry, _detail(folder, status)
        with registry.log("immediate") as log:
            known = {
                word for event, told in _events(log, folder.name) if event == "epoch" for word in told.split()
            }
            for digest, epoch in epochs.items():
                if digest not in known:
                    names = named(epoch.hospitals)
                    registry.note("epoch", folder.name, f"{epoch.number} {digest} {names}", COORDINATOR)
            if status.state in _OVER and _stands(_events(log, folder.name)) != status.state:
                registry.note(status.state, folder.name, detail, COORDINATOR)
        if status.state in _OVER:
            sign(self._home, at_once=True)
        return unread


def _events(log: AuditLog, study: str) -> list[tuple[str, str]]:
    """Return a study's last entries as (event, detail), oldest first."""
    return [(entry.event, entry.detail) for _, entry in log.last(_LOOK_BACK, study)]


def _stands(events: list[tuple[str, str]]) -> str:
    """Return the last thing that was noted of a study's course; empty if nothing was."""
    course = [event for event, _ in events if event in (*_BEGINS, "epoch", *_OVER)]
    return course[-1] if course else ""


def _detail(folder: StudyFolder, status: Status) -> str:
    """Return what an end's entry says: a digest, a refusal's code or names, never a number of the results."""
    if status.state == "finished":
        return results_digest(folder)
    if status.state == "failed":
        found = _CODE.search(status.why)
        return found[1] if found else ""
    return f"waiting for {named(status.waiting)}" if status.state == "paused" and status.waiting else ""


def results_digest(folder: StudyFolder) -> str:
    """Return the SHA-256 of results.json, as the audit log has it; empty where it can't be read."""
    try:
        return f"results sha256:{hashlib.sha256((folder.results / 'results.json').read_bytes()).hexdigest()}"
    except OSError:
        return ""


def named(names: tuple[str, ...]) -> str:
    """Return names as an entry has them: the first twenty, and how many more there are."""
    more = f" and {len(names) - _MOST_NAMES} more" if len(names) > _MOST_NAMES else ""
    return ", ".join(names[:_MOST_NAMES]) + more
