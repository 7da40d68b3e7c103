"""Cohort flow: exact counts by reason, asked before anything else.

This is step 0 of every study. Its row counts bound all later sums, decide whether enough rows and
hospitals are there, and become the report's flow chart (STROBE item 13, TRIPOD+AI item 20a).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np

from wardround_common.analysis import SmallCells, Usable
from wardround_common.cohort import Cohort
from wardround_common.query import Contribution, Field, Frame, Layout, Sum, counts
from wardround_common.typing import Ints

LABEL = "flow"
REASONS = ("observed", "empty", "coded_missing", "out_of_range")


@dataclass(frozen=True)
class Flow:
    """Counts over all hospitals. ``hospitals[name]``: in how many of them a variable is observed at all."""

    read: int
    not_in_cohort: int
    out_of_range: int
    rows: int
    variables: Mapping[str, tuple[int, int, int, int]]
    hospitals: Mapping[str, int]
    usable: Mapping[str, Usable]

    def published(self, small: SmallCells) -> dict[str, Any]:
        """Return the flow chart's boxes; a lone small exclusion takes a neighbour, or the start, with it."""
        excluded = [self.not_in_cohort, self.out_of_range]
        shown = small.counts(excluded)
        lone = shown.count(None) == 1
        return {
            "read": None if lone else self.read,
            "excluded": {"not_in_cohort": shown[0], "out_of_range": shown[1]},
            "rows": self.rows,
            "variables": {
                name: {
                    **dict(zip(REASONS, small.counts(found), strict=True)),
                    "hospitals": self.hospitals[name],
                }
                for name, found in self.variables.items()
            },
        }


@dataclass(frozen=True)
class FlowQuery:
    """Counts of rows by exclusion, of cells by variable and reason, and of usable rows by analysis."""

    kind: ClassVar[str] = "flow"
    variables: tuple[str, ...]
    labels: tuple[str, ...]
    needed: tuple[tuple[str, ...], ...]

    def layout(self, frame: Frame) -> Layout:
        """``rows`` (4,), ``cells`` (variables, 4), ``usable`` (analyses, 3), ``observed`` (variables,)."""
        fields: tuple[Field, ...] = (
            counts("rows", 4),
            counts("cells", len(self.variables), 4),
            counts("usable", max(len(self.labels), 1), 3),
            counts("observed", len(self.variables), contributors=True),
        )
        return Layout(fields, frame.rows_bound)

    def answer(self, cohort: Cohort, layout: Layout) -> Contribution:
        """Counts of one hospital. A row of the table adds at most 1 to each element."""
        flow = cohort.flow
        cells = np.array([flow.variables[name] for name in self.variables], np.int64)
        usable = np.zeros((max(len(self.labels), 1), 3), np.int64)
        for i, needed in enumerate(self.needed):
            usable[i] = _usable(cohort, needed)
        arrays: dict[str, Ints] = {
            "rows": np.array([flow.read, flow.not_in_cohort, flow.out_of_range, cohort.rows], np.int64),
            "cells": cells,
            "usable": usable,
            "observed": cells[:, 0].copy(),
        }
        return Contribution(flow.read, arrays)

    def read(self, total: Sum) -> Flow:
        """Return the counts by name."""
        read, outside, ranged, rows = map(int, total.arrays["rows"])
        cells, hospitals = total.arrays["cells"], total.contributors["observed"]
        usable = {label: Usable(*map(int, total.arrays["usable"][i])) for i, label in enumerate(self.labels)}
        return Flow(
            read,
            outside,
            ranged,
            rows,
            {name: (a, b, c, d) for name, (a, b, c, d) in zip(self.variables, cells.tolist(), strict=True)},
            dict(zip(self.variables, hospitals.tolist(), strict=True)),
            usable,
        )


def _usable(cohort: Cohort, needed: tuple[str, ...]) -> tuple[int, int, int]:
    train = cohort.count("train", needed)
    return train, cohort.count("test", needed), cohort.count("train", ()) - train


def usable_rows(cohort: Cohort, needed: tuple[str, ...]) -> int:
    """Return how many rows of one hospital an analysis can use, training and test together."""
    train, test, _ = _usable(cohort, needed)
    return train + test
