"""Flower's own strategies as the server step of federated averaging.

Where the hospitals' updates are opened as one weighted mean only, the strategy is handed that as the one
reply of a round; it gives what one reply per hospital gives, since those strategies depend on the replies by
their weighted mean alone. The robust ones are handed one reply per hospital (`privacy: {seal: none}`).

Hospitals run these too, to know what they are asked next, so a step has the same bits on every processor.
"""

from __future__ import annotations

import logging
import math
import threading
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, cast

import numpy as np
from flwr.app import Array, ArrayRecord, ConfigRecord, Message, MetricRecord, RecordDict
from flwr.serverapp import Grid
from flwr.serverapp.strategy import (
    FedAdam,
    FedAvg,
    FedAvgM,
    FedMedian,
    FedTrimmedAvg,
    FedYogi,
    Krum,
    MultiKrum,
)

from wardround_common.analysis import Reply, ServerStep
from wardround_common.typing import Floats

STRATEGIES: Mapping[str, type[FedAvg]] = {
    "FedAvg": FedAvg,
    "FedAvgM": FedAvgM,
    "FedAdam": FedAdam,
    "FedYogi": FedYogi,
    "FedMedian": FedMedian,
    "FedTrimmedAvg": FedTrimmedAvg,
    "Krum": Krum,
    "MultiKrum": MultiKrum,
}
_QUIET = threading.Lock()  # in a simulation several hospitals' threads come here at once


def flower(name: str, settings: Mapping[str, float]) -> ServerStep:
    """Return the step of a strategy by its name in ``flwr.serverapp.strategy``."""
    nobody: dict[str, Any] = {"min_train_nodes": 0, "min_evaluate_nodes": 0, "min_available_nodes": 0}
    strategy = STRATEGIES[name](**{**nobody, **settings})

    def step(number: int, current: Sequence[Floats], replies: Sequence[Reply]) -> list[Floats]:
        messages = [cast("Message", _Message(one)) for one in _on_one_grid(replies)]
        with _quietly():
            # Tells the strategy the round's parameters; there is nobody to send its messages to.
            strategy.configure_train(number, _record(current), ConfigRecord(), _NOBODY)
            following, _ = strategy.aggregate_train(_Number(number), messages)
        if following is None:
            raise RuntimeError(f"Flower's {name} returned no parameters")
        return [array.numpy() for array in following.values()]

    return step


def _record(arrays: Sequence[Floats]) -> ArrayRecord:
    return ArrayRecord({f"{i:04d}": Array(np.ascontiguousarray(array)) for i, array in enumerate(arrays)})


def _on_one_grid(replies: Sequence[Reply]) -> Sequence[Reply]:
    """Round several replies to a grid so fine and so coarse that any of them add up exactly.

    FedTrimmedAvg adds what `np.partition` leaves, in an order that is numpy's to choose.
    """
    if len(replies) == 1:
        return replies
    most = max(float(np.abs(array).max()) for one in replies for array in one.parameters)
    bits = 53 - np.frexp(most)[1] - (len(replies) - 1).bit_length()
    return [
        Reply(tuple(np.ldexp(np.rint(np.ldexp(array, bits)), -bits) for array in one.parameters), one.rows)
        for one in replies
    ]


class _Number(int):
    """A round's number. FedAdam raises its betas to the power of the next one."""

    def __add__(self, other: float) -> Any:
        return _Power(super().__add__(1)) if other == 1 else super().__add__(int(other))


class _Power(int):
    """An exponent to which numpy raises by multiplying: its own power differs between processors."""

    def __array_ufunc__(self, ufunc: Any, method: str, base: float, exponent: int) -> float:
        if ufunc is not np.power or method != "__call__" or exponent is not self:
            raise TypeError("a round's number is only ever an exponent")
        return math.prod([base] * exponent)


class _Message:
    """What a strategy reads of a reply. A real Message belongs to a run of Flower's, a replay to none."""

    def __init__(self, reply: Reply) -> None:
        metrics = MetricRecord({"num-examples": reply.rows})
        self.content = RecordDict({"arrays": _record(reply.parameters), "metrics": metrics})

    def has_error(self) -> bool:
        return False


class _Nobody:
    """A Grid without nodes, as far as a strategy asks."""

    def get_node_ids(self) -> Iterable[int]:
        return []


_NOBODY = cast("Grid", _Nobody())


@contextmanager
def _quietly() -> Iterator[None]:
    """Keep a strategy's progress lines, about sampled nodes that there are none of, out of the terminal."""
    logger = logging.getLogger("flwr")
    with _QUIET:
        before = logger.level
        logger.setLevel(logging.WARNING)
        try:
            yield
        finally:
            logger.setLevel(before)
