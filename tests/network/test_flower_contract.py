"""What we rely on in flwr's internals: another version of it should fail here, by name, not in a hospital.

What the sources say themselves (imports, requests and their fields, clients' methods) is collected from
them; the rest stands below. Nothing is started; all that is used is flwr's own.
"""

from __future__ import annotations

import ast
import dataclasses
import importlib
import inspect
import tomllib
import typing
import zipfile
from collections.abc import Callable, Iterator
from datetime import datetime
from hashlib import sha256
from importlib.metadata import requires, version
from importlib.util import find_spec
from io import BytesIO
from pathlib import Path
from typing import Any

import httpx
import pytest
from cryptography.hazmat.primitives.asymmetric.ec import SECP384R1, generate_private_key
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    load_ssh_private_key,
)
from fastapi import FastAPI
from fastapi.routing import APIRoute, iter_route_contexts
from flwr.app import ConfigRecord, Message, RecordDict
from flwr.app.message.message import make_message
from flwr.common import constant
from flwr.common.constant import SUPERLINK_NODE_ID, Status
from flwr.proto import control_pb2, fleet_pb2, heartbeat_pb2, message_pb2, node_pb2, run_pb2, runtime_pb2
from flwr.serverapp import Grid
from flwr.supercore.constant import FLWR_IN_MEMORY_DB_NAME, NOOP_FEDERATION_ID, NodeStatus
from flwr.supercore.control.control_http_client import ControlHttpClient
from flwr.supercore.error import ApiErrorCode, FlowerError
from flwr.supercore.error.catalog import API_ERROR_MAP
from flwr.supercore.inflatable.inflatable_object import get_object_tree
from flwr.supercore.run import Run
from flwr.supercore.runtime import RuntimeHttpClient
from flwr.supercore.superexec import run_superexec
from flwr.supercore.task_identity import TaskIdentity
from flwr.superlink.cli.flower_superlink import SuperLinkLifespan
from flwr.superlink.config_loader import SuperLinkLifespanConfig
from flwr.superlink.grid import HttpGrid
from flwr.superlink.main import create_app
from flwr.superlink.routers.fleet import node_auth
from flwr.supernode.fleet_http_client import FleetHttpClient
from flwr.supernode.node_auth_http_interceptor import NodeAuthHttpInterceptor

from wardround_client import link
from wardround_client.home import HospitalHome
from wardround_client.home import make_home as make_hospital
from wardround_common.envelope import wrapped
from wardround_common.messages import FIELD, RECORD
from wardround_server.gateway import FLEET, STOCK
from wardround_server.grid import LocalGrid, control, superlink
from wardround_server.grid.post import NetworkPost, _name
from wardround_server.home import CoordinatorHome, make_home

# flwr builds a FAB by a name that its own dependency has deprecated
pytestmark = pytest.mark.filterwarnings("ignore:GitWildMatchPattern:DeprecationWarning")

PINNED = "1.42.0"
REPOSITORY = Path(__file__).parents[2]
PACKAGES = [REPOSITORY / name for name in ("common", "client", "server")]
SOURCES = [
    path for package in PACKAGES for path in sorted(package.rglob("*.py")) if "build" not in path.parts
]
LINK, CONTROL, POST, SUPERLINK = (
    REPOSITORY / "client/wardround_client/link.py",
    *(
        REPOSITORY / "server/wardround_server/grid" / f"{name}.py"
        for name in ("control", "post", "superlink")
    ),
)
CLOSED = {
    "/v1/fleet/register-node",
    "/v1/fleet/unregister-node",
}  # Flower's own, and none of a node's business


def changed(what: str) -> str:
    """Say what of flwr is no longer as it was."""
    return f"flwr {version('flwr')}: {what}"


def imported(path: Path) -> Iterator[tuple[str, str]]:
    """Yield module and name of each import from flwr in a source."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] == "flwr":
            yield from ((node.module or "", one.name) for one in node.names)
        elif isinstance(node, ast.Import):
            yield from ((one.name, "") for one in node.names if one.name.split(".")[0] == "flwr")


IMPORTS = sorted({(path.relative_to(REPOSITORY), *one) for path in SOURCES for one in imported(path)})


def calls(path: Path) -> Iterator[ast.Call]:
    """Yield every call in a source."""
    return (node for node in ast.walk(ast.parse(path.read_text())) if isinstance(node, ast.Call))


def made(path: Path) -> Iterator[tuple[Any, set[str]]]:
    """Yield each of flwr's protobuf messages that a source makes, with the fields that it gives."""
    classes = {
        name: getattr(importlib.import_module(module), name)
        for module, name in imported(path)
        if module.startswith("flwr.proto.")
    }
    for call in calls(path):
        if isinstance(call.func, ast.Name) and call.func.id in classes:
            yield classes[call.func.id], {one.arg for one in call.keywords if one.arg}


