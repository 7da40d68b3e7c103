"""Epochs: what an honest one is, who signed it, and which set may follow which."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace
from itertools import combinations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.properties.truth import told_of
from wardround_common.errors import ProtocolError, Refused
from wardround_common.sealing.epoch import (
    LEAVES,
    AuditHead,
    Epoch,
    Membership,
    Opening,
    audits_digest,
    sign_epoch,
)
from wardround_common.sealing.identity import Identity
from wardround_common.sealing.leaving import Group, check_leaving, close, exposed
from wardround_common.sealing.mask import MaskingKey
from wardround_common.sealing.roster import Roster, enter

NAMES = ("a", "b", "c", "d", "e")
IDENTITIES = {name: Identity.from_bytes(bytes([i + 1] * 32)) for i, name in enumerate(NAMES)}
STUDY = bytes([7] * 32)
ROSTER = Roster(
    STUDY,
    tuple(
        enter(IDENTITIES[name], STUDY, name, MaskingKey.from_bytes(bytes([i + 1] * 32)).public)
        for i, name in enumerate(NAMES)
    ),
)
LABELS = ("flow", "logistic")
HEAD = AuditHead(5, bytes([3] * 32))


def epoch(hospitals: tuple[str, ...] = NAMES, **changes: object) -> Epoch:
    made = Epoch(
        *(ROSTER.digest, 1, hospitals, tuple(Membership(label, ()) for label in LABELS)),
        *(b"", 0, bytes(32), audits_digest((HEAD.packed(),) * len(hospitals))),
    )
    return dataclasses.replace(made, **changes)  # type: ignore[arg-type]


def opening(of: Epoch, leave: str = "allow") -> Opening:
    packed = HEAD.packed()
    signed = tuple(sign_epoch(IDENTITIES[name], of, leave, packed) for name in of.hospitals)
    return Opening(signed, (leave,) * len(signed), (packed,) * len(signed))


# --- audit heads ---


@given(st.integers(0, 2**63 - 1), st.binary(min_size=32, max_size=32))
def test_an_audit_head_survives_being_packed(count: int, head: bytes) -> None:
    packed = AuditHead(count, head).packed()
    assert len(packed) == 40
    assert AuditHead.of(packed) == AuditHead(count, head)


@pytest.mark.parametrize("size", [0, 8, 39, 41])
def test_an_audit_head_of_another_length_is_refused(size: int) -> None:
    with pytest.raises(ProtocolError, match="audit head has the wrong length"):
        AuditHead.of(bytes(size))


@pytest.mark.parametrize("count", [1 << 63, (1 << 64) - 1])
def test_an_audit_log_longer_than_there_can_be_is_refused(count: int) -> None:
    with pytest.raises(ProtocolError, match="more entries than there can be"):
        AuditHead.of(count.to_bytes(8, "little") + bytes(32))


def test_other_heads_or_the_same_in_another_order_have_another_digest() -> None:
    one, other = HEAD.packed(), AuditHead(6, bytes(32)).packed()
    lists = [(), (one,), (one, one), (one, other), (other, one), (one + other,), (one, other[:39])]
    assert len({audits_digest(heads) for heads in lists}) == len(lists)


# --- the epoch itself ---


def test_an_honest_epoch_is_taken() -> None:
    epoch().verify(ROSTER, LABELS, 3)
    epoch(("a", "c", "e"), number=9, previous=bytes(32), steps=4).verify(ROSTER, LABELS, 3)
    some = (Membership("flow", ()), Membership("logistic", ("b", "d")))
    epoch(analyses=some).verify(ROSTER, LABELS, 3)


@pytest.mark.parametrize(
    ("changes", "match"),
    [
        ({"binding": bytes(32)}, "another study or roster"),
        ({"number": 0}, "impossible"),
        ({"number": -1}, "impossible"),
        ({"number": (1 << 62) + 1}, "impossible"),
        ({"steps": -1}, "impossible"),
        ({"head": b""}, "impossible"),
        ({"head": bytes(31)}, "impossible"),
        ({"previous": bytes(31)}, "impossible"),
        ({"analyses": ()}, "other analyses"),
        ({"analyses": (Membership("flow", ()),)}, "other analyses"),
        ({"analyses": (Membership("logistic", ()), Membership("flow", ()))}, "other analyses"),
        ({"analyses": (*epoch().analyses, Membership("summary", ()))}, "other analyses"),
        ({"analyses": (*epoch().analyses, epoch().analyses[1])}, "other analyses"),
        ({"hospitals": ("b", "a", "c", "d", "e")}, "sorted subset"),
        ({"hospitals": ("a", "a", "b", "c", "d")}, "sorted subset"),
        ({"hospitals": ("a", "b", "c", "d", "f")}, "sorted subset"),
        ({"analyses": (Membership("flow", ()), Membership("logistic", ("d", "b")))}, "sorted subset"),
        ({"analyses": (Membership("flow", ()), Membership("logistic", ("b", "b")))}, "sorted subset"),
        ({"analyses": (Membership("flow", ()), Membership("logistic", ("f",)))}, "sorted subset"),
        ({"analyses": (Membership("flow", ()), Membership("logistic", ("a", "b", "c")))}, "min_hospitals"),
        ({"hospitals": ("a", "b")}, "more than half"),
        ({"audits": b""}, "impossible"),
        ({"audits": bytes(31)}, "impossible"),
        ({"audits": bytes(40)}, "impossible"),
    ],
)
def test_an_epoch_that_no_honest_coordinator_proposes_is_refused(
    changes: dict[str, object], match: str
) -> None:
    with pytest.raises(ProtocolError, match=match):
        epoch(**changes).verify(ROSTER, LABELS, 3)


def test_an_epoch_that_abstains_a_hospital_which_is_not_in_it_is_refused() -> None:
    some = (Membership("flow", ()), Membership("logistic", ("e",)))
    with pytest.raises(ProtocolError, match="sorted subset"):
        epoch(("a", "b", "c", "d"), analyses=some).verify(ROSTER, LABELS, 3)


@given(st.integers(2, 5))
def test_every_analysis_of_an_epoch_needs_min_hospitals_and_the_epoch_more_than_half(floor: int) -> None:
    for size in range(1, 6):
        few = epoch(NAMES[:size])
        if size < floor or size < 3:  # of five
            why = "fewer hospitals than min_hospitals" if size >= 3 else "more than half of the roster"
            with pytest.raises(ProtocolError, match=why):
                few.verify(ROSTER, LABELS, floor)
        else:
            few.verify(ROSTER, LABELS, floor)


def test_an_epoch_knows_who_computes_what() -> None:
    one = epoch(("a", "b", "c", "e"), analyses=(Membership("flow", ()), Membership("logistic", ("b",))))
    assert one.leader == "a"
    assert one.of("flow") == ("a", "b", "c", "e")
    assert one.of("logistic") == ("a", "c", "e")
    with pytest.raises(ProtocolError, match="does not name"):
        one.of("summary")


def test_whatever_changes_in_an_epoch_changes_its_digest() -> None:
    others = [
        epoch(binding=bytes(32)),
        epoch(number=2),
        epoch(NAMES[:4]),
        epoch(analyses=(Membership("flow", ()), Membership("logistic", ("a",)))),
        epoch(previous=bytes(32)),
        epoch(steps=1),
        epoch(head=bytes([1] * 32)),
        epoch(audits=audits_digest((AuditHead(6, bytes(32)).packed(),) * 5)),
    ]
    assert len({one.digest for one in (epoch(), *others)}) == 9


def test_only_other_hospitals_are_a_change_for_the_program() -> None:
    assert epoch().together() == epoch(number=2, previous=bytes(32), steps=3).together()
    assert epoch().together() != epoch(NAMES[:4]).together()
    other = (Membership("flow", ()), Membership("logistic", ("a",)))
    assert epoch().together() != epoch(analyses=other).together()


# --- its opening ---


@pytest.mark.parametrize("leave", LEAVES)
def test_an_epoch_that_all_signed_opens(leave: str) -> None:
    opening(epoch(), leave).verify(epoch(), ROSTER)


def changed(of: Opening, field: str, at: int, value: object) -> Opening:
    values = list(getattr(of, field))
    values[at] = value
    return dataclasses.replace(of, **{field: tuple(values)})


LATER = AuditHead(6, bytes(32)).packed()
FORGERIES: dict[str, Callable[[Opening], Opening]] = {
    "another's signature": lambda one: changed(one, "signatures", 1, one.signatures[0]),
    "two change places": lambda one: dataclasses.replace(
        one, signatures=(one.signatures[1], one.signatures[0], *one.signatures[2:])
    ),
    "no signature": lambda one: changed(one, "signatures", 4, b""),
    "a changed bit": lambda one: changed(
        one, "signatures", 2, one.signatures[2][:-1] + bytes([one.signatures[2][-1] ^ 1])
    ),
    "other terms": lambda one: changed(one, "leaves", 3, "never"),
    "terms that there are not": lambda one: changed(one, "leaves", 3, "always"),
    "another audit head": lambda one: changed(one, "audits", 0, LATER),
    "no audit head": lambda one: changed(one, "audits", 0, b""),
    "one too few": lambda one: Opening(one.signatures[:4], one.leaves[:4], one.audits[:4]),
    "one signature too few": lambda one: dataclasses.replace(one, signatures=one.signatures[:4]),
    "one of terms too few": lambda one: dataclasses.replace(one, leaves=one.leaves[:4]),
    "one head too many": lambda one: dataclasses.replace(one, audits=(*one.audits, LATER)),
    "of another epoch": lambda one: opening(epoch(number=2)),
}


@pytest.mark.parametrize("forge", FORGERIES.values(), ids=FORGERIES.keys())
def test_an_opening_that_not_all_signed_as_it_stands_is_refused(forge: Callable[[Opening], Opening]) -> None:
    with pytest.raises(ProtocolError):
        forge(opening(epoch())).verify(epoch(), ROSTER)


def test_an_opening_is_bound_to_every_part_of_its_epoch() -> None:
    signed = opening(epoch())
    for other in (epoch(number=2), epoch(steps=1), epoch(head=bytes([1] * 32)), epoch(previous=bytes(32))):
        with pytest.raises(ProtocolError):
            signed.verify(other, ROSTER)


# --- which set may follow which ---

EVERYONE = tuple(bytes([i]) * 32 for i in range(8))
SETS = st.sets(st.sampled_from(EVERYONE), min_size=1)
BINDINGS = st.sampled_from([b"one study", b"another"])


def with_terms(leaves: Mapping[bytes, str], study: bytes = b"one study") -> Group:
    """Return a group all of whom take part in every analysis."""
    return Group(study, leaves, (frozenset(leaves),))


def group(members: Iterable[bytes], leave: str = "allow", study: bytes = b"one study") -> Group:
    return with_terms(dict.fromkeys(members, leave), study)


@given(SETS, SETS, st.integers(2, 5), BINDINGS)
def test_close_is_how_many_two_sets_differ_by_whichever_comes_first(
    one: set[bytes], other: set[bytes], floor: int, study: bytes
) -> None:
    first, second = group(one), group(other, study=study)
    assert close(first, second, floor) == close(second, first, floor) == (0 < len(one ^ other) < floor)
    assert not close(first, first, floor)


@given(st.lists(SETS, min_size=1, max_size=6), st.integers(2, 5))
def test_exposed_is_whoever_some_combination_of_sums_tells_of(sets: list[set[bytes]], floor: int) -> None:
    found = exposed(sets, floor)
    assert len(found) == len(set(found))
    assert set(found) == told_of(sets, floor)


@st.composite
def sets_of_many_kinds(draw: st.DrawFn) -> tuple[list[set[bytes]], int]:
    """Return four sets, and a ``min_hospitals`` such that more hospitals differ than it and four."""
    floor = draw(st.integers(2, 4))
    ways = draw(st.permutations(range(1, 16)))[: draw(st.integers(floor + 5, 10))]
    ways += draw(st.lists(st.sampled_from(ways), max_size=2))  # some are always with another
    return [{bytes([i]) * 32 for i, way in enumerate(ways) if way >> j & 1} for j in range(4)], floor


@settings(max_examples=4 * settings().max_examples)
@given(sets_of_many_kinds())
def test_exposed_is_the_same_where_there_are_more_null_vectors_than_min_hospitals(
    drawn: tuple[list[set[bytes]], int],
) -> None:
    sets, floor = drawn
    columns = {tuple(who in one for one in sets) for who in set().union(*sets)}
    assert len(columns) - len(sets) > floor  # the null space has this dimension at least
    assert set(exposed(sets, floor)) == told_of(sets, floor)


@given(st.lists(SETS, min_size=1, max_size=4), st.data())
def test_the_order_of_sets_and_their_repetition_expose_nobody_else(
    sets: list[set[bytes]], data: st.DataObject
) -> None:
    again = data.draw(st.permutations([*sets, *sets[:2]]))
    assert set(exposed(again, 4)) == set(exposed(sets, 4))


def test_more_combinations_than_can_be_looked_at_are_refused() -> None:
    many = [bytes([i // 256, i % 256]) * 16 for i in range(300)]
    sets = [set(many) - set(many[4 * i : 4 * i + 4]) for i in range(60)]
    with pytest.raises(Refused, match="more sets of hospitals than can be compared") as refused:
        exposed(sets, 8)
    assert refused.value.code == "leave"


@given(SETS, SETS, st.integers(2, 5))
def test_two_sets_that_differ_by_min_hospitals_or_not_at_all_need_nobodys_consent(
    before: set[bytes], after: set[bytes], floor: int
) -> None:
    before |= set(EVERYONE[:floor])
    after |= set(EVERYONE[:floor])
    if 0 < len(before ^ after) < floor:
        with pytest.raises(Refused) as refused:
            check_leaving([group(before, "group")], group(after, "group"), floor, 99)
        assert refused.value.code == "leave"
    else:
        check_leaving([group(before, "group")], group(after, "group"), floor, 0)


@given(st.lists(SETS, min_size=1, max_size=4), SETS, st.integers(2, 4), st.data())
def test_all_of_whom_sums_tell_have_to_allow_it(
    before: list[set[bytes]], after: set[bytes], floor: int, data: st.DataObject
) -> None:
    terms = {who: data.draw(st.sampled_from(["allow", "group"])) for who in EVERYONE}

    def of(members: set[bytes]) -> Group:
        return with_terms({who: terms[who] for who in members})

    if any(terms[who] != "allow" for some in told_of([*before, after], floor) for who in some):
        with pytest.raises(Refused) as refused:
            check_leaving([of(one) for one in before], of(after), floor, 99)
        assert refused.value.code == "leave"
    else:
        check_leaving([of(one) for one in before], of(after), floor, 99)


def test_four_sets_of_which_no_two_are_close_do_not_tell_one_hospital() -> None:
    ten = [bytes([i]) * 32 for i in range(10)]
    # the fourth - the third - the second + the first is the tenth hospital alone
    chain = [ten[:3], ten[:6], [*ten[:3], *ten[6:9]], ten]
    groups = [group(one, "group") for one in chain]
    assert not any(close(one, other, 3) for one, other in combinations(groups, 2))
    for i in range(3):
        check_leaving(groups[:i], groups[i], 3, 0)
    with pytest.raises(Refused) as refused:
        check_leaving(groups[:3], groups[3], 3, 99)
    assert refused.value.code == "leave"
    assert exposed(chain, 3) == [frozenset(ten[9:])]


@given(SETS, SETS, BINDINGS)
def test_who_said_never_is_in_every_later_set_of_the_same_study(
    before: set[bytes], after: set[bytes], study: bytes
) -> None:
    before, after = before | set(EVERYONE[:2]), after | set(EVERYONE[:2])
    later = group(after, study=study)
    if study == b"one study" and before - after:
        with pytest.raises(Refused, match="never to be left out") as refused:
            check_leaving([group(before, "never")], later, 2, 99)
        assert refused.value.code == "leave"
    elif len(before - after) == 1 and before > after:
        with pytest.raises(Refused, match="fewer than 2"):
            check_leaving([group(before, "never")], later, 2, 99)
    else:
        check_leaving([group(before, "never")], later, 2, 99)


def test_who_joins_has_to_allow_it_as_who_leaves() -> None:
    less, left = dict.fromkeys(EVERYONE[:4], "never"), {EVERYONE[4]: "group"}
    for before, after in ((less | left, less), (less, less | left)):
        with pytest.raises(Refused, match="not all of whom allow"):
            check_leaving([with_terms(before)], with_terms(after), 3, 9)
    check_leaving([with_terms(less)], group(EVERYONE[:5], "allow"), 3, 9)


@pytest.mark.parametrize("leave", ["allow", "group"])
def test_who_takes_no_part_in_one_analysis_is_exposed_by_the_other(leave: str) -> None:
    everyone = frozenset(EVERYONE)
    one = Group(b"s", dict.fromkeys(EVERYONE, "never") | {EVERYONE[4]: leave}, (everyone,))
    both = replace(one, sets=(everyone, everyone - {EVERYONE[4]}))
    check_leaving([one], one, 3, 0)
    if leave == "allow":
        check_leaving([one], both, 3, 0)
        check_leaving([both], one, 3, 0)
        return
    for before, after in (([], both), ([one], both), ([both], one)):
        with pytest.raises(Refused, match="not all of whom allow"):
            check_leaving(before, after, 3, 9)


@given(st.integers(0, 4), st.integers(0, 6), st.booleans(), st.integers(1, 3))
def test_close_sets_are_counted_once_each_over_all_studies(
    allowed: int, near: int, elsewhere: bool, times: int
) -> None:
    before = [
        group(set(EVERYONE[:7]) - {EVERYONE[i]}, study=b"another" if elsewhere and i % 2 else b"one study")
        for i in range(near)
    ]
    after = group(EVERYONE[:7])
    counted = max(near - 1, 0) + bool(near)  # each but the first is close to the first, and so is the last
    if counted > allowed:
        with pytest.raises(Refused, match="close to one before") as refused:
            check_leaving(before * times, after, 3, allowed)
        assert refused.value.code == "max_epochs"
    else:
        check_leaving(before * times, after, 3, allowed)


def test_a_set_that_was_there_before_is_no_new_one() -> None:
    less = group(EVERYONE[:7])
    with pytest.raises(Refused, match="close to one before"):
        check_leaving([less], group(EVERYONE), 3, 0)
    check_leaving([less, group(EVERYONE)], less, 3, 0)
    check_leaving([less, group(EVERYONE)], group(EVERYONE), 3, 0)


@pytest.mark.parametrize("leave", LEAVES)
def test_the_same_set_again_is_always_allowed(leave: str) -> None:
    check_leaving([group(EVERYONE, leave)] * 5, group(EVERYONE, leave), 3, 0)
