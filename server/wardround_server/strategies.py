"""Flower's own strategies as the server step of federated averaging.

The hospitals' updates are opened as one weighted mean only, so the strategy is handed that as the one
reply of a round; it gives what one reply per hospital gives, since the strategies used here depend on the
replies by their weighted mean alone.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, cast

import numpy as np
from flwr.app import Array, ArrayRecord, ConfigRecord, Message, MetricRecord, RecordDict
from flwr.serverapp import Grid
from flwr.serverapp.strategy import FedAdam, FedAvg, FedAvgM, FedYogi

from wardround_common.analysis import ServerStep
from wardround_common.typing import Floats

STRATEGIES: Mapping[str, type[FedAvg]] = {
    "FedAvg": FedAvg,
    "FedAvgM": FedAvgM,
    "FedAdam": FedAdam,
    "FedYogi": FedYogi,
}


def flower(name: str, settings: Mapping[str, float]) -> ServerStep:
    """Return the step of a strategy by its name in ``flwr.serverapp.strategy``."""
    nobody: dict[str, Any] = {"min_train_nodes": 0, "min_evaluate_nodes": 0, "min_available_nodes": 0}
    strategy = STRATEGIES[name](**{**nobody, **settings})

    def step(number: int, current: Sequence[Floats], mean: Sequence[Floats]) -> list[Floats]:
        with _quietly():
            # Tells the strategy the round's parameters; there is nobody to send its messages to.
            strategy.configure_train(number, _record(current), ConfigRecord(), _NOBODY)
            following, _ = strategy.aggregate_train(number, [cast("Message", _Reply(mean))])
        if following is None:
            raise RuntimeError(f"Flower's {name} returned no parameters")
        return [array.numpy() for array in following.values()]

    return step


def _record(arrays: Sequence[Floats]) -> ArrayRecord:
    return ArrayRecord({f"{i:04d}": Array(np.ascontiguousarray(array)) for i, array in enumerate(arrays)})


class _Reply:
    """What a strategy reads of a reply. A real Message belongs to a run of Flower's, a replay to none."""

    def __init__(self, mean: Sequence[Floats]) -> None:
        self.content = RecordDict({"arrays": _record(mean), "metrics": MetricRecord({"num-examples": 1})})

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
    before = logger.level
    logger.setLevel(logging.WARNING)
    try:
        yield
    finally:
        logger.setLevel(before)