def asked(path: Path) -> set[str]:
    """Return the methods that a source calls on its ``self._client``."""
    return {
        call.func.attr
        for call in calls(path)
        if isinstance(call.func, ast.Attribute) and ast.unparse(call.func.value) == "self._client"
    } - {"close"}


# Which flwr


def test_flwr_is_pinned_exactly_and_that_one_is_installed() -> None:
    project = tomllib.loads((REPOSITORY / "pyproject.toml").read_text())["project"]
    assert f"flwr=={PINNED}" in project["dependencies"], f"pyproject.toml does not pin flwr=={PINNED}"
    assert version("flwr") == PINNED, changed(
        f"{PINNED} was tried; read every failure of this file before a change"
    )
    assert f"flwr=={PINNED}" in (requires("wardround") or ()), "the installed wardround asks for another flwr"
    if (file := REPOSITORY / "constraints.txt").exists():
        held = [line for line in file.read_text().splitlines() if line.startswith("flwr==")]
        assert held in ([], [f"flwr=={PINNED}"]), f"constraints.txt holds {held}"


@pytest.mark.parametrize(("path", "module", "name"), IMPORTS, ids=lambda one: str(one))
def test_what_is_imported_from_flwr_is_there(path: Path, module: str, name: str) -> None:
    try:
        found = importlib.import_module(module)
        missing = bool(name) and not hasattr(found, name) and find_spec(f"{module}.{name}") is None
    except ImportError as error:
        pytest.fail(changed(f"{module}, which {path} imports from, is gone ({error})"))
    assert not missing, changed(f"{module}.{name}, which {path} imports, is gone")


def test_imports_were_found_in_all_that_touches_flwr() -> None:
    found = {path.name for path, _, _ in IMPORTS}
    assert found >= {"link.py", "local.py", "post.py", "superlink.py", "control.py"}


# What is said on the wire


@pytest.mark.parametrize("path", [LINK, CONTROL, POST], ids=lambda path: path.name)
def test_each_request_has_the_fields_that_we_fill(path: Path) -> None:
    requests = list(made(path))
    assert len(requests) >= 4
    for message, fields in requests:
        there = {one.name for one in message.DESCRIPTOR.fields}
        assert fields <= there, changed(f"{message.DESCRIPTOR.full_name} has lost {fields - there}")


@pytest.mark.parametrize(
    ("message", "fields"),
    [
        (fleet_pb2.ActivateNodeRequest, {"public_key", "heartbeat_interval"}),
        (fleet_pb2.ActivateNodeResponse, {"node_id"}),
        (fleet_pb2.PullMessagesResponse, {"messages_list", "message_object_trees"}),
        (fleet_pb2.PushMessagesRequest, {"messages_list", "message_object_trees", "clientapp_runtime_list"}),
        (fleet_pb2.PushMessagesResponse, {"objects_to_push", "session_id"}),
        (heartbeat_pb2.SendNodeHeartbeatResponse, {"success"}),
        (message_pb2.ObjectTree, {"object_id", "children"}),
        (message_pb2.PullObjectResponse, {"object_found", "object_available", "object_content"}),
        (message_pb2.PushObjectResponse, {"stored"}),
        (runtime_pb2.PushAppMessagesResponse, {"message_ids", "objects_to_push", "session_id"}),
        (runtime_pb2.PullAppMessagesResponse, {"messages_list", "message_object_trees"}),
        (runtime_pb2.GetNodesResponse, {"nodes"}),
        (node_pb2.NodeInfo, {"node_id", "status", "public_key", "last_activated_at"}),
        (control_pb2.ListNodesResponse, {"nodes_info"}),
        (control_pb2.RegisterNodeResponse, {"node_id"}),
        (control_pb2.StartRunResponse, {"run_id"}),
        (control_pb2.ListRunsResponse, {"run_dict"}),
        (run_pb2.Run, {"status"}),
        (run_pb2.RunStatus, {"status"}),
    ],
    ids=lambda one: one.DESCRIPTOR.name if hasattr(one, "DESCRIPTOR") else "",
)
def test_each_reply_has_the_fields_that_we_read(message: Any, fields: set[str]) -> None:
    there = {one.name for one in message.DESCRIPTOR.fields}
    assert fields <= there, changed(f"{message.DESCRIPTOR.full_name} has lost {fields - there}")


