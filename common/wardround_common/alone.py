"""Runs a program over the rows of one table: no hospitals, no masks, only the program and its sums.

The sums are those that a federation of the same rows would open, so the result has the same bits. What a
study asks of a federation, such as ``min_hospitals``, has no meaning here and is not looked at.
"""

from __future__ import annotations

from typing import Any, TypeVar

from wardround_common.cohort import Cohort
from wardround_common.program import Program
from wardround_common.query import Frame, Query, Sum, open_sum
from wardround_common.sealing.fixed_point import power_of_two_above

R = TypeVar("R")


def alone(program: Program[R], cohort: Cohort) -> R:
    """Return the program's result over all rows of the cohort. Raises what the program raises."""
    frame = Frame(cohort.dictionary, power_of_two_above(cohort.rows))
    sums: tuple[Sum, ...] | None = None
    while True:
        try:
            queries = next(program) if sums is None else program.send(sums)
        except StopIteration as stop:
            value: R = stop.value
            return value
        sums = tuple(_sum(query, cohort, frame) for query in queries)


def _sum(query: Query[Any], cohort: Cohort, frame: Frame) -> Sum:
    layout = query.layout(frame)
    share = query.answer(cohort, layout)
    return open_sum(layout, 1, ("alone",), layout.vector(share))
