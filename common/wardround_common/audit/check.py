"""Recomputes an audit log's tree from the bytes of its entries, and finds the first that does not fit.

A change is noticed by what was told of the log before: by the nodes beside the entries where only those were
changed, by signed checkpoints and heads that others keep where the nodes were changed with them.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Final

from wardround_common.audit.merkle import root
from wardround_common.errors import WardroundError
from wardround_common.sealing.epoch import AuditHead

ANY: Final = object()  # instead of a node, where none is kept beside the entries
Chunks = Iterable[Sequence[tuple[Any, Any, Any]]]  # of (number, entry's bytes, node): whatever stands there
Progress = Callable[[int], object]  # called with how many entries are checked


@dataclass(frozen=True)
class Mark:
    """A head that the log must have had, and how messages name it."""

    head: AuditHead
    name: str


def recomputed(
    chunks: Chunks,
    marks: Iterable[Mark] = (),
    since: int = 0,
    subtrees: Sequence[bytes] = (),
    progress: Progress | None = None,
) -> AuditHead:
    """Return the head that follows from the entries, which begin after number ``since``.

    ``subtrees``: the hashes of the complete subtrees of the entries before. WardroundError says which entry,
    or which stretch of them, is not what was told of it, or that the log was cut.
    """
    sha256, peaks, found = hashlib.sha256, list(subtrees), _Marks(marks, since)
    number, stop = since, found.compare(since, subtrees)
    for chunk in chunks:
        try:
            for told, data, node in chunk:
                number += 1
                if told != number:
                    raise _misfit(number, "is not there")
                new, rest = sha256(b"\0" + data).digest(), number
                while not rest & 1:  # the same as in `merkle.new_node`, a million times in a few seconds
                    new = sha256(b"\1" + peaks.pop() + new).digest()
                    rest >>= 1
                peaks.append(new)
                if node != new and node is not ANY:
                    raise _misfit(number, "is not what it was")
                if number == stop:
                    stop = found.compare(number, peaks)
        except TypeError:  # SQLite itself keeps anything anywhere
            raise _misfit(number, "cannot be read") from None
        if progress is not None:
            progress(number)
    found.end(number)
    return AuditHead(number, root(peaks))


class _Marks:
    """The marks that are still ahead, and the last that was met."""

    def __init__(self, marks: Iterable[Mark], since: int) -> None:
        self._ahead = sorted(marks, key=lambda mark: mark.head.count, reverse=True)
        self._fits = since
        if self._ahead and self._ahead[-1].head.count < since:
            raise WardroundError(
                f"{self._ahead[-1].name} is older than what is here, which begins after entry {since:,}; "
                "ask for an export since then, or a whole one"
            )

    def compare(self, number: int, peaks: Sequence[bytes]) -> int:
        """Compare with those at this size; return where the next one is, -1 if there is none."""
        while self._ahead and self._ahead[-1].head.count == number:
            mark = self._ahead.pop()
            if mark.head.head != root(peaks):
                raise _unlike(mark, self._fits + 1)
            self._fits = number
        return self._ahead[-1].head.count if self._ahead else -1

    def end(self, number: int) -> None:
        """Raise WardroundError if marks were not reached."""
        if self._ahead:
            raise WardroundError(
                f"the audit log was cut: it ends at entry {number:,}, before {self._ahead[0].name}"
            )


def _unlike(mark: Mark, first: int) -> WardroundError:
    last = mark.head.count
    if first > last:  # there is nothing between this mark and what fits
        return WardroundError(f"the audit log is not the one of which {mark.name} was made")
    where = f"entry {last}" if first == last else f"one of the entries {first} to {last}"
    return WardroundError(f"the audit log was changed: {where} is not what it was when {mark.name} was made")


def _misfit(number: int, what: str) -> WardroundError:
    return WardroundError(f"the audit log was changed, or is damaged: entry {number} {what}")