@pytest.mark.parametrize(
    ("path", "client"),
    [(LINK, FleetHttpClient), (CONTROL, ControlHttpClient), (POST, RuntimeHttpClient)],
    ids=["fleet", "control", "runtime"],
)
def test_each_client_has_the_methods_that_we_call(path: Path, client: type) -> None:
    methods = asked(path)
    assert len(methods) >= 4
    for name in methods:
        method = getattr(client, name, None)
        assert method is not None, changed(f"{client.__name__}.{name} is gone")
        parameters = list(inspect.signature(method).parameters)
        assert parameters[:2] == ["self", "request"], changed(f"{client.__name__}.{name} takes {parameters}")


class Sent(Exception):
    """Instead of sending: what would have been sent."""


def sent(key: Any, call: Callable[[FleetHttpClient], Any]) -> httpx.Request:
    """Return the signed request that flwr's client would send to the fleet API."""

    def stop(context: Any, call_next: Any) -> Any:
        raise Sent(context.request)

    class Stop:
        intercept = staticmethod(stop)

    interceptors: Any = [NodeAuthHttpInterceptor(key, key.public_key()), Stop()]
    with (
        FleetHttpClient("https://localhost:1", interceptors=interceptors, verify=True) as client,
        pytest.raises(Sent) as caught,
    ):
        call(client)
    request: httpx.Request = caught.value.args[0]
    return request


def path_of(method: str) -> str:
    """Return where a method of the fleet client sends."""
    hints = typing.get_type_hints(getattr(FleetHttpClient, method))
    key = generate_private_key(SECP384R1())
    return sent(key, lambda client: getattr(client, method)(hints["request"]())).url.path


def test_a_node_of_ours_asks_for_just_what_the_gateway_lets_through() -> None:
    # so neither a run's description nor its code: what a stock SuperNode asks for beside these
    assert {path_of(method) for method in asked(LINK)} == set(FLEET)
    assert {path_of("GetRun"), path_of("GetFab")} == set(STOCK)


def test_a_nodes_requests_are_signed_in_headers_of_these_names() -> None:
    key = generate_private_key(SECP384R1())
    request = sent(key, lambda client: client.PullMessages(fleet_pb2.PullMessagesRequest()))
    for name in ("flwr-public-key", "flwr-timestamp", "flwr-signature"):
        assert name in request.headers, changed(f"a node's request has no header {name}")
    assert (request.method, request.url.scheme) == ("POST", "https")
    assert datetime.fromisoformat(request.headers["flwr-timestamp"]).tzinfo is not None


def test_the_fleet_clients_http_client_can_be_set_up_by_us() -> None:
    with FleetHttpClient("https://localhost:1", interceptors=[], verify=True) as client:
        http = client._client
        assert isinstance(http, httpx.Client), changed(f"FleetHttpClient._client is a {type(http)}")
        assert http.trust_env, changed("the fleet client does not look for HTTPS_PROXY any more")
        # what link.py sets
        for name in ("follow_redirects", "headers", "event_hooks"):
            assert hasattr(http, name)


# The SuperLink


@pytest.fixture(scope="module")
def app() -> FastAPI:
    return create_app()


def routes(app: FastAPI) -> dict[str, set[str]]:
    """Return the methods of each of an app's paths."""
    found: dict[str, set[str]] = {}
    for one in iter_route_contexts(app.routes):
        if isinstance(one.route, APIRoute):
            found.setdefault(str(one.path), set()).update(one.route.methods or ())
    return found


