"""A federation in one process: every hospital's real node code, on tables that one machine holds.

For tests, teaching and planning a study. The tables' holder plays all hospitals at once; what passes
between them and the coordinator is what would pass over a network.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from flwr.app import Context, RecordDict
from flwr.clientapp import ClientApp

from wardround_client.app import Node, client_app
from wardround_client.decision import approve_study
from wardround_client.gate import Policy
from wardround_client.reader import read
from wardround_client.session import Session
from wardround_client.sources import Table, of_frame, open_table
from wardround_client.store import NodeStore
from wardround_common.cohort import Cohort
from wardround_common.errors import DataError, StudyError, WardroundError, did_you_mean, listed
from wardround_common.plan import Findings
from wardround_common.sealing.identity import Identity
from wardround_common.sealing.mask import MaskingKey
from wardround_common.study import Study, parse_study, read_study, study_key
from wardround_common.wire import joined
from wardround_server.app import server_app
from wardround_server.conductor import Observer
from wardround_server.grid import LocalGrid
from wardround_server.local import compared
from wardround_server.publish import published
from wardround_server.result import Clock, StudyResult
from wardround_server.transcript import Transcript

if TYPE_CHECKING:
    import pandas as pd


@dataclass(frozen=True)
class Hospital:
    """What a simulated hospital has. ``policy`` None: one that asks just what the study promises.

    ``open`` opens its table, which is held no longer than reading it takes. ``identity`` None: one that
    follows from its name.
    """

    name: str
    open: Callable[[], Table]
    identity: Identity | None = None
    policy: Policy | None = None
    store: NodeStore = field(default_factory=NodeStore)


def simulate(
    study: Study | Mapping[str, Any] | str | Path,
    tables: Mapping[str, pd.DataFrame | str | Path],
    *,
    transcript: Path | None = None,
    observe: Observer = lambda progress: None,
    local: bool = False,
) -> StudyResult:
    """Run a study over one table per hospital, by name: a data frame, or a CSV or Parquet file.

    ``transcript``: a file to keep the opened sums in; a study that finds its own there goes on from it.
    ``local``: find out besides what each hospital would reach alone.
    Raises WardroundError (StudyError, DataError, FitError ...) with a message for a person.
    """
    checked = read_study(study) if isinstance(study, (str, Path)) else parse_study(study)
    if not tables:
        raise StudyError("no tables were given; a study needs one per hospital")
    hospitals = []
    record = Transcript(transcript)
    try:
        for name, source in tables.items():
            if isinstance(source, (str, Path)):
                hospitals.append(Hospital(name, partial(open_table, source)))
            else:
                hospitals.append(Hospital(name, partial(of_frame, source, name)))
        return run(checked, hospitals, record, observe, local)
    finally:
        record.close()
        for hospital in hospitals:
            hospital.store.close()


def run(
    study: Study,
    hospitals: list[Hospital],
    transcript: Transcript,
    observe: Observer,
    local: bool = False,
) -> StudyResult:
    """Approve the study at every hospital, conduct it, and publish what it found; see ``simulate``."""
    needed = study.privacy.min_hospitals
    if len(hospitals) < needed:
        raise StudyError(
            f"{len(hospitals)} hospitals were given; the study asks for {needed} at least "
            "(`privacy.min_hospitals`)"
        )
    opening = transcript.opening
    if opening is not None and opening.manifest != study.manifest():
        raise WardroundError(
            "the transcript is of another study, or of another version of it; choose another file"
        )
    nodes, cohorts, notes = _approve(study, hospitals)
    grid = LocalGrid({i + 1: _factory(node) for i, node in enumerate(nodes)})
    clock = Clock(observe)
    delivered: list[Findings] = []
    try:
        app = server_app(study, transcript, delivered.append, clock)
        app(grid, Context(1, 0, {}, RecordDict(), {}))
    finally:
        grid.close()
    (findings,) = delivered
    results = published(study, transcript, findings, clock.seconds)
    return StudyResult(study, results, findings, notes, compared(study, findings, cohorts) if local else None)


def _approve(
    study: Study, hospitals: list[Hospital]
) -> tuple[list[Node], dict[str, Cohort], tuple[str, ...]]:
    """Read each hospital's cohort and open its session; what no table has is an error, the rest a note."""
    nodes, notes = [], []
    cohorts: dict[str, Cohort] = {}
    labels: list[str] = []
    columns: list[str] = []
    nowhere = set(study.variables)
    for hospital in hospitals:
        table = hospital.open()
        reading = read(table, study, hospital.name, study_key(study))
        nowhere &= set(reading.absent)
        labels.append(table.label)
        columns.extend(table.columns)
        if reading.absent:
            notes.append(f"{table.label} has no column for {listed(reading.absent)}: read as missing")
        node = Node(hospital.store)
        # one machine holds all tables, so a hospital may well abstain from one analysis alone
        policy = hospital.policy or Policy.of(study, leave="allow")
        identity, masking = simulated_keys(study, hospital.name)
        identity = hospital.identity or identity
        approve_study(hospital.store, identity, study, masking)
        node.open(
            Session(
                hospital.name,
                identity,
                policy,
                hospital.store,
                study,
                reading.cohort,
                everyone=True,
                new=True,
            )
        )
        nodes.append(node)
        cohorts[hospital.name] = reading.cohort
    for name in study.variables:
        if name in nowhere:
            wanted = study.variables[name].column or name
            raise DataError(
                f"variables.{name}: no file has a column `{wanted}`{did_you_mean(wanted, columns)}; "
                f"files: {listed(labels)}"
            )
    return nodes, cohorts, tuple(notes)


def simulated_keys(study: Study, name: str) -> tuple[Identity, MaskingKey]:
    """Return a simulated hospital's keys, so that a study which is gone on with has the same roster.

    They protect nothing: whoever simulates holds all tables.
    """
    identity, masking = (
        hashlib.sha256(joined(b"wardround simulation v1", what, study.digest, name.encode())).digest()
        for what in (b"identity", b"masking")
    )
    return Identity.from_bytes(identity), MaskingKey.from_bytes(masking)


def _factory(node: Node) -> Callable[[], ClientApp]:
    return lambda: client_app(node)
