"""Decoders of files in a home: homes outlive versions, disks lose bytes, and people edit what they can."""

from __future__ import annotations

import atexit
import hashlib
import io
import os
import sqlite3
import tempfile
import zipfile
from collections.abc import Callable
from contextlib import suppress
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from cryptography.hazmat.primitives.asymmetric import ec

from tests.fuzz.decoders import TOKEN, enrolment, records
from tests.fuzz.edits import Script, edited_bytes, edited_json, edited_record
from tests.fuzz.target import scripted, target
from tests.fuzz.world import VICTIM, small, wide
from tests.support import layout_of, patients
from wardround_client import ledger
from wardround_client.gate import Policy, read_policy
from wardround_client.home import CoordinatorPart, HospitalConfig
from wardround_client.predict import _loaded, _predicted, _read
from wardround_client.reader import read
from wardround_client.rowsets import is_cleared
from wardround_client.session import Session
from wardround_client.snapshot import digest_of, read_snapshot, write_snapshot
from wardround_client.sources import Table, of_frame, open_csv, open_parquet
from wardround_client.store import NodeStore
from wardround_common.analyses.flow import LABEL, usable_rows
from wardround_common.analysis import ModelSpec
from wardround_common.enrolment import EnrolmentRefused, make_enrolment
from wardround_common.errors import DataError, ReplayDiverged
from wardround_common.estimators import dump_estimator, estimator_of
from wardround_common.estimators.state import RECORDS as MODEL_RECORDS
from wardround_common.home import read_toml
from wardround_common.replay import Replay
from wardround_common.sealing.identity import Identity
from wardround_common.strategies import installed
from wardround_common.study import parse_study, read_study, study_key
from wardround_common.wire import encode
from wardround_server.conductor import conduct
from wardround_server.home import CoordinatorHome
from wardround_server.publish import models
from wardround_server.registry import Registry
from wardround_server.studies import StudyFolder
from wardround_server.transcript import _RECORDS, Transcript, _header, read_transcript

SAMPLES = Path(__file__).parents[2] / "deploy" / "samples"
NOW = 1_790_000_000.0


@lru_cache
def _folder() -> Path:
    folder = tempfile.TemporaryDirectory(prefix="fuzz-")
    atexit.register(folder.cleanup)
    return Path(folder.name)


def _file(name: str, content: bytes) -> Path:
    path = _folder() / name
    for beside in ("", "-wal", "-shm", "-journal"):
        path.with_name(f"{path.name}{beside}").unlink(missing_ok=True)
    path.write_bytes(content)
    os.chmod(path, 0o600)
    return path


# --- transcripts ---


def chained(bodies: list[bytes]) -> bytes:
    """Return a transcript's file that holds these encodings."""
    transcript, content = Transcript(), b""
    for body in bodies:
        before = transcript.head
        transcript.head = _head(before, body)
        content += _header(before, len(body)) + body + transcript.head
    return content


def _head(before: bytes, body: bytes) -> bytes:
    return hashlib.sha256(before + body).digest()


def _taken_up(content: bytes) -> None:
    """Read a transcript, and follow its study, as results are made again from it."""
    path = _file("transcript", content)
    transcript = read_transcript(path)
    again = Transcript(path)
    again.close()
    assert again.head == transcript.head
    assert [encode(one) for one in again.records] == [encode(one) for one in transcript.records]
    assert transcript.opening is not None
    study = parse_study(transcript.opening.study())
    _ = transcript.epochs, transcript.steps, transcript.statements
    try:
        conduct(Replay(study, installed, transcript.opening.roster.digest), transcript, None)
    except ReplayDiverged as error:  # a study that was not finished yet
        if "ends before" not in str(error):
            raise


def _transcripts() -> list[bytes]:
    bodies = [encode(one) for one in records()]
    return [chained(bodies[:2]), chained(bodies[:3])[:-1], chained(bodies)]


target("transcript", _transcripts)(_taken_up)


@scripted("transcript-edited")
def _transcript_edited(data: bytes) -> None:
    """Whoever changes a record may change all heads after it."""
    script, bodies = Script(data), [encode(one) for one in records()]
    i = script.below(len(bodies))
    bodies[i] = edited_record(bodies[i], script, _RECORDS)
    if script.below(2):
        bodies.insert(script.below(len(bodies)), bodies.pop(i))
    _taken_up(chained(bodies))


# --- studies, policies, configurations ---


@target("study-file", lambda: [path.read_bytes() for path in _study_files()])
def _study_file(data: bytes) -> None:
    study = read_study(_file("study.yaml", data))
    assert len(study.manifest()) > 0


