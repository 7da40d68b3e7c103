"""`coordinator serve`: keeps the SuperLink running, its nodes in step with the registry, and studies going.

Flower's SuperLink is a process of its own. If it dies it is started again, and so is the run of every
study that the operator wants and that nobody conducts: a run that ended with its SuperLink is a new run on
the same transcript. What is wanted stands in files, so nothing is lost with this process.
"""

from __future__ import annotations

import logging
import os
import signal
import subprocess
import sys
import threading
import time
from dataclasses import replace

from wardround_common.enrolment import split_address
from wardround_common.errors import LinkError, WardroundError
from wardround_common.home import LOG, VARIABLE, locked, write_status
from wardround_server.access import without_token
from wardround_server.auditing import Watch, sign
from wardround_server.grid.control import Control, direct_loopback
from wardround_server.grid.superlink import LOOPBACK, bound
from wardround_server.home import CoordinatorHome
from wardround_server.studies import ENDED, RUN, STOP, StudyFolder, folders

_LOOK_S = 0.5
_SYNC_S = 2.0
_SIGN_S = 60.0
_STARTS_S = 20.0  # how long a run may take until it conducts
_BACK_OFF_S = (1.0, 2.0, 5.0, 15.0, 60.0)
_STOPS_S = 8.0
_TELL_S = 10.0


