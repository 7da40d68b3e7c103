"""state(Judged) -> Statement: the only thing beside a Sealed that may leave, and only where policy says so.

A statement is a rounded fact about this hospital alone: how a model of the study does on its own held-out
rows, on at least 100 of them, to two decimals. It is off by default, and a study gets it of one model an
analysis only, so that nobody learns more by asking about many.
"""

from __future__ import annotations

from dataclasses import dataclass

from wardround_client.gate.policy import Policy
from wardround_client.store import NodeStore
from wardround_common.errors import Refused
from wardround_common.messages import Statement
from wardround_common.study import Study

LEAST_ROWS = 100
ROUNDED_TO = 10  # rows


@dataclass(frozen=True, repr=False)
class Judged:
    """How one of the study's models does on this hospital's held-out rows; private until stated."""

    binding: bytes
    analysis: str
    model_sha256: str
    without: int
    with_outcome: int
    auc: float

    def __repr__(self) -> str:
        return "Judged(...)"


def state(judged: Judged, study: Study, policy: Policy, store: NodeStore) -> Statement:
    """Let a model's figure on this hospital's rows go, rounded. Refused where policy or rows say no."""
    if "metrics" not in policy.statements:
        raise Refused("no_statement", "this hospital's policy allows no statement of metrics (`statements`)")
    floor = policy.floor("min_cell", study)
    rows = judged.without + judged.with_outcome
    if rows < LEAST_ROWS or min(judged.without, judged.with_outcome) < floor:
        raise Refused("no_statement", f"fewer than {LEAST_ROWS} held-out rows, or {floor} of an outcome")
    about = f"{judged.binding.hex()} {judged.analysis} "
    entry = ("state", study.name, about + judged.model_sha256)
    before = [one for one in store.entries() if one[0] == "state" and one[2].startswith(about)]
    if any(one != entry for one in before):
        raise Refused("no_statement", "a statement was made on another model of this analysis")
    if not before:
        store.audit(*entry)
    return Statement(judged.analysis, ROUNDED_TO * round(rows / ROUNDED_TO), round(judged.auc, 2))
