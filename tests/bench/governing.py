"""The figures of what a hospital decides: the gate beside masks alone, and a review of a large table."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pandas as pd

from tests.bench.measure import Figure, at_most, in_fresh_process
from tests.support import study_of
from wardround_client.gate import Masks, Policy, Request, release
from wardround_client.home import make_home
from wardround_client.review import review
from wardround_client.store import NodeStore
from wardround_common.query import Contribution, Layout, sums
from wardround_common.sealing.lane import lane
from wardround_common.sealing.mask import seal
from wardround_common.study import Study, parse_study
from wardround_common.typing import Ints

VALUES = 1_000_000
MEMBERS, FEW_MEMBERS = 50, 4
RUNS = 25  # in turn; the best of each
ROWS = 1_000_000
NUMBERS, CATEGORIES = 8, 3


def gate_figures() -> Iterator[Figure]:
    """Yield what the gate takes beyond masks and check lane: bounds, policy, ledger, node.db on disk."""
    found = in_fresh_process(gate)
    yield at_most(
        "gate_over_masking", found["over"], f"of masking alone, {VALUES} values, {MEMBERS} hospitals", 0.2
    )
    yield at_most("gate_checks", found["checks_s"], f"s: bounds, policy and ledger of {VALUES} values", 0.01)
    yield Figure(
        "gate_over_masking_few", found["over_few"], f"of masking alone, {FEW_MEMBERS} hospitals", None
    )
    yield Figure("gate_kept", found["kept_s"], f"s: {8 * VALUES >> 20} MiB into node.db on disk", None)


def gate() -> dict[str, float]:
    """Return what the gate takes beside masks and lane alone, in turn and the best of each."""
    with tempfile.TemporaryDirectory() as folder:
        many, few = _Gate(MEMBERS, Path(folder, "many.db")), _Gate(FEW_MEMBERS, Path(folder, "few.db"))
        return {
            "over": many.whole / many.masking - 1,
            "over_few": few.whole / few.masking - 1,
            "checks_s": many.checks,
            "kept_s": many.kept,
        }


class _Gate:
    """Times a release of ``VALUES`` values among so many hospitals: in memory, on disk, and masks alone."""

    def __init__(self, members: int, file: Path) -> None:
        self._names = tuple(f"h{i:03}" for i in range(members))
        self._secrets = {name: name.encode().ljust(32) for name in self._names[1:]}
        self._study = study_of({"kind": "summary"})
        self._layout = Layout((sums("gradient", 1.0, VALUES),), 1 << 20)
        chance = np.random.default_rng(7)
        self._vector: Ints = chance.integers(-(2**40), 2**40, VALUES)
        self._index = 0
        memory, disk = NodeStore(), NodeStore(file)
        best = dict.fromkeys(("masking", "memory", "disk"), float("inf"))
        for _ in range(RUNS):
            for name, run in (
                ("masking", self._masked),
                ("memory", lambda: self._released(memory)),
                ("disk", lambda: self._released(disk)),
            ):
                begun = time.perf_counter()
                run()
                best[name] = min(best[name], time.perf_counter() - begun)
        self.masking, self.whole = best["masking"], best["memory"]
        self.checks, self.kept = best["memory"] - best["masking"], best["disk"] - best["memory"]

    def _masked(self) -> None:
        context = bytes(32)
        seal(self._vector, lane(self._vector, bytes(32), context), self._names[1], self._others, context)

    @property
    def _others(self) -> dict[str, bytes]:
        return {name: name.encode().ljust(32) for name in self._names if name != self._names[1]}

    def _released(self, store: NodeStore) -> None:
        self._index += 1
        request = Request(
            *(self._study, self._names[1], self._names, b"binding", b"epoch", "summary", self._index),
            *("moments", bytes(32), 1000, Masks(self._others, bytes(32)), None, 100_000),
        )
        policy = Policy(min_hospitals=2)
        release(Contribution(1000, {"gradient": self._vector}), self._layout, request, policy, store)


def review_figures() -> Iterator[Figure]:
    """Yield the seconds of a review over 1,000,000 rows, of which three earlier studies use some."""
    found = in_fresh_process(reviewing)
    yield at_most(
        "review", found["review_s"], f"s, {ROWS} rows x {NUMBERS + CATEGORIES + 1} columns of Parquet", 5
    )
    yield Figure("review_reading", found["reading"], "of that, reading and telling rows apart", None)


def reviewing() -> dict[str, float]:
    """Review a study of a large table; return the seconds, and which share of them reading takes."""
    from wardround_client.approval import approve, look_at

    with tempfile.TemporaryDirectory() as folder:
        table = Path(folder, "table.parquet")
        _table().to_parquet(table)
        home = make_home(Path(folder, "home"), "north", table)
        for number in range(3):
            approve(home, _large(f"earlier-{number}", 10 * number, number))
        study = _large("asked", 33, 9)
        begun = time.perf_counter()
        review(home, study)
        whole = time.perf_counter() - begun
        begun = time.perf_counter()
        look_at(home, study)
        return {"review_s": whole, "reading": (time.perf_counter() - begun) / whole}


def _table() -> pd.DataFrame:
    chance = np.random.default_rng(7)
    numbers = {f"x{i}": chance.normal(50, 10, ROWS).clip(0, 100).round(1) for i in range(NUMBERS)}
    categories = {f"c{i}": chance.integers(0, 4, ROWS).astype(str) for i in range(CATEGORIES)}
    return pd.DataFrame({**numbers, **categories, "y": chance.integers(0, 2, ROWS).astype(str)})


def _large(name: str, above: int, seed: int) -> Study:
    numbers = {f"x{i}": {"kind": "number", "unit": "1", "range": [0, 100]} for i in range(NUMBERS)}
    categories = {f"c{i}": {"kind": "category", "levels": ["0", "1", "2", "3"]} for i in range(CATEGORIES)}
    return parse_study(
        {
            "wardround": 1,
            "name": name,
            "variables": {**numbers, **categories, "y": {"kind": "category", "levels": ["0", "1"]}},
            "outcome": "y",
            "cohort": {"where": f"x0 > {above}"},
            "split": {"test": 0.3, "seed": seed},
            "analyses": [{"kind": "summary"}, {"kind": "logistic"}, {"kind": "forest"}],
        }
    )
