"""The figures of the network: rounds over TLS between processes, an idle node, `demo --network`, chaos.

Rounds go over everything that a study's do: ServerApp, Flower's SuperLink, the filter, TLS, node
authentication, the node's process, its database. The chaos runs are `make soak`'s; their saved result is
read here.
"""

from __future__ import annotations

import hashlib
import json
import os
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from flwr.cli.build import build_fab_from_files
from flwr.proto.control_pb2 import StartRunRequest
from flwr.proto.fab_pb2 import Fab

from tests.bench.measure import ROOT, Figure, at_least, at_most, none, wall_s, wardround
from tests.network import echo
from tests.network.net import Process, network, online, until
from wardround_server.grid.control import Control
from wardround_server.home import CoordinatorHome
from wardround_server.shipped import shipped_tables

CHAOS = ROOT / "tests" / "chaos" / "result.json"
_IDLE_S = 20.0
_FAB = """
[project]
name = "echo"
version = "1.0.0"
license = "Apache-2.0"
[tool.flwr.app]
publisher = "wardround"
[tool.flwr.app.components]
serverapp = "tests.network.echo:app"
clientapp = "tests.network.echo:app"
"""


def figures() -> Iterator[Figure]:
    """Measure everything; about three minutes."""
    with tempfile.TemporaryDirectory() as folder:
        yield from _rounds(Path(folder) / "memory", ":memory:", 0.25)
        yield from _rounds(Path(folder) / "sqlite", "superlink.db", 0.35)
        yield from _idle(Path(folder) / "idle")
        demo = wall_s(lambda: wardround("demo", "--network", "--out", Path(folder) / "demo"))
        yield at_most("demo_network", demo, "s", 45)
    yield from _chaos()


def _rounds(folder: Path, database: str, most_s: float) -> Iterator[Figure]:
    """Measure rounds of each size with Flower's state in memory or in SQLite."""
    name = folder.name
    found, peak = echoed(folder, database, echo.ROUNDS)
    small, large = (found[str(size)] for size in (echo.ROUNDS[0][0], echo.ROUNDS[1][0]))
    yield at_most(f"round_8_floats_{name}", small["median"], "s, median of 4 hospitals", most_s)
    for what, seconds in small["cpu"].items():
        yield Figure(f"round_8_floats_{name}_cpu", seconds, f"processor s a round, {what}")
    yield at_most(f"round_1MB_{name}_more", large["median"] - small["median"], "s more", 0.1)
    yield at_most(f"round_20MB_{name}", found[str(20 << 20)]["median"], "s", 2.0)
    yield Figure(f"round_64MB_{name}", found[str(64 << 20)]["median"], "s")
    yield Figure(f"node_peak_64MB_{name}", peak / (64 << 20), "x the payload, resident")


def echoed(folder: Path, database: str, rounds: echo.Rounds) -> tuple[dict[str, Any], float]:
    """Return what the echo app measured, and the peak of a node's resident memory in bytes."""
    folder.mkdir()
    told = folder / "told.json"
    asked = json.dumps(rounds)
    os.environ |= {"WARDROUND_ECHO": str(told), "WARDROUND_ECHO_ROUNDS": asked, "PYTHONPATH": str(ROOT)}
    tables = shipped_tables("heart-disease")
    with network(folder, tables, database) as net:
        for hospital in net.hospitals.values():
            hospital.node.stop()
            command = [sys.executable, "-m", "tests.network.echo"]
            hospital.node = Process(folder / "echo.log", hospital.home, command=command)
            hospital.node.start()
        until(lambda: all(map(online, net.hospitals.values())), 60, net.logs)
        nodes = [hospital.node.pid for hospital in net.hospitals.values()]
        net.coordinator.stop()
        os.environ["WARDROUND_ECHO_NODES"] = json.dumps(nodes)  # the ServerApp tells their processor time
        net.serve()
        _start(net.home)
        until(told.exists, 120, net.logs)
        found: dict[str, Any] = json.loads(told.read_text())
        peak = max(_status(pid, "VmHWM") for pid in nodes)
    return found, peak


def _start(home: Path) -> None:
    content = build_fab_from_files({"pyproject.toml": _FAB.encode()})[0]
    control = Control(CoordinatorHome(home))
    fab = Fab(hash_str=hashlib.sha256(content).hexdigest(), content=content)
    control._client.StartRun(StartRunRequest(fab=fab))
    control.close()


def _status(pid: int, field: str) -> int:
    """Return a field of a process's status in bytes."""
    line = next(one for one in Path(f"/proc/{pid}/status").read_text().splitlines() if one.startswith(field))
    return int(line.split()[1]) * 1024


def _spent(pid: int) -> float:
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def _idle(folder: Path) -> Iterator[Figure]:
    """Weigh a node that has nothing to do."""
    folder.mkdir()
    name, table = next(iter(shipped_tables("heart-disease").items()))
    with network(folder, {name: table}) as net:
        pid = net.hospitals[name].node.pid
        time.sleep(10)  # its looks for messages have become seldom
        before = _spent(pid)
        time.sleep(_IDLE_S)
        yield at_most("node_idle_memory", _status(pid, "VmRSS") / 1e6, "MB resident", 180)
        yield at_most("node_idle_cpu", 100 * (_spent(pid) - before) / _IDLE_S, "% of a core", 1)


def _chaos() -> Iterator[Figure]:
    """Tell the last soak's chaos runs."""
    if not CHAOS.exists():
        yield at_least("chaos_runs", 0, "runs; no `make soak` was saved", 100)
        return
    saved = json.loads(CHAOS.read_text())
    yield at_least("chaos_runs", saved["runs"], "runs, each with the bits of an undisturbed one", 100)
    yield none("chaos_failures", saved["failures"], "runs")
    for fault, count in sorted(saved["faults"].items()):
        yield Figure("chaos_faults", count, fault)
