"""Flower's own ways in beside ours: an app that carries code, `flwr run`, and a member on Flower's SuperNode.

The tests share one network and stand in the order in which they are cheap: a stock SuperNode, which takes
seconds for each message, is admitted last.
"""

from __future__ import annotations

import hashlib
import json
import os
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import httpx
import pytest
import yaml
from flwr.cli.build import build_fab_from_files
from flwr.proto.control_pb2 import StartRunRequest
from flwr.proto.fab_pb2 import Fab, GetFabRequest
from flwr.proto.node_pb2 import Node
from flwr.supercore.control.control_http_client import ControlHttpClient
from flwr.supernode.fleet_http_client import FleetHttpClient
from flwr.supernode.node_auth_http_interceptor import NodeAuthHttpInterceptor

from tests.network.net import Hospital, Network, Process, free_port, network, run, until
from tests.network.test_network import without_times
from wardround_client.home import HospitalHome
from wardround_client.tls import of_home
from wardround_common.home import VARIABLE
from wardround_common.messages import MESSAGES, Invitation, Refusal
from wardround_common.study import read_study
from wardround_common.wire import encode
from wardround_server.home import CoordinatorHome
from wardround_server.shipped import shipped, shipped_tables
from wardround_server.simulation import simulate
from wardround_server.transcript import read_transcript

# flwr builds a FAB by a name that its own dependency has deprecated
pytestmark = pytest.mark.filterwarnings("ignore:GitWildMatchPattern:DeprecationWarning")

REPOSITORY = Path(__file__).parents[2]
BIN = Path(sys.executable).parent
STOCK = "switzerland"
TABLES = shipped_tables("heart-disease")
FEW = {"kind": "logistic", "ridge": 1e9, "predictors": ["age", "sex"]}  # few steps

SERVER = """
import json, sys, time
from pathlib import Path

sys.path[:] = [one for one in sys.path if not (Path(one) / "hostile").is_dir()]  # to read what nodes reply

from flwr.serverapp import ServerApp
from wardround_server.grid import exchange, post

app = ServerApp()


@app.main()
def main(grid, context):
    way = post(grid, whole=True)
    while len(nodes := sorted(way.nodes())) < {nodes}:
        time.sleep(0.1)
    asked = {{(action, node): bytes.fromhex(body) for action, body in {bodies}.items() for node in nodes}}
    replies = exchange(way, asked)
    told = Path({told!r})
    told.with_suffix(".part").write_text(json.dumps([[*one, body.hex()] for one, body in replies.items()]))
    told.with_suffix(".part").rename(told)
"""

CLIENT = """
import os, sys
from pathlib import Path

_where = Path({markers!r}) / f"{{__name__}}-{{os.getpid()}}"
_where.write_text(os.environ.get("FLWR_HOME", ""))

from flwr.app import ConfigRecord, Message, RecordDict
from flwr.clientapp import ClientApp

app = ClientApp()


def _act(message, context):
    _where.with_name(f"ran-{{os.getpid()}}").write_text(os.environ.get("FLWR_HOME", ""))
    return Message(RecordDict({{"wardround": ConfigRecord({{"body": b"hostile"}})}}), reply_to=message)


for _action in ("join", "roster", "epoch", "ask", "state", "shell"):
    app.query(_action)(_act)
app.train()(_act)
app.evaluate()(_act)
"""

PROJECT = """
[project]
name = "wardround"
version = "0.1.0"
description = ""
license = "Apache-2.0"
dependencies = []

[tool.flwr.app]
publisher = "wardround"

[tool.flwr.app.components]
serverapp = "hostile.server:app"
clientapp = "wardround_client.supernode:app"

[tool.flwr.app.config]
study = "hostile"
"""


class Hostile:
    """An app that looks like ours and carries packages of our names, which leave a marker where they run."""

    def __init__(self, folder: Path, bodies: Mapping[str, bytes], nodes: int) -> None:
        self._folder, self._told = folder, folder / "told.json"
        self._markers = folder / "markers"
        self._markers.mkdir(parents=True)
        client = CLIENT.format(markers=str(self._markers)).encode()
        texts = repr({action: body.hex() for action, body in bodies.items()})
        server = SERVER.format(nodes=nodes, bodies=texts, told=str(self._told)).encode()
        files: dict[str, bytes | Path] = {
            "pyproject.toml": PROJECT.encode(),
            "hostile/__init__.py": b"",
            "hostile/server.py": server,
        }
        for name in ("wardround_client", "wardround_common"):
            files |= {f"{name}/{module}.py": client for module in ("__init__", "supernode", "app", "serve")}
        self.fab = build_fab_from_files(files)[0]
        self.hash = hashlib.sha256(self.fab).hexdigest()

    def markers(self) -> dict[str, str]:
        """Return what ran where: the name of each marker, and FLWR_HOME of the process that left it."""
        return {one.name: one.read_text() for one in self._markers.iterdir()}

    def start(self, net: Network) -> int:
        """Start it on the network's SuperLink as whoever holds the coordinator could; return its run."""
        home = CoordinatorHome.open(net.home)
        client = ControlHttpClient.from_server_address(
            f"127.0.0.1:{net.control_port}", False, home.ca_file.read_bytes(), []
        )
        try:
            request = StartRunRequest(fab=Fab(hash_str=self.hash, content=self.fab))
            return client.StartRun(request).run_id
        finally:
            client.close()

    def replies(self, net: Network, seconds: float) -> dict[tuple[str, int], bytes]:
        """Wait until all nodes have replied; return the replies by action and node."""
        until(self._told.exists, seconds, net.logs)
        return {
            (action, node): bytes.fromhex(body) for action, node, body in json.loads(self._told.read_text())
        }


