"""Programs: analyses and whole studies as generators that ask sum queries and are sent their sums.

Whoever drives a program decides where the sums come from: a federation, a transcript, a test. A program
has no other input, so the list of sums is its checkpoint.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

from wardround_common.query import Query, Shares, Sum

R = TypeVar("R")
S = TypeVar("S")

Opened = Sum | Shares  # shares of unsealed queries only
Program = Generator[tuple[Query[Any], ...], tuple[Opened, ...], R]


def ask(query: Query[S]) -> Program[S]:
    """Ask one query and return what its sum means."""
    (total,) = yield (query,)
    return query.read(total)  # type: ignore[arg-type]  # shares go to those that asked for them


def together(programs: Sequence[Program[Any]]) -> Program[list[Any]]:
    """Run programs side by side: each round asks the queries of all that are not done yet, in order."""
    results: list[Any] = [None] * len(programs)
    waiting: dict[int, tuple[Query[Any], ...]] = {}

    def advance(i: int, step: Callable[[], tuple[Query[Any], ...]]) -> None:
        try:
            waiting[i] = step()
        except StopIteration as stop:
            waiting.pop(i, None)
            results[i] = stop.value

    for i, program in enumerate(programs):
        advance(i, lambda program=program: next(program))  # type: ignore[misc]
    while waiting:
        asked = sorted(waiting.items())
        sums = yield tuple(query for _, queries in asked for query in queries)
        start = 0
        for i, queries in asked:
            mine = sums[start : start + len(queries)]
            start += len(queries)
            advance(i, lambda i=i, mine=mine: programs[i].send(mine))  # type: ignore[misc]
    return results


@dataclass(frozen=True)
class Asked:
    """A query with the analysis it belongs to and the public bound on all its rows."""

    analysis: str
    rows_bound: int
    query: Query[Any]


StudyProgram = Generator[tuple[Asked, ...], tuple[Opened, ...], R]


def under(analysis: str, rows_bound: int, program: Program[R]) -> StudyProgram[R]:
    """Mark every query of ``program`` with its analysis and row bound."""
    sums: tuple[Opened, ...] | None = None
    while True:
        try:
            queries = next(program) if sums is None else program.send(sums)
        except StopIteration as stop:
            value: R = stop.value
            return value
        sums = yield tuple(Asked(analysis, rows_bound, query) for query in queries)
