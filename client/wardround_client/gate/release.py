"""release(Contribution) -> Sealed: bounds, policy, officer, mask, ledger charge, store, audit, in this order.

The policy is held against the study once more, so that a study, a policy or a table that changed since the
approval is refused here at the latest. What a person has to release (`hold`) waits before it is masked.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np

from wardround_client import rowsets
from wardround_client.gate.policy import Policy
from wardround_client.ledger import Charge
from wardround_client.store import RELEASED, WAITS, NodeStore
from wardround_common.errors import Refused
from wardround_common.program import Asked
from wardround_common.query import Contribution, Layout
from wardround_common.sealing.lane import lane, pad
from wardround_common.sealing.mask import seal
from wardround_common.study import Study
from wardround_common.typing import Ints
from wardround_common.wire import encode


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
    """What a release is for.

    ``asked``: the query; ``usable_rows``: of its analysis at this hospital, and ``all_rows`` over
    all hospitals, None while that is not known; ``cohort``: keyed digest of the pinned rows, None in a
    simulation, where nobody approves.
    """

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
    asked: Asked | None = None
    all_rows: int | None = None
    cohort: bytes | None = None

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
    """Let a contribution go, masked. Refused where a bound, the policy or a person says no.

    Nothing is stored then, but that a release waits for a person (`held`).
    """
    vector, study = within_bounds(contribution, layout), request.study.digest
    _check_policy(request, study, policy, store)
    if policy.hold:
        _check_held(request, store)
    others = set(request.hospitals) - {request.hospital}
    sealed = _covered(vector, others, request)
    charge = Charge(
        request.binding,
        request.analysis,
        request.index,
        request.kind,
        len(vector),
        contribution.rows,
        request.hospitals,
        study,
        fields_of(layout),
    )
    store.keep(request.epoch, request.context, sealed, charge, request.study.name)
    return Sealed(sealed)


def fields_of(layout: Layout) -> tuple[str, ...]:
    """Return a layout's fields as they are shown: `name[shape]`."""
    return tuple(f"{field.name}[{', '.join(map(str, field.shape))}]" for field in layout.fields)


def _check_policy(request: Request, digest: bytes, policy: Policy, store: NodeStore) -> None:
    study = request.study
    policy.check(study)
    floor = policy.floor("min_rows", study)
    if request.usable_rows < floor:
        raise Refused("min_rows", f"analysis `{request.analysis}` has fewer than {floor} usable rows here")
    needed = policy.floor("min_hospitals", study)
    if len(request.hospitals) < needed or len(set(request.hospitals)) < len(request.hospitals):
        raise Refused("min_hospitals", f"a sum needs {needed} hospitals")
    if request.hospital not in request.hospitals:
        raise Refused("min_hospitals", "a sum without this hospital")
    if request.all_rows is not None:
        policy.check_share(request.usable_rows, request.all_rows)
    policy.check_queries(store, digest)
    if request.cohort is not None and not rowsets.is_cleared(store, digest, request.cohort):
        raise Refused("differencing", "the rows of this study were not compared with those of others")


def _check_held(request: Request, store: NodeStore) -> None:
    asked = encode(request.asked)
    said = store.hold(request.study, request.context, request.analysis, request.index, asked)
    if said == WAITS:
        raise Refused("held", f"`{request.analysis}` {request.index} waits for this hospital's officer")
    if said != RELEASED:
        raise Refused("declined", f"this hospital's officer declined `{request.analysis}` {request.index}")


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


def within_bounds(contribution: Contribution, layout: Layout) -> Ints:
    """Return the contribution as one vector, contributor counts behind. Refused beyond any bound."""
    if not 0 <= contribution.rows <= layout.rows_bound:
        raise Refused("rows_bound", "this hospital has more rows than the query's bound allows")
    if set(contribution.arrays) != {field.name for field in layout.fields}:
        raise Refused("layout", "an answer does not have the arrays of its query")
    for field in layout.fields:
        array = contribution.arrays[field.name]
        if array.shape != field.shape or array.dtype != np.int64:
            raise Refused("layout", f"`{field.name}` has another shape than its query")
        if not layout.is_within(field, array, contribution.rows):
            raise Refused("bounds", f"`{field.name}` exceeds its bound")
    return layout.vector(contribution)
