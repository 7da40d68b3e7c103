"""A whole study between processes, over TLS."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from tests.network.net import network
from wardround_common.study import read_study
from wardround_server.shipped import shipped, shipped_tables
from wardround_server.simulation import simulate
from wardround_server.transcript import read_transcript


def without_times(results: dict[str, Any]) -> dict[str, Any]:
    """Return results less what is no result: how long things took."""
    found: dict[str, Any] = json.loads(json.dumps(results))
    for analysis in found["analyses"].values():
        analysis.pop("seconds", None)
    return found


def test_a_study_over_the_network_ends_with_the_bits_of_one_in_process(tmp_path: Path) -> None:
    study = read_study(shipped("flamby-heart"))
    tables = shipped_tables("flamby-heart")
    kept = tmp_path / "transcript"
    expected = simulate(study, tables, transcript=kept)
    with network(tmp_path, tables) as net:
        net.approve(shipped("flamby-heart"))
        net.launch("flamby-heart")
        found = net.finished("flamby-heart")
        steps = read_transcript(net.home / "studies" / "flamby-heart" / "transcript").steps
    assert without_times(found)["analyses"] == without_times(expected.results)["analyses"]
    sums = [[one.vector.tobytes() for one in step.sums] for step in steps]
    assert sums == [[one.vector.tobytes() for one in step.sums] for step in read_transcript(kept).steps]
