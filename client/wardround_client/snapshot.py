"""The cohort as it was when a study was approved, kept in the hospital's home until the study is left.

A node that is started again computes from the same rows, whatever happened to its tables meanwhile; so a
resumed study ends with the same bits. Arrays only (no pickle), in a file that its owner alone can read.
"""

from __future__ import annotations

import hashlib
import io
import json
import threading
import zipfile
from pathlib import Path

import numpy as np

from wardround_common.cohort import Cohort, Flow, RowKeys
from wardround_common.dictionary import Dictionary
from wardround_common.errors import WardroundError
from wardround_common.files import read_private, write_private

_MOST = 64 << 30
# numpy reads an array's header by ast.literal_eval, which Python 3.11 can't do in two threads at once
_reading = threading.Lock()


def write_snapshot(path: Path, cohort: Cohort, key: bytes = b"") -> bytes:
    """Keep a cohort; return the keyed digest of what was written. WardroundError where it can't be.

    ``key``: the hospital's own, so that the digest tells nobody anything of the rows, whoever sees it.
    """
    flow = cohort.flow
    about = {
        "rows": cohort.rows,
        "flow": [flow.read, flow.not_in_cohort, flow.out_of_range],
        "variables": {name: list(counts) for name, counts in flow.variables.items()},
    }
    arrays = {f"column:{name}": column for name, column in cohort.columns.items()}
    if cohort.held_out is not None:
        arrays["held_out"] = cohort.held_out
    written = io.BytesIO()
    np.savez(
        written, allow_pickle=False, about=np.array(json.dumps(about)), keys=cohort.keys.values, **arrays
    )
    write_private(path, written.getvalue())
    return digest_of(written.getvalue(), key)


def digest_of(content: bytes, key: bytes = b"") -> bytes:
    """Return the keyed digest of a snapshot, 32 bytes."""
    return hashlib.blake2b(content, digest_size=32, key=key, person=b"wardround cohort").digest()


def read_snapshot(path: Path, dictionary: Dictionary, digest: bytes, key: bytes = b"") -> Cohort:
    """Take up a cohort that ``write_snapshot`` kept under this digest and key.

    WardroundError if it is another, or none of this dictionary's.
    """
    content = read_private(path, _MOST)
    # other rows under masks that served already would be told by the difference
    if digest_of(content, key) != digest:
        raise WardroundError(
            f"{path}: these are not the rows that were pinned when the study was approved; approve it once "
            "more: wardround hospital approve --again"
        )
    try:
        with _reading, np.load(io.BytesIO(content), allow_pickle=False) as kept:
            about = json.loads(str(kept["about"]))
            rows = int(about["rows"])
            columns = {name: kept[f"column:{name}"] for name in dictionary}
            keys = kept["keys"]
            held_out = kept.get("held_out")
            counts = {name: tuple(map(int, about["variables"][name])) for name in dictionary}
            read, not_in_cohort, out_of_range = map(int, about["flow"])
        whole = all(column.shape == (rows,) for column in (*columns.values(), keys))
        if not whole or keys.dtype != np.uint64 or (held_out is not None and held_out.dtype != np.bool_):
            raise ValueError
        flow = Flow(
            read, not_in_cohort, out_of_range, {n: (a, b, c, d) for n, (a, b, c, d) in counts.items()}
        )
    except (ValueError, KeyError, TypeError, OSError, zipfile.BadZipFile):
        raise WardroundError(
            f"{path}: this is no cohort of the study; approve the study once more: "
            "wardround hospital approve --again"
        ) from None
    return Cohort(dictionary, columns, rows, RowKeys.known(keys), held_out, flow)
