"""A preview shows every array that would be sealed, and nothing of it leaves, is kept or is charged."""

from __future__ import annotations

import hashlib
import json
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.network.line import done, refused
from tests.support import patients, study_of
from wardround_client.approval import approve
from wardround_client.home import HospitalHome, make_home
from wardround_client.preview import Preview, Release, preview, write_releases
from wardround_common.errors import WardroundError
from wardround_common.study import Study

SUMMARY = {"kind": "summary", "variables": ["age", "chol", "sex"]}
LOGISTIC = {"kind": "logistic", "ridge": 1.0, "missing": "drop"}
OWN = "This hospital's own numbers, before they are sealed: don't pass them on."


def asked(*analyses: dict[str, Any], **changes: Any) -> Study:
    privacy = {"min_hospitals": 3, **changes.pop("privacy", {})}
    return study_of(*(analyses or (SUMMARY, LOGISTIC)), privacy=privacy, **changes)


@pytest.fixture
def home(tmp_path: Path) -> Iterator[HospitalHome]:
    table = tmp_path / "patients.csv"
    patients().to_csv(table, index=False)
    made = make_home(tmp_path / "home", "h01", table)
    study = asked()
    made.store.offer(study.digest, study.name, study.manifest())
    yield made
    made.store.close()


def first(found: Preview, kind: str) -> Release:
    return next(one for one in found.releases if one.kind == kind)