def small(folder: Path, name: str, *analyses: dict[str, Any]) -> Path:
    """Write a study of few steps on the shipped tables; return its file."""
    raw = yaml.safe_load(shipped("heart-disease").read_text()) | {"name": name, "analyses": list(analyses)}
    del raw["split"]
    path = folder / f"{name}.yaml"
    path.write_text(yaml.safe_dump(raw))
    return path


def bodies(folder: Path) -> dict[str, bytes]:
    """What the hostile app asks: a study that nobody approved, and what is no message of ours."""
    manifest = read_study(small(folder, "unwanted", {"kind": "summary"})).manifest()
    return {"join": encode(Invitation(manifest)), **dict.fromkeys(("ask", "train", "shell"), b"run this")}


def offered(hospital: Hospital) -> dict[str, bool]:
    """Return the studies that a hospital was offered, and whether it approved them."""
    store = HospitalHome.open(hospital.home).store
    try:
        return {one.name: one.approved_at is not None for one in store.studies()}
    finally:
        store.close()


def node_id(hospital: Hospital) -> int:
    """Return the number of a hospital's node."""
    return int(json.loads((hospital.home / "status.json").read_text())["node_id"])


def fetched(hospital: Hospital, run_id: int, fab_hash: str) -> int:
    """Ask for a FAB with a hospital's own node key; return the HTTP status."""
    home = HospitalHome.open(hospital.home)
    key = home.node_key
    client = FleetHttpClient(
        f"https://{hospital.net.address}",
        interceptors=[NodeAuthHttpInterceptor(key, key.public_key())],
        verify=of_home(home),
    )
    request = GetFabRequest(node=Node(node_id=node_id(hospital)), hash_str=fab_hash, run_id=run_id)
    try:
        return 200 if client.GetFab(request).fab.content else 0
    except httpx.HTTPStatusError as error:
        return error.response.status_code
    finally:
        client.close()


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("ways")


@pytest.fixture(scope="module")
def net(folder: Path) -> Iterator[Network]:
    """Three hospitals on `hospital serve`. Their FLWR_HOME is a folder in which nothing should appear."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("FLWR_HOME", str(folder / "nobody"))
        tables = {name: table for name, table in TABLES.items() if name != STOCK}
        with network(folder, tables, ":memory:") as found:
            found.terms("allow")  # sums over three, then over four, tell the fourth's part
            yield found


@pytest.fixture(scope="module")
def stock(net: Network) -> Hospital:
    """A fourth hospital, on Flower's own SuperNode, admitted by its enrolment file."""
    hospital = Hospital(net, STOCK, TABLES[STOCK])
    enrolment = net.folder / f"{STOCK}.enrolment.json"
    net.invite(STOCK)
    run("hospital", "init", "--name", STOCK, "--table", hospital.table, "--home", hospital.home)
    run(
        *("hospital", "join", net.invitation(STOCK), "--offline", "--enrolment", enrolment),
        *("--home", hospital.home),
    )
    net.command("admit", enrolment, "--stock", "--yes")
    until(lambda: known(net, STOCK), 30, net.logs)
    settings = {
        VARIABLE: hospital.home,
        "FLWR_HOME": hospital.home / "flower",
        "FLWR_SUPEREXEC_TASK_POLL_INTERVAL": "0.02",
        "PATH": os.pathsep.join([str(BIN), os.environ["PATH"]]),  # Flower starts its helpers by name
    }
    hospital.node = Process(
        net.folder / f"{STOCK}.log",
        *("--superlink", net.address, "--root-certificates", hospital.home / "keys" / "coordinator-ca.crt"),
        *("--auth-supernode-private-key", hospital.home / "keys" / "node.key"),
        *("--port", free_port()),
        command=[
            "env",
            *(f"{key}={value}" for key, value in settings.items()),
            str(BIN / "flower-supernode"),
        ],
    )
    net.hospitals[STOCK] = hospital
    net.confirm(STOCK)
    net.terms("allow")
    hospital.node.start()
    until(lambda: STOCK in online(net), 60, net.logs)
    return hospital


