"""The ServerApp that Flower starts for a launched study: gathers its hospitals and conducts it.

Its run configuration only names the study; what the study is, and what the operator wants of it, stands in
the coordinator's home (WARDROUND_HOME). Started again after whatever happened, it goes on from the
transcript.
"""

from __future__ import annotations

import time
from dataclasses import replace

from flwr.app import Context
from flwr.serverapp import Grid, ServerApp

from wardround_common.errors import StudyError, WardroundError
from wardround_common.study import read_study
from wardround_server.app import run_study
from wardround_server.conductor import Progress
from wardround_server.federation import LateHospitals, agree
from wardround_server.gathering import Gathered, Terms, gather
from wardround_server.grid import Patience, post
from wardround_server.home import CoordinatorHome
from wardround_server.publish import published
from wardround_server.result import Clock, StudyResult
from wardround_server.shipped import study_file
from wardround_server.studies import HELD, STOP, UNCONFIRMED, Order, Status, StudyFolder, enter, find
from wardround_server.transcript import Transcript

app = ServerApp()


class Stopped(WardroundError):
    """The operator wants the study stopped."""


class Changed(WardroundError):
    """The operator wants other hospitals left out; another run takes that up."""


@app.main()
def main(grid: Grid, context: Context) -> None:
    """Conduct the study that the run configuration names."""
    home = CoordinatorHome.open(None)
    folder = _folder(home, str(context.run_config.get("study", "")))
    with folder.conducting():
        if folder.status.state == "finished":
            return  # another run was faster
        try:
            _conduct(grid, home, folder)
        except Stopped:
            folder.tell(replace(folder.status, state="stopped", why="stopped by the operator"))
        except (LateHospitals, Changed) as error:
            folder.tell(replace(folder.status, state="paused", why=str(error)))
        except WardroundError as error:
            folder.tell(replace(folder.status, state="failed", why=" ".join(str(error).split())))
            raise


def _folder(home: CoordinatorHome, named: str) -> StudyFolder:
    """Return the launched study of this name; else launch the study file, or the shipped study."""
    try:
        return find(home.studies, named)
    except StudyError:
        return enter(home.studies, read_study(study_file(named)), Order())


class _Reporter:
    """Keeps status.json true, and notices when the operator wants something else."""

    def __init__(self, folder: StudyFolder, order: Order) -> None:
        self._folder, self._without = folder, order.without
        before = folder.status
        self._status = Status(
            folder.name, "gathering", steps=before.steps, expected=before.expected, without=order.without
        )
        self._begun: float | None = None
        self._first = 0
        self.names: dict[int, str] = {}

    def gathered(self, found: Gathered) -> None:
        self._heed()
        self._tell(
            state="gathering",
            joined=found.joined,
            waiting=found.waiting,
            declined=dict(found.declined),
            absent=found.absent,
        )

    def unconfirmed(self, names: tuple[str, ...]) -> None:
        self._heed()
        declined = dict.fromkeys(names, UNCONFIRMED)
        self._tell(state="gathering", waiting=(), absent=(), declined=declined)

    def held(self, names: tuple[str, ...]) -> None:
        self._heed()
        self._tell(state="running", waiting=(), declined=dict.fromkeys(names, HELD))

    def opened(self, progress: Progress) -> None:
        now = time.monotonic()
        done = progress.step + 1
        if self._begun is None:
            self._begun, self._first = now, done
        expected = max(self._status.expected, done + 1)
        if done > self._first:
            left = (now - self._begun) / (done - self._first) * (expected - done)
        else:
            left = None
        if progress.replayed:
            self._begun = None  # replay is no measure of what is left
            return
        self._heed()
        self._tell(
            state="running",
            steps=done,
            expected=expected,
            left_s=None if left is None else round(left, 1),
            asked=tuple(sorted({kind for _, kind in progress.kinds})),
            waiting=(),
            absent=(),
            declined={},
        )

    def waiting(self, nodes: frozenset[int]) -> None:
        self._heed()
        self._tell(state="running", waiting=tuple(sorted(self.names.get(node, str(node)) for node in nodes)))

    def _heed(self) -> None:
        order = self._folder.order
        if order.wanted == STOP:
            raise Stopped("stopped by the operator")
        if order.without != self._without:
            raise Changed("the operator leaves out other hospitals; it goes on with the rest")

    def _tell(self, **changes: object) -> None:
        self._status = replace(self._status, **changes)  # type: ignore[arg-type]
        self._folder.tell(self._status)


def _conduct(grid: Grid, home: CoordinatorHome, folder: StudyFolder) -> None:
    study, order = folder.study, folder.order
    transcript = Transcript(folder.transcript)
    try:
        reporter = _Reporter(folder, order)
        terms = Terms(order.quorum, order.wait_s, order.without)
        stock = any(one.stock and one.state == "admitted" for one in home.registry.hospitals())
        way = post(grid, whole=stock)
        joined = gather(way, study, transcript, home.registry.hospitals, terms, reporter.gathered)
        reporter.names = {node: member.name for node, member in joined.items()}
        patience = Patience(deadline_s=order.deadline_s, waiting=reporter.waiting)
        members = agree(
            way, study, transcript, joined, patience, unconfirmed=reporter.unconfirmed, held=reporter.held
        )
        clock = Clock(reporter.opened)
        findings = run_study(study, transcript, members, clock)
        result = StudyResult(study, published(study, transcript, findings, clock.seconds), findings)
        notes = result.write(folder.results, command=f"wardround coordinator launch {study.name}")
        folder.tell(
            replace(folder.status, state="finished", why=" ".join(notes), left_s=0.0, asked=(), waiting=())
        )
    finally:
        transcript.close()