def contents(folder: Path) -> dict[str, str]:
    """The digest of every file of a home."""
    return {
        str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


# What is shown


def test_the_arrays_are_the_sums_over_all_rows_of_this_hospital(home: HospitalHome) -> None:
    found, table = preview(home, asked()), patients()
    moments = first(found, "summary")
    assert moments.rows == len(table) == int(moments.values["rows"])
    assert int(moments.values["chol n"]) == int(table["chol"].notna().sum())
    shares = (table["chol"].dropna() - 80) / (620 - 80)
    assert float(moments.values["chol sum"]) == pytest.approx(shares.sum(), abs=1e-9)
    assert moments.values["sex levels"].tolist() == table["sex"].value_counts().sort_index().tolist()
    whole = table.dropna(subset=["age", "chol", "bmi", "cp"])
    fit = [one for one in found.releases if one.kind == "logistic.newton"]
    assert len(fit) > 2 and {int(one.values["n"]) for one in fit} == {len(whole)}
    deviance = float(fit[0].values["deviance"]) / len(whole)
    assert 0 < float(fit[-1].values["deviance"]) / len(whole) < deviance, "it is fitted as it goes on"


def test_releases_come_in_the_order_of_the_program(home: HospitalHome) -> None:
    found = preview(home, asked())
    assert (found.releases[0].analysis, found.releases[0].step) == ("flow", 0)
    steps = [one.step for one in found.releases]
    assert steps == sorted(steps) and set(steps) == set(range(max(steps) + 1))
    for label in ("flow", "summary", "logistic"):
        own = [one.index for one in found.releases if one.analysis == label]
        assert own == list(range(len(own)))
    assert not found.ended


def test_each_array_stands_on_the_grid_and_in_its_unit_with_its_bound(home: HospitalHome) -> None:
    for one in preview(home, asked()).releases:
        assert one.numbers == sum(array.size for array in one.values.values()), "nothing is left out"
        for field in one.layout.fields:
            grid, value = one.arrays[field.name], one.values[field.name]
            assert grid.dtype == np.int64 and grid.shape == field.shape
            bits = one.layout.bits(field)
            assert np.array_equal(np.ldexp(grid.astype(np.float64), -bits), value)
            assert np.abs(value).max(initial=0) <= one.bounds[field.name] * max(one.rows, 1)


def test_progress_is_told_each_release(home: HospitalHome) -> None:
    told: list[Release] = []
    found = preview(home, asked(), progress=told.append)
    assert tuple(told) == found.releases


def test_a_release_does_not_print_its_values(home: HospitalHome) -> None:
    found = preview(home, asked())
    assert repr(found) == "Preview('clinic', ...)"
    assert repr(found.releases[1]) == f"Release({found.releases[1].analysis}, 0, ...)"


def test_a_program_that_cannot_go_on_alone_shows_what_was_asked_until_then(home: HospitalHome) -> None:
    patients().drop(columns="disease").to_csv(home.table_of("clinic"), index=False)
    found = preview(home, asked(LOGISTIC))
    assert [one.kind for one in found.releases] == ["flow"]
    assert "`disease` at 0" in found.ended


# The verdict


@pytest.mark.parametrize(
    ("policy", "verdict"),
    [
        ("min_rows = 10_000", "refused: the study's `privacy.min_rows` is 10"),
        ('analyses = ["summary"]', "(`analyses`)"),
        ("hold = true", "waits for you (`hold`), then may leave, sealed"),
        ("", "may leave, sealed"),
    ],
    ids=["rows", "analyses", "hold", "nothing"],
)
def test_the_policys_verdict_stands_beside_each_release(
    home: HospitalHome, policy: str, verdict: str
) -> None:
    home.policy_file.write_text(policy + "\n")
    found = preview(home, asked())
    assert found.releases and all(verdict in one.verdict for one in found.releases)


def test_too_few_usable_rows_are_refused_analysis_by_analysis(home: HospitalHome) -> None:
    table = patients().copy()
    table.loc[8:, "bmi"] = np.nan
    table.to_csv(home.table_of("clinic"), index=False)
    found = preview(home, asked())
    verdicts = {one.analysis: one.verdict for one in found.releases}
    assert verdicts["flow"] == verdicts["summary"] == "may leave, sealed"
    assert verdicts["logistic"] == "refused: fewer than 10 usable rows here (`min_rows`)"
    assert "7 terms for 7" in found.ended


def test_queries_beyond_the_policys_number_are_refused(home: HospitalHome) -> None:
    home.policy_file.write_text("max_queries = 2\n")
    found = preview(home, asked())
    answered = [not one.verdict.startswith("refused") for one in found.releases]
    assert answered[:2] == [True, True] and not any(answered[2:])
    assert "`max_queries`" in found.releases[2].verdict


def test_what_would_leave_unsealed_is_named_so(home: HospitalHome) -> None:
    home.policy_file.write_text('seal = "none"\n')
    robust = {"kind": "fedavg", "strategy": "FedMedian", "rounds": 2}
    found = preview(home, asked(robust, privacy={"seal": "none"}))
    verdicts = {one.kind: one.verdict for one in found.releases}
    assert "may leave, NOT sealed" in verdicts.values()
    assert verdicts["flow"] == "may leave, sealed"


def test_differences_to_other_studies_are_shown(home: HospitalHome) -> None:
    oldest = int(patients()["age"].max())
    approve(home, asked())
    cut = asked(cohort={"where": f"age < {oldest}"})
    found = preview(home, cut)
    assert found.near and not found.near[0].accepted
    home.store.offer(cut.digest, cut.name, cut.manifest())
    said = done("hospital", "preview", cut.digest.hex(), "--home", home.path)
    assert "would tell of" in said and "refused, unless you approve" in said


# Nothing leaves


def test_nothing_is_stored_charged_or_pinned(home: HospitalHome) -> None:
    study = asked()
    approve(home, study)
    before = contents(home.path)
    found = preview(home, study)
    assert found.releases
    assert contents(home.path) == before, "not one byte of the home changed"
    assert home.store.ledger() == [] and home.store.held(study.digest) == []


def test_the_command_leaves_only_an_entry_in_the_audit_log(home: HospitalHome) -> None:
    study, before = asked(), len(home.store.entries())
    record = home.store.study(study.digest)
    said = done("hospital", "preview", "clinic", "--home", home.path)
    assert OWN in said.splitlines()
    assert home.store.entries()[before:] == [("preview", "clinic", study.digest.hex())]
    assert home.store.study(study.digest) == record and home.store.ledger() == []


def test_an_interrupted_preview_leaves_nothing(home: HospitalHome, tmp_path: Path) -> None:
    before = contents(tmp_path)

    def stop(release: Release) -> None:
        if release.analysis == "logistic":
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        preview(home, asked(), progress=stop)
    assert contents(tmp_path) == before


# Printing and writing


def test_the_first_values_are_printed_or_all(home: HospitalHome) -> None:
    short = done("hospital", "preview", "clinic", "--home", home.path)
    full = done("hospital", "preview", "clinic", "--full", "--home", home.path)
    assert "age cells[4096]: " in short and " ... 4,090 more" in short
    assert " more" not in full and len(full) > len(short) + 4000
    assert f"rows[]: {len(patients())}" in short


def test_json_holds_every_value(home: HospitalHome) -> None:
    found = preview(home, asked())
    told = json.loads(done("hospital", "preview", "clinic", "--json", "--home", home.path))
    assert told == json.loads(json.dumps(found.shown()))
    assert len(told["releases"]) == len(found.releases)
    moments = next(one for one in told["releases"] if one["kind"] == "summary")
    assert moments["values"]["rows"] == len(patients())
    assert moments["grid"]["age sum"] == int(first(found, "summary").arrays["age sum"])


def test_arrays_are_written_for_their_owner_alone_and_without_pickle(
    home: HospitalHome, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    said = done("hospital", "preview", "clinic", "--out", out, "--home", home.path)
    found = preview(home, asked())
    assert f"Wrote {len(found.releases)} releases to {out}." in said.replace("\n", " ")
    assert len(list(out.iterdir())) == len(found.releases)
    for one in found.releases:
        file = out / f"{one.analysis}-{one.index:04}.npz"
        assert stat.S_IMODE(file.stat().st_mode) == 0o600
        with np.load(file, allow_pickle=False) as kept:
            for name, array in one.arrays.items():
                assert np.array_equal(kept[f"{name}.grid"], array) and kept[f"{name}.grid"].dtype == np.int64
                assert np.array_equal(kept[name], one.values[name])


def test_where_one_file_cannot_be_written_none_is(home: HospitalHome, tmp_path: Path) -> None:
    found, out = preview(home, asked()), tmp_path / "out"
    last = found.releases[-1]
    (out / f"{last.analysis}-{last.index:04}.npz").mkdir(parents=True)
    with pytest.raises(WardroundError, match="cannot be written"):
        write_releases(out, found.releases)
    assert [path for path in out.rglob("*") if path.is_file()] == []


def test_what_cannot_be_previewed_is_said(home: HospitalHome, tmp_path: Path) -> None:
    assert "did you mean `clinic`" in refused("hospital", "preview", "clinik", "--home", home.path)
    none = tmp_path / "none.csv"
    assert "none.csv" in refused("hospital", "preview", "clinic", "--table", none, "--home", home.path)
