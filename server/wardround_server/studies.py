"""The studies of a coordinator's home: a folder for each, with manifest, transcript, status and results."""

from __future__ import annotations

import json
import shutil
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from wardround_common.analysis import OnModelSpec
from wardround_common.errors import ProtocolError, StudyError, WardroundError, did_you_mean, listed
from wardround_common.files import write_file
from wardround_common.home import is_locked, locked, read_status, write_status
from wardround_common.sealing.epoch import Epoch
from wardround_common.study import Study, read_manifest
from wardround_server.transcript import read_transcript

RUN, STOP = "run", "stop"
UNCONFIRMED = "unconfirmed"  # the code of a hospital whose officer has to confirm others
HELD = "held"  # the code of a hospital whose officer has to release each answer
ENDED = ("finished", "failed", "stopped")
_NAMES = ("asked", "joined", "waiting", "absent", "without")  # tuples, which JSON has as lists


@dataclass(frozen=True)
class Order:
    """What the operator wants of a study. ``quorum`` None: all admitted hospitals; times in seconds.

    ``without``: hospitals that are not waited for, and that it goes on without.
    """

    wanted: str = RUN
    quorum: int | None = None
    wait_s: float = 60.0
    deadline_s: float = 600.0
    ordered_at: float = 0.0
    without: tuple[str, ...] = ()


@dataclass(frozen=True)
class Status:
    """How a study stands, as its run last said.

    ``state``: launched, gathering, running, paused, stopped, failed or finished. ``steps`` of about
    ``expected`` are done; ``left_s`` is an estimate. ``without``: who is left out, by the operator's order.
    """

    study: str
    state: str
    why: str = ""
    steps: int = 0
    expected: int = 0
    left_s: float | None = None
    asked: tuple[str, ...] = ()
    joined: tuple[str, ...] = ()
    waiting: tuple[str, ...] = ()
    absent: tuple[str, ...] = ()
    declined: dict[str, str] = field(default_factory=dict)
    without: tuple[str, ...] = ()
    at: float = 0.0


def expected_steps(study: Study) -> int:
    """Return about how many steps a study takes; its analyses go side by side, those of models after them."""
    models = [spec.steps for spec in study.analyses if not isinstance(spec, OnModelSpec)]
    after = [spec.steps for spec in study.analyses if isinstance(spec, OnModelSpec)]
    return 1 + max(models, default=0) + max(after, default=0)


class StudyFolder:
    """One study's folder."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.name = path.name
        self.transcript, self.results = path / "transcript", path / "results"
        self._manifest, self._order = path / "study.json", path / "order.json"
        self._status, self._lock = path / "status.json", path / "run.lock"

    @property
    def study(self) -> Study:
        """The study. WardroundError if its file cannot be read."""
        try:
            return read_manifest(self._manifest.read_bytes())
        except (OSError, ProtocolError) as error:
            raise WardroundError(f"{self._manifest}: cannot be read ({error})") from None

    @property
    def order(self) -> Order:
        """What the operator wants."""
        found = read_status(self._order)
        try:
            return Order(**found | {"without": tuple(found.get("without", ()))})
        except TypeError:
            raise WardroundError(f"{self._order}: cannot be read; launch the study once more") from None

    @property
    def begun_by(self) -> tuple[str, ...]:
        """The hospitals of its roster, by name; none before they have agreed on one."""
        if not self._has_begun:
            return ()
        opening = read_transcript(self.transcript).opening
        return () if opening is None else opening.roster.names

    @property
    def epochs(self) -> list[Epoch]:
        """The epochs that its hospitals began, in order. WardroundError if its transcript can't be read."""
        return [one.epoch for one in read_transcript(self.transcript).epochs] if self._has_begun else []

    @property
    def _has_begun(self) -> bool:
        return self.transcript.exists() and self.transcript.stat().st_size > 0

    def command(self, order: Order) -> None:
        """Note what the operator wants. WardroundError where it can't be written."""
        write_file(self._order, json.dumps(asdict(order) | {"ordered_at": time.time()}))

    @property
    def status(self) -> Status:
        """How it stands."""
        found = read_status(self._status)
        said: dict[str, Any] = {"study": self.name, "state": "launched", **found}
        said |= {key: tuple(said[key]) for key in _NAMES if key in said}
        try:
            return Status(**said)
        except TypeError:
            return Status(self.name, "launched")

    def tell(self, status: Status) -> None:
        """Say how it stands."""
        write_status(self._status, asdict(status) | {"at": time.time()})

    @property
    def is_running(self) -> bool:
        """Whether a process conducts it now."""
        return is_locked(self._lock)

    @contextmanager
    def conducting(self, wait_s: float = 15.0) -> Iterator[None]:
        """Be the one process that conducts it; one that was killed a moment ago is waited for."""
        end = time.monotonic() + wait_s
        while self.is_running and time.monotonic() < end:
            time.sleep(0.1)
        with locked(self._lock, f"study `{self.name}`"):
            yield


def folders(studies: Path) -> list[StudyFolder]:
    """Return all studies of a home, by name."""
    if not studies.is_dir():
        return []
    return [StudyFolder(path) for path in sorted(studies.iterdir()) if (path / "study.json").exists()]


def find(studies: Path, name: str) -> StudyFolder:
    """Return a study's folder by name. StudyError where there is none."""
    found = {one.name: one for one in folders(studies)}
    if name not in found:
        there = f"; there are {listed(found)}" if found else "; none was launched yet"
        raise StudyError(f"{name}: no study of this name was launched{did_you_mean(name, found)}{there}")
    return found[name]


Begins = Callable[[StudyFolder, str], object]  # is called with `launch` or `relaunch` before anything changes


def enter(
    studies: Path,
    study: Study,
    order: Order,
    again: bool = False,
    begins: Begins = lambda folder, event: None,
) -> StudyFolder:
    """Make a study's folder, or take up the one it has. StudyError if another version has begun there.

    ``again``: put what is there aside, under a name with the time, and begin anew.
    """
    folder, anew = StudyFolder(studies / study.name), False
    if folder.path.exists():
        if folder.is_running:
            raise StudyError(
                f"{study.name}: runs now; see `wardround coordinator status {study.name}`, or stop it first"
            )
        anew = again
        if not anew and folder.study.manifest() != study.manifest():
            raise StudyError(
                f"{study.name}: another version of it was launched before; give this one another name, or "
                "put the other aside with --again"
            )
        if not anew and folder.status.state == "finished":
            raise StudyError(
                f"{study.name}: finished; see `wardround coordinator results {study.name}`, "
                "or run it anew with --again"
            )
    begins(folder, "relaunch" if anew else "launch")
    if anew:
        shutil.move(folder.path, studies / f".{study.name}.{time.strftime('%Y%m%dT%H%M%S')}")
    folder.path.mkdir(mode=0o700, parents=True, exist_ok=True)
    write_file(folder._manifest, study.manifest())
    folder.command(order)
    folder.tell(Status(study.name, "launched", expected=expected_steps(study)))
    return folder