def test_the_fleet_api_has_just_the_routes_that_were_judged(app: FastAPI) -> None:
    found = {path: methods for path, methods in routes(app).items() if path.startswith("/v1/fleet")}
    wanted = {*FLEET, *STOCK, *CLOSED}
    new, gone = set(found) - wanted, wanted - set(found)
    assert not gone, changed(f"the fleet API has lost {gone}; gateway.py lets them through")
    assert not new, changed(
        f"the fleet API has new routes {new}; decide whether gateway.py lets them through"
    )
    assert set(map(frozenset, found.values())) == {frozenset({"POST"})}


def test_no_other_api_has_come_beside_those_that_stay_inside(app: FastAPI) -> None:
    found = {"/".join(path.split("/")[:3]) for path in routes(app)}
    known = {"/v1/fleet", "/v1/control", "/v1/runtime", "/health"}
    assert found == known, changed(f"the SuperLink serves {sorted(found)}, and not {sorted(known)}")


def test_the_superlink_is_configured_by_all_of_its_fields() -> None:
    (call,) = [
        one
        for one in calls(SUPERLINK)
        if isinstance(one.func, ast.Name) and one.func.id == "SuperLinkLifespanConfig"
    ]
    given = {one.arg for one in call.keywords}
    there = {one.name for one in dataclasses.fields(SuperLinkLifespanConfig)}
    assert given == there, changed(
        f"SuperLinkLifespanConfig has lost {given - there}, and has new {there - given}"
    )
    parameters = list(inspect.signature(create_app).parameters)
    assert parameters == ["config", "superlink_lifespan_class"], changed(f"create_app takes {parameters}")
    assert callable(getattr(SuperLinkLifespan, "startup", None)), changed("SuperLinkLifespan.startup is gone")
    assert callable(getattr(SuperLinkLifespan, "shutdown", None)), changed(
        "SuperLinkLifespan.shutdown is gone"
    )


def test_the_superlinks_app_is_made_from_a_coordinators_home(tmp_path: Path) -> None:
    make_home(tmp_path / "home", "test", "localhost:8443", None, 9091, ":memory:")
    assert callable(superlink.flower_app(CoordinatorHome(tmp_path / "home")))


def test_the_database_in_memory_is_called_as_we_call_it(tmp_path: Path) -> None:
    home = make_home(tmp_path / "home", "test", "localhost:8443", None, 9091, ":memory:")
    assert home.database == FLWR_IN_MEMORY_DB_NAME, changed(f"it is called {FLWR_IN_MEMORY_DB_NAME}")


def test_flwr_reads_the_environment_that_we_set() -> None:
    root = Path(next(iter(importlib.import_module("flwr").__path__)))
    text = "\n".join(path.read_text() for path in root.rglob("*.py"))
    for name in ("FLWR_HOME", "FLWR_TELEMETRY_ENABLED", "FLWR_DISABLE_UPDATE_CHECK"):
        assert f'"{name}"' in text, changed(f"the environment's {name} means nothing any more")
    assert run_superexec._TASK_POLL_INTERVAL_ENV == "FLWR_SUPEREXEC_TASK_POLL_INTERVAL", changed(
        f"the poll interval is called {run_superexec._TASK_POLL_INTERVAL_ENV}"
    )
    assert run_superexec._MIN_TASK_POLL_INTERVAL_SECONDS <= 0.25


# Times


def test_a_heartbeat_as_often_as_ours_is_accepted_and_two_missed_ones_are_the_end() -> None:
    low, high = constant.HEARTBEAT_MIN_INTERVAL, constant.HEARTBEAT_MAX_INTERVAL
    assert low <= link.HEARTBEAT_S <= high, changed(f"heartbeats have to be {low} to {high} s apart")
    assert constant.HEARTBEAT_PATIENCE == 2, changed(
        f"a node is taken for gone after {constant.HEARTBEAT_PATIENCE} heartbeats; link.py says two"
    )
    assert constant.HEARTBEAT_CALL_TIMEOUT < link.HEARTBEAT_S


def test_a_wrong_clock_is_refused_where_we_say_so() -> None:
    there = vars(node_auth)
    ahead = there["SYSTEM_TIME_TOLERANCE"]
    behind = there["TIMESTAMP_TOLERANCE"] + ahead
    assert (ahead, behind) == (link._CLOCK_AHEAD_S, link._CLOCK_BEHIND_S), changed(
        f"a node's clock may be {ahead} s ahead and {behind} s behind"
    )


# Errors


