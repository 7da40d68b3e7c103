"""release(Contribution) -> Sealed: bounds, policy, ledger charge, mask, store, audit, in this order."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from wardround_client.gate.policy import Policy
from wardround_client.store import Charge, NodeStore
from wardround_common.errors import Refused
from wardround_common.query import Contribution, Layout
from wardround_common.sealing.mask import add_masks
from wardround_common.study import Study
from wardround_common.typing import Ints


@dataclass(frozen=True, repr=False)
class Request:
    """What a release is for. ``secrets`` are shared with each other hospital of the analysis, by name."""

    study: Study
    hospital: str
    hospitals: tuple[str, ...]
    binding: bytes
    epoch: bytes
    analysis: str
    index: int
    kind: str
    context: bytes
    usable_rows: int
    secrets: Mapping[str, bytes]

    def __repr__(self) -> str:
        return "Request(...)"


@dataclass(frozen=True, repr=False)
class Sealed:
    """A masked vector, the only form in which numbers may be sent. Made by ``release``, or kept from it."""

    data: bytes

    def __repr__(self) -> str:
        return "Sealed(...)"


def release(
    contribution: Contribution, layout: Layout, request: Request, policy: Policy, store: NodeStore
) -> Sealed:
    """Let a contribution go, masked. Refused where a bound or the policy says no; nothing is stored then."""
    vector = _within_bounds(contribution, layout)
    policy.check(request.study)
    floor = max(policy.min_rows, request.study.privacy.min_rows)
    if request.usable_rows < floor:
        raise Refused("min_rows", f"analysis `{request.analysis}` has fewer than {floor} usable rows here")
    needed = max(policy.min_hospitals, request.study.privacy.min_hospitals)
    others = set(request.hospitals) - {request.hospital}
    if (
        len(request.hospitals) < needed
        or set(request.secrets) != others
        or len(others) + 1 != len(request.hospitals)
    ):
        raise Refused("min_hospitals", f"a sum needs {needed} hospitals")
    sealed = add_masks(vector, request.hospital, request.secrets, request.context).astype("<u8").tobytes()
    charge = Charge(
        request.binding,
        request.analysis,
        request.index,
        request.kind,
        len(vector),
        contribution.rows,
        request.hospitals,
    )
    store.keep(request.epoch, request.context, sealed, charge, request.study.name)
    return Sealed(sealed)


def _within_bounds(contribution: Contribution, layout: Layout) -> Ints:
    """Return the contribution as one vector, contributor counts behind. Refused beyond any bound."""
    if not 0 <= contribution.rows <= layout.rows_bound:
        raise Refused("rows_bound", "this hospital has more rows than the query's bound allows")
    if set(contribution.arrays) != {field.name for field in layout.fields}:
        raise Refused("layout", "an answer does not have the arrays of its query")
    parts, flags = [], []
    for field in layout.fields:
        array = contribution.arrays[field.name]
        if array.shape != field.shape or array.dtype != np.int64:
            raise Refused("layout", f"`{field.name}` has another shape than its query")
        limit = layout.limit(field, contribution.rows)
        if field.size and not bool(np.all((array <= limit) & (array >= -limit))):
            raise Refused("bounds", f"`{field.name}` exceeds its bound")
        parts.append(array.reshape(-1))
        if field.contributors:
            flags.append((array.reshape(-1) > 0).astype(np.int64))
    return np.concatenate([*parts, *flags])
