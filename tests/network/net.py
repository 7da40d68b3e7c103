"""A network on loopback for tests and figures: the real commands, as processes of their own.

    with network(tmp_path, ["north", "south", "east"]) as net:
        net.approve(study_file)
        net.launch(study_file)
        results = net.finished("heart-disease")

Every process is ended by its own process id, whatever happens.
"""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from wardround_client import officers
from wardround_client.home import HospitalHome

COMMAND = [sys.executable, "-m", "wardround_common"]
ENVIRONMENT = {
    "FLWR_TELEMETRY_ENABLED": "0",
    "FLWR_DISABLE_UPDATE_CHECK": "1",
    "NO_COLOR": "1",
    "COLUMNS": "400",
}


def free_port() -> int:
    """Return a port of loopback that nobody uses now."""
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return int(found.getsockname()[1])


def run(*arguments: object, code: int = 0, **options: Any) -> str:
    """Run `wardround ARGUMENTS`; return what it prints. Fails if it ends with another exit code."""
    done = subprocess.run(
        [*COMMAND, *map(str, arguments)],
        env=os.environ | ENVIRONMENT,
        capture_output=True,
        text=True,
        timeout=options.pop("timeout", 60),
        check=False,
        **options,
    )
    said = done.stdout + done.stderr
    assert done.returncode == code, f"wardround {arguments}: exit code {done.returncode}\n{said}"
    assert "Traceback" not in said, said
    return said


class Process:
    """A long-running `wardround` command."""

    def __init__(self, log: Path, *arguments: object, command: Sequence[str] = COMMAND) -> None:
        self._log, self._arguments, self._command = log, arguments, command
        self.process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        """Start it; it is no error if it runs."""
        if self.process is None or self.process.poll() is not None:
            with self._log.open("ab") as log:
                self.process = subprocess.Popen(
                    [*self._command, *map(str, self._arguments)],
                    env=os.environ | ENVIRONMENT,
                    stdin=subprocess.DEVNULL,
                    stdout=log,
                    stderr=log,
                )

    @property
    def pid(self) -> int:
        """Its process id."""
        assert self.process is not None
        return self.process.pid

    def kill(self) -> None:
        """End it at once, as a power cut would."""
        if self.process is not None:
            self.process.kill()
            self.process.wait()

    def stop(self, seconds: float = 15) -> int:
        """Ask it to end; return its exit code."""
        if self.process is None:
            return 0
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGCONT)
            self.process.terminate()
            try:
                self.process.wait(seconds)
            except subprocess.TimeoutExpired:
                self.process.kill()
                self.process.wait()
        return self.process.returncode

    def log(self) -> str:
        """What it said so far."""
        return self._log.read_text("utf-8", "replace") if self._log.exists() else ""


class Hospital:
    """A hospital of the network: its home and its node."""

    def __init__(self, net: Network, name: str, table: Path) -> None:
        self.net, self.name, self.table = net, name, table
        self.home = net.folder / name
        self.node = Process(net.folder / f"{name}.log", "hospital", "serve", "--home", self.home)

    def join(self) -> None:
        """Make its home and enrol it over the network with a one-time token."""
        self.net.invite(self.name)
        run("hospital", "init", "--name", self.name, "--table", self.table, "--home", self.home)
        file = self.net.folder / f"{self.name}.enrolment.json"
        said = run(
            "hospital", "join", self.net.invitation(self.name), "--home", self.home, "--enrolment", file
        )
        assert "Admitted by" in said, said

    def approve(self, study: object, *options: object) -> str:
        """Approve a study that was offered, or one in a file."""
        return run("hospital", "approve", study, "--yes", "--home", self.home, *options)

    def status(self) -> dict[str, Any]:
        """What `hospital status` says."""
        found: dict[str, Any] = json.loads(run("hospital", "status", "--json", "--home", self.home))
        return found


