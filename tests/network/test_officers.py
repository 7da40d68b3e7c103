"""Officers and a launched study: it waits for their word, and goes on without a hospital that has left.

Networks of four hospitals between real processes, of which three are enough. Hospitals remember over all
studies with whom they computed and on what terms, so where terms differ there is a network of its own.
"""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.network.net import Hospital, Network, network, online, run, until
from tests.network.test_network import without_times
from wardround_common.study import read_study
from wardround_server.shipped import shipped, shipped_tables
from wardround_server.simulation import simulate

pytestmark = pytest.mark.slow  # what officers say is tested in process by unit/test_officers.py
TABLES = shipped_tables("heart-disease")
GONE = "switzerland"
STAY = {name: table for name, table in TABLES.items() if name != GONE}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("officers")


@pytest.fixture(scope="module")
def net(folder: Path) -> Iterator[Network]:
    """Nobody has confirmed anybody; Flower's state is in memory, which is faster."""
    with network(folder, TABLES, ":memory:", confirmed=False) as found:
        found.terms("allow")
        yield found


def study(folder: Path, name: str) -> Path:
    """Write a study of a dozen steps whose fit begins anew with other hospitals; return its file."""
    raw = yaml.safe_load(shipped("heart-disease").read_text())
    raw |= {"name": name, "analyses": [{"kind": "logistic", "ridge": 1, "on_change": "restart"}]}
    path = folder / f"{name}.yaml"
    path.write_text(yaml.safe_dump(raw))
    return path


def read_out(hospital: Hospital) -> str:
    """The words that a hospital's officer sees as its own."""
    return str(json.loads(run("hospital", "members", "--json", "--home", hospital.home))["words"])


def begun(net: Network, file: Path) -> str:
    """Approve and launch a study; return its name once it is in the middle."""
    name = read_study(file).name
    net.approve(file)
    net.launch(file)
    until(lambda: net.study(name)["steps"] >= 2, 60, net.logs)
    assert net.study(name)["state"] == "running"
    return name


def stopped(net: Network, name: str) -> None:
    net.command("stop", name)
    until(lambda: net.study(name)["state"] == "stopped", 30, net.logs)


def expected(file: Path, tables: dict[str, Path]) -> dict[str, Any]:
    return without_times(simulate(read_study(file), tables).results)


def test_a_launched_study_waits_until_officers_have_confirmed_each_other(net: Network, folder: Path) -> None:
    file = study(folder, "words")
    net.approve(file)
    net.launch(file)
    waiting = dict.fromkeys(TABLES, "unconfirmed")
    until(lambda: net.study("words").get("declined") == waiting, 60, lambda: net.study("words"))
    assert net.study("words")["state"] == "gathering"
    said = net.command("status", "words")
    assert "waiting for the officers of `cleveland`, `hungary`, `switzerland`, `va`, who have to" in said
    assert "declines" not in said
    words = {name: read_out(hospital) for name, hospital in net.hospitals.items()}
    known = json.loads(net.command("hospitals", "--json"))["hospitals"]
    assert {one["name"]: one["words"] for one in known} == words, "the coordinator has the same words"
    for hospital in net.hospitals.values():
        told = json.loads(run("hospital", "members", "--json", "--home", hospital.home))["members"]
        assert {one["name"]: one["words"] for one in told} == {
            name: spoken for name, spoken in words.items() if name != hospital.name
        }
        assert {one["state"] for one in told} == {"not confirmed"}
    stopped(net, "words")  # a study that waits can be stopped
    for name in STAY:  # three confirm all others, the fourth not all of them
        for other in TABLES:
            if other != name:
                run("hospital", "confirm", other, "--words", words[other], "--home", net.hospitals[name].home)
    gone = net.hospitals[GONE].home
    for other in ("hungary", "va"):
        run("hospital", "confirm", other, "--yes", "--home", gone)
    net.command("resume", "words")
    until(lambda: net.study("words")["declined"] == {GONE: "unconfirmed"}, 60, lambda: net.study("words"))
    run("hospital", "confirm", "cleveland", "--yes", "--home", gone)
    found = net.finished("words")
    assert without_times(found)["analyses"] == expected(file, TABLES)["analyses"]
    rosters = [one.status()["studies"][0]["roster"] for one in net.hospitals.values()]
    assert len({one["words"] for one in rosters}) == 1
    assert [one["not_confirmed"] for one in rosters] == [[]] * 4