@pytest.mark.parametrize(
    ("code", "number", "status"),
    [
        (ApiErrorCode.FLEET_NODE_ACTIVATION_FAILED, 2004, 412),
        (ApiErrorCode.FLEET_RUN_STATUS_NOT_ALLOWED, 2007, 403),
        (ApiErrorCode.RUN_ID_NOT_FOUND, 16, 404),
        (ApiErrorCode.RUN_ALREADY_FINISHED, 18, 412),
    ],
)
def test_errors_that_we_tell_apart_have_these_codes(code: ApiErrorCode, number: int, status: int) -> None:
    assert code == number, changed(f"{code.name} is {code.value}, and was {number}")
    spec = API_ERROR_MAP[code]
    assert spec.http_status_code == status, changed(
        f"{code.name} is HTTP {spec.http_status_code}, was {status}"
    )
    said = httpx.Response(status, json=FlowerError(code, "inside").to_json(spec.public_message))
    found = FlowerError.from_json(said.text)
    assert found is not None
    assert found.code == code
    assert FlowerError.from_json("<html>a proxy</html>") is None


def test_runs_and_nodes_have_the_states_that_we_look_for() -> None:
    states = (Status.PENDING, Status.STARTING, Status.RUNNING)
    assert states == control.RUNNING, changed(f"a run that goes on is one of {states}")
    assert Status.FINISHED not in control.RUNNING
    assert (NodeStatus.ONLINE, NodeStatus.UNREGISTERED) == ("online", "unregistered")


# Messages


def message(body: bytes = b"question") -> Message:
    """Return a message of ours, without an id."""
    return Message(RecordDict({RECORD: ConfigRecord({FIELD: body})}), 7, "query.ask")


@pytest.fixture
def in_run_1(monkeypatch: pytest.MonkeyPatch) -> None:
    """A message belongs to the run of its process."""
    for name, value in (("_task_id", 1), ("_run_id", 1), ("_node_id", SUPERLINK_NODE_ID)):
        assert hasattr(TaskIdentity, name), changed(f"TaskIdentity.{name} is gone")
        monkeypatch.setattr(TaskIdentity, name, value)


def flat(tree: message_pb2.ObjectTree) -> list[str]:
    """Return the ids of a tree's objects, from its root to its leaf."""
    found = [tree.object_id]
    while tree.children:
        assert len(tree.children) == 1, changed("an object of our messages has several children")
        tree = tree.children[0]
        found.append(tree.object_id)
    return found


def test_a_message_of_ours_is_three_objects_and_the_innermost_is_its_body(in_run_1: None) -> None:
    one = message()
    ids = flat(get_object_tree(one))
    assert len(ids) == 3, changed(f"a message with one ConfigRecord is {len(ids)} objects")
    assert ids[0] == one.object_id
    assert ids[1] == one.content.object_id
    assert ids[2] == sha256(wrapped(b"question")).hexdigest(), changed(
        "a ConfigRecord has other bytes than envelope.py writes"
    )
    assert one.content[RECORD].deflate() == wrapped(b"question")


def test_the_shortcuts_around_object_ids_end_with_flwrs_own_ids(in_run_1: None) -> None:
    asking, contents = message(), dict[str, bytes]()
    _name(asking, b"question", contents)
    plain = make_message(
        metadata=asking.metadata, content=RecordDict({RECORD: ConfigRecord({FIELD: b"question"})})
    )
    assert flat(get_object_tree(asking)) == flat(get_object_tree(plain)), changed(
        "post.py names objects otherwise than flwr"
    )
    assert asking.metadata.message_id == plain.object_id
    answer = Message(RecordDict({RECORD: ConfigRecord({FIELD: b"answer"})}), reply_to=asking)
    plain = make_message(
        metadata=answer.metadata, content=RecordDict({RECORD: ConfigRecord({FIELD: b"answer"})})
    )
    reply = link.Reply(answer, 0.0)
    said = reply.envelope(node_pb2.Node(node_id=7))
    assert flat(said.message_object_trees[0]) == flat(get_object_tree(plain)), changed(
        "link.py names objects otherwise than flwr"
    )
    assert said.messages_list[0].metadata.message_id == plain.object_id
    assert said.messages_list[0].metadata.reply_to_message_id == asking.metadata.message_id
    assert not said.messages_list[0].HasField("content") or not said.messages_list[0].content.items


