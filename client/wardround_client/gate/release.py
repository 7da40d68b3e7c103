"""release(Contribution) -> Sealed: bounds, policy, ledger charge, mask, store, audit, in this order."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np

from wardround_client.gate.policy import Policy
from wardround_client.store import Charge, NodeStore
from wardround_common.errors import Refused
from wardround_common.query import Contribution, Layout
from wardround_common.sealing.lane import lane, pad
from wardround_common.sealing.mask import seal
from wardround_common.study import Study
from wardround_common.typing import Ints


@dataclass(frozen=True, repr=False)
class Masks:
    """What hides a vector: the ``secrets`` shared with each other hospital of the analysis, by name.

    ``group`` is the secret of the epoch's members, by which they know a true sum.
    """

    secrets: Mapping[str, bytes]
    group: bytes

    def __repr__(self) -> str:
        return "Masks(...)"


@dataclass(frozen=True, repr=False)
class Bare:
    """That a vector is not hidden, as the study says `seal: none`; ``sign`` signs it for those it reaches."""

    sign: Callable[[bytes], bytes]

    def __repr__(self) -> str:
        return "Bare(...)"


@dataclass(frozen=True, repr=False)
class Request:
    """What a release is for."""

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
    cover: Masks | Bare

    def __repr__(self) -> str:
        return "Request(...)"


@dataclass(frozen=True, repr=False)
class Sealed:
    """A masked vector, the only form in which numbers may be sent. Made by ``release``, or kept from it.

    Bare, and signed, only of a study that says `seal: none` where the hospital's policy allows that.
    """

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
    if len(request.hospitals) < needed or len(others) + 1 != len(request.hospitals):
        raise Refused("min_hospitals", f"a sum needs {needed} hospitals")
    sealed = _covered(vector, others, request)
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


def _covered(vector: Ints, others: set[str], request: Request) -> bytes:
    cover, context = request.cover, request.context
    if isinstance(cover, Bare):
        if request.study.privacy.seal != "none":
            raise Refused("seal", "the study does not say that anything may leave unsealed")
        answer = vector.astype("<i8").tobytes()
        return answer + cover.sign(answer)
    if set(cover.secrets) != others:
        raise Refused("min_hospitals", "a mask is needed with each other hospital of the sum")
    check = lane(vector, cover.group, context)
    if request.hospital == request.hospitals[0]:
        check += pad(cover.group, context)
    return seal(vector, check, request.hospital, cover.secrets, context)


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
