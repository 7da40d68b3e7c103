"""What becomes of a column in a drafted study file: a number, a category, or nothing, and why.

What is written into a study file is sent to others. So a text goes in only where eleven patients at least
have it, or where the whole column is plainly coded (small whole numbers, single letters, yes and no); of
numbers go in rounded bounds and codes for missing, which are no measurements.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import numpy as np

from wardround_client.study_tools.profile import MOST_TEXTS, Profile
from wardround_client.study_tools.ranges import FARTHEST, missing_codes, missing_levels, spike, tidy_range
from wardround_client.study_tools.small import SMALL, some
from wardround_common.dictionary import CategoryVariable, NumberVariable
from wardround_common.typing import Floats

MOST_CODES = 10  # so many different whole numbers are read as codes, more as a measurement
LARGEST_CODE = 20
LONGEST_LEVEL = 40

_MISSING = "? na n/a #n/a <na> nan n.a. null . .. -- --- unknown unk missing not_available not_known not_done"
_MISSING_WORDS = {word.replace("_", " ") for word in _MISSING.split()}
_NO_NUMBER = {*_MISSING_WORDS, "none", "nil", "-"}  # as levels these may mean something
_CODED = re.compile(r"\d{1,2}|[a-z+-]|yes|no|true|false|male|female|pos|neg|positive|negative|other", re.I)
_PERSONAL = re.compile(
    r"(?i)(sur|fore|first|last|middle|maiden|patient|full|family|given|nick)?[ _.-]?names?|initials"
    r"|.*(address|e-?mail|phone|fax|street|post(al)?[ _-]?code|zip|ssn|social.?sec|passport|licen[cs]e"
    r"|insurance.?n|birth.?(date|day|place)|date.?of.?birth|comment|remark|free.?text).*|dob|notes?"
)
_IDENTIFIER = re.compile(
    r"(?i:.*([_ .-]|\b)(id|ids|mrn|pid|nr|uuid|guid|case.?no|record.?no)|id[_ .-].*)|.*[a-z]I[dD]"
)
_FOLD = re.compile(r"(?i)(fold|split|subset|partition|set|train[_ .-]?test([_ .-]?split)?|is[_ .-]?test|cv)")
_FOLD_WORDS = {"train", "test", "training", "testing", "val", "valid", "validation", "dev", "holdout"}
_WHOLE = re.compile(r"-?(0|[1-9][0-9]{0,14})")
_FEW_ROWS = 20  # in fewer, that all numbers differ says nothing


@dataclass(frozen=True)
class LeftOut:
    """A column that is no variable of the draft."""

    why: str


@dataclass(frozen=True)
class Fold:
    """A column that says who is held out. ``test``: the cell that seems to mean it."""

    test: str


@dataclass(frozen=True)
class Drafted:
    """A variable, and what to look at before it is believed."""

    variable: NumberVariable | CategoryVariable
    notes: tuple[str, ...]


Decision = LeftOut | Fold | Drafted


def decide(column: str, seen: Profile) -> Decision:
    """Decide by the column's name, dates and emptiness, then by what the cells are."""
    name = column.strip()
    if name.casefold() == "id":
        return LeftOut("names the person of each row; a node reads it from `id`, and it never leaves")
    if _PERSONAL.fullmatch(name):
        return LeftOut("by its name it may identify a person")
    if not seen.observed:
        return LeftOut("is empty in every file")
    if seen.dates * 2 > seen.observed or _compact_dates(seen):
        return LeftOut("holds dates; derive a number from them, such as an age or a duration in days")
    if seen.codes is None:
        return _many_texts(name, seen)
    return _fold(name, seen.codes) or _few_texts(name, seen, seen.codes)


def kind_of(seen: Profile) -> str:
    """Return what a column holds besides codes for missing: ``numbers``, ``texts`` or ``nothing``."""
    words = seen.observed - seen.numbers
    if seen.words is not None:
        words = sum(count for word, count in seen.words.items() if word.casefold() not in _NO_NUMBER)
    if seen.numbers >= words:
        return "numbers" if seen.numbers else "nothing"
    return "texts"


def _compact_dates(seen: Profile) -> bool:
    """Tell whether all numbers read as dates such as 20240131."""
    values = seen.values
    whole = len(values) > 0 and seen.numbers * 2 > seen.observed and bool((values == np.floor(values)).all())
    if not whole or values[0] < 1800_01_01 or values[-1] > 2200_12_31:
        return False
    month, day = values // 100 % 100, values % 100
    return bool(((month >= 1) & (month <= 12) & (day >= 1) & (day <= 31)).all())


def _fold(name: str, codes: Mapping[str, int]) -> Fold | None:
    if not _FOLD.fullmatch(name):
        return None
    test = [text for text in sorted(codes) if text.casefold() in ("test", "testing", "holdout")]
    if test and _FOLD_WORDS.issuperset(text.casefold() for text in codes):
        return Fold(test[0])
    numbers = _whole(codes)
    if numbers is None or not 2 <= len(numbers) <= MOST_CODES or not 0 <= numbers[0] <= numbers[-1] <= 20:
        return None
    return Fold("1" if numbers.tolist() == [0, 1] else f"{numbers[0]:.0f}")


def _whole(texts: Iterable[str]) -> Floats | None:
    """Return texts as whole numbers, ascending; None if one is not written as such."""
    texts = list(texts)
    if not all(_WHOLE.fullmatch(text) for text in texts):
        return None
    return np.sort(np.array(texts, np.float64))


