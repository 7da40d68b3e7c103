"""Fitted models as arrays: what an evaluation query carries, and what a study hands over."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np

from wardround_common.cohort import Block
from wardround_common.design import Design
from wardround_common.elementary import logistic
from wardround_common.typing import Floats
from wardround_common.wire import encode


@dataclass(frozen=True)
class LogisticModel:
    """P(outcome) = 1 / (1 + exp(-(beta . columns))), ``beta`` over the design's centred columns."""

    kind: ClassVar[str] = "logistic"
    design: Design
    beta: Floats  # (1 + terms,), intercept first

    @property
    def predictor_bound(self) -> float:
        """The most that |linear predictor| can be for any row within the declared ranges."""
        return max(float(np.cumsum(np.abs(self.beta))[-1]), 2.0**-20)

    def linear_predictor(self, block: Block) -> Floats:
        """Return beta . columns, added column by column so that a row's bits depend on the row alone."""
        return linear_predictor(self.design.columns(block), self.beta)

    def probability(self, block: Block) -> Floats:
        """Return P(outcome = second level); shape (rows,)."""
        return logistic(self.linear_predictor(block))

    @property
    def sha256(self) -> str:
        """Digest of the canonical encoding."""
        return hashlib.sha256(encode(self)).hexdigest()

    def described(self) -> dict[str, Any]:
        """Return JSON; the predictor is intercept + sum of coefficient x (value - centre) x scale."""
        d = self.design
        return {
            "kind": self.kind,
            "intercept": float(self.beta[0]),
            "terms": [
                {"name": t.name, "coefficient": b, "centre": c, "scale": s}
                for t, b, c, s in zip(
                    d.terms, self.beta[1:].tolist(), d.centres.tolist(), d.scales.tolist(), strict=True
                )
            ],
            "missing_values": dict(zip(d.fill_names, d.fill_values.tolist(), strict=True)),
        }


def linear_predictor(columns: Floats, beta: Floats) -> Floats:
    """Return sum_j beta[j] x columns[j]; ``columns`` (p, rows). Not BLAS, whose bits depend on neighbours."""
    total: Floats = columns[0] * beta[0]
    work = np.empty_like(total)
    for column, b in zip(columns[1:], beta[1:], strict=True):
        np.multiply(column, b, out=work)
        total += work
    return total
