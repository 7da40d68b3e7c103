"""What officers say of other hospitals decides with whom theirs computes: real homes, the real command."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from tests.network.line import done, ran, refused
from wardround_client import officers
from wardround_client.app import Node, client_app
from wardround_client.approval import approve, take_up
from wardround_client.home import HospitalHome, make_home
from wardround_client.session import Session
from wardround_common.enrolment import make_enrolment
from wardround_common.errors import ProtocolError, Refused, WardroundError
from wardround_common.replay import Replay
from wardround_common.sealing.identity import Identity
from wardround_common.sealing.record import EpochRecord
from wardround_common.sealing.roster import Member, Roster, enter, fingerprint
from wardround_common.study import parse_study
from wardround_common.words import WORDS, words
from wardround_server.federation import HospitalRefuses, agree
from wardround_server.grid import LocalGrid, post
from wardround_server.strategies import flower
from wardround_server.transcript import Transcript

NAMES = ("east", "north", "south", "west")
STUDY = parse_study(
    {
        "wardround": 1,
        "name": "wards",
        "variables": {
            "age": {"kind": "number", "range": [18, 100]},
            "ill": {"kind": "category", "levels": ["0", "1"]},
        },
        "outcome": "ill",
        "analyses": [{"kind": "logistic", "ridge": 1}],
    }
)
Homes = dict[str, HospitalHome]


@pytest.fixture
def homes(tmp_path: Path) -> Iterator[Homes]:
    """Four hospitals that have approved the study; nobody has confirmed anybody."""
    made = {}
    for number, name in enumerate(NAMES):
        table = tmp_path / f"{name}.csv"
        rows = [f"{20 + number + i},{i * 7 % 3 % 2}" for i in range(60)]
        table.write_text("\n".join(["age,ill", *rows, ""]))
        made[name] = make_home(tmp_path / name, name, table)
        approve(made[name], STUDY)
    yield made
    for home in made.values():
        home.store.close()


def session(home: HospitalHome) -> Session:
    record = home.store.study(STUDY.digest)
    assert record is not None
    return take_up(home, record)


def roster(homes: Homes, *more: Member) -> Roster:
    members = [*(session(home).join() for home in homes.values()), *more]
    return Roster(STUDY.digest, tuple(sorted(members, key=lambda member: member.name)))


def read_out(home: HospitalHome) -> str:
    return " ".join(words(fingerprint(home.name, home.identity.public)))


def confirm_all(homes: Homes) -> None:
    for home in homes.values():
        for other in homes.values():
            if other is not home:
                officers.confirm(home, officers.find(home, other.name, officers.heard(read_out(other))))


def entries(home: HospitalHome) -> list[tuple[str, str]]:
    kinds = ("confirm", "revoke", "withdraw confirmation", "withdraw revocation", "forgive")
    return [(event, detail) for event, _, detail in home.store.entries() if event in kinds]


def code(homes: Homes, one: Roster, name: str = "north") -> str:
    """Return the code with which a hospital refuses a roster; nothing if it signs."""
    try:
        session(homes[name]).approve_roster(one)
    except Refused as error:
        return error.code
    return ""


def members(home: HospitalHome) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(done("hospital", "members", "--json", "--home", home.path))
    return found


def confirm(home: HospitalHome, *arguments: object) -> str:
    return done("hospital", "confirm", *arguments, "--home", home.path)


def no(home: HospitalHome, *arguments: object) -> str:
    before = home.store.officers(), entries(home)
    line = refused("hospital", "confirm", *arguments, "--home", home.path)
    assert (home.store.officers(), entries(home)) == before
    return line


# Confirming


def test_a_hospital_reads_the_same_words_out_to_everybody(homes: Homes) -> None:
    north, south = homes["north"], homes["south"]
    own = members(north)["words"]
    assert own == read_out(north)
    assert tuple(own.split()) == make_enrolment("north", north.identity, north.node_key).words
    assert f"`north`, this hospital: {own}" in done("hospital", "members", "--home", north.path)
    assert f"Words: {own}" in done("hospital", "status", "--home", north.path)
    code(homes, roster(homes), "south")
    assert {one["name"]: one["words"] for one in members(south)["members"]}["north"] == own


def test_a_roster_is_signed_once_all_of_its_hospitals_are_confirmed(homes: Homes) -> None:
    north, whole = homes["north"], roster(homes)
    assert members(north)["members"] == []
    assert code(homes, whole) == "unconfirmed"
    assert [one["name"] for one in members(north)["members"]] == ["east", "south", "west"], "noted before"
    assert "`south`, not confirmed: " in done("hospital", "members", "--home", north.path)
    said = confirm(north, "south", "--yes")
    assert said == f"Confirmed `south` ({read_out(homes['south'])}).\n"
    confirm(north, "west", "--yes")
    assert code(homes, whole) == "unconfirmed", "all but one"
    confirm(north, "east", "--yes")
    assert code(homes, whole) == ""
    told = {one["name"]: (one["state"], one["studies"]) for one in members(north)["members"]}
    assert told == dict.fromkeys(("east", "south", "west"), ("confirmed", ["wards"]))
    assert entries(north) == [
        ("confirm", f"{name} {read_out(homes[name])}") for name in ("south", "west", "east")
    ]


def test_status_shows_the_rosters_words_that_all_have_and_who_is_not_confirmed(
    homes: Homes,
) -> None:
    confirm_all(homes)
    whole = roster(homes)
    assert {code(homes, whole, name) for name in homes} == {""}
    officers.withdraw(homes["north"], officers.find(homes["north"], "east"))
    told = []
    for home in homes.values():
        told.append(json.loads(done("hospital", "status", "--json", "--home", home.path)))
        assert f"Roster of `wards`, 4 hospitals: {' '.join(words(whole.digest))}" in done(
            "hospital", "status", "--home", home.path
        )
    assert {one["studies"][0]["roster"]["words"] for one in told} == {" ".join(words(whole.digest))}
    assert [one["studies"][0]["roster"]["not_confirmed"] for one in told] == [[], ["east"], [], []]
    assert "Not confirmed: `east`" in done("hospital", "status", "--home", homes["north"].path)


def test_a_hospital_is_confirmed_by_its_words_before_any_roster_named_it(homes: Homes) -> None:
    north, three = homes["north"], {name: homes[name] for name in ("east", "north", "south")}
    for name in ("east", "south"):
        confirm(north, name, "--words", read_out(homes[name]).upper().replace(" ", ", "))
    assert {one["name"]: one["state"] for one in members(north)["members"]} == dict.fromkeys(
        ("east", "south"), "confirmed"
    )
    assert code(homes, roster(three)) == ""


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (lambda spoken: ["acornn", *spoken[1:]], "`acornn` (did you mean `acorn`?)"),
        (lambda spoken: ["xyzzy", "walruss", *spoken[2:]], "`xyzzy`, `walruss` (did you mean `walrus`?)"),
        (lambda spoken: ["\x1b[2J", *spoken[1:]], r"`'\x1b[2j'`"),
        (lambda spoken: spoken[:-1], "10 words are read out, not 9"),
        (lambda spoken: [*spoken, "acorn"], "10 words are read out, not 11"),
        (lambda spoken: [], "10 words are read out, not 0"),
    ],
)
def test_words_that_were_misheard_are_named(homes: Homes, change: Any, says: str) -> None:
    spoken = change(read_out(homes["south"]).split())
    assert says in no(homes["north"], "south", "--words", " ".join(spoken))


def test_every_word_stands_for_its_byte() -> None:
    found = [officers.heard(" ".join(WORDS[first : first + 10])) for first in range(0, 250, 10)]
    assert b"".join(found) == bytes(range(250))


def test_one_word_that_is_another_of_the_list_is_no_confirmation_of_what_was_met(homes: Homes) -> None:
    north = homes["north"]
    code(homes, roster(homes))
    spoken = read_out(homes["south"]).split()
    spoken[3] = WORDS[(WORDS.index(spoken[3]) + 1) % 256]
    line = no(north, "south", "--words", " ".join(spoken))
    assert f'`south` stands for other words here: "{read_out(homes["south"])}" (not confirmed)' in line
    assert "telephone it" in line


def test_the_words_of_another_hospital_or_of_oneself_confirm_nobody(homes: Homes) -> None:
    north = homes["north"]
    code(homes, roster(homes))
    assert "these are the words of `east`, not of `south`" in no(
        north, "south", "--words", read_out(homes["east"])
    )
    assert "these are the words of `north`, this hospital itself" in no(
        north, "south", "--words", read_out(north)
    )
    assert "`north` is this hospital itself" in no(north, "north", "--yes")


def test_a_name_that_nobody_named_is_told_with_the_nearest(homes: Homes) -> None:
    north = homes["north"]
    assert "no coordinator has named a hospital `south` yet; confirm it by the words" in no(
        north, "south", "--yes"
    )
    code(homes, roster(homes))
    assert "(did you mean `south`?)" in no(north, "sout", "--yes")


def test_without_an_answer_nothing_is_confirmed(homes: Homes) -> None:
    code(homes, roster(homes))
    said = unanswered("hospital", "confirm", "south", "--home", homes["north"].path)
    assert read_out(homes["south"]) in said and "read out the same on the telephone?" in said
    assert homes["north"].store.officers() == {}


def unanswered(*arguments: object) -> str:
    """Run a command that asks, where nobody is to answer; return what it shows."""
    code, _, err = ran(*arguments)
    assert code == 2
    assert "Nobody is there to answer" in err
    return err


def test_two_identities_under_one_name_are_told_apart_by_words_alone(homes: Homes) -> None:
    north, impostor = homes["north"], Identity.generate()
    others = {name: home for name, home in homes.items() if name != "south"}
    code(homes, roster(homes))
    made_up = enter(impostor, STUDY.digest, "south", session(homes["south"]).join().masking)
    assert code(homes, roster(others, made_up)) == "unconfirmed"
    true, false = read_out(homes["south"]), " ".join(words(fingerprint("south", impostor.public)))
    line = no(north, "south", "--yes")
    assert true in line and false in line and "--words" in line
    confirm(north, "south", "--words", true)
    assert "stands for other words here" in no(north, "south", "--words", false)
    confirm(north, "south", "--words", false, "--revoke", "--yes")
    for name in ("east", "west"):
        confirm(north, name, "--yes")
    assert code(homes, roster(others, made_up)) == "revoked"
    assert code(homes, roster(homes)) == ""


def test_a_name_that_draws_on_the_screen_is_refused_and_never_shown(homes: Homes) -> None:
    north, name = homes["north"], "south\x1b[2J, confirmed"
    keys = Identity.generate()
    masking = session(homes["south"]).join().masking
    others = {one: home for one, home in homes.items() if one != "south"}
    with pytest.raises(ProtocolError, match="a name that no hospital may have"):
        session(north).approve_roster(roster(others, enter(keys, STUDY.digest, name, masking)))
    assert north.store.met() == []
    north.store.meet(name, keys.public)  # as one that an earlier version noted
    said = "".join(done("hospital", command, "--home", north.path) for command in ("members", "status"))
    assert "\x1b" not in said and r"south\x1b[2J, confirmed" in said
    assert "can't be printed" in no(north, name, "--yes")


# By file


def test_an_enrolment_file_from_the_hospital_itself_confirms_it(homes: Homes, tmp_path: Path) -> None:
    north, south = homes["north"], homes["south"]
    file = tmp_path / "south.json"
    file.write_bytes(make_enrolment("south", south.identity, south.node_key).to_json())
    confirm(north, "south", "--file", file, "--yes")
    assert members(north)["members"][0] == {
        "name": "south",
        "state": "confirmed",
        "words": read_out(south),
        "studies": [],
    }
    assert "the enrolment of `south`, not of `east`" in no(north, "east", "--file", file, "--yes")


def test_an_enrolment_file_of_other_keys_or_none_confirms_nobody(homes: Homes, tmp_path: Path) -> None:
    north, south, file = homes["north"], homes["south"], tmp_path / "south.json"
    code(homes, roster(homes))
    good = make_enrolment("south", south.identity, south.node_key)
    other = make_enrolment("south", Identity.generate(), south.node_key)
    for content, says in (
        (b"{}", "south.json: "),
        (b"x" * 9000, "more than 8 KiB"),
        (replace(good, identity=other.identity).to_json(), "not valid"),
        (other.to_json(), "stands for other words here"),
    ):
        file.write_bytes(content)
        assert says in no(north, "south", "--file", file, "--yes")
    assert "cannot be read" in no(north, "south", "--file", tmp_path / "none.json", "--yes")
    assert "can't be given together" in no(north, "south", "--file", file, "--words", read_out(south))
    assert "can't be given together" in no(north, "south", "--revoke", "--withdraw")


# Revoking and taking back


@contextmanager
def running(homes: Homes) -> Iterator[LocalGrid]:
    apps = {
        number: partial(client_app, Node(home.store, partial(take_up, home)))
        for number, home in enumerate(homes.values(), 1)
    }
    grid = LocalGrid(apps, 2)
    try:
        yield grid
    finally:
        grid.close()


def federation(grid: LocalGrid, homes: Homes, transcript: Transcript) -> Any:
    entered = {number: session(home).join() for number, home in enumerate(homes.values(), 1)}
    return agree(post(grid), STUDY, transcript, entered)


def step(homes: Homes, grid: LocalGrid, transcript: Transcript) -> None:
    """Agree on an epoch and take the study's next step."""
    formed = federation(grid, homes, transcript)
    replay = Replay(STUDY, flower, formed.epoch.binding)
    for record in transcript.course:
        if isinstance(record, EpochRecord):
            replay.begin(record.epoch)
        else:
            replay.take(record, replay.open(record))
    transcript.append(formed.ask(replay.due, transcript.course))


