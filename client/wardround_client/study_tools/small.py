"""Small counts as these commands show them: fewer than eleven rows are not counted in public."""

from __future__ import annotations

SMALL = 11


def some(count: int) -> str:
    """Return a count for a sentence: the number, or ``a few``."""
    return "a few" if count < SMALL else f"{count:,}"


def shown(count: int) -> str:
    """Return a count for a table: the number, or ``<11``."""
    return f"<{SMALL}" if 0 < count < SMALL else f"{count:,}"


def known(count: int) -> int | None:
    """Return a count for machines, None where 0 < count < 11."""
    return None if 0 < count < SMALL else count


def share(part: int, whole: int) -> str:
    """Return a count as a share for a table; what it, or the rest, would tell of fewer than eleven is not."""
    if part == 0:
        return "–"
    if part < SMALL:
        return f"<{SMALL}"
    if 0 < whole - part < SMALL:
        return f"all but <{SMALL}"
    percent = 100 * part / whole
    return f"{percent:.1f} %" if percent < 10 else f"{percent:.0f} %"
