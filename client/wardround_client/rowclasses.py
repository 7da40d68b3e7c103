"""Classes of rows that lie in the same row sets, and kinds of persons who have rows in the same classes."""

from __future__ import annotations

import secrets
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

import numpy as np

from wardround_common.typing import Bools, Ints, Words


@dataclass(frozen=True, repr=False)
class Classes:
    """Rows by the sets in which they lie: ``members`` (sets, classes).

    Persons with rows in the same classes are one kind: kind k has ``persons[k]`` of them, with rows in
    ``columns[starts[k]:starts[k + 1]]``. Where each person has one row, a kind is a class. ``of_row``
    (rows,): a code of each row's class, whose own is in ``codes`` (classes,).
    """

    members: Bools
    persons: Ints
    columns: Ints
    starts: Ints
    codes: Ints
    of_row: Ints

    def kinds(self, classes: Bools) -> Bools:
        """Return which kinds have a row in these classes (classes,)."""
        return np.logical_or.reduceat(classes[self.columns], self.starts[:-1])

    def told(self, classes: Bools) -> int:
        """Return how many persons have a row in these classes (classes,)."""
        return int(self.persons[self.kinds(classes)].sum())

    def of(self, sets: Iterable[int]) -> Classes:
        """Return the same classes for some of the sets."""
        return replace(self, members=self.members[list(sets)])

    def rows(self, classes: Iterable[int]) -> Bools:
        """Return which rows (rows,) are of these classes."""
        return np.isin(self.of_row, self.codes[list(classes)])

    def simplest(self, classes: Iterable[int]) -> tuple[int, ...] | None:
        """Return a set of just these classes, or two sets that differ in just them; None if there is none."""
        at = sorted(classes)
        inside, sizes = self.members[:, at], np.count_nonzero(self.members, axis=1)
        for i in range(len(self.members)):
            if sizes[i] == len(at) and inside[i].all():
                return (i,)
        for i in range(len(self.members)):
            for j in np.flatnonzero((inside[:i] ^ inside[i]).all(axis=1)):
                if np.count_nonzero(self.members[i] ^ self.members[j]) == len(at):
                    return int(j), i
        return None


def classes_of(sets: Sequence[Bools], people: Words | None = None) -> Classes:
    """Return the classes of rows by the sets (rows,) in which they lie.

    ``people`` (rows,): whose each row is, where a person may have several.
    """
    code = np.zeros(len(sets[0]), np.int64)
    for i, one in enumerate(sets):
        code = code * 2 + one
        if i % 32 == 31:  # at most as many codes as rows, so 32 more bits fit
            code = np.unique(code, return_inverse=True)[1].astype(np.int64)
    if people is None:
        codes, first, persons = np.unique(code, return_index=True, return_counts=True)
        columns, starts = np.arange(len(first)), np.arange(len(first) + 1)
    else:
        codes, first, code = np.unique(code, return_index=True, return_inverse=True)
        codes, code = np.arange(len(first)), code.astype(np.int64)
        persons, columns, starts = _kinds(code, people, len(first))
    return Classes(np.stack([one[first] for one in sets]), persons, columns, starts, codes, code)


def _kinds(of_row: Ints, people: Words, classes: int) -> tuple[Ints, Ints, Ints]:
    """Return the kinds of persons by their rows' classes; see ``Classes``."""
    number = np.unique(people, return_inverse=True)[1].astype(np.int64)
    pairs = np.unique(number * classes + of_row)
    of_person, columns = pairs // classes, pairs % classes
    starts = np.flatnonzero(np.diff(of_person, prepend=-1))
    words = np.random.default_rng(secrets.randbits(128)).integers(0, 1 << 63, classes, np.uint64)
    alike = np.add.reduceat(words[columns], starts)  # modulo 2^64: the same for the same classes
    _, first, persons = np.unique(alike, return_index=True, return_counts=True)
    ends = np.append(starts, len(pairs))
    sizes = ends[first + 1] - ends[first]
    begins = np.append(0, np.cumsum(sizes))
    taken = np.repeat(ends[first] - begins[:-1], sizes) + np.arange(begins[-1])
    return persons.astype(np.int64), columns[taken], begins
