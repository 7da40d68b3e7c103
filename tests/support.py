"""What the tests share: a made-up clinic's patients, studies about them, and federations of the real parts.

Patients are drawn as integers, so that they have the same bits on every processor.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from flwr.app import Context, RecordDict

from wardround_client.app import Node, client_app
from wardround_client.decision import approve_study
from wardround_client.gate import Policy
from wardround_client.home import HospitalHome, make_home
from wardround_client.reader import read
from wardround_client.session import Session
from wardround_client.sources import of_frame
from wardround_client.store import NodeStore
from wardround_common.analyses.evaluate import Evaluation
from wardround_common.cohort import Cohort
from wardround_common.evaluation.bands import Band, Bands
from wardround_common.plan import Findings, study_program
from wardround_common.program import Asked
from wardround_common.query import Contribution, Frame, Layout, Sum, open_sum
from wardround_common.study import Study, parse_study, study_key
from wardround_common.typing import Ints
from wardround_server.app import server_app
from wardround_server.conductor import Observer
from wardround_server.grid import LocalGrid
from wardround_server.publish import publish
from wardround_server.simulation import simulated_keys
from wardround_server.strategies import flower
from wardround_server.transcript import Transcript

ROWS = 600

VARIABLES: dict[str, Any] = {
    "age": {"kind": "number", "unit": "a", "range": [18, 100]},
    "chol": {"kind": "number", "unit": "mg/dL", "range": [80, 620]},
    "bmi": {"kind": "number", "unit": "kg/m2", "range": [15, 50]},
    "sex": {"kind": "category", "levels": ["0", "1"]},
    "cp": {"kind": "category", "levels": ["1", "2", "3", "4"]},
    "disease": {"kind": "category", "levels": {"no": [0], "yes": [1]}},
}


HOSPITALS = ("north", "south", "east")
WARDS: dict[str, Any] = {  # another study, of three hospitals' plain files
    "wardround": 1,
    "name": "wards",
    "variables": {
        "age": {"kind": "number", "range": [18, 100]},
        "crp": {"kind": "number", "range": [0, 500], "missing": ["?"]},
        "sex": {"kind": "category", "levels": ["f", "m"]},
        "ill": {"kind": "category", "levels": ["0", "1"]},
    },
    "outcome": "ill",
    "analyses": [{"kind": "summary"}, {"kind": "logistic"}],
}


def study_data(analyses: list[dict[str, Any]], **changes: Any) -> dict[str, Any]:
    """Return a study of the clinic's variables as a study file would hold it; ``privacy`` is merged."""
    privacy = {"min_hospitals": 2, "min_rows": 10, "min_cell": 11, **changes.pop("privacy", {})}
    return {
        "wardround": 1,
        "name": "clinic",
        "variables": VARIABLES,
        "outcome": "disease",
        "ids": "shared",
        "analyses": analyses,
        "privacy": privacy,
        **changes,
    }


def study_of(*analyses: dict[str, Any], **changes: Any) -> Study:
    """Return a checked study of the clinic's variables."""
    return parse_study(study_data(list(analyses), **changes))


@lru_cache
def patients(rows: int = ROWS, seed: int = 7) -> pd.DataFrame:
    """Return the clinic's patients: chol is missing in one of 8, cp in one of 20, bmi in one of 100.

    ``fold`` is 0 in the third of the rows that a study may hold out.
    """
    rng = np.random.default_rng(seed)
    age, sex = rng.integers(18, 101, rows), rng.integers(0, 2, rows)
    chol, bmi = rng.integers(800, 6200, rows) / 10, rng.integers(150, 500, rows) / 10
    cp = rng.integers(1, 5, rows)
    score = 2 * (age - 60) + (chol - 350) / 4 + 30 * sex - 40 * (cp == 2) + rng.integers(-150, 150, rows)
    number = np.arange(rows)
    return pd.DataFrame(
        {
            "id": number,
            "age": age.astype(float),
            "chol": np.where(rng.integers(0, 8, rows) == 0, np.nan, chol),
            "bmi": np.where(number % 100 == 3, np.nan, bmi),
            "sex": sex,
            "cp": np.where(rng.integers(0, 20, rows) == 0, np.nan, cp),
            "disease": (score > 0).astype(int),
            "fold": rng.integers(0, 3, rows),
        }
    )


def spread(hospitals: int, seed: int = 1) -> dict[str, Ints]:
    """Split the patients over hospitals as unevenly as they come, the smallest of 11; return row positions.

    The first has no chol at all; from four hospitals on, the second none with the outcome, and the third
    only such and none with ``cp`` 3.
    """
    rng, frame = np.random.default_rng(seed), patients()
    left = np.ones(len(frame), bool)

    def some(rows: int, fits: pd.Series) -> Ints:
        found = rng.permutation(np.flatnonzero(left & fits.to_numpy()))[:rows]
        left[found] = False
        return found

    parts = [some(11, frame["chol"].isna())]
    if hospitals > 3:
        parts.append(some(60, frame["disease"] == 0))
        parts.append(some(40, (frame["disease"] == 1) & (frame["cp"] != 3)))
    rest = rng.permutation(np.flatnonzero(left))
    others = hospitals - len(parts)
    spare = len(rest) - 11 * others
    ends = np.sort(rng.integers(0, spare + 1, others - 1)) + 11 * np.arange(1, others)
    parts += np.split(rest, ends)
    return {f"h{i:02d}": part for i, part in enumerate(parts)}


def tables_of(hospitals: int) -> dict[str, pd.DataFrame]:
    """Return the patients of each hospital as a table."""
    return {name: patients().iloc[rows] for name, rows in spread(hospitals).items()}