def known(net: Network, name: str) -> bool:
    """Tell whether Flower knows a hospital's node."""
    hospitals = CoordinatorHome.open(net.home).registry.hospitals()
    return any(one.name == name and one.node_id is not None for one in hospitals)


def online(net: Network) -> set[str]:
    """Return the hospitals whose nodes Flower takes for online."""
    found = json.loads(net.command("hospitals", "--json"))["hospitals"]
    return {one["name"] for one in found if one["online"]}


def test_code_that_a_coordinator_sends_runs_at_no_hospital(net: Network, folder: Path) -> None:
    hostile = Hostile(folder / "hostile", bodies(folder), nodes=3)
    run_id = hostile.start(net)
    replies = hostile.replies(net, 60)
    nodes = {node_id(one) for one in net.hospitals.values()}
    # what answers is the code that the hospital installed
    assert replies == {
        (action, node): encode(Refusal("not_approved" if action == "join" else "protocol"))
        for action in ("join", "ask", "train", "shell")
        for node in nodes
    }
    for hospital in net.hospitals.values():
        assert offered(hospital) == {"unwanted": False}
        assert fetched(hospital, run_id, hostile.hash) == 404
    # the app itself is real: the coordinator, for which it was meant, has unpacked it
    assert list((net.home / "flower").rglob("hostile/server.py"))
    assert hostile.markers() == {}
    assert not (folder / "nobody").exists()
    assert all(one.node.process and one.node.process.poll() is None for one in net.hospitals.values())
    # and the nodes are none the worse for it
    study = small(folder, "afterwards", {"kind": "summary"})
    net.approve(study)
    net.launch(study)
    assert net.finished("afterwards")["analyses"]["summary"]


def test_a_study_file_runs_by_flwr_run(net: Network, folder: Path) -> None:
    study = small(folder, "by-flwr-run", {"kind": "summary"}, {"kind": "logistic", "ridge": 1})
    net.approve(study)
    flower = folder / "operator"
    flower.mkdir()
    (flower / "config.toml").write_text(
        f'[superlink.wardround]\naddress = "127.0.0.1:{net.control_port}"\n'
        f'root-certificates = "{net.home / "ca" / "ca.crt"}"\n'
    )
    process = Process(
        folder / "flwr-run.log",
        *("run", REPOSITORY / "deploy" / "fab", "wardround", "--run-config", f'study="{study}"'),
        command=["env", f"FLWR_HOME={flower}", str(BIN / "flwr")],
    )
    process.start()
    assert process.process is not None
    assert process.process.wait(60) == 0, process.log()
    assert "Successfully started run" in process.log()
    found = net.finished("by-flwr-run")
    expected = simulate(read_study(study), {name: TABLES[name] for name in net.hospitals})
    assert without_times(found)["analyses"] == without_times(expected.results)["analyses"]


@pytest.mark.slow  # Flower starts a process for each message
def test_a_member_on_flowers_own_supernode_takes_part_and_is_marked(
    net: Network, stock: Hospital, folder: Path
) -> None:
    study = small(folder, "mixed", {"kind": "summary"}, FEW)
    kept = folder / "transcript"
    expected = simulate(read_study(study), TABLES, transcript=kept)
    net.approve(study)
    net.launch(study)
    found = net.finished("mixed", 180)
    transcript = read_transcript(net.home / "studies" / "mixed" / "transcript")
    assert without_times(found)["analyses"] == without_times(expected.results)["analyses"]
    sums = [[one.vector.tobytes() for one in step.sums] for step in transcript.steps]
    assert sums == [[one.vector.tobytes() for one in step.sums] for step in read_transcript(kept).steps]
    assert transcript.opening is not None
    runtimes = {one.name: one.runtime for one in transcript.opening.roster.members}
    assert runtimes == {name: "supernode" if name == STOCK else "node" for name in TABLES}


def test_the_same_code_does_run_on_flowers_own_supernode(net: Network, stock: Hospital, folder: Path) -> None:
    # what the first test shows not to happen happens here, so it is no test of nothing
    hostile = Hostile(folder / "again", {"join": bodies(folder)["join"]}, nodes=4)
    run_id = hostile.start(net)
    replies = hostile.replies(net, 120)
    # one stock member opens the route for all that are admitted; ours still don't ask
    assert {fetched(one, run_id, hostile.hash) for name, one in net.hospitals.items() if name != STOCK} == {
        200
    }
    ours = {node_id(one) for name, one in net.hospitals.items() if name != STOCK}
    for (_, node), body in replies.items():
        if node in ours:
            assert isinstance(MESSAGES.decode(body, object), Refusal)
        else:
            assert body == b"hostile"
    assert {node for _, node in replies} > ours
    markers = hostile.markers()
    assert {name.rpartition("-")[0] for name in markers} >= {
        "wardround_client",
        "wardround_client.supernode",
        "ran",
    }
    assert set(markers.values()) == {str(stock.home / "flower")}
    assert not (folder / "nobody").exists()
