"""Every release of one hospital waits for its officer: the study waits too, and ends as without waiting."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.network.net import Hospital, Network, network, run, until
from tests.network.test_network import without_times
from tests.support import HOSPITALS, WARDS
from wardround_common.study import parse_study
from wardround_server.simulation import simulate

pytestmark = pytest.mark.slow  # attacks/test_governance.py holds releases in process
CAREFUL = "north"
SUMMARY = {"kind": "summary"}


@pytest.fixture(scope="module")
def tables(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("tables")
    found = {}
    for number, name in enumerate(HOSPITALS):
        rows = [
            f"{20 + (number + 7 * i) % 70},{(i * 13 + number) % 400},{'fm'[i % 2]},{i * 7 % 3 % 2}"
            for i in range(60)
        ]
        found[name] = folder / f"{name}.csv"
        found[name].write_text("\n".join(["age,crp,sex,ill", *rows, ""]))
    return found


@pytest.fixture(scope="module")
def net(tmp_path_factory: pytest.TempPathFactory, tables: dict[str, Path]) -> Iterator[Network]:
    with network(tmp_path_factory.mktemp("hold"), tables, ":memory:") as found:
        careful = found.hospitals[CAREFUL]
        (careful.home / "policy.toml").write_text("hold = true\n")
        yield found


def study(net: Network, name: str) -> dict[str, Any]:
    """Have all hospitals approve a study of this name, and launch it."""
    raw = {**WARDS, "name": name, "analyses": [SUMMARY]}
    file = net.folder / f"{name}.json"
    file.write_text(json.dumps(raw))
    net.approve(file)
    net.launch(file)
    return raw


def waits(net: Network, name: str) -> bool:
    told = net.study(name)
    assert told["state"] != "failed", net.logs()
    return told["state"] == "finished" or told.get("declined") == {CAREFUL: "held"}


def officer(hospital: Hospital, command: str, *arguments: object) -> str:
    return run("hospital", command, *arguments, "--home", hospital.home)


def test_a_study_whose_releases_wait_goes_on_release_by_release(
    net: Network, tables: dict[str, Path]
) -> None:
    raw, careful = study(net, "slowly"), net.hospitals[CAREFUL]
    shown: list[str] = []
    while True:
        until(lambda: waits(net, "slowly"), 60, net.logs)
        if net.study("slowly")["state"] == "finished":
            break
        waiting = json.loads(officer(careful, "releases", "slowly", "--show", "--json"))
        if not waiting:  # let go, and not asked again yet
            continue
        left = json.loads(officer(careful, "ledger", "--json"))["releases"]
        assert [f"{one['analysis']}/{one['index']}" for one in left] == shown
        if not shown:
            assert f"`{CAREFUL}`" in net.command("status", "slowly"), "the operator sees for whom it waits"
        for one in waiting:
            assert one["verdict"] == "may leave, sealed" and one["values"]
            shown.append(f"{one['analysis']}/{one['index']}")
        officer(careful, "releases", "slowly", "--release", "all")
    assert shown == ["flow/0", "summary/0", "summary/1"]
    expected = without_times(simulate(parse_study(raw), tables).results)
    assert without_times(net.finished("slowly"))["analyses"] == expected["analyses"]
    left = json.loads(officer(careful, "ledger", "--json"))["totals"]
    assert [(one["study"], one["releases"], one["hospitals"]) for one in left] == [
        ("slowly", 3, sorted(HOSPITALS))
    ]


def test_a_release_that_is_declined_never_leaves(net: Network) -> None:
    study(net, "declined")
    careful = net.hospitals[CAREFUL]
    until(lambda: waits(net, "declined"), 60, net.logs)
    assert "Declined: flow/0" in officer(careful, "releases", "declined", "--refuse", "flow/0")
    until(lambda: net.study("declined")["state"] not in ("running", "gathering"), 60, net.logs)
    assert net.study("declined")["state"] != "finished"
    left = json.loads(officer(careful, "ledger", "--study", "declined", "--json"))["releases"]
    assert left == []
    (told,) = [one for one in json.loads(officer(careful, "studies", "--json")) if one["name"] == "declined"]
    assert (told["state"], told["waiting"]) == ("approved", 0)