class Network:
    """A coordinator and hospitals."""

    def __init__(self, folder: Path, database: str) -> None:
        self.folder, self.home = folder, folder / "coordinator"
        self.port, self.control_port = free_port(), free_port()
        self.address = f"localhost:{self.port}"
        self.hospitals: dict[str, Hospital] = {}
        run(
            *("coordinator", "init", "--name", "test", "--address", self.address, "--home", self.home),
            *("--listen", f"127.0.0.1:{self.port}", "--control-port", self.control_port),
        )
        if database != "superlink.db":
            config = self.home / "config.toml"
            config.write_text(config.read_text() + f'database = "{database}"\n')
        self.coordinator = Process(folder / "coordinator.log", "coordinator", "serve", "--home", self.home)

    def command(self, *arguments: object, code: int = 0, **options: Any) -> str:
        """Run `wardround coordinator ARGUMENTS` in this network's home."""
        return run("coordinator", *arguments, "--home", self.home, code=code, **options)

    def invitation(self, name: str) -> Path:
        """Where a hospital's invitation is."""
        return self.folder / f"{name}.invite"

    def invite(self, name: str, *options: object) -> None:
        """Invite a hospital."""
        self.command("invite", name, "--out", self.invitation(name), *options)

    def status(self, study: str | None = None) -> dict[str, Any]:
        """What `coordinator status` says."""
        found: dict[str, Any] = json.loads(self.command("status", *([study] if study else []), "--json"))
        return found

    def serve(self) -> None:
        """Start the coordinator and wait until it serves."""
        self.coordinator.start()
        until(lambda: self._state() == "serving", 60, lambda: self.coordinator.log() + self.logs())

    def _state(self) -> str:
        try:
            said = json.loads((self.home / "status.json").read_text())
        except (OSError, ValueError):
            return ""
        return str(said["state"]) if said["pid"] == self.coordinator.pid else ""

    def superlink_pid(self) -> int | None:
        """The process id of Flower's SuperLink."""
        try:
            found = json.loads((self.home / "status.json").read_text())["superlink"]
        except (OSError, ValueError, KeyError):
            return None
        return None if found is None else int(found)

    def add(self, name: str, table: Path, confirmed: bool = True) -> Hospital:
        """Invite a hospital, have it join, and start its node; ``confirmed``: by all others, and it them."""
        hospital = Hospital(self, name, table)
        self.hospitals[name] = hospital
        hospital.join()
        if confirmed:
            self.confirm(name)
        hospital.node.start()
        return hospital

    def terms(self, leave: str) -> None:
        """Write all hospitals' terms of leaving into their policies, before they approve a study."""
        for hospital in self.hospitals.values():
            (hospital.home / "policy.toml").write_text(f'leave = "{leave}"\nmax_epochs = 20\n')

    def confirm(self, name: str) -> None:
        """Have all hospitals confirm this one by its words, and this one them."""
        for other in self.hospitals.values():
            if other.name != name and (other.home / "config.toml").exists():
                confirm(self.hospitals[name].home, other.home)
                confirm(other.home, self.hospitals[name].home)

    def approve(self, study: object) -> None:
        """Have every hospital approve a study."""
        for hospital in self.hospitals.values():
            hospital.approve(study)

    def launch(self, study: object, *options: object) -> None:
        """Launch a study."""
        self.command("launch", study, *options)

    def study(self, name: str) -> dict[str, Any]:
        """What a study's status file says."""
        try:
            found: dict[str, Any] = json.loads((self.home / "studies" / name / "status.json").read_text())
        except (OSError, ValueError):
            return {"state": "", "steps": 0}
        return found

    def finished(self, name: str, seconds: float = 120) -> dict[str, Any]:
        """Wait until a study has finished; return its results."""

        def over() -> bool:
            state = self.study(name)
            assert state["state"] != "failed", f"{state}\n{self.logs()}"
            return bool(state["state"] == "finished")

        until(over, seconds, lambda: f"{self.study(name)}\n{self.logs()}")
        found: dict[str, Any] = json.loads(
            (self.home / "studies" / name / "results" / "results.json").read_text()
        )
        return found

    def logs(self) -> str:
        """All that was logged, for a failed test."""
        parts = []
        for path in sorted(self.folder.rglob("*.log")):
            last = path.read_text("utf-8", "replace").splitlines()[-30:]
            parts.append(f"== {path.relative_to(self.folder)}\n" + "\n".join(last))
        return "\n".join(parts)

    def close(self) -> None:
        """End every process."""
        for hospital in self.hospitals.values():
            hospital.node.stop()
        self.coordinator.stop()


@contextmanager
def network(
    folder: Path, tables: Mapping[str, Path], database: str = "superlink.db", confirmed: bool = True
) -> Iterator[Network]:
    """Run a coordinator and a hospital for each table, all admitted, confirmed and online."""
    net = Network(folder, database)
    try:
        net.serve()
        for name, table in tables.items():
            net.add(name, table, confirmed)
        until(lambda: all(online(one) for one in net.hospitals.values()), 60, net.logs)
        yield net
    finally:
        net.close()


def confirm(home: Path, other: Path) -> None:
    """Have one hospital's officer confirm another hospital by the words that its officer reads out."""
    here, there = HospitalHome(home), HospitalHome(other)
    try:
        officers.confirm(here, officers.find(here, there.name, officers.heard(officers.own_words(there))))
    finally:
        here.store.close()


def online(hospital: Hospital) -> bool:
    """Tell whether a hospital's node says that it is online."""
    try:
        said = json.loads((hospital.home / "status.json").read_text())
    except (OSError, ValueError):
        return False
    return bool(
        said["state"] == "online" and hospital.node.process is not None and said["pid"] == hospital.node.pid
    )


def until(true: Any, seconds: float, why: Any = lambda: "") -> None:
    """Wait until something is true."""
    end = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < end, f"not within {seconds} s\n{why()}"
        time.sleep(0.05)
