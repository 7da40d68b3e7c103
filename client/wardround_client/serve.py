"""The hospital's node: one process that stays, asks its coordinator for messages, and answers them itself.

It opens connections outwards only. Whatever goes wrong on the way is tried again, quickly first and then
at most every few seconds; what a person has to put right is said in the log and in `hospital status`, and
the node goes on trying. Messages are answered one after another.
"""

from __future__ import annotations

import logging
import os
import random
import threading
import time
from collections.abc import Callable
from functools import partial
from importlib.metadata import version
from typing import TypeVar

from flwr.app import ConfigRecord, Context, Message, RecordDict
from flwr.clientapp import ClientApp

from wardround_client.app import client_app, node_of
from wardround_client.home import HospitalHome
from wardround_client.link import HEARTBEAT_S, AlreadyOnline, Link, NotAdmitted, Reply, RunOver, Unreachable
from wardround_client.tls import of_home, use_proxy
from wardround_common.errors import LinkError
from wardround_common.home import LOG, locked, read_status, write_status
from wardround_common.messages import ACTIONS, FIELD, RECORD, Refusal, message_type
from wardround_common.wire import encode

_SOON_S, _SELDOM_S = 0.2, 5.0  # between tries
_POLL_S, _IDLE_S = 0.02, 1.0  # between looks for a message, shortly after one and long after
_TYPES = {message_type(action) for action in ACTIONS}

T = TypeVar("T")


def _refusal(code: str, message: Message) -> Message:
    record = ConfigRecord({FIELD: encode(Refusal(code))})
    return Message(RecordDict({RECORD: record}), reply_to=message)


def hospital_app(home: HospitalHome) -> ClientApp:
    """Return the ClientApp that answers for a hospital's home. WardroundError for a bad key or policy."""
    _ = home.identity, home.policy  # what is wrong with them is said now, not when a study asks for them
    return client_app(node_of(home))


class NodeProcess:
    """A node that answers with ``app`` until ``stop`` is set."""

    def __init__(self, home: HospitalHome, app: ClientApp, stop: threading.Event) -> None:
        self._home, self._app, self._stop = home, app, stop
        self._log = logging.getLogger(LOG)
        coordinator = home.coordinator
        self._coordinator = coordinator.address
        use_proxy(home)
        # its HTTP client keeps several connections, so a heartbeat does not wait behind a large reply
        self._link = Link(coordinator.address, of_home(home), home.node_key)
        self._said = ""
        self._status: dict[str, object] = {
            "hospital": home.name,
            "coordinator": coordinator.address,
            "version": version("wardround"),
            "pid": os.getpid(),
            "node_id": read_status(home.status_file).get("node_id"),
            "state": "starting",
        }

    def run(self) -> None:
        """Answer messages until it is time to stop."""
        with locked(self._home.lock_file, "this hospital's node"):
            self._log.info("node of `%s`: coordinator %s", self._home.name, self._coordinator)
            heart = threading.Thread(target=self._beat, name="heartbeat", daemon=True)
            try:
                if self._patiently(self._activate) is not None:
                    heart.start()
                    self._answer()
            finally:
                self._stop.set()
                self._tell("stopped")
                self._link.close()
            self._log.info("node stopped")

    def _activate(self) -> int:
        known = self._status["node_id"]
        self._status["node_id"] = found = self._link.activate(known if isinstance(known, int) else None)
        self._tell("online")
        return found

    def _answer(self) -> None:
        last = time.monotonic()
        while not self._stop.is_set():
            message = self._patiently(self._link.receive)
            if message is None:
                self._stop.wait(min(max(_POLL_S, (time.monotonic() - last) / 4), _IDLE_S))
                continue
            reply = self._reply(message)
            del message  # a large one should not stay while its reply is sent
            self._patiently(partial(self._link.reply, reply))
            del reply
            last = time.monotonic()
            self._stop.wait(_POLL_S)

    def _reply(self, message: Message) -> Reply:
        begun = time.monotonic()
        context = Context(message.metadata.run_id, self._link.node_id, {}, RecordDict(), {})
        try:
            if message.metadata.message_type in _TYPES:
                reply = self._app(message, context)
            else:
                self._log.warning("a message of an unknown type was refused")
                reply = _refusal("protocol", message)
        except Exception:  # noqa: BLE001 (a fault of the program: the node goes on, and the coordinator is told)
            self._log.exception("a message could not be answered")
            reply = _refusal("trouble", message)
        return Reply(reply, time.monotonic() - begun)

    def _patiently(self, act: Callable[[], T]) -> T | None:
        """Act until it works; return None if it is time to stop, or if it is no longer wanted."""
        pause = _SOON_S
        while not self._stop.is_set():
            try:
                if self._status["state"] != "online" and self._link.node_id:
                    self._activate()  # tells the coordinator to send again what may have been lost on the way
                return act()
            except RunOver as error:
                self._log.info("%s", error)
                return None
            except (Unreachable, AlreadyOnline) as error:
                self._tell("waiting", str(error))
                self._stop.wait(pause * random.uniform(0.8, 1.2))  # noqa: S311 (spreads many nodes' tries)
                pause = min(2 * pause, _SELDOM_S if isinstance(error, Unreachable) else 1.0)
            except LinkError as error:
                self._tell("refused", str(error))
                self._stop.wait(pause)
                pause = min(2 * pause, _SELDOM_S)
        return None

    def _beat(self) -> None:
        while not self._stop.wait(HEARTBEAT_S * random.uniform(0.7, 0.8)):  # noqa: S311 (spreads many nodes')
            try:
                self._link.heartbeat()
                self._status["heartbeat"] = time.time()
                self._tell("online")
            except NotAdmitted as error:
                self._tell("refused", str(error))
            except LinkError as error:
                self._log.debug("%s", error)

    def _tell(self, state: str, why: str = "") -> None:
        """Note how things stand; log what is new."""
        self._status |= {"state": state, "why": why, "at": time.time()}
        write_status(self._home.status_file, dict(self._status))
        if (said := f"{state} {why}".strip()) != self._said:
            self._log.log(logging.WARNING if why else logging.INFO, "%s", said)
            self._said = said
