"""The results have the same bits whichever kernels numpy and OpenBLAS choose for the processor.

Each case runs all contract studies in a process of its own, with kernels of older processors forced.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytestmark = pytest.mark.slow  # each runs studies in processes of their own
ROOT = Path(__file__).resolve().parents[2]


def dispatched() -> list[str]:
    """Return the processor features beyond numpy's baseline that this machine has."""
    return list(np.show_config(mode="dicts")["SIMD Extensions"].get("found", []))


@lru_cache
def digest(**environment: str) -> dict[str, Any]:
    done = subprocess.run(
        [sys.executable, "-m", "tests.analyses.digest"],
        cwd=ROOT,
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    found: dict[str, Any] = json.loads(done.stdout)
    return found


@pytest.mark.xdist_group("processors")
@pytest.mark.parametrize("core", ["Prescott", "Nehalem", "Haswell"])
def test_forced_kernels_change_no_bit_of_the_results(core: str) -> None:
    without = dispatched() if core == "Prescott" else dispatched()[1:]
    other = digest(NPY_DISABLE_CPU_FEATURES=" ".join(without), OPENBLAS_CORETYPE=core)
    assert not set(without) & set(other["features"]), "numpy did not obey"
    assert other["results"] == digest()["results"]


def test_the_forced_kernels_do_give_other_bits_where_numpy_chooses() -> None:
    """If this is skipped, the test above proves little on this machine."""
    if not dispatched():
        pytest.skip("numpy has one set of kernels for this processor")
    other = digest(NPY_DISABLE_CPU_FEATURES=" ".join(dispatched()), OPENBLAS_CORETYPE="Prescott")
    assert other["numpy"] != digest()["numpy"]
