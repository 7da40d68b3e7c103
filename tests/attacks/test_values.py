"""Numbers that are none, or too large: in a hospital's table, in a query, at and beyond the bounds.

| attack or mishap | what comes of it |
|---|---|
| NaN in a table | a missing value |
| infinite or huge values in a table | refused: nothing leaves, no value is named |
| NaN or infinity in a query | refused before it is read as one |
| a contribution, or rows, one beyond the bound | the gate refuses |
| honest sums at the bound | exact, far from wrapping |
"""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest

from tests.attacks.coordinator import (
    MOMENTS,
    NAMES,
    STUDY,
    SUMMARY,
    TRUSTED,
    Coordinator,
    asked_of,
    question,
    raw,
)
from tests.support import layout_of, vector_of
from wardround_client.gate import Masks, Policy, Request, release
from wardround_client.store import NodeStore
from wardround_common import messages as say
from wardround_common.errors import Refused
from wardround_common.query import Contribution
from wardround_common.sealing.mask import query_context, unseal
from wardround_common.wire import encode

# --- what stands in its table ---


def put(values: object, name: str = "age", at: str = "h03") -> Coordinator:
    """Return a study that hospitals with these values in a table have begun."""
    coordinator = Coordinator(TRUSTED)
    coordinator.cohorts[at].columns[name][:3] = values
    return coordinator.ready().told_all()


def test_not_a_number_is_a_missing_value_and_leaves_no_trace() -> None:
    asked = [SUMMARY, MOMENTS, asked_of("logistic.newton"), asked_of("squares")]
    coordinator = Coordinator(TRUSTED)
    cohort = coordinator.cohorts["h03"]
    columns = {**cohort.columns, "age": cohort.columns["age"].copy()}
    columns["age"][:3] = np.nan
    coordinator.cohorts["h03"] = dataclasses.replace(cohort, columns=columns)
    coordinator.again("h03")
    coordinator.ready().told_all()
    for index, one in enumerate(asked):
        vector, _ = unseal(list(coordinator.put(one, index).values()))
        layout = layout_of(STUDY, one)
        answers = [one.query.answer(cohort, layout) for cohort in coordinator.cohorts.values()]
        assert np.array_equal(vector, sum(vector_of(answer, layout) for answer in answers))
    moments, _ = unseal(list(coordinator.put(MOMENTS, 1).values()))
    layout = layout_of(STUDY, MOMENTS)
    at = [field.name for field in layout.fields].index("age n")
    assert int(moments[sum(field.size for field in layout.fields[:at])]) == 597


@pytest.mark.filterwarnings("ignore::RuntimeWarning")
@pytest.mark.parametrize("value", [np.inf, -np.inf, 1e300, -1e300, 1e6, 100.0001])
def test_a_value_beyond_its_declared_range_does_not_leave(value: float) -> None:
    coordinator = put(value)
    before = coordinator.released
    for index, asked in enumerate([SUMMARY, MOMENTS, asked_of("squares"), asked_of("logistic.newton")]):
        reply = coordinator.reply("h03", "ask", coordinator.step(question(asked, index)))
        if asked.query.kind in ("summary", "moments") or abs(value) > 1e5:
            assert reply == say.Refusal("protocol"), asked.query.kind
    if abs(value) > 1e5:
        assert coordinator.released == before
    assert not any("100" in entry[2] for entry in coordinator.stores["h03"].entries() if entry[0] == "refuse")


def test_not_a_number_in_a_query_is_refused() -> None:
    coordinator = Coordinator(TRUSTED).ready().told_all()
    newton = asked_of("logistic.newton")
    beta = newton.query.model.beta.copy()
    beta[1] = 12345.678
    body = encode(
        dataclasses.replace(
            newton,
            query=dataclasses.replace(newton.query, model=dataclasses.replace(newton.query.model, beta=beta)),
        )
    )
    for number in (np.nan, np.inf, -np.inf):
        garbled = body.replace(np.float64(12345.678).tobytes(), np.float64(number).tobytes())
        assert garbled != body
        for name in NAMES:
            sent = coordinator.step(raw(newton, garbled, 0))
            assert coordinator.reply(name, "ask", sent) == say.Refusal("protocol")
    assert set(coordinator.released.values()) == {0}


# --- bounds ---


def at_the_bound(rows: int, sign: int) -> Contribution:
    layout = layout_of(STUDY, dataclasses.replace(MOMENTS, rows_bound=600))
    return Contribution(rows, {field.name: sign * layout.limit(field, rows) for field in layout.fields})


def sealed_alone(found: Contribution, name: str, secrets: dict[str, bytes]) -> bytes:
    layout = layout_of(STUDY, dataclasses.replace(MOMENTS, rows_bound=600))
    context = query_context(bytes(32), bytes(32), "logistic", 0, bytes(32))
    masks = Masks(secrets, bytes(32))
    asked = Request(STUDY, name, NAMES, b"b", b"e", "logistic", 0, "moments", context, 100, masks)
    return release(found, layout, asked, Policy.of(STUDY), NodeStore()).data


def pairs(name: str) -> dict[str, bytes]:
    return {other: "".join(sorted((name, other))).encode().ljust(32) for other in NAMES if other != name}


@pytest.mark.parametrize("sign", [1, -1])
def test_an_honest_sum_at_the_bound_does_not_wrap(sign: int) -> None:
    rows = dict(zip(NAMES, (11, 60, 40, 489), strict=True))
    sealed = [sealed_alone(at_the_bound(n, sign), name, pairs(name)) for name, n in rows.items()]
    vector, lanes = unseal(sealed)
    exact = [
        sum(int(np.asarray(at_the_bound(n, sign).arrays[field.name]).reshape(-1)[i]) for n in rows.values())
        for field in layout_of(STUDY, MOMENTS).fields
        for i in range(field.size)
    ]
    assert vector.tolist()[: len(exact)] == exact
    assert max(map(abs, exact)) < 2**62
    assert max(map(abs, exact)) > 2**57, "near the bound"
    assert isinstance(lanes, int)


def test_a_contribution_one_beyond_the_bound_does_not_leave() -> None:
    found = at_the_bound(489, 1)
    for name, array in found.arrays.items():
        for off in (1, 2**40):
            over = Contribution(489, {**found.arrays, name: array + off})
            with pytest.raises(Refused) as refusal:
                sealed_alone(over, "h03", pairs("h03"))
            assert refusal.value.code == "bounds"
    with pytest.raises(Refused) as refusal:
        sealed_alone(Contribution(601, found.arrays), "h03", pairs("h03"))
    assert refusal.value.code == "rows_bound"