def cohort_of(study: Study, table: pd.DataFrame, name: str = "pooled") -> Cohort:
    """Read one table as the study's cohort."""
    return read(of_frame(table, name), study, name, study_key(study)).cohort


def session_of(study: Study, name: str, cohort: Cohort, store: NodeStore | None = None) -> Session:
    """Return a hospital's session, with a simulation's keys and the policy that the study promises."""
    kept, (identity, masking) = store or NodeStore(), simulated_keys(study, name)
    approve_study(kept, identity, study, masking)
    return Session(
        name, identity, Policy.of(study, leave="allow"), kept, study, cohort, everyone=True, new=True
    )


def federate(
    study: Study,
    cohorts: Mapping[str, Cohort],
    transcript: Transcript | None = None,
    observe: Observer = lambda progress: None,
) -> Findings:
    """Conduct a study over real sessions of ready cohorts, through Flower's ClientApp and ServerApp."""
    nodes, stores = [], []
    for name, cohort in cohorts.items():
        store = NodeStore()
        node = Node(store)
        node.open(session_of(study, name, cohort, store))
        nodes.append(node)
        stores.append(store)
    grid = LocalGrid({i + 1: (lambda node=node: client_app(node)) for i, node in enumerate(nodes)}, 2)
    delivered: list[Findings] = []
    try:
        app = server_app(study, transcript or Transcript(), delivered.append, observe)
        app(grid, Context(1, 0, {}, RecordDict(), {}))
    finally:
        grid.close()
        for store in stores:
            store.close()
    return delivered[0]


@dataclass(frozen=True)
class Driven:
    """A study's findings over one table, and every query that it asked."""

    findings: Findings
    asked: tuple[Asked, ...]


def drive(study: Study, cohort: Cohort) -> Driven:
    """Run a study's program over one pooled cohort: no hospitals, no masks, only the program and its sums."""
    program, sums = study_program(study, flower), None
    every: list[Asked] = []
    while True:
        try:
            asked = next(program) if sums is None else program.send(sums)
        except StopIteration as stop:
            return Driven(stop.value, tuple(every))
        every += asked
        sums = tuple(_opened(study, one, cohort) for one in asked)


def _opened(study: Study, asked: Asked, cohort: Cohort) -> Sum:
    layout = layout_of(study, asked)
    found = asked.query.answer(cohort, layout)
    return open_sum(layout, 1, ("pooled",), vector_of(found, layout, study.privacy.min_hospitals))


def layout_of(study: Study, asked: Asked) -> Layout:
    """Return the layout of a query of a study."""
    return asked.query.layout(Frame(study.dictionary, asked.rows_bound))


@contextmanager
def clinic_home(path: Path) -> Iterator[HospitalHome]:
    """Give a hospital's home with the clinic's patients as its table, whose ids are their numbers."""
    table = path / "patients.csv"
    patients().to_csv(table, index=False)
    made = make_home(path / "home", "h01", table)
    try:
        yield made
    finally:
        made.store.close()


def vector_of(contribution: Contribution, layout: Layout, hospitals: int = 1) -> Ints:
    """Return a contribution as the vector that the gate would mask, as if it came from so many hospitals."""
    parts = [contribution.arrays[field.name].reshape(-1) for field in layout.fields]
    flags = [
        np.where(part > 0, hospitals, 0).astype(np.int64)
        for part, field in zip(parts, layout.fields, strict=True)
        if field.contributors
    ]
    return np.concatenate([*parts, *flags])


def published(study: Study, findings: Findings) -> dict[str, Any]:
    """Return what results.json would hold."""
    return publish(study, (), findings, {})


def exact(study: Study, findings: Findings) -> str:
    """Return all bits of the published results that do not depend on how rows are split over hospitals.

    Left out are times and numbers of hospitals. Calibration tables, curves and subgroups are taken as they
    were before what only one hospital contributes to was suppressed or merged.
    """
    left = published(study, findings)
    del left["hospitals"], left["abstaining"], left["left_out"], left["versions"]
    for found in left["flow"]["variables"].values():
        del found["hospitals"]
    for label, found in left["analyses"].items():
        del found["seconds"]
        for one in findings.analyses[label].evaluations:
            if isinstance(one, Evaluation):
                found["metrics"][one.part].update(_raw(one))
    return json.dumps(left, sort_keys=True, allow_nan=False)


def bands_of(confusion: tuple[tuple[int, int], tuple[int, int]], hospitals: int = 3) -> Bands:
    """Return a band below and one above the threshold where all cells may be shown, else one in all."""
    (tn, fp), (fn, tp) = confusion
    both = (hospitals, hospitals)
    if all(not 0 < one < 11 for one in (tn, fp, fn, tp)):
        low, high = ((tn, fn), (fp, tp))
        return Bands(1, tuple(Band(pair, both, sum(pair) / 2, ((), ())) for pair in (low, high)))
    return Bands(0, (Band((tn + fp, fn + tp), both, (tn + fp + fn + tp) / 2, ((), ())),))


def _raw(evaluation: Evaluation) -> dict[str, Any]:
    """Return what an evaluation counted, without the hospitals it came from."""
    return {
        "calibration": [(band.counts, band.predicted) for band in evaluation.bands.bands],
        "curves": [
            [[(step.low, step.count) for step in own] for own in band.steps]
            for band in evaluation.bands.bands
        ],
        "subgroups": {
            division.variable: (
                division.lacking.confusion,
                [
                    (group.name, group.confusion, group.auc, group.brier, group.predicted)
                    for group in division.groups
                ],
            )
            for division in evaluation.divisions
        },
    }
