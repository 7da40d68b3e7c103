"""A network whose coordinator asks for tokens: what its log says of a whole study, and that it verifies."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

import pytest

from tests.network.net import network, run, until
from wardround_common.study import read_study
from wardround_server.home import owner
from wardround_server.shipped import shipped, shipped_tables

pytestmark = pytest.mark.slow  # the same is tested in process by unit/test_access.py
STUDY = "flamby-heart"


def test_a_study_of_an_analyst_is_in_the_log_from_the_first_to_the_last(tmp_path: Path) -> None:
    with network(tmp_path, shipped_tables(STUDY), ":memory:") as net:

        def acts(*command: object, token: str | None = None, code: int = 0) -> str:
            with pytest.MonkeyPatch.context() as environment:
                environment.setenv("WARDROUND_TOKEN", token or "")
                return net.command(*command, code=code)

        made = acts("user", "add", "ann", "--role", "operator", "--json")
        tokens = {"ann": json.loads(made)["token"]}
        config = net.home / "config.toml"
        config.write_text(f'{config.read_text()}\n[access]\ntokens = "required"\n')
        for name, role in (("ben", "analyst"), ("cleo", "auditor")):
            said = acts("user", "add", name, "--role", role, "--json", token=tokens["ann"])
            tokens[name] = json.loads(said)["token"]
        net.coordinator.stop()  # it starts again without a token, and with one
        net.serve()
        net.coordinator.stop()
        with pytest.MonkeyPatch.context() as environment:
            environment.setenv("WARDROUND_TOKEN", tokens["ann"])
            net.serve()
        inherited = Path(f"/proc/{net.superlink_pid()}/environ").read_bytes()
        assert b"WARDROUND_HOME=" in inherited
        assert b"WARDROUND_TOKEN" not in inherited
        net.approve(shipped(STUDY))
        assert "cleo is auditor and may not do this" in acts("launch", STUDY, token=tokens["cleo"], code=2)
        acts("launch", STUDY, token=tokens["ben"])
        net.finished(STUDY)
        until(lambda: "finished" in [one["event"] for one in log(net.home)], 20, net.logs)
        assert "may not" in acts("results", STUDY, token=tokens["cleo"], code=2)
        assert "needs a token" in acts("results", STUDY, code=2)
        acts("results", STUDY, "--json", token=tokens["ben"])
        found = log(net.home)
        logs = net.logs()
    events = [(one["actor"], one["event"], one["study"]) for one in found]
    names = sorted(shipped_tables(STUDY))
    me = owner()
    assert events[:2] == [(me, "init", ""), (me, "serve", "")]
    assert [actor for actor, event, _ in events if event == "serve"] == [me, me, "user:ann"]
    assert {(actor, event) for actor, event, _ in events if event == "enrol"} == {
        (f"hospital:{name}", "enrol") for name in names
    }
    assert [one for one in events if one[2] == STUDY] == [
        ("user:cleo", "denied", STUDY), ("user:ben", "launch", STUDY), ("coordinator", "epoch", STUDY),
        ("coordinator", "finished", STUDY), ("user:cleo", "denied", STUDY), (me, "denied", STUDY),
        ("user:ben", "results", STUDY),
    ]  # fmt: skip
    [ended] = [one["detail"] for one in found if one["event"] == "finished"]
    results = (net.home / "studies" / STUDY / "results" / "results.json").read_bytes()
    assert ended == f"results sha256:{hashlib.sha256(results).hexdigest()}"
    [begun] = [one["detail"] for one in found if one["event"] == "launch"]
    assert begun == f"study sha256:{read_study(shipped(STUDY)).digest.hex()}"
    said = run("audit", "verify", "--home", net.home, "--json")
    assert json.loads(said)
    assert not [token for token in tokens.values() if token in logs + json.dumps(found)]


def log(home: Path) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = json.loads(run("audit", "log", "--home", home, "--json", "--last", 1000))
    return found
