"""Programs that run side by side are each sent their own sums, in the order in which they asked."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from wardround_common.analyses.flow import FlowQuery
from wardround_common.program import Asked, Program, ask, together, under
from wardround_common.query import Sum


def query(name: str) -> FlowQuery:
    return FlowQuery((name,), (), ())


def echo(name: str, widths: list[int]) -> Program[list[int]]:
    """Ask so many queries a round and return the numbers of all sums that came."""
    seen: list[int] = []
    for round_, width in enumerate(widths):
        sums = yield tuple(query(f"{name}.{round_}.{i}") for i in range(width))
        seen += [total.epoch for total in sums]
    return seen


def run(program: Any) -> tuple[Any, list[tuple[str, ...]]]:
    """Answer the k-th query of all with the sum number k; return the result and what each round asked."""
    rounds: list[tuple[str, ...]] = []
    count, sums = 0, None
    while True:
        try:
            asked = next(program) if sums is None else program.send(sums)
        except StopIteration as stop:
            return stop.value, rounds
        rounds.append(tuple(getattr(one, "query", one).variables[0] for one in asked))
        sums = tuple(Sum(count + i, (), {}, {}) for i in range(len(asked)))
        count += len(asked)


@given(st.lists(st.lists(st.integers(1, 3), max_size=4), max_size=5))
def test_each_program_is_sent_its_own_sums(widths: list[list[int]]) -> None:
    programs = [echo(str(i), one) for i, one in enumerate(widths)]
    results, rounds = run(together(programs))
    names = [name for asked in rounds for name in asked]
    expected = [
        [names.index(f"{i}.{r}.{k}") for r, width in enumerate(one) for k in range(width)]
        for i, one in enumerate(widths)
    ]
    assert results == expected
    assert len(rounds) == max(map(len, widths), default=0)
    for number, asked in enumerate(rounds):
        ready = [i for i, one in enumerate(widths) if number < len(one)]
        assert list(dict.fromkeys(name.partition(".")[0] for name in asked)) == list(map(str, ready))


def test_programs_within_programs_are_merged_into_one_round() -> None:
    inner = [together([echo("a", [1, 1]), echo("b", [1])]), echo("c", [2])]
    results, rounds = run(together(inner))
    assert rounds == [("a.0.0", "b.0.0", "c.0.0", "c.0.1"), ("a.1.0",)]
    assert results == [[[0, 4], [1]], [2, 3]]


def test_a_program_that_asks_nothing_is_done_at_once() -> None:
    assert run(together([echo("a", []), echo("b", [1])])) == ([[], [0]], [("b.0.0",)])
    assert run(together([])) == ([], [])


def test_under_marks_every_query_and_passes_sums_and_result_through() -> None:
    program = under("cox", 64, echo("a", [2, 1]))
    asked = next(program)
    assert asked == (Asked("cox", 64, query("a.0.0")), Asked("cox", 64, query("a.0.1")))
    assert run(under("cox", 64, echo("a", [2, 1])))[0] == [0, 1, 2]


def test_ask_returns_what_the_query_reads_from_its_sum() -> None:
    program = ask(query("a"))
    (asked,) = next(program)
    with pytest.raises(KeyError, match="rows"):  # the query's own reading of a sum without arrays
        program.send((Sum(1, (), {}, {}),))
    assert asked == query("a")


def test_an_error_in_one_program_ends_all() -> None:
    def failing() -> Program[None]:
        yield (query("x"),)
        raise ValueError("no estimate")

    with pytest.raises(ValueError, match="no estimate"):
        run(together([echo("a", [1, 1]), failing()]))