def test_a_revoked_hospital_bars_rosters_epochs_and_questions_until_it_is_taken_back(homes: Homes) -> None:
    confirm_all(homes)
    north, transcript = homes["north"], Transcript()
    with running(homes) as grid:
        formed = federation(grid, homes, transcript)
        replay = Replay(STUDY, flower, formed.epoch.binding)
        replay.begin(formed.epoch)
        said = unanswered("hospital", "confirm", "south", "--revoke", "--home", north.path)
        assert "Studies of which it is a member will stop here" in said
        confirm(north, "south", "--revoke", "--yes")
        assert "was revoked here; take that back first" in no(north, "south", "--yes")
        with pytest.raises(HospitalRefuses, match=r"`north` refuses: .*\(revoked\)"):
            formed.ask(replay.due, transcript.course)
        with pytest.raises(HospitalRefuses, match=r"`north` refuses: .*\(revoked\)"):
            federation(grid, homes, transcript)
        with pytest.raises(Refused, match="revoked"):
            session(north).sign_epoch(replace(formed.epoch, number=9), ())
        # it was signed before, and the study may go on without the one that was revoked
        assert code(homes, transcript.opening.roster) == ""  # type: ignore[union-attr]
        confirm(north, "south", "--withdraw", "--yes")
        confirm(north, "south", "--yes")
        transcript.append(federation(grid, homes, transcript).ask(replay.due, transcript.course))
    assert [event for event, _ in entries(north)][3:] == ["revoke", "withdraw revocation", "confirm"]