def _few_texts(name: str, seen: Profile, codes: Mapping[str, int]) -> Decision:
    """Decide on a column of at most MOST_TEXTS different cells."""
    words = [text for text in codes if text.casefold() in _MISSING_WORDS]
    levels = {text: count for text, count in codes.items() if text not in words}
    if len(levels) < 2:
        return LeftOut("has one value only" if levels else "holds codes for missing only")
    numbers = _whole(levels)
    if numbers is not None:
        apart = missing_levels(numbers)
        rest = np.setdiff1d(numbers, apart)
        enough = len(rest) == 2 or sum(levels.values()) >= 5 * len(rest)
        if len(rest) <= MOST_CODES and rest[0] >= 0 and rest[-1] <= LARGEST_CODE and enough:
            return _coded(codes, words, [f"{value:.0f}" for value in apart])
    if seen.numbers * 2 > seen.observed and not seen.padded and len(seen.values) > 1:
        return _number(name, seen)
    return _category(codes, levels, words)


def _coded(codes: Mapping[str, int], words: list[str], apart: list[str]) -> Drafted:
    """Draft small whole numbers as codes; all of them, since a code tells of nobody who bears it."""
    levels = sorted((text for text in codes if text not in (*words, *apart)), key=int)
    notes = _missing_notes({word: codes[word] for word in words}, {code: codes[code] for code in apart})
    if len(levels) > 5:
        notes.append("few whole numbers, so taken as codes; if it counts something, make it a number")
    return _as_category(levels, [*words, *apart], notes)


def _category(codes: Mapping[str, int], levels: Mapping[str, int], words: list[str]) -> Decision:
    if max(map(len, levels)) > LONGEST_LEVEL:
        return LeftOut("holds free text")
    often = [text for text in sorted(levels) if levels[text] >= SMALL]
    if len(often) < len(levels) and not all(_CODED.fullmatch(text) for text in levels):
        rare = some(len(levels) - len(often))
        why = f"{rare} of its texts stand for fewer than {SMALL} patients each, and may tell who they are"
        if len(often) < 2:
            return LeftOut(why)
        return LeftOut(f"{why}; gather them in the table, and it is a category of {_listed(often)}")
    return _as_category(sorted(levels), words, _missing_notes({word: codes[word] for word in words}, {}))


def _as_category(levels: list[str], missing: list[str], notes: list[str]) -> Drafted:
    keys = {"kind": "category", "levels": levels, "missing": sorted(missing)}
    return Drafted(CategoryVariable.model_validate(keys), tuple(notes))


def _many_texts(name: str, seen: Profile) -> Decision:
    """Decide on a column of more than MOST_TEXTS different cells."""
    if seen.numbers * 2 > seen.observed:
        if seen.padded:
            return LeftOut("numbers with leading zeros are codes or ids")
        return _number(name, seen)
    if seen.different * 10 > seen.observed * 9:
        return LeftOut("almost every row has a text of its own: an id, or free text")
    return LeftOut(f"more than {MOST_TEXTS} different texts: free text, or codes to be grouped first")


def _number(name: str, seen: Profile) -> Decision:
    words = seen.words
    odd = [] if words is None else [word for word in words if word.casefold() not in _NO_NUMBER]
    if words is None or any(words[word] < SMALL or len(word) > LONGEST_LEVEL for word in odd):
        return LeftOut("numbers and rare texts are mixed, and those may not be listed; correct the cells")
    if _is_identifier(name, seen):
        return LeftOut("whole numbers that name persons, cases or rows")
    apart = missing_codes(seen.values)
    rest = seen.values[~np.isin(seen.values, apart)]
    if len(rest) < 2:
        return LeftOut("has one value only")
    if np.abs(rest).max() > FARTHEST / 10:
        return LeftOut("holds numbers too large for a range; are they ids?")
    counts = dict(zip(seen.values.tolist(), seen.counts.tolist(), strict=True))
    notes = _missing_notes(words, {f"{value:.0f}": counts[value] for value in apart})
    if len(rest) <= MOST_CODES:
        notes.append("few different numbers; if they are codes, make it a category")
    frequent = spike(rest, seen.counts[~np.isin(seen.values, apart)])
    if frequent is not None:
        notes.append(f"{frequent:.0f} is far more frequent than what is near it; does it mean missing?")
    missing: tuple[float | str, ...] = (*sorted(words), *(int(value) for value in sorted(apart)))
    span = tidy_range(float(rest[0]), float(rest[-1]))
    return Drafted(NumberVariable(kind="number", range=span, missing=missing), tuple(notes))


def _is_identifier(name: str, seen: Profile) -> bool:
    values = seen.values
    if len(values) < _FEW_ROWS or not (values == np.floor(values)).all():
        return False
    unique = bool((seen.counts == 1).all()) and values[0] >= 100_000
    return seen.sequence or unique or _IDENTIFIER.fullmatch(name) is not None


def _missing_notes(words: Mapping[str, int], apart: Mapping[str, int]) -> list[str]:
    notes = []
    if words:
        found = ", ".join(f"`{word}` in {some(count)} rows" for word, count in sorted(words.items()))
        notes.append(f"taken as missing: {found}")
    if apart:
        found = ", ".join(f"{code} in {some(count)} rows" for code, count in apart.items())
        notes.append(f"taken as missing, since far from all other values: {found}; is that so?")
    return notes


def _listed(texts: list[str]) -> str:
    return ", ".join(f"`{text}`" for text in texts)
