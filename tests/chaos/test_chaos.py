"""A few runs of the storm; `make soak` has a hundred."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.chaos.storm import weather


@pytest.mark.slow
def test_a_disturbed_study_ends_by_itself_with_the_same_bits(tmp_path: Path) -> None:
    outcome = weather(tmp_path, 5, seed=0)
    assert not outcome.failures, "\n".join(outcome.failures)
    assert outcome.runs == 5
    assert len(outcome.faults) == 5