def test_a_confirmation_that_is_taken_back_is_heeded_by_the_next_question(homes: Homes) -> None:
    three = {name: homes[name] for name in ("east", "north", "south")}
    confirm_all(three)
    north, transcript = homes["north"], Transcript()
    with running(three) as grid:
        formed = federation(grid, three, transcript)
        replay = Replay(STUDY, flower, formed.epoch.binding)
        replay.begin(formed.epoch)
        confirm(north, "south", "--withdraw", "--yes")
        with pytest.raises(HospitalRefuses, match=r"\(unconfirmed\)"):
            formed.ask(replay.due, transcript.course)
    assert "has said nothing of it" in no(north, "south", "--withdraw", "--yes")


def test_new_keys_are_confirmed_after_the_old_ones_were_revoked(homes: Homes) -> None:
    north, old = homes["north"], read_out(homes["south"])
    confirm(north, "south", "--words", old)
    new = " ".join(words(fingerprint("south", Identity.generate().public)))
    assert "revoke the old ones first" in no(north, "south", "--words", new)
    confirm(north, "south", "--words", old, "--revoke", "--yes")
    confirm(north, "south", "--words", new)
    assert sorted(one["state"] for one in members(north)["members"]) == ["confirmed", "revoked"]


# A database that was restored


def test_a_restored_node_goes_on_once_its_officer_has_forgiven_it(homes: Homes, tmp_path: Path) -> None:
    confirm_all(homes)
    transcript = Transcript()
    database, copy = homes["north"].path / "node.db", tmp_path / "node.db"
    homes["north"].store.close()
    shutil.copyfile(database, copy)
    again(homes, "north")
    assert "nothing to forgive" in refused("hospital", "forgive", "--yes", "--home", homes["north"].path)
    with running(homes) as grid:
        for _ in range(8):  # more entries than the refusals below make
            federation(grid, homes, transcript)
        step(homes, grid, transcript)
    homes["north"].store.close()
    shutil.copyfile(copy, database)
    again(homes, "north")
    with running(homes) as grid:
        with pytest.raises(HospitalRefuses, match=r"`north` refuses: .*\(restored\)"):
            federation(grid, homes, transcript)
        found = officers.lacking(homes["north"])
        said = unanswered("hospital", "forgive", "--home", homes["north"].path)
        assert f"others have seen {found.head.count:,} entries" in said
        assert officers.lacking(homes["north"]) == found
        assert "resume wards" in done("hospital", "forgive", "--yes", "--home", homes["north"].path)
        assert entries(homes["north"])[-1] == ("forgive", found.head.packed().hex())
        step(homes, grid, transcript)
    noted = [detail for event, _, detail in homes["south"].store.entries() if event == "restored"]
    assert noted == ["north: its audit log went back"], "the others have it in their logs"
    assert "nothing to forgive" in refused("hospital", "forgive", "--yes", "--home", homes["north"].path)


