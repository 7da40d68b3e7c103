"""A node that lies fails a study, or is waited for, with one line that names its hospital.

A lying coordinator gets a fixed word from a node, which goes on.
"""

from __future__ import annotations

import logging
import resource
import struct
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from flwr.app import ArrayRecord, ConfigRecord, Context, Message, RecordDict
from flwr.common.serde import message_to_proto
from flwr.proto.fleet_pb2 import PullMessagesResponse
from flwr.proto.message_pb2 import ObjectTree, PullObjectResponse

from tests.network.net import confirm
from tests.network.test_bad_home import TABLE, study
from wardround_client.app import MOST_OFFERS, Node, client_app
from wardround_client.approval import approve, take_up
from wardround_client.home import HospitalHome, make_home
from wardround_client.join import join
from wardround_client.serve import NodeProcess, hospital_app
from wardround_common.enrolment import Invite, make_enrolment
from wardround_common.envelope import unwrapped
from wardround_common.errors import ProtocolError, WardroundError
from wardround_common.home import LOG
from wardround_common.messages import (
    FIELD,
    MESSAGES,
    RECORD,
    Answers,
    Approval,
    Entry,
    EpochSignature,
    Invitation,
    Refusal,
    Statement,
)
from wardround_common.study import Study
from wardround_common.wire import encode
from wardround_server import home as coordinators
from wardround_server import launched, study_commands
from wardround_server.federation import agree
from wardround_server.gathering import Gathered
from wardround_server.grid import LocalGrid, post
from wardround_server.home import CoordinatorHome
from wardround_server.studies import Order, StudyFolder, enter
from wardround_server.transcript import Transcript, read_transcript

NAMES = ("north", "south", "east")
STUDY = study()
MODEL = study(analyses=[{"kind": "logistic", "ridge": 1}], split={"test": 0.3})
HUGE = b"\x06" + struct.pack("<I", 1 << 30)  # 1 GB of bytes announced, none there
GARBAGE: dict[str, Any] = {
    "nothing": b"",
    "noise": bytes(range(256)),
    "text": b"hello",
    "huge": HUGE,
    "huge list": b"\x08" + struct.pack("<I", (1 << 32) - 1),
    "huge array": b"\x07\x01\x02" + struct.pack("<II", 1 << 31, 1 << 31),
    "deep": (b"\x08" + struct.pack("<I", 1)) * 1000,
    "unknown record": encode(Refusal("x")).replace(b"Refusal", b"Refusel"),
    "no bytes": "text",
    "number": 7,
}

Lie = Callable[[str, bytes], Any]  # the body of an honest reply to an action, to what is sent


def honest(action: str, body: bytes) -> bytes:
    return body


@dataclass
class Made:
    """A coordinator's home with three hospitals admitted, each with its own home and an approved study.

    Their officers have confirmed each other.
    """

    home: CoordinatorHome
    hospitals: list[HospitalHome]
    study: Study

    @contextmanager
    def grid(self, lie: Lie = honest) -> Iterator[LocalGrid]:
        """Give a Grid on which the first hospital's node lies."""
        apps: dict[int, Any] = {}
        for number, one in enumerate(self.hospitals, 1):
            self.home.registry.set_node_id(one.name, number)
            app = client_app(Node(one.store, partial(take_up, one)))
            apps[number] = partial(lying, app, lie if number == 1 else honest)
        grid = LocalGrid(apps, 2)
        try:
            yield grid
        finally:
            grid.close()


def lying(app: Any, lie: Lie) -> Any:
    def answer(message: Message, context: Context) -> Message:
        reply = app(message, context)
        action = message.metadata.message_type.removeprefix("query.")
        said = lie(action, reply.content[RECORD][FIELD])
        content = said if isinstance(said, RecordDict) else RecordDict({RECORD: ConfigRecord({FIELD: said})})
        return Message(content, reply_to=message)

    return answer


@contextmanager
def making(folder: Path, study: Study) -> Iterator[Made]:
    center = coordinators.make_home(folder / "center", "test", "localhost:8443", None, 9091)
    hospitals = []
    for number, name in enumerate(NAMES):
        table = folder / f"{name}.csv"
        table.write_text(TABLE.replace("20,0", f"{30 + number},1"))
        hospital = make_home(folder / name, name, table)
        center.registry.admit(make_enrolment(name, hospital.identity, hospital.node_key), 1)
        approve(hospital, study)
        hospitals.append(hospital)
    for one in hospitals:
        for other in hospitals:
            if other is not one:
                confirm(one.path, other.path)
    yield Made(center, hospitals, study)
    center.registry.close()
    for hospital in hospitals:
        hospital.store.close()