def test_a_message_is_delivered_once_and_a_node_tells_since_when_it_is_there(
    app: FastAPI, monkeypatch: pytest.MonkeyPatch, in_run_1: None
) -> None:
    state = app.state.linkstate_factory.state()
    node = state.create_node("owner", "owner", b"key", link.HEARTBEAT_S)
    assert state.activate_node(node, link.HEARTBEAT_S)
    assert not state.activate_node(node, link.HEARTBEAT_S), changed("a node may come online twice")
    run = state.create_run("a", "1", "0" * 64, {}, NOOP_FEDERATION_ID, None, None, "serverapp")
    monkeypatch.setattr(TaskIdentity, "_run_id", run)
    one = Message(RecordDict({RECORD: ConfigRecord({FIELD: b"x"})}), node, "query.ask")
    one.metadata.__dict__["_message_id"] = one.object_id
    stored, _ = state.store_message_and_object_tree(one, get_object_tree(one), state.start_session(run))
    assert stored
    assert [got.metadata.message_id for got in state.get_message_ins(node, 1)] == [one.object_id]
    assert list(state.get_message_ins(node, 1)) == [], changed("a message is delivered more than once")
    assert state.deactivate_node(node)
    assert state.activate_node(node, link.HEARTBEAT_S)
    assert list(state.get_message_ins(node, 1)) == [], changed(
        "a message is delivered anew to a node that came back"
    )
    (info,) = state.get_node_info(node_ids=[node])
    at = datetime.fromisoformat(info.last_activated_at)
    assert at.tzinfo is not None, changed("NodeInfo.last_activated_at has no time zone")
    assert abs(datetime.now(at.tzinfo).timestamp() - at.timestamp()) < 60
    assert info.status == NodeStatus.ONLINE


# Grids


def test_flowers_grid_has_what_we_reach_through() -> None:
    grid = HttpGrid("127.0.0.1:1", True, token="none")
    for name in ("node", "_runtime_client"):
        assert hasattr(grid, name), changed(f"HttpGrid.{name} is gone")
    grid.set_run(Run.create_empty(5))
    assert grid.node.node_id == SUPERLINK_NODE_ID
    assert grid.run.run_id == 5
    assert isinstance(grid._runtime_client, RuntimeHttpClient), changed(
        "HttpGrid._runtime_client is another client"
    )
    assert isinstance(NetworkPost(grid, True), NetworkPost)
    grid.close()


def test_a_grid_has_no_methods_that_ours_lacks(in_run_1: None) -> None:
    abstract = Grid.__abstractmethods__
    assert abstract <= set(vars(LocalGrid)), changed(
        f"Grid has new methods {abstract - set(vars(LocalGrid))}"
    )
    for name in abstract:
        theirs, ours = getattr(Grid, name), getattr(LocalGrid, name)
        if callable(theirs):
            assert list(inspect.signature(theirs).parameters) == list(inspect.signature(ours).parameters), (
                changed(f"Grid.{name} takes other parameters")
            )


# The app and the keys


def test_our_app_carries_no_code_and_points_at_what_is_installed() -> None:
    with zipfile.ZipFile(BytesIO(control.thin_fab())) as fab:
        assert set(fab.namelist()) == {"pyproject.toml", ".info/CONTENT"}, changed("a FAB holds other files")
        parts = tomllib.loads(fab.read("pyproject.toml").decode())["tool"]["flwr"]["app"]["components"]
    assert set(parts) == {"serverapp", "clientapp"}
    for place in parts.values():
        assert find_spec(place.partition(":")[0]) is not None


def test_flowers_own_supernode_can_read_a_hospitals_node_key(tmp_path: Path) -> None:
    home = make_hospital(tmp_path / "north", "north", None)
    # as flwr.supernode.cli reads it
    read: Any = load_ssh_private_key(home.node_key_file.read_bytes(), None)
    assert read.private_numbers() == home.node_key.private_numbers()
    pem = read.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    home.node_key_file.write_bytes(pem)  # where it is ours alone that reads it, this form will do
    assert HospitalHome(home.path).node_key.private_numbers() == read.private_numbers()
    source = Path(inspect.getsourcefile(importlib.import_module("flwr.supernode.cli.flower_supernode")) or "")
    assert "load_ssh_private_key" in source.read_text(), changed("a stock SuperNode reads its key otherwise")