class Supervisor:
    """Runs until ``stop`` is set."""

    def __init__(self, home: CoordinatorHome, stop: threading.Event) -> None:
        self._home, self._stop = home, stop
        self._log = logging.getLogger(LOG)
        self._superlink: subprocess.Popen[bytes] | None = None
        self._control: Control | None = None
        self._begun_at = 0.0
        self._failures = 0
        self._wait_until = 0.0
        self._synced_at = 0.0
        self._watch, self._signed_at = Watch(home), -_SIGN_S
        self._runs: dict[str, _Run] = {}
        self._broken: set[str] = set()  # studies whose files cannot be read
        self._said, self._told_at = "", 0.0

    def run(self) -> None:
        """Supervise until told to stop. WardroundError if the SuperLink can't serve at its first start."""
        with locked(self._home.lock_file, "this coordinator"):
            self._home.check_certificates()
            self._log.info(
                "coordinator `%s`: hospitals dial %s", self._home.config.name, self._home.config.address
            )
            self._check_ports()
            try:
                while not self._stop.is_set():
                    self._look()
                    self._stop.wait(_LOOK_S)
            finally:
                self._end()
                self._tell("stopped")
            self._log.info("coordinator stopped")

    def _check_ports(self) -> None:
        """Find out if the SuperLink could listen; one whose coordinator was killed may be about to end."""
        config, end = self._home.config, time.monotonic() + _STOPS_S
        for host, port in ((LOOPBACK, config.control_port), split_address(config.listen)):
            while True:
                try:
                    bound(host, port).close()
                    break
                except WardroundError:
                    if time.monotonic() > end:
                        raise
                    self._stop.wait(0.2)

    def _look(self) -> None:
        if self._superlink is None or self._superlink.poll() is not None:
            self._restart()
            return
        try:
            control = self._control or Control(self._home)
            self._control = control
            if time.monotonic() - self._synced_at > _SYNC_S:
                self._sync(control)
                self._synced_at = time.monotonic()
            for folder in folders(self._home.studies):
                self._attend(control, folder)
            if time.monotonic() - self._signed_at > _SIGN_S:
                self._signed_at = time.monotonic()
                sign(self._home)
        except LinkError as error:
            if time.monotonic() - self._begun_at > _STARTS_S:  # else it is starting
                self._tell("trouble", str(error))
        except WardroundError as error:
            self._tell("trouble", str(error))
        else:
            self._failures = 0
            self._tell("serving")

    def _restart(self) -> None:
        """Start the SuperLink, after a pause that grows where it keeps dying."""
        if self._superlink is not None:
            code = self._superlink.returncode
            self._superlink = None
            self._synced_at = 0.0
            self._drop_control()
            pause = _BACK_OFF_S[min(self._failures, len(_BACK_OFF_S) - 1)]
            self._failures += 1
            self._wait_until = time.monotonic() + (pause if self._failures > 1 else 0.0)
            self._tell("trouble", f"Flower's SuperLink ended (exit code {code}); it is started again")
        if time.monotonic() < self._wait_until:
            return
        self._superlink = self._started()
        self._begun_at = time.monotonic()
        self._tell("starting")

    def _started(self) -> subprocess.Popen[bytes]:
        direct_loopback()
        environment = without_token(os.environ) | {
            VARIABLE: str(self._home.path.absolute()),
            "FLWR_HOME": str(self._home.flower_home.absolute()),
            "FLWR_TELEMETRY_ENABLED": "0",
            "FLWR_DISABLE_UPDATE_CHECK": "1",
            "FLWR_SUPEREXEC_TASK_POLL_INTERVAL": "0.25",
            # Flower starts its helpers by name
            "PATH": os.pathsep.join([os.path.dirname(sys.executable), os.environ.get("PATH", "")]),  # noqa: PTH120
        }
        with (self._home.path / "logs" / "flower.log").open("ab") as log:
            return subprocess.Popen(  # noqa: S603 (our own module)
                [
                    sys.executable,
                    "-m",
                    "wardround_server.grid.superlink",
                    str(self._home.path),
                    str(os.getpid()),
                ],
                env=environment,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,  # a Ctrl-C is for this process, which ends the other
            )

    def _sync(self, control: Control) -> None:
        """Make Flower know the nodes of admitted hospitals, and no others."""
        known = control.nodes()
        admitted = {one.node_key: one for one in self._home.registry.hospitals() if one.state == "admitted"}
        for key, (node_id, _, _) in known.items():
            if key not in admitted:
                control.unregister(node_id)
                self._log.info("node %d is no longer admitted", node_id)
        for key, record in admitted.items():
            node_id = known[key][0] if key in known else control.register(key, record.name)
            if node_id != record.node_id:
                self._home.registry.set_node_id(record.name, node_id)
                self._log.info("`%s` is node %d", record.name, node_id)

    def _attend(self, control: Control, folder: StudyFolder) -> None:
        """Start or stop a study's run, as the operator wants it."""
        try:
            order, status = folder.order, folder.status
        except WardroundError as error:  # one study's broken file is no trouble for the others
            if folder.name not in self._broken:
                self._log.error("%s", error)
            self._broken.add(folder.name)
            return
        self._broken.discard(folder.name)
        self._watch.look(folder, status)  # what can't be audited is not gone on with
        run = self._runs.setdefault(folder.name, _Run())
        if run.ordered_at != order.ordered_at:  # the operator has spoken: no grudges
            run.ordered_at, run.failures, run.wait_until = order.ordered_at, 0, 0.0
        run.conducted = run.conducted or folder.is_running
        if order.wanted == STOP:
            if run.run_id is not None and not folder.is_running:
                control.stop(run.run_id)
                run.run_id = None
            if status.state not in ENDED and not folder.is_running:
                folder.tell(replace(status, state="stopped", why="stopped by the operator"))
        elif order.wanted == RUN and status.state not in ENDED and not folder.is_running:
            self._conduct(control, folder, run)

    def _conduct(self, control: Control, folder: StudyFolder, run: _Run) -> None:
        now = time.monotonic()
        if run.run_id is not None:
            # one that conducted and does so no longer was killed; Flower would take a minute to notice
            if not run.conducted and now - run.started_at < _STARTS_S and control.is_running(run.run_id):
                return  # on its way
            control.stop(run.run_id)
            run.run_id = None
            run.wait_until = now + _BACK_OFF_S[min(run.failures, len(_BACK_OFF_S) - 1)]
            run.failures = 0 if now - run.started_at > 60 else run.failures + 1
        if now >= run.wait_until:
            run.run_id, run.started_at, run.conducted = control.start(folder.name), now, False
            self._log.info("study `%s`: run %d", folder.name, run.run_id)

    def _end(self) -> None:
        """End the SuperLink, and with it its runs."""
        self._drop_control()
        if self._superlink is None:
            return
        self._superlink.send_signal(signal.SIGTERM)
        try:
            self._superlink.wait(_STOPS_S)
        except subprocess.TimeoutExpired:
            self._superlink.kill()
            self._superlink.wait()

    def _drop_control(self) -> None:
        if self._control is not None:
            self._control.close()
            self._control = None

    def _tell(self, state: str, why: str = "") -> None:
        pid = None if self._superlink is None else self._superlink.pid
        said = f"{state} {why}".strip()
        if said == self._said and time.monotonic() - self._told_at < _TELL_S:
            return
        if said != self._said:
            self._log.log(logging.WARNING if why else logging.INFO, "%s", said)
        self._said, self._told_at = said, time.monotonic()
        write_status(
            self._home.status_file,
            {"state": state, "why": why, "at": time.time(), "pid": os.getpid(), "superlink": pid},
        )


class _Run:
    """A study's run, as this process started it."""

    run_id: int | None = None
    started_at = 0.0
    conducted = False
    wait_until = 0.0
    failures = 0
    ordered_at = 0.0