def again(homes: Homes, name: str) -> None:
    homes[name] = HospitalHome(homes[name].path)


# Leaving


@pytest.mark.parametrize(
    ("terms", "says"),
    [
        ("allow", "can go on without it"),
        ("group", "can go on only if hospitals enough for a sum are left out with it"),
        ("never", "can't go on without it"),
    ],
)
def test_leaving_tells_what_follows_for_the_studies_that_have_begun(
    homes: Homes, terms: str, says: str
) -> None:
    for home in homes.values():
        home.policy_file.write_text(f'leave = "{terms}"\n')
    confirm_all(homes)
    north = homes["north"]
    with running(homes) as grid:
        step(homes, grid, Transcript())
    north.policy_file.write_text("")  # the terms that were signed count
    north.write_coordinator("test", "localhost:1", "")
    said = done("hospital", "leave", "--yes", "--home", north.path)
    assert f"If not finished, `wards` {says}" in said and f'(leave = "{terms}")' in said
    assert [one.approved_at for one in north.store.studies()] == [None]


def test_a_hospital_of_no_study_leaves_without_such_a_word(homes: Homes) -> None:
    north = homes["north"]
    north.write_coordinator("test", "localhost:1", "")
    assert "If not finished" not in done("hospital", "leave", "--yes", "--home", north.path)


def test_an_error_in_a_home_is_no_reason_to_hide_its_status(homes: Homes) -> None:
    homes["north"].identity_file.unlink()
    assert "`north`: node" in done("hospital", "status", "--home", homes["north"].path)
    with pytest.raises(WardroundError):
        officers.own_words(HospitalHome(homes["north"].path))
