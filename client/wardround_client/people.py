"""Whose each row of a table is, as this hospital alone can tell: a keyed hash that all its studies share.

By the row's `id`, else by all its cells, since row numbers shift when a row is put in or taken out.
"""

from __future__ import annotations

from hashlib import blake2b

import numpy as np

from wardround_client.cells import TRIMMED, texts
from wardround_client.sources.table import Table
from wardround_common.rowkey import row_keys
from wardround_common.typing import Ints, Words

_GOLDEN = np.uint64(0x9E3779B97F4A7C15)
_NO_CELL = np.uint64(0x7FF8DEAD00000000)


def people_of(table: Table, key: bytes) -> Words:
    """Return one uint64 a row of the table (rows,). DataError where it cannot be read.

    Without a column `id` each row is a person; rows that are alike in all cells are told apart by how many
    came before.
    """
    if "id" in table.columns:
        return row_keys(key, "id", texts(table, table.columns.index("id")))
    words = np.stack([_words(table, position) for position in range(len(table.columns))], axis=1)
    packed, width = words.tobytes(), 8 * words.shape[1]
    digests = (
        blake2b(packed[i : i + width], digest_size=8, key=key).digest() for i in range(0, len(packed), width)
    )
    return numbered(np.frombuffer(b"".join(digests), np.uint64))


def _words(table: Table, position: int) -> Words:
    """Return one word a cell of a column, the same for the same cell; it is hashed under the key later."""
    stored = table.numbers(position)
    if stored is None:
        found = table.texts(position, TRIMMED, "md5_number_lower(coalesce(cell, '')) AS word")["word"]
        return np.asarray(found, np.uint64)
    values = stored.values
    words: Words = values.view(np.uint64) if values.dtype.itemsize == 8 else values.astype(np.uint64)
    return words if stored.empty is None else np.where(stored.empty, _NO_CELL, words)


def is_repeated(people: Words) -> bool:
    """Tell whether a person has several rows."""
    ranked = np.sort(people)
    return bool((ranked[1:] == ranked[:-1]).any())


def numbered(people: Words) -> Words:
    """Return a word for each row: its person's, mixed with how many rows of that person came before."""
    if not is_repeated(people):
        return people
    order = np.argsort(people, kind="stable")
    ranked = people[order]
    starts = np.flatnonzero(np.concatenate([[True], ranked[1:] != ranked[:-1]]))
    before = np.arange(len(people)) - np.repeat(starts, np.diff(np.append(starts, len(people))))
    found = np.empty(len(people), np.uint64)
    found[order] = ranked + before.astype(np.uint64) * _GOLDEN
    return found


def aligned(people: Words, keys: Words, theirs: Words) -> tuple[Words, Words, Ints]:
    """Return all rows, with those of another table that are not known yet, and where that one's stand.

    ``people`` and ``theirs``: whose each row of either is; ``keys``: ``numbered(people)``. Rows are taken
    for the same by person and order.
    """
    words = numbered(theirs)
    place, known = np.zeros(len(theirs), np.int64), np.zeros(len(theirs), bool)
    if len(keys):
        order = np.argsort(keys)
        ranked = keys[order]
        at = np.minimum(np.searchsorted(ranked, words), len(keys) - 1)
        known = ranked[at] == words
        place[known] = order[at[known]]
    place[~known] = len(people) + np.arange(np.count_nonzero(~known))
    return np.concatenate([people, theirs[~known]]), np.concatenate([keys, words[~known]]), place
