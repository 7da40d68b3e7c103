"""Short studies over a network in which something goes wrong at a random moment, and comes back.

    python -m tests.chaos --runs 100         # as `make soak` does; saves its result for the bench

Each run is a study of its own. It has to end by itself, with the bits of the same study in one process.
"""

from __future__ import annotations

import json
import os
import random
import signal
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tests.chaos.relay import Relay
from tests.network.net import Network, free_port, online, until
from wardround_client.approval import approve
from wardround_client.home import HospitalHome
from wardround_common.study import parse_study, read_study
from wardround_server.shipped import shipped, shipped_tables
from wardround_server.simulation import simulate
from wardround_server.studies import Order, enter

LONGEST_S = 150.0
_MOMENT_S = 5.0  # a run without faults takes about as long


@dataclass
class Outcome:
    """What a storm came to."""

    runs: int = 0
    failures: list[str] = field(default_factory=list)
    faults: Counter[str] = field(default_factory=Counter)
    seconds: list[float] = field(default_factory=list)

    def saved(self) -> dict[str, Any]:
        """Return what the bench reads."""
        ordered = sorted(self.seconds)
        return {
            "runs": self.runs,
            "failures": len(self.failures),
            "faults": dict(sorted(self.faults.items())),
            "median_s": round(ordered[len(ordered) // 2], 1),
            "longest_s": round(ordered[-1], 1),
        }


class Storm:
    """A network, and what can go wrong in it."""

    def __init__(self, net: Network, relay: Relay, rng: random.Random) -> None:
        self._net, self._relay, self._rng = net, relay, rng
        self.faults: dict[str, Callable[[], None]] = {
            "hospital killed": self._hospital_killed,
            "hospital paused": lambda: self._paused(self._a_hospital().node.pid),
            "coordinator killed": self._coordinator_killed,
            "coordinator paused": lambda: self._paused(self._net.coordinator.pid),
            "superlink killed": lambda: self._killed(self._net.superlink_pid()),
            "superlink paused": lambda: self._paused(self._net.superlink_pid()),
            "conductor killed": lambda: self._killed(self._conductor()),
            "conductor paused": lambda: self._paused(self._conductor()),
            "connections dropped": lambda: self._relay.cut(0.0),
            "network down": lambda: self._relay.cut(self._rng.uniform(1, 6)),
        }

    def _a_hospital(self) -> Any:
        return self._rng.choice(list(self._net.hospitals.values()))

    def _hospital_killed(self) -> None:
        hospital = self._a_hospital()
        hospital.node.kill()
        time.sleep(self._rng.uniform(0, 3))
        hospital.node.start()

    def _coordinator_killed(self) -> None:
        self._net.coordinator.kill()
        time.sleep(self._rng.uniform(0, 3))
        self._net.coordinator.start()

    def _paused(self, pid: int | None) -> None:
        if pid is not None and _signalled(pid, signal.SIGSTOP):
            time.sleep(self._rng.uniform(0.5, 5))
            _signalled(pid, signal.SIGCONT)

    def _killed(self, pid: int | None) -> None:
        if pid is not None:
            _signalled(pid, signal.SIGKILL)

    def _conductor(self) -> int | None:
        """The process of the ServerApp: the SuperLink's child's child."""
        superlink = self._net.superlink_pid()
        for child in _children(superlink) if superlink is not None else []:
            for grandchild in _children(child):
                return grandchild
        return None

    def heal(self) -> None:
        """Wait until everything runs again."""
        self._net.coordinator.start()
        for hospital in self._net.hospitals.values():
            hospital.node.start()
        until(lambda: all(map(online, self._net.hospitals.values())), 60, self._net.logs)


def _signalled(pid: int, number: signal.Signals) -> bool:
    try:
        os.kill(pid, number)
    except ProcessLookupError:
        return False
    return True


def _children(pid: int) -> list[int]:
    found = []
    for path in Path("/proc").glob("[0-9]*/stat"):
        try:
            fields = path.read_text().rpartition(")")[2].split()
        except OSError:
            continue
        if fields[1] == str(pid) and fields[0] != "Z":
            found.append(int(path.parent.name))
    return found


@contextmanager
def stormy(folder: Path, seed: int) -> Iterator[Storm]:
    """Run a network of four hospitals that reach their coordinator through a relay."""
    net = Network(folder, "superlink.db")
    relay_port = free_port()
    config = net.home / "config.toml"
    config.write_text(config.read_text().replace(f"localhost:{net.port}", f"localhost:{relay_port}"))
    relay = Relay(relay_port, net.port)
    try:
        net.serve()
        for name, table in shipped_tables("heart-disease").items():
            net.add(name, table)
        storm = Storm(net, relay, random.Random(seed))
        storm.heal()
        yield storm
    finally:
        net.close()
        relay.close()


def weather(
    folder: Path, runs: int, seed: int, tell: Callable[[str], None] = lambda line: None, first: int = 0
) -> Outcome:
    """Conduct ``runs`` studies, each with one or two faults; return what came of it."""
    outcome = Outcome()
    rng = random.Random(seed)
    with stormy(folder, seed) as storm:
        for number in range(first, first + runs):
            names = [rng.choice(list(storm.faults)) for _ in range(rng.choice((1, 1, 2)))]
            if runs <= len(storm.faults):  # a short storm has different faults
                names = [list(storm.faults)[(seed + 2 * number) % len(storm.faults)]]
            begun = time.monotonic()
            problem = _run(storm, folder, number, names, rng)
            outcome.runs += 1
            outcome.seconds.append(time.monotonic() - begun)
            outcome.faults.update(names)
            if problem:
                outcome.failures.append(f"run {number} ({', '.join(names)}): {problem}")
            tell(f"run {number}: {', '.join(names)}: {problem or 'same bits'}, {outcome.seconds[-1]:.1f} s")
    return outcome


def _run(storm: Storm, folder: Path, number: int, names: list[str], rng: random.Random) -> str:
    """Conduct one study while faults happen; return what was wrong with its end."""
    net = storm._net
    storm.heal()
    whole = read_study(shipped("heart-disease")).model_dump(mode="json", serialize_as_any=True)
    kept = [one for one in whole["analyses"] if one["kind"] in ("summary", "logistic")]
    study = parse_study({**whole, "name": f"chaos-{number}", "analyses": kept})
    for hospital in net.hospitals.values():
        home = HospitalHome(hospital.home)
        approve(home, study)
        home.store.close()
    launched = enter(net.home / "studies", study, Order())
    moments = sorted(rng.uniform(0, _MOMENT_S) for _ in names)
    done = threading.Event()

    def disturb() -> None:
        begun = time.monotonic()
        for name, moment in zip(names, moments, strict=True):
            time.sleep(max(0.0, moment - (time.monotonic() - begun)))
            storm.faults[name]()
        done.set()

    threading.Thread(target=disturb, daemon=True).start()
    expected = simulate(study, shipped_tables("heart-disease")).results["analyses"]
    end = time.monotonic() + LONGEST_S
    while launched.status.state != "finished" or not done.is_set():
        if launched.status.state == "failed" or time.monotonic() > end:
            return f"{launched.status.state} after {LONGEST_S:g} s at most: {launched.status}\n{net.logs()}"
        time.sleep(0.05)
    found = json.loads((launched.results / "results.json").read_text())["analyses"]
    return "" if _bits(found) == _bits(expected) else "other bits"


def _bits(analyses: dict[str, Any]) -> str:
    plain = {name: {k: v for k, v in one.items() if k != "seconds"} for name, one in analyses.items()}
    return json.dumps(plain, sort_keys=True)
