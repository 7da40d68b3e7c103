"""How figures and foreign texts are written: one form for every number, suppressed ones included.

A null in the results is one of two things. A count that is null is below ``min_cell``, or its neighbour
that would give it away; which of them it is must stay open, so it reads "suppressed" unless it can only
be the small one. Any other null is a figure that too few rows stand behind: "not shown".
"""

from __future__ import annotations

import math
import unicodedata
from collections.abc import Mapping, Sequence
from typing import Any, TypeGuard

SUPPRESSED = "suppressed"
NOT_SHOWN = "not shown"
MINUS = "\N{MINUS SIGN}"
_OPEN, _CLOSE = "\N{FIRST STRONG ISOLATE}", "\N{POP DIRECTIONAL ISOLATE}"
_JOINERS = "\N{ZERO WIDTH JOINER}\N{ZERO WIDTH NON-JOINER}"
_RAISED = str.maketrans("-0123456789", "⁻⁰¹²³⁴⁵⁶⁷⁸⁹")
_UNITS = {  # UCUM codes whose written form differs
    "a": "years",
    "mo": "months",
    "wk": "weeks",
    "d": "days",
    "h": "hours",
    "min": "minutes",
    "mm[Hg]": "mmHg",
    "/min": "per minute",
    "{beats}/min": "per minute",
    "Cel": "°C",
    "kg/m2": "kg/m²",
}


def cleaned(value: Any) -> Any:
    """Return results with every control, override and half character of their texts replaced."""
    if isinstance(value, str):
        return "".join(one if _plain(one) else "\N{REPLACEMENT CHARACTER}" for one in value)
    if isinstance(value, Mapping):
        return {cleaned(key): cleaned(one) for key, one in value.items()}
    if isinstance(value, (list, tuple)):
        return [cleaned(one) for one in value]
    return value


def _plain(character: str) -> bool:
    kind = unicodedata.category(character)
    return kind not in ("Cc", "Cs", "Zl", "Zp") and (kind != "Cf" or character in _JOINERS)


def foreign(text: str) -> str:
    """Return a text that is not ours so that its writing direction doesn't reorder what stands around."""
    if any(unicodedata.bidirectional(one) in ("R", "AL", "AN") for one in text):
        return f"{_OPEN}{text}{_CLOSE}"
    return text


def unit(code: str | None) -> str:
    """Return a unit as people write it."""
    return "" if not code else _UNITS.get(code, foreign(code))


def is_number(value: Any) -> TypeGuard[float]:
    """Return whether a figure is there: not null, not infinite, not a text."""
    return isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)


def count(value: Any, missing: str = SUPPRESSED) -> str:
    """Return a count with thousands marked."""
    return f"{int(value):,}" if is_number(value) else missing


def fixed(value: Any, places: int = 3, missing: str = NOT_SHOWN) -> str:
    """Return a figure with so many decimal places; very large and very small ones in powers of ten."""
    if not is_number(value):
        return missing
    if abs(value) >= 1e6:
        return _power(value)
    text = f"{value:,.{places}f}"
    return text[1:] if text.startswith("-") and not any(c in "123456789" for c in text) else _signed(text)


def significant(value: Any, digits: int = 3, missing: str = NOT_SHOWN) -> str:
    """Return a figure rounded to so many digits, in powers of ten where it is very large or small."""
    if not is_number(value):
        return missing
    if value == 0:
        return "0"
    size = math.floor(math.log10(abs(float(f"{value:.{digits}g}"))))
    if not -4 <= size < 6:
        return _power(value, digits)
    return _signed(f"{value:,.{max(0, digits - 1 - size)}f}")


def plain(value: float) -> str:
    """Return a figure as a person would type it: a setting, a step."""
    return _signed(f"{value:,.6g}") if 1e-4 <= abs(value) < 1e6 or value == 0 else _power(value)


def ratio(value: Any) -> str:
    """Return a ratio: two places about one, two or three digits far from it."""
    if not is_number(value):
        return NOT_SHOWN
    return fixed(value, 2) if 0.1 <= value < 100 else significant(value, 2 if value < 0.1 else 3)


def _power(value: float, digits: int = 3) -> str:
    mantissa, exponent = f"{value:.{digits - 1}e}".split("e")
    return f"{_signed(mantissa)} × 10{str(int(exponent)).translate(_RAISED)}"


def _signed(text: str) -> str:
    return text.replace("-", MINUS)


def probability(value: Any) -> str:
    """Return a p value."""
    if not is_number(value):
        return NOT_SHOWN
    return "<0.001" if value < 0.001 else f"{value:.3f}"


def percent(value: Any, places: int = 0) -> str:
    """Return a share in per cent."""
    return f"{100 * value:.{places}f} %" if is_number(value) else NOT_SHOWN


def interval(low: Any, high: Any, digits: int = 3) -> str:
    """Return an interval, whose bounds may be negative."""
    return f"{significant(low, digits)} to {significant(high, digits)}"


def places_for(spread: Any) -> int:
    """Return with how many decimal places a mean is told whose standard deviation is ``spread``."""
    if not is_number(spread) or spread <= 0:
        return 1
    return min(max(1 - math.floor(math.log10(spread)), 0), 8)


def many(number: Any, one: str, more: str = "") -> str:
    """Return a count with its noun."""
    return f"{count(number)} {one if number == 1 else more or one + 's'}"


def listing(names: Sequence[str], most: int = 8) -> str:
    """Join names as a sentence does, the first few of them."""
    shown = list(names[:most])
    if len(names) > most:
        shown.append(f"{len(names) - most} more")
    return shown[0] if len(shown) == 1 else f"{', '.join(shown[:-1])} and {shown[-1]}" if shown else ""


def width(text: str) -> float:
    """Return about how wide a text is, in mean letters of a sans-serif font."""
    return sum(map(_wide, text))


def _wide(one: str) -> float:
    if unicodedata.category(one) in ("Mn", "Me", "Cf"):
        return 0.0
    if unicodedata.east_asian_width(one) in "WF":
        return 2.0
    if one in "MWmw@%":
        return 1.6
    return 1.3 if one.isupper() else 0.6 if one in "iIjlt.,:;'|!()[] " else 1.05


def cut(text: str, most: int) -> str:
    """Return a text that ends in an ellipsis where it is longer than ``most`` characters."""
    return text if len(text) <= most else f"{text[: most - 1].rstrip()}…"


def wrapped(text: str, columns: float, lines: int = 2) -> list[str]:
    """Break a text for a picture; what doesn't fit ends in an ellipsis. The tables hold it whole."""
    found, line = [], ""
    for word in _pieces(text, columns):
        if line and width(f"{line} {word}") > columns:
            found.append(line)
            line = word
        else:
            line = f"{line} {word}".strip()
    found.append(line)
    if len(found) <= lines:
        return found
    last = found[lines - 1]
    while width(last) > columns - 1:
        last = last[:-1]
    return [*found[: lines - 1], last.rstrip() + "…"]


def _pieces(text: str, columns: float) -> list[str]:
    """Return a text's words, those that are longer than a line in pieces of one."""
    pieces: list[str] = []
    for word in text.split(" "):
        piece, taken = "", 0.0
        for one in word:
            wide = width(one)
            if taken + wide > columns:
                pieces.append(piece)
                piece, taken = "", 0.0
            piece, taken = piece + one, taken + wide
        pieces.append(piece)
    return pieces
