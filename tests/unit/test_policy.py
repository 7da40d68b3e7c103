"""policy.toml: profiles, keys of a hospital's own, and what each refuses, by its name."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.support import clinic_home, patients, study_of
from wardround_client.app import node_of
from wardround_client.approval import look_at
from wardround_client.gate import Policy, read_policy
from wardround_client.gate.policy import PROFILES
from wardround_client.home import HospitalHome
from wardround_common import messages as say
from wardround_common.errors import Refused, WardroundError
from wardround_common.study import Study, parse_study
from wardround_common.wire import encode

SUMMARY = {"kind": "summary", "variables": ["age", "sex"]}


def asked(**privacy: Any) -> Study:
    return study_of(SUMMARY, privacy={"min_hospitals": 3, **privacy})


def written(tmp_path: Path, text: str) -> Policy:
    path = tmp_path / "policy.toml"
    path.write_text(text)
    return read_policy(path)


@pytest.mark.parametrize(
    ("profile", "cell", "rounded"),
    [("cms11", 11, 1), ("nhs7", 8, 5), ("ohdsi5", 5, 1), ("datashield3", 3, 1)],
)
def test_a_profile_asks_what_its_authors_do(tmp_path: Path, profile: str, cell: int, rounded: int) -> None:
    policy = written(tmp_path, f'profile = "{profile}"\n')
    assert (policy.min_cell, policy.round_to) == (cell, rounded)
    policy.check(asked(min_cell=cell, round_to=rounded))
    with pytest.raises(Refused, match=r"privacy\.min_cell"):
        policy.check(asked(min_cell=cell - 1, round_to=rounded))
    assert set(PROFILES) == {"cms11", "nhs7", "ohdsi5", "datashield3"}


def test_a_key_that_is_written_goes_before_its_profile(tmp_path: Path) -> None:
    policy = written(tmp_path, 'profile = "ohdsi5"\nmin_cell = 20\n')
    assert policy.min_cell == 20


@pytest.mark.parametrize(
    ("text", "key"),
    [
        ('profile = "cms12"', "profile"),
        ("profile = []", "profile"),
        ("min_cell = 0", "min_cell"),
        ("max_queries = 0", "max_queries"),
        ("max_share = 1.5", "max_share"),
        ('hold = "no"', "hold"),
        ('differential_privacy = "maybe"', "differential_privacy"),
        ('analyses = ["sumary"]', "analyses"),
        ('[standing]\ncoordinators = ["a"]', "standing"),
        ('[standing]\ncoordinators = ["a"]\nanalyses = ["all"]\nvariables = ["age"]', "standing.analyses"),
        ('[standing]\ncoordinators = []\nanalyses = ["summary"]\nvariables = ["age"]', "standing"),
        ("min_cels = 3", "min_cels"),
    ],
)
def test_a_mistake_names_the_file_and_the_key(tmp_path: Path, text: str, key: str) -> None:
    with pytest.raises(WardroundError) as error:
        written(tmp_path, text + "\n")
    assert "policy.toml" in str(error.value) and key in str(error.value)


@pytest.mark.parametrize(
    ("policy", "key"),
    [
        ({"min_hospitals": 4}, "min_hospitals"),
        ({"min_rows": 11}, "min_rows"),
        ({"min_cell": 12}, "min_cell"),
        ({"round_to": 5}, "round_to"),
        ({"analyses": ("logistic",)}, "analyses"),
        ({"variables": ("age",)}, "variables"),
        ({"differential_privacy": "required"}, "differential_privacy"),
    ],
)
def test_a_study_that_asks_for_less_is_refused_by_the_keys_name(policy: dict[str, Any], key: str) -> None:
    with pytest.raises(Refused, match=key) as refusal:
        Policy(**policy).check(asked())
    assert refusal.value.code == "policy"
    Policy().check(asked())


def test_all_that_a_policy_has_against_a_study_is_told_at_once() -> None:
    found = Policy(min_cell=20, min_rows=30, analyses=("forest",)).refusals(asked(plan="trusted"))
    assert [any(key in one for one in found) for key in ("min_cell", "min_rows", "analyses", "plan")] == [
        True
    ] * 4


# --- at a home ---


@pytest.fixture
def home(tmp_path: Path) -> Iterator[HospitalHome]:
    with clinic_home(tmp_path) as made:
        made.coordinator_file.write_text('name = "ring"\naddress = "ring.example.org:443"\n')
        yield made


STANDING = """
[standing]
coordinators = ["ring"]
analyses = ["summary"]
variables = ["age", "sex"]
"""


def offered(home: HospitalHome, study: Study) -> object:
    return say.MESSAGES.decode(node_of(home).reply("join", encode(say.Invitation(study.manifest()))), object)


def narrow(**changes: Any) -> Study:
    plain = json.loads(asked().manifest())
    plain["variables"] = {name: plain["variables"][name] for name in ("age", "sex")}
    return parse_study({**plain, "predictors": ["age"], "outcome": None, **changes})


def test_nothing_is_approved_by_itself_by_default(home: HospitalHome) -> None:
    assert offered(home, narrow()) == say.Refusal("not_approved")


def test_a_standing_rule_approves_what_it_covers_and_says_so(home: HospitalHome) -> None:
    home.policy_file.write_text(STANDING)
    assert isinstance(offered(home, narrow()), say.Entry)
    entries = [detail for event, _, detail in home.store.entries() if event == "approve"]
    assert len(entries) == 1 and entries[0].endswith("by the standing rule")


@pytest.mark.parametrize(
    "rule",
    [
        STANDING.replace("ring", "another"),
        STANDING.replace('"summary"', '"logistic"'),
        STANDING.replace('"age", "sex"', '"age"'),
        STANDING + "max_numbers = 3\n",
        "min_cell = 50\n" + STANDING,
    ],
    ids=["coordinator", "analyses", "variables", "numbers", "policy"],
)
def test_a_standing_rule_approves_nothing_beyond_itself(home: HospitalHome, rule: str) -> None:
    home.policy_file.write_text(rule)
    assert offered(home, narrow()) == say.Refusal("not_approved")
    assert not [one for one in home.store.entries() if one[0] == "approve"]


def test_a_standing_rule_accepts_no_difference(home: HospitalHome) -> None:
    home.policy_file.write_text(STANDING)
    oldest = int(patients()["age"].max())
    assert isinstance(offered(home, narrow()), say.Entry)
    second = narrow(name="second", cohort={"where": f"age < {oldest}", "closed": None})
    assert offered(home, second) == say.Refusal("not_approved")


def test_another_coordinator_is_refused_at_review(home: HospitalHome) -> None:
    home.policy_file.write_text('coordinators = ["another"]\n')
    assert any("`coordinators`" in one for one in look_at(home, narrow()).refusals)


def test_a_study_of_more_queries_than_may_be_answered_is_refused_at_review(home: HospitalHome) -> None:
    home.policy_file.write_text("max_queries = 2\n")
    assert any("`max_queries`" in one for one in look_at(home, narrow()).refusals)
