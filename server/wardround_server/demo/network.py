"""`wardround demo --network`: the same study between real processes, over TLS on this machine's loopback.

A coordinator and four hospitals, each with a home of its own, joined by invitation, with their node keys
and the coordinator's CA: what an institution would run, except that one machine runs it all.
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from rich.console import Console

from wardround_client import officers
from wardround_client.approval import approve
from wardround_client.home import HospitalHome
from wardround_client.home import make_home as make_hospital
from wardround_client.join import join
from wardround_common.enrolment import Invite
from wardround_common.errors import WardroundError
from wardround_common.home import read_status
from wardround_common.study import read_study
from wardround_server import show
from wardround_server.home import CoordinatorHome
from wardround_server.home import make_home as make_coordinator
from wardround_server.shipped import shipped, shipped_tables
from wardround_server.studies import Order, StudyFolder, enter

NAME = "heart-disease"
_START_S, _STUDY_S, _STOP_S = 60.0, 600.0, 15.0


def run_network(out: Path, as_json: bool) -> None:
    """Run the demo's study over processes and write its results to ``out``. WardroundError if one fails."""
    console = Console(file=sys.stderr, highlight=False, soft_wrap=True, quiet=as_json)
    folder = _empty(out / "network")
    begun = time.monotonic()
    with _processes() as start:
        coordinator = _coordinator(folder, start)
        console.print(
            f"Coordinator on {coordinator.config.address}: TLS 1.3, its own CA, node authentication"
        )
        study = read_study(shipped(NAME))
        hospitals = [_hospital(folder, coordinator, *one, start) for one in shipped_tables(NAME).items()]
        for home in hospitals:
            _confirm(home, hospitals)
            approve(home, study)
            console.print(
                f"`{home.name}` joined by invitation, confirmed the others by their words and approved "
                f"`{study.name}`"
            )
        launched = enter(coordinator.studies, study, Order())
        _follow(launched, as_json)
        results = json.loads((launched.results / "results.json").read_text("utf-8"))
    shutil.copytree(launched.results, out, dirs_exist_ok=True)
    console.print(f"Five processes, {time.monotonic() - begun:.0f} s; all have ended")
    if as_json:
        sys.stdout.write(json.dumps(results, indent=1, ensure_ascii=False) + "\n")
        return
    show.results(Console(), results)
    show.written(Console(), out, ())


def _empty(folder: Path) -> Path:
    """Return an empty folder, where an earlier demo's may be."""
    if (folder / "coordinator" / "config.toml").exists():
        shutil.rmtree(folder)
    folder.mkdir(parents=True, exist_ok=True)
    return folder


Start = Callable[[str, Path], None]


@contextmanager
def _processes() -> Iterator[Start]:
    """Yield what starts `wardround SIDE serve` in a home; end what it started, the coordinator last."""
    running: list[subprocess.Popen[bytes]] = []

    def start(side: str, home: Path) -> None:
        environment = os.environ | {"FLWR_TELEMETRY_ENABLED": "0", "FLWR_DISABLE_UPDATE_CHECK": "1"}
        running.append(
            subprocess.Popen(  # noqa: S603 (our own command)
                [sys.executable, "-m", "wardround_common", side, "serve", "--quiet", "--home", str(home)],
                env=environment,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
                start_new_session=True,  # a Ctrl-C is for this process, which ends the others
            )
        )

    try:
        yield start
    finally:
        for process in reversed(running):
            process.send_signal(signal.SIGTERM)
        for process in reversed(running):
            try:
                process.wait(_STOP_S)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()


def _coordinator(folder: Path, start: Start) -> CoordinatorHome:
    ports = [_free_port(), _free_port()]
    home = make_coordinator(
        folder / "coordinator", "demo", f"localhost:{ports[0]}", None, ports[1], ":memory:"
    )
    start("coordinator", home.path)
    _until(lambda: read_status(home.status_file).get("state") == "serving", home.path)
    return home


def _hospital(
    folder: Path, coordinator: CoordinatorHome, name: str, table: Path, start: Start
) -> HospitalHome:
    config, expires = coordinator.config, int(time.time()) + 3600
    token = coordinator.registry.invite(name, expires, time.time())
    ca = coordinator.ca_file.read_text("ascii")
    home = make_hospital(folder / name, name, table)
    joined = join(
        home,
        Invite(config.name, config.address, ca, name, token, expires),
        time.time(),
        online=True,
        file=folder / f"{name}.enrolment.json",
    )
    if joined.pending:
        raise WardroundError(f"`{name}` cannot join: {joined.pending}")
    start("hospital", home.path)
    return home


def _confirm(home: HospitalHome, hospitals: Sequence[HospitalHome]) -> None:
    """Do what officers do on the telephone: each reads its words out, and the others compare them."""
    for other in hospitals:
        if other is not home:
            officers.confirm(home, officers.find(home, other.name, officers.heard(officers.own_words(other))))


def _follow(folder: StudyFolder, quiet: bool) -> None:
    """Wait until the study has finished, with its progress on a terminal."""
    with show.status(quiet) as update:
        end = time.monotonic() + _STUDY_S
        while (status := folder.status).state != "finished":
            if status.state in ("failed", "stopped") or time.monotonic() > end:
                raise WardroundError(f"the study did not finish ({status.state}): {status.why}")
            update(f"{status.state}: step {status.steps} of about {status.expected}")
            time.sleep(0.1)


def _until(true: Callable[[], bool], where: Path) -> None:
    end = time.monotonic() + _START_S
    while not true():
        if time.monotonic() > end:
            raise WardroundError(f"{where}: did not start within {_START_S:.0f} s; see its logs")
        time.sleep(0.05)


def _free_port() -> int:
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return int(found.getsockname()[1])