@pytest.fixture
def made(tmp_path: Path) -> Iterator[Made]:
    """A study of few steps."""
    with making(tmp_path, STUDY) as found:
        yield found


@pytest.fixture
def model(tmp_path: Path) -> Iterator[Made]:
    """A study that fits a model and asks for statements on it."""
    with making(tmp_path, MODEL) as found:
        yield found


class EnoughSeen(Exception):
    """The gathering goes on waiting."""


def launched_study(made: Made, lie: Lie, monkeypatch: pytest.MonkeyPatch) -> StudyFolder:
    """Conduct the launched study as Flower would, until it ends or has waited for three seconds."""
    monkeypatch.setenv("WARDROUND_HOME", str(made.home.path))
    folder = StudyFolder(made.home.studies / made.study.name)
    if not folder.path.exists():
        enter(made.home.studies, made.study, Order(deadline_s=3))
    context = Context(1, 0, {}, RecordDict(), {"study": made.study.name})
    told = launched._Reporter.gathered
    seen: list[Gathered] = []

    def gathered(self: Any, found: Gathered) -> None:
        told(self, found)
        seen.append(found)
        if len(seen) > 2:
            raise EnoughSeen

    with monkeypatch.context() as patch, made.grid(lie) as grid:
        patch.setattr(launched._Reporter, "gathered", gathered)
        patch.setattr("wardround_server.gathering._LOOK_S", 0.01)
        with suppress(WardroundError, EnoughSeen):
            launched.app(grid, context)
    return folder


def at(action: str, change: Callable[[bytes], Any]) -> Lie:
    return lambda asked, body: change(body) if asked == action else body


def changed(kind: type, **fields: Any) -> Callable[[bytes], bytes]:
    return lambda body: encode(replace(MESSAGES.decode(body, kind), **fields))


def vectors(change: Callable[[bytes], bytes]) -> Callable[[bytes], bytes]:
    def lie(body: bytes) -> bytes:
        answers = MESSAGES.decode(body, Answers).answers
        return encode(Answers(tuple(replace(one, sealed=change(one.sealed)) for one in answers)))

    return lie


def finished(made: Made, monkeypatch: pytest.MonkeyPatch) -> bytes:
    """Go on with the study, all being honest; return its sums."""
    folder = launched_study(made, honest, monkeypatch)
    assert folder.status.state == "finished", folder.status
    steps = read_transcript(folder.transcript).steps
    return b"".join(one.vector.tobytes() for step in steps for one in step.sums)


# Lies to a coordinator