def _study_files() -> list[Path]:
    return sorted((Path(__file__).parents[2] / "server" / "wardround_server" / "demo").glob("*.yaml"))


def _samples(*names: str) -> Callable[[], list[bytes]]:
    return lambda: [(SAMPLES / name).read_bytes() for name in names]


@target("toml-policy", _samples("policy.toml"))
def _policy(data: bytes) -> None:
    read_policy(_file("policy.toml", data))


@target("toml-hospital", _samples("hospital-basic.toml", "hospital-advanced.toml"))
def _hospital(data: bytes) -> None:
    read_toml(_file("config.toml", data), HospitalConfig, "a sample")


@target("toml-coordinator", _samples("coordinator-basic.toml", "coordinator-advanced.toml"))
def _coordinator(data: bytes) -> None:
    _ = CoordinatorHome(_file("config.toml", data).parent).config


@target("toml-joined", lambda: [b'name = "Registry"\naddress = "example.org:443"\n'])
def _joined(data: bytes) -> None:
    read_toml(_file("coordinator.toml", data), CoordinatorPart, "a sample")


@target("order", lambda: [b'{"wanted":"run","quorum":3,"wait_s":60.0,"deadline_s":600.0,"ordered_at":1.5}'])
def _order(data: bytes) -> None:
    order = StudyFolder(_file("order.json", data).parent).order
    assert order.wanted != ""


@target(
    "status", lambda: [b'{"study":"a","state":"running","steps":3,"asked":["flow"],"declined":{"h":"x"}}']
)
def _status(data: bytes) -> None:
    assert StudyFolder(_file("status.json", data).parent).status.study is not None


# --- a hospital's rows and models ---


@lru_cache
def _snapshot() -> bytes:
    path = _folder() / "cohort.npz"
    write_snapshot(path, small().cohorts[VICTIM].take(np.arange(12)))
    return path.read_bytes()


def _pinned(content: bytes) -> None:
    """A cohort that is taken up is the one that was pinned, and can be asked."""
    study, pinned = small().study, digest_of(_snapshot())
    cohort = read_snapshot(_file("pinned.npz", content), study.dictionary, pinned)
    assert content == _snapshot()
    for spec in study.analyses:
        usable_rows(cohort, spec.needed())
    for asked in _first_asked():
        asked.query.answer(cohort, layout_of(study, asked))


@lru_cache
def _first_asked() -> tuple[Any, ...]:
    replay = Replay(small().study, installed, small().roster.digest)
    replay.begin(small().epoch)
    first = replay.due
    step = small().record[1]
    replay.take(step, replay.open(step))  # type: ignore[arg-type]
    return tuple(due.asked for due in (*first, *replay.due))


target("snapshot", lambda: [_snapshot()])(_pinned)


def _rezipped(content: bytes, script: Script, how: dict[str, Callable[[bytes, Script], bytes]]) -> bytes:
    """Edit one member of a zip file by its name's edit, by default its bytes."""
    out = io.BytesIO()
    with zipfile.ZipFile(io.BytesIO(content)) as old, zipfile.ZipFile(out, "w") as new:
        names = old.namelist()
        chosen = script.of(names)
        for name in names:
            member = old.read(name)
            new.writestr(name, how.get(name, edited_bytes)(member, script) if name == chosen else member)
    return out.getvalue()


@lru_cache
def _models() -> tuple[bytes, ...]:
    study = wide().study
    specs = {spec.label: spec for spec in study.analyses if isinstance(spec, ModelSpec)}
    return tuple(
        dump_estimator(estimator_of(specs[label], model, study.dictionary, study.privacy.min_cell))
        for label, model in models(wide().findings).items()
    )


@lru_cache
def _table() -> Table:
    return of_frame(patients().head(5).drop(columns=["id", "disease"]), "five")


def _used(content: bytes) -> None:
    """Load a model and apply it, as `wardround predict` does."""
    estimator = _loaded(_file("model.skops", content))
    reading = _read(_table(), estimator)
    assert len(_predicted(estimator, reading, None).values) == 5


target("model", lambda: list(_models()))(_used)


@scripted("model-edited")
def _model_edited(data: bytes) -> None:
    script = Script(data)
    content = script.of(_models())
    how: dict[str, Callable[[bytes, Script], bytes]] = {"schema.json": edited_json}
    with zipfile.ZipFile(io.BytesIO(content)) as packed:
        how |= {name: _edited_model for name in packed.namelist() if name.endswith(".bin")}
    _used(_rezipped(content, script, how))


def _edited_model(member: bytes, script: Script) -> bytes:
    return edited_record(member, script, MODEL_RECORDS)


@lru_cache
def _frame() -> pd.DataFrame:
    return patients().head(20)