def test_a_study_goes_on_without_a_hospital_whose_terms_allow_it(net: Network, folder: Path) -> None:
    name = begun(net, study(folder, "allowed"))
    stopped(net, name)
    net.hospitals[GONE].node.kill()
    file = folder / f"{name}.yaml"
    assert "not a hospital of `allowed` (did you mean `hungary`?)" in net.command(
        "resume", name, "--without", "hungry", code=2
    )
    assert "2 of its 4 hospitals would go on; it asks for 3 at least" in net.command(
        "resume", name, "--without", GONE, "--without", "va", code=2
    )
    assert "it can't be taken back; left out so far: nobody" in net.command(
        "resume", name, "--with", GONE, code=2
    )
    assert f"goes on without `{GONE}`" in net.command("resume", name, "--without", GONE)
    found = net.finished(name)
    assert found["hospitals"] == sorted(STAY)
    assert without_times(found)["analyses"] == expected(file, STAY)["analyses"]
    assert f"`{GONE}` left out" in net.command("status", name)
    net.hospitals[GONE].node.start()


def test_a_study_that_waits_for_a_hospital_goes_on_without_it_at_once(net: Network, folder: Path) -> None:
    until(lambda: online(net.hospitals[GONE]), 60, net.logs)
    name = begun(net, study(folder, "waiting"))
    net.hospitals[GONE].node.kill()
    until(lambda: net.study(name)["waiting"] == [GONE], 30, lambda: net.study(name))
    began = time.monotonic()
    net.command("resume", name, "--without", GONE)
    found = net.finished(name)
    assert found["hospitals"] == sorted(STAY)
    assert time.monotonic() - began < 60, "not only after the deadline of an answer"
    net.hospitals[GONE].node.start()


def test_the_coordinator_is_told_which_studies_wait_for_a_hospital_that_has_left(
    net: Network, folder: Path
) -> None:
    name = begun(net, study(folder, "leaving"))
    stopped(net, name)
    hospital = net.hospitals[GONE]
    hospital.node.stop()
    said = run("hospital", "leave", "--yes", "--home", hospital.home)
    assert f"If not finished, `{name}` can go on without it" in said
    said = net.command("hospitals", "--left", GONE)
    assert f"`{name}` began with `{GONE}` and waits for it" in said
    assert f"wardround coordinator resume {name} --without {GONE}" in said
    assert "note: `waiting`" not in said, "it has finished"
    net.command("resume", name, "--without", GONE)
    assert net.finished(name)["hospitals"] == sorted(STAY)


def test_a_study_does_not_go_on_without_a_hospital_whose_terms_forbid_it(tmp_path: Path) -> None:
    file = study(tmp_path, "forbidden")
    with network(tmp_path, TABLES, ":memory:") as net:
        net.terms("group")
        forbidden(net, file)


def forbidden(net: Network, file: Path) -> None:
    """Leave a hospital out against its terms, then take it back."""
    name = begun(net, file)
    stopped(net, name)
    net.hospitals[GONE].node.kill()
    steps = net.study(name)["steps"]
    net.command("resume", name)
    until(lambda: net.study(name)["absent"] == [GONE], 30, lambda: net.study(name))
    said = net.command("status", name)
    assert f"not online: `{GONE}`; if it stays away: wardround coordinator resume {name} --without" in said
    net.command("resume", name, "--without", GONE)
    until(lambda: net.study(name)["state"] == "failed", 60, lambda: net.study(name))
    why = net.study(name)["why"]
    assert "refuses: a hospital is left out whose own terms don't allow it" in why and "(leave)" in why
    assert net.study(name)["steps"] == steps, "no sum was opened"
    assert f"`{GONE}` left out" in net.command("status", name)
    net.hospitals[GONE].node.start()
    assert "goes on. Follow" in net.command("resume", name, "--with", GONE)
    found = net.finished(name)
    assert found["hospitals"] == sorted(TABLES)
    assert without_times(found)["analyses"] == expected(file, TABLES)["analyses"]