@pytest.mark.parametrize("what", GARBAGE)
def test_garbage_instead_of_an_entry_is_waited_for(
    made: Made, what: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = launched_study(made, at("join", lambda body: GARBAGE[what]), monkeypatch)
    status = folder.status
    assert (status.state, status.joined, status.declined) == (
        "gathering",
        ("east", "south"),
        {"north": "protocol"},
    )
    assert "`north` declines (protocol)" in study_commands._told(status)
    assert finished(made, monkeypatch)


def anothers_entry(made: Made, which: str) -> Lie:
    north, south = made.hospitals[:2]
    if which == "name and identity":
        entry = take_up(south, southern(south)).join()
    else:
        entry = take_up(north, southern(north)).join()
        entry = (
            replace(entry, name="south")
            if which == "name"
            else replace(entry, identity=south.identity.public)
        )
    return at("join", lambda body: encode(Entry(entry)))


def southern(home: HospitalHome) -> Any:
    record = home.store.study(STUDY.digest)
    assert record is not None
    return record


@pytest.mark.parametrize("which", ["name", "identity", "name and identity"])
def test_an_entry_in_another_hospitals_name_is_not_taken(
    made: Made, which: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    status = launched_study(made, anothers_entry(made, which), monkeypatch).status
    assert status.state == "gathering"
    assert status.joined == ("east", "south")
    assert list(status.declined) == ["north"]
    if which == "name and identity":
        said = study_commands._told(status)
        assert "`north` declines (its node speaks in another hospital's name)" in said
    assert finished(made, monkeypatch)


def test_a_hospital_whose_configuration_says_another_name_than_was_admitted_is_told(
    made: Made, monkeypatch: pytest.MonkeyPatch
) -> None:
    north = made.hospitals[0]
    (north.path / "config.toml").write_text(north.config_file.read_text().replace('"north"', '"nroth"'))
    del north.__dict__["config"]
    monkeypatch.setattr(CoordinatorHome, "registry", made.home.registry)
    records = {one.name: one for one in made.home.registry.hospitals()}
    folder = launched_under_its_old_number(made, records, monkeypatch)
    assert folder.status.declined == {"north": "its node speaks in another hospital's name"}


def launched_under_its_old_number(made: Made, records: Any, monkeypatch: pytest.MonkeyPatch) -> StudyFolder:
    set_node_id = made.home.registry.set_node_id
    monkeypatch.setattr(
        made.home.registry,
        "set_node_id",
        lambda name, number: set_node_id(name if name in records else "north", number),
    )
    return launched_study(made, honest, monkeypatch)


@pytest.mark.parametrize(
    ("lie", "says"),
    [
        (at("roster", lambda body: b"noise"), "`north`: its reply to `roster` cannot be read"),
        (at("roster", lambda body: HUGE), "`north`: its reply to `roster` cannot be read (truncated)"),
        (
            at("roster", lambda body: encode(EpochSignature(b"", "allow", b"", ()))),
            "`north`: its reply to `roster` has another type",
        ),
        (at("roster", changed(Approval, signature=b"x" * 64)), "`north`: a signature"),
        (at("roster", changed(Approval, analyses=())), "2 of 3 hospitals have 10 usable rows or more"),
        (at("roster", lambda body: encode(Refusal("no such code"))), "`north` refuses: its officer sees why"),
        (at("epoch", changed(EpochSignature, signature=b"")), "`north`: a signature"),
        (at("epoch", lambda body: encode(7)), "`north`: its reply to `epoch` has another type"),
        (at("ask", lambda body: b"\xff" * 99), "`north`: its reply to `ask` cannot be read"),
        (at("ask", lambda body: "no bytes"), "`north`: its reply to `ask` cannot be read"),
        (at("ask", lambda body: RecordDict()), "`north`: its reply to `ask` cannot be read"),
        (at("ask", changed(Answers, answers=())), "`north` answers other questions than it was asked"),
        (
            at("ask", lambda body: encode(Answers(MESSAGES.decode(body, Answers).answers * 2))),
            "`north` answers other",
        ),
        (at("ask", vectors(lambda sealed: sealed[:-8])), "`north`: an answer to `flow` has another length"),
        (
            at("ask", vectors(lambda sealed: sealed + b"\0" * 8)),
            "`north`: an answer to `flow` has another length",
        ),
        (
            at("ask", vectors(lambda sealed: sealed[:-1])),
            "`north`: an answer to `flow` has another length",
        ),
        (at("ask", vectors(lambda sealed: b"")), "`north`: an answer to `flow` has another length"),
    ],
)
def test_a_lie_ends_a_study_in_one_line_that_names_the_hospital_and_the_study_can_go_on(
    made: Made, lie: Lie, says: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = launched_study(made, lie, monkeypatch)
    status = folder.status
    assert status.state == "failed", status
    assert says in status.why
    assert "\n" not in status.why and "Traceback" not in status.why
    kept = folder.transcript.read_bytes()
    folder.tell(replace(status, state="launched"))
    assert finished(made, monkeypatch)
    assert folder.transcript.read_bytes().startswith(kept)


def test_sums_of_another_length_than_was_asked_are_not_kept(
    made: Made, monkeypatch: pytest.MonkeyPatch
) -> None:
    def all_lie(self: Any, *asked: Any) -> Any:
        record = ask(self, *asked)
        return replace(record, sums=tuple(replace(one, vector=one.vector[:-1]) for one in record.sums))

    from wardround_server.federation import Federation

    ask = Federation.ask
    with monkeypatch.context() as patch:
        patch.setattr(Federation, "ask", all_lie)
        folder = launched_study(made, honest, patch)
    assert "a sum has another length than its query asks" in folder.status.why
    assert read_transcript(folder.transcript).steps == []
    assert finished(made, monkeypatch)


@pytest.mark.parametrize(
    "said",
    [
        HUGE,
        encode(Statement("logistic", -5, 0.5)),
        encode(Statement("logistic", 50, 7.0)),
    ],
)
def test_a_statement_that_nobody_would_make_counts_as_none(
    model: Made, said: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = launched_study(model, at("state", lambda body: said), monkeypatch)
    assert folder.status.state == "finished", folder.status
    told = read_transcript(folder.transcript).statements
    assert told is not None and "north" not in [one.hospital for one in told]


def test_two_hospitals_with_one_masking_key_are_both_named(made: Made) -> None:
    north, south, east = (take_up(one, southern(one)).join() for one in made.hospitals)
    from wardround_common.sealing.roster import MEMBER

    parts = (STUDY.digest, b"south", south.runtime.encode(), north.masking)
    twin = replace(south, masking=north.masking, signature=made.hospitals[1].identity.sign(MEMBER, *parts))
    with (
        made.grid() as grid,
        pytest.raises(ProtocolError, match="`north` and `south` of the roster share a key"),
    ):
        agree(post(grid), STUDY, Transcript(), {1: north, 2: twin, 3: east})


# A full disk


@contextmanager
def room(most: int) -> Iterator[None]:
    """Let no file of this process grow beyond so many bytes."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (most, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


def test_a_study_goes_on_after_its_transcript_found_no_room(
    model: Made, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    expected = finished(model, monkeypatch)
    folder = StudyFolder(model.home.studies / MODEL.name)
    whole = folder.transcript.read_bytes()
    folder.path.rename(tmp_path / "first")
    for hospital in model.hospitals:
        approve(hospital, MODEL, again=True)
    append = Transcript.append

    def tight(self: Transcript, record: Any) -> None:
        with room(len(whole) // 2):
            append(self, record)

    with monkeypatch.context() as patch:
        patch.setattr(Transcript, "append", tight)
        assert launched_study(model, honest, patch).status.state == "failed"
    why = folder.status.why
    assert f"{folder.transcript}: the transcript cannot be written (File too large); nothing is lost" in why
    kept = folder.transcript.read_bytes()
    assert len(read_transcript(folder.transcript).steps) > 0
    folder.tell(replace(folder.status, state="launched"))
    assert finished(model, monkeypatch) == expected
    assert folder.transcript.read_bytes().startswith(kept)


# Lies to a node


@pytest.fixture
def node(made: Made, tmp_path: Path) -> Iterator[NodeProcess]:
    """The first hospital's node, joined and not running."""
    token = made.home.registry.invite("north", 4_000_000_000, 1, again=True)
    invite = Invite("test", "localhost:1", made.home.ca_pem, "north", token, 4_000_000_000)
    home = made.hospitals[0]
    join(home, invite, 1, online=False, file=tmp_path / "enrolment.json")
    yield NodeProcess(home, hospital_app(home), threading.Event())


@pytest.fixture
def log(caplog: pytest.LogCaptureFixture) -> Iterator[pytest.LogCaptureFixture]:
    logger = logging.getLogger(LOG)
    before = logger.propagate
    logger.propagate = True
    yield caplog
    logger.propagate = before


def asked(node: NodeProcess, kind: str, content: RecordDict) -> Any:
    message = Message(content, 1, kind)
    message.metadata.__dict__["_message_id"] = "1"
    return MESSAGES.decode(bytes(unwrapped(node._reply(message).content)), object)


def body(value: Any) -> RecordDict:
    return RecordDict({RECORD: ConfigRecord({FIELD: value})})


def test_a_node_says_no_to_garbage_and_goes_on(
    node: NodeProcess, made: Made, log: pytest.LogCaptureFixture
) -> None:
    contents = [*map(body, GARBAGE.values()), RecordDict(), RecordDict({RECORD: ArrayRecord()})]
    contents += [
        RecordDict({"other": ConfigRecord({FIELD: b""})}),
        RecordDict({RECORD: ConfigRecord({"a": b""})}),
    ]
    contents += [
        body(encode(Invitation(one))) for one in (b"", b"{}", b"[" * 9999, b"\xff", STUDY.manifest() + b" ")
    ]
    contents += [body(encode(Refusal("x"))), body(encode(Invitation(b"{" * (10 << 20))))]
    for kind in (
        "query.join",
        "query.roster",
        "query.epoch",
        "query.ask",
        "query.state",
        "train",
        "evaluate",
    ):
        for content in contents:
            assert asked(node, kind, content) == Refusal("protocol"), (kind, content)
    for kind in ("query.nothing", "train.join", "query", "evaluate.ask"):
        assert asked(node, kind, body(encode(Invitation(STUDY.manifest())))) == Refusal("protocol")
    assert "a message of an unknown type was refused" in log.text
    assert "Traceback" not in log.text
    assert isinstance(asked(node, "query.join", body(encode(Invitation(STUDY.manifest())))), Entry)
    details = [detail for event, _, detail in made.hospitals[0].store.entries() if event == "refuse"]
    assert details and max(map(len, details)) <= 500
    assert [one.name for one in made.hospitals[0].store.studies()] == [STUDY.name]


def test_a_node_notes_no_more_than_so_many_offers(node: NodeProcess, made: Made) -> None:
    said = [
        asked(node, "query.join", body(encode(Invitation(one.manifest())))) for one in map(offer, range(150))
    ]
    codes = [one.code for one in said]
    assert codes == ["not_approved"] * MOST_OFFERS + ["too_many_offers"] * (150 - MOST_OFFERS)
    assert len(made.hospitals[0].store.studies()) == MOST_OFFERS + 1
    assert isinstance(asked(node, "query.join", body(encode(Invitation(STUDY.manifest())))), Entry)


def offer(number: int) -> Study:
    return study(title=str(number))


def test_a_node_whose_database_has_no_room_says_trouble_and_goes_on_later(
    node: NodeProcess, made: Made, log: pytest.LogCaptureFixture
) -> None:
    size = (made.hospitals[0].path / "node.db").stat().st_size
    large = study(title="x" * 100_000)
    for content in (encode(Invitation(large.manifest())), b"x" * 10):
        with room(size):
            said = [asked(node, "query.join", body(content)) for _ in range(40)]
    assert said[-1].code in ("trouble", "protocol")
    assert "node.db: " in log.text and "make room" in log.text
    assert "Traceback" not in log.text
    assert asked(node, "query.join", body(encode(Invitation(large.manifest())))) == Refusal("not_approved")


@pytest.mark.parametrize("form", ["two records", "no record", "another record", "cut off", "another hash"])
def test_a_node_lives_through_a_message_of_another_form(node: NodeProcess, form: str) -> None:
    contents = {
        "two records": RecordDict({RECORD: ConfigRecord({FIELD: b"x"}), "b": ConfigRecord({FIELD: b"y"})}),
        "no record": RecordDict(),
    }
    message = Message(contents.get(form, body(b"x")), 1, "query.join")
    message.metadata.__dict__["_message_id"] = "1"
    trees = {
        "two records": ObjectTree(
            object_id="1", children=[ObjectTree(object_id="2"), ObjectTree(object_id="3")]
        ),
        "no record": ObjectTree(object_id="1"),
    }
    tree = trees.get(form, ObjectTree(object_id="1", children=[ObjectTree(object_id="2")]))
    content = {"another record": b"ArrayRecord 0\0", "cut off": b"ConfigRecord 40\0\x0a"}.get(
        form, b"\xff" * 40
    )
    pulled = PullMessagesResponse(messages_list=[message_to_proto(message)], message_object_trees=[tree])
    found = PullObjectResponse(object_found=True, object_available=True, object_content=content)
    node._link._client = SimpleNamespace(  # type: ignore[assignment]
        PullMessages=lambda request: pulled,
        PullObject=lambda request: found,
        ConfirmMessageReceived=lambda request: None,
    )
    received = node._link.receive()
    assert received is not None
    assert MESSAGES.decode(bytes(unwrapped(node._reply(received).content)), object) == Refusal("protocol")


def test_the_longest_manifest_does_not_hold_a_node_up(node: NodeProcess) -> None:
    variables = {f"v{number}": {"kind": "number", "range": [0, 1]} for number in range(30_000)}
    manifest = study(variables=variables, outcome=None).manifest()
    assert 3 << 20 < len(manifest) < 4 << 20
    begun = time.monotonic()
    assert asked(node, "query.join", body(encode(Invitation(manifest)))) == Refusal("not_approved")
    assert time.monotonic() - begun < 20
