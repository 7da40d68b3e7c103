"""Rounds of a given size over the real network, for figures: an app that sends back what it is sent.

`python -m tests.network.echo HOME` is a hospital's node that keeps each answer in node.db before it sends
it, as a real one does. ``app`` is the ServerApp; what it measures goes to WARDROUND_ECHO.
"""

from __future__ import annotations

import json
import os
import signal
import statistics
import sys
import threading
import time
from collections.abc import Sequence
from pathlib import Path

from flwr.app import ConfigRecord, Context, Message, RecordDict
from flwr.clientapp import ClientApp
from flwr.serverapp import Grid, ServerApp

from wardround_client.home import HospitalHome
from wardround_client.serve import NodeProcess
from wardround_client.store import Charge
from wardround_common.home import open_log
from wardround_common.messages import FIELD, RECORD
from wardround_server.grid import exchange, post

Rounds = Sequence[tuple[int, int]]  # bytes, and how many rounds
ROUNDS: Rounds = ((64, 40), (1 << 20, 10), (20 << 20, 5), (64 << 20, 1))
HOSPITALS = 4

app = ServerApp()


@app.main()
def main(grid: Grid, context: Context) -> None:
    """Measure rounds of each size, and each process's share of the processor for the small ones."""
    way = post(grid, whole=False)
    while len(nodes := sorted(way.nodes())) < HOSPITALS:
        time.sleep(0.1)
    told = Path(os.environ["WARDROUND_ECHO"])
    found: dict[str, object] = {}
    for size, rounds in json.loads(os.environ["WARDROUND_ECHO_ROUNDS"]):
        seconds, before = [], _cpu()
        for number in range(rounds):
            body = number.to_bytes(8, "little") * (size // 8)
            begun = time.perf_counter()
            replies = exchange(way, {("ask", node): body for node in nodes})
            seconds.append(time.perf_counter() - begun)
            if {len(reply) for reply in replies.values()} != {size}:
                raise RuntimeError("a reply of another length")
        after = _cpu()
        found[str(size)] = {
            "median": statistics.median(seconds),
            "most": max(seconds),
            "cpu": {name: (after[name] - before[name]) / rounds for name in after if name in before},
        }
        told.with_suffix(".part").write_text(json.dumps(found))
    told.with_suffix(".part").rename(told)


def _cpu() -> dict[str, float]:
    """Return the processor seconds of the SuperLink, this ServerApp and all nodes."""
    tick = os.sysconf("SC_CLK_TCK")
    found = {"ServerApp": time.process_time()}
    superlink = int(_fields(os.getppid())[1])  # Flower's SuperExec is between the two
    for name, pids in {
        "SuperLink": [superlink],
        "nodes": json.loads(os.environ["WARDROUND_ECHO_NODES"]),
    }.items():
        found[name] = sum(int(one) for pid in pids for one in _fields(pid)[11:13]) / tick
    return found


def _fields(pid: int) -> list[str]:
    """Return what /proc tells of a process, from its state on."""
    return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()


def echo(home: HospitalHome) -> ClientApp:
    """Return an app that keeps and sends back, a few bytes changed, what it is asked."""
    client = ClientApp()
    count = 0

    @client.query("ask")
    def ask(message: Message, context: Context) -> Message:
        nonlocal count
        count += 1
        body = message.content[RECORD][FIELD]
        answer = os.urandom(8) + body[8:]
        charge = Charge(b"bench", "bench", count, "bench", len(answer) // 8, 0, ("a", "b", "c"))
        home.store.keep(os.urandom(8), b"bench", answer, charge, "bench")
        return Message(RecordDict({RECORD: ConfigRecord({FIELD: answer})}), reply_to=message)

    return client


if __name__ == "__main__":
    opened = HospitalHome.open(Path(sys.argv[1]))
    open_log(opened.path / "logs" / "node.log", quiet=True)
    stop = threading.Event()
    signal.signal(signal.SIGTERM, lambda *_: stop.set())
    NodeProcess(opened, echo(opened), stop).run()