@target(
    "table-csv", lambda: [_frame().to_csv(index=False).encode(), _frame().to_csv(sep=";").encode()], DataError
)
def _csv(data: bytes) -> None:
    table = open_csv(_file("table.csv", data))
    read(table, small().study, "h00", study_key(small().study))


@lru_cache
def _parquet() -> bytes:
    out = io.BytesIO()
    _frame().to_parquet(out)
    return out.getvalue()


@target("table-parquet", lambda: [_parquet()], DataError)
def _parquets(data: bytes) -> None:
    table = open_parquet(_file("table.parquet", data))
    read(table, small().study, "h00", study_key(small().study))


# --- databases ---


def _opened_store(content: bytes) -> None:
    """Open a node's database and use all of it, as a node does that is started."""
    store = NodeStore(_file("node.db", content))
    world = small()
    try:
        for look in (store.studies, store.seen, store.groups, store.officers, store.ledger, store.entries):
            look()
        store.met()
        store.had(store.audit_head())
        for record in store.studies():
            store.held(record.digest)
            ledger.queries(store, record.digest, NOW)
            is_cleared(store, record.digest, record.cohort or b"")
        store.log(lambda log: log.verify(world.identities[VICTIM].public))
        cohort, policy = world.cohorts[VICTIM], Policy.of(world.study)
        session = Session(
            *(VICTIM, world.identities[VICTIM], policy, store, world.study, cohort), everyone=True
        )
        moment = world.moments["signed"]
        store.answer(world.roster.digest, world.epoch.digest, LABEL, 0)
        assert session.binding in (None, world.roster.digest) or moment.body
        store.audit("look", "study", "detail")
    finally:
        store.close()


@scripted("node-db")
def _node_db(data: bytes) -> None:
    _opened_store(edited_bytes(small().moments["ended"].database, Script(data)))


@scripted("node-db-values")
def _node_db_values(data: bytes) -> None:
    """Any column of any row may hold anything: SQLite does not mind."""
    _opened_store(_with_values(small().moments["ended"].database, Script(data)))


def _with_values(content: bytes, script: Script) -> bytes:
    db = sqlite3.connect(":memory:", isolation_level=None)
    try:
        db.deserialize(content)
        tables = [
            name for (name,) in db.execute("select name from sqlite_master where type = 'table' order by 1")
        ]
        for _ in range(3):
            if script.is_over:
                break
            table = script.of(tables)
            columns = [row[1] for row in db.execute(f"pragma table_info({table})")]
            column, rows = script.of(columns), db.execute(f"select * from {table}").fetchall()
            if not rows:
                continue
            value = script.of(rows)[columns.index(column)]
            new = script.of(
                (None, -1, 2**62, 1.5, "", "x", b"", bytes(33), b"\xff" * 33, edited_cell(value, script))
            )
            try:
                db.execute(f"update {table} set {column} = ? where {column} is ?", (new, value))
            except sqlite3.IntegrityError:
                continue
        return db.serialize()
    finally:
        db.close()


def edited_cell(value: Any, script: Script) -> Any:
    """Return an edited value of a database."""
    if isinstance(value, str):
        return edited_bytes(value.encode(), script).decode(errors="replace")
    return edited_bytes(value, script) if isinstance(value, bytes) else value


@lru_cache
def _registry() -> bytes:
    path = _file("made.db", b"")
    path.unlink()
    registry = Registry(path)
    registry.invite("North", 2_000_000_000, NOW)
    registry.invite("South", 2_000_000_000, NOW)
    registry.admit(enrolment(), NOW)
    registry.set_node_id("North", 2**63 + 5)
    other = make_enrolment("East", Identity.generate(), ec.generate_private_key(ec.SECP384R1()))
    registry.admit(other, NOW)
    registry.revoke("East")
    registry.close()
    db = sqlite3.connect(path)
    try:
        db.execute("pragma journal_mode = delete")
        return db.serialize()
    finally:
        db.close()


def _opened_registry(content: bytes) -> None:
    registry = Registry(_file("coordinator.db", content), busy_s=0.1)
    try:
        for one in registry.hospitals():
            assert len(one.words) == 10
            assert len(one.digest) == 32
        registry.invitations()
        registry.by_node_id(2**63 + 5)
        registry.admit(enrolment(), NOW)
        with suppress(EnrolmentRefused):
            registry.enrol(enrolment(), TOKEN, NOW)
    finally:
        registry.close()


@scripted("registry")
def _registry_file(data: bytes) -> None:
    _opened_registry(edited_bytes(_registry(), Script(data)))


@scripted("registry-values")
def _registry_values(data: bytes) -> None:
    _opened_registry(_with_values(_registry(), Script(data)))
