"""The SuperLink's Control API, as far as a coordinator needs it: nodes and runs."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable
from contextlib import suppress
from importlib.resources import files
from typing import TypeVar

import httpx
from flwr.cli.build import build_fab_from_files
from flwr.common.serde import user_config_to_proto
from flwr.proto.control_pb2 import (
    ListNodesRequest,
    ListRunsRequest,
    RegisterNodeRequest,
    StartRunRequest,
    StopRunRequest,
    UnregisterNodeRequest,
)
from flwr.proto.fab_pb2 import Fab
from flwr.supercore.control.control_http_client import ControlHttpClient

from wardround_common.errors import LinkError
from wardround_server.home import CoordinatorHome

T = TypeVar("T")
RUNNING = ("pending", "starting", "running")


class Control:
    """A connection to the SuperLink of this machine. Every method raises LinkError where it can't be had."""

    def __init__(self, home: CoordinatorHome) -> None:
        direct_loopback()
        self._client = ControlHttpClient.from_server_address(
            f"127.0.0.1:{home.config.control_port}", False, home.ca_file.read_bytes(), []
        )

    def close(self) -> None:
        """Close the connection."""
        self._client.close()

    def nodes(self) -> dict[bytes, tuple[int, str, str]]:
        """Return each registered node's number, state and time of coming online, by its public key (PEM)."""
        found = _call(lambda: self._client.ListNodes(ListNodesRequest())).nodes_info
        return {
            bytes(one.public_key): (one.node_id, one.status, one.last_activated_at)
            for one in found
            if one.status != "unregistered"
        }

    def register(self, public_key: bytes, name: str) -> int:
        """Make a node's key known; return its number."""
        return _call(
            lambda: self._client.RegisterNode(RegisterNodeRequest(public_key=public_key, name=name))
        ).node_id

    def unregister(self, node_id: int) -> None:
        """Make a node unknown."""
        _call(lambda: self._client.UnregisterNode(UnregisterNodeRequest(node_id=node_id)))

    def start(self, study: str) -> int:
        """Start a run of our app for a study; return its number."""
        content = thin_fab()
        request = StartRunRequest(
            fab=Fab(hash_str=hashlib.sha256(content).hexdigest(), content=content),
            override_config=user_config_to_proto({"study": study}),
        )
        return _call(lambda: self._client.StartRun(request)).run_id

    def stop(self, run_id: int) -> None:
        """Stop a run; one that has ended already is left alone."""
        with suppress(RunIsOver):
            _call(lambda: self._client.StopRun(StopRunRequest(run_id=run_id)))

    def is_running(self, run_id: int) -> bool:
        """Tell whether a run is to start or goes on."""
        try:
            found = _call(lambda: self._client.ListRuns(ListRunsRequest(run_id=run_id))).run_dict
        except RunIsOver:
            return False
        return any(run.status.status in RUNNING for run in found.values())


class RunIsOver(LinkError):
    """A run has ended, or is not known."""


def direct_loopback() -> None:
    """Keep this process and its children from asking a proxy for this machine's own addresses."""
    for name in ("NO_PROXY", "no_proxy"):
        kept = [one for one in os.environ.get(name, "").split(",") if one]
        os.environ[name] = ",".join(dict.fromkeys([*kept, "127.0.0.1", "localhost"]))


def thin_fab() -> bytes:
    """Return Flower's archive of our app: a pyproject.toml that points at what is installed, and no code."""
    pyproject = files("wardround_server").joinpath("fab/pyproject.toml").read_bytes()
    return build_fab_from_files({"pyproject.toml": pyproject})[0]


def _call(call: Callable[[], T]) -> T:
    try:
        return call()
    except httpx.HTTPStatusError as error:
        status = error.response.status_code
        if status in (httpx.codes.NOT_FOUND, httpx.codes.PRECONDITION_FAILED):
            raise RunIsOver(f"Flower's SuperLink: {status}") from None
        raise LinkError(
            f"Flower's SuperLink refuses a request (HTTP {status}); see logs/superlink.log"
        ) from None
    except httpx.TransportError as error:
        reason = " ".join(str(error).split()) or type(error).__name__
        raise LinkError(f"Flower's SuperLink does not answer ({reason})") from None
