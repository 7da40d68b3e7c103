"""Sets of hospitals: whom their sums expose, and which set may come after others."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from string import ascii_letters
from typing import Any

from wardround_common.errors import Refused
from wardround_common.sealing.leaving import Group, check_leaving, exposed

SHORT = {"a": "allow", "g": "group", "n": "never"}
# One epoch of 52 hospitals, no two of which take part in the same of six analyses.
MANY = " ".join(f"{name}a" for name in ascii_letters) + " / "
MANY += " ".join(
    "".join(name for at, name in enumerate(ascii_letters, 1) if at >> bit & 1) for bit in range(6)
)
# Sets by one letter a hospital, and how many hospitals are the least.
EXPOSED: dict[str, tuple[str, int]] = {
    "one set": ("abcd", 3),
    "the same set twice": ("abcd abcd", 3),
    "two that differ by one": ("abcd abc", 3),
    "two that differ by two": ("abcd ab", 3),
    "two that differ by as many as are the least": ("abcde ab", 3),
    "two with nobody in common": ("abc def", 3),
    "one within the other, so that the rest is a set by itself": ("abcdef abc", 4),
    "one leaves and one joins": ("abcd abce", 3),
    "one leaves and one joins, where two are the least": ("abcd abce", 2),
    "three sets of which no two are close": ("abcdefg abcd efg", 3),
    "three of which no two are close, and whose combination is one hospital": ("abcdefg abcd defg", 3),
    "three whose combination is two hospitals": ("abcdefg abcd def", 3),
    "two halves, and the whole less one": ("abc def abcde", 3),
    "three that have most in common": ("abwxyz cdwxyz bcwxyz", 3),
    "each pair of three hospitals: half of ab + ac - bc is a": ("ab bc ac", 2),
    "many at once": ("abcdefgh abcdefg abcdef abcde", 4),
}
# Epochs that came, each hospital with its terms, an `!` ahead of one of another study, and behind a `/` the
# sets of its analyses, where they are not all of the hospitals; and one that is to come.
ALLOWED: dict[str, tuple[str, str, int, int]] = {
    "the first": ("", "ag bg cg", 2, 0),
    "the same again": ("ag bg cg", "ag bg cg", 2, 0),
    "one that allows it is gone": ("ag bg ca", "ag bg", 2, 3),
    "one that does not allow it is gone": ("ag bg cg", "ag bg", 2, 3),
    "one that allows it came": ("ag bg", "ag bg ca", 2, 3),
    "one that does not allow it came": ("ag bg", "ag bg cg", 2, 3),
    "as many as are the least are gone": ("ag bg cg dg eg", "ag bg cg", 2, 0),
    "one said never and is gone with others": ("ag bg cg dg en", "ag bg cg", 2, 0),
    "one said never in another study, and is gone with others": ("!ag bg cg dg en", "ag bg cg", 2, 0),
    "one said never in another study, and is gone alone": ("!ag bg cg en", "ag bg cg", 2, 3),
    "one said never and stays": ("an bg cg da ea", "an bg cg", 2, 0),
    "two are gone of whom one allows it": ("ag bg ca dg", "ag bg", 3, 3),
    "two are gone who allow it": ("ag bg cg ca da", "ag bg cg", 3, 3),
    "a set that is close, where none may be": ("aa ba ca", "aa ba", 2, 0),
    "a second that is close, where one may be": ("aa ba ca da, aa ba ca", "aa ba da", 2, 1),
    "the earlier set again, where no more may be close": ("aa ba ca, aa ba", "aa ba ca", 2, 0),
    "close to a set of another study": ("!aa ba ca", "aa ba", 2, 0),
    "one allowed it first, and then not": ("aa ba ca, ag bg cg", "aa ba", 2, 3),
    "one did not allow it first, and then did": ("ag bg cg, aa ba ca", "aa ba", 2, 3),
    "no two are close, and a combination of three is one hospital": (
        *("ag bg cg dg eg fg gg, ag bg cg dg", "dg eg fg", 3, 3),
    ),
    "one that allows it takes no part in one analysis": ("", "ag bg ca / abc ab", 2, 0),
    "one that does not allow it takes no part in one analysis": ("", "aa ba cg / abc ab", 2, 0),
    "as many as are the least take no part in one analysis": ("", "ag bg cg dg / abcd ab", 2, 0),
    "one takes part that took no part": ("ag bg cg / ab", "ag bg cg / abc", 2, 3),
    "one takes part in another study that took no part": ("!ag bg cg / ab", "ag bg cg / abc", 2, 3),
    "one is gone that took no part": ("ag bg cg / ab", "ag bg", 2, 3),
    "one is gone that took no part, where none may be close": ("ag bg cg / ab", "ag bg", 2, 0),
    "one said never, took no part, and is gone": ("ag bg cn / ab", "ag bg", 2, 3),
    "three analyses of two epochs, and a combination of them is one hospital": (
        *("aa ba ca da ea fa gg / abcdefg abcd", "aa ba ca da ea fa gg / defg", 3, 3),
    ),
    "all allow it, but there are more than 50,000 sets of four or fewer to look at": ("", MANY, 5, 3),
}


def group_of(short: str) -> dict[str, Any]:
    """Return a set of hospitals as the vectors hold it."""
    study, short = ("another", short[1:]) if short.startswith("!") else ("this", short)
    said, _, sets = short.partition("/")
    leaves = {one[0]: SHORT[one[1]] for one in said.split()}
    return {"study": study, "leaves": leaves, "sets": sets.split() or ["".join(leaves)]}


def identity_of(name: str) -> bytes:
    """Return the identity by which the first implementation knows a hospital."""
    return hashlib.sha256(name.encode()).digest()


def real_group(shown: Mapping[str, Any]) -> Group:
    """Return a set of hospitals as the first implementation holds it."""
    leaves = {identity_of(name): leave for name, leave in shown["leaves"].items()}
    sets = tuple(frozenset(map(identity_of, one)) for one in shown["sets"])
    return Group(shown["study"].encode(), leaves, sets)


def refused(case: Mapping[str, Any]) -> str | None:
    """Return the code with which the first implementation refuses a set, or None."""
    before = [real_group(one) for one in case["before"]]
    try:
        check_leaving(before, real_group(case["after"]), case["min_hospitals"], case["max_epochs"])
    except Refused as error:
        return error.code
    return None


def who(sets: Sequence[str], least: int) -> list[str]:
    """Return whom the first implementation says that sets expose, letters in order."""
    names = {identity_of(name): name for one in sets for name in one}
    found = exposed([[identity_of(name) for name in one] for one in sets], least)
    return sorted("".join(sorted(names[one] for one in small)) for small in found)


def leaving() -> dict[str, Any]:
    """Return all of them."""
    return {
        "about": "Which hospitals sums over sets of hospitals expose (the smallest of such sets, of fewer "
        "than `min_hospitals`), and whether a set may come `after` those that came `before`, oldest first; "
        "PROTOCOL.md, section 7.",
        "exposed": [
            {"what": what, "sets": sets.split(), "min_hospitals": least, "exposed": who(sets.split(), least)}
            for what, (sets, least) in EXPOSED.items()
        ],
        "allowed": [_allowed(what, *case) for what, case in ALLOWED.items()],
    }


def _allowed(what: str, before: str, after: str, least: int, most: int) -> dict[str, Any]:
    case = {
        "what": what,
        "before": [group_of(one.strip()) for one in before.split(",") if one],
        "after": group_of(after),
        "min_hospitals": least,
        "max_epochs": most,
    }
    return {**case, "refused": refused(case)}
