"""A study that was stopped goes on from its transcript, and from no other."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.support import exact, study_of, tables_of
from wardround_common.errors import StudyError, WardroundError
from wardround_server.conductor import Progress
from wardround_server.simulation import simulate
from wardround_server.transcript import read_transcript

LOGISTIC = {"kind": "logistic", "predictors": ["age", "sex"]}
STUDY = study_of(LOGISTIC, {"kind": "summary"})
TABLES = tables_of(4)


@pytest.mark.parametrize("last", [0, 2, 5])
def test_a_study_that_was_interrupted_ends_with_the_same_bits(tmp_path: Path, last: int) -> None:
    def interrupt(progress: Progress) -> None:
        if progress.step == last:
            raise KeyboardInterrupt

    path, seen = tmp_path / "transcript", []
    with pytest.raises(KeyboardInterrupt):
        simulate(STUDY, TABLES, transcript=path, observe=interrupt)
    assert len(read_transcript(path).steps) == last + 1
    resumed = simulate(STUDY, TABLES, transcript=path, observe=seen.append)
    assert [one.replayed for one in seen] == [one.step <= last for one in seen]
    assert exact(STUDY, resumed.findings) == exact(STUDY, simulate(STUDY, TABLES).findings)


def test_a_study_that_has_ended_asks_nothing_again(tmp_path: Path) -> None:
    path, seen = tmp_path / "transcript", []
    first = simulate(STUDY, TABLES, transcript=path)
    again = simulate(STUDY, TABLES, transcript=path, observe=seen.append)
    assert all(one.replayed for one in seen)
    assert exact(STUDY, again.findings) == exact(STUDY, first.findings)


def test_a_transcript_of_another_study_is_refused_and_kept(tmp_path: Path) -> None:
    path = tmp_path / "transcript"
    simulate(STUDY, TABLES, transcript=path)
    before = path.read_bytes()
    for other in (study_of(LOGISTIC), study_of(LOGISTIC, {"kind": "summary"}, title="Second version")):
        with pytest.raises(WardroundError, match="of another study"):
            simulate(other, TABLES, transcript=path)
    assert path.read_bytes() == before


def test_sums_over_other_hospitals_are_not_gone_on_with(tmp_path: Path) -> None:
    path = tmp_path / "transcript"
    simulate(STUDY, TABLES, transcript=path)
    before = path.read_bytes()
    renamed = {("south" if name == "h03" else name): table for name, table in TABLES.items()}
    for other in (renamed, {name: TABLES[name] for name in ("h00", "h01", "h02")}):
        with pytest.raises(StudyError, match="sums over other hospitals"):
            simulate(STUDY, other, transcript=path)
    assert path.read_bytes() == before


def test_too_few_hospitals_or_rows_are_counted(tmp_path: Path) -> None:
    with pytest.raises(StudyError, match="1 hospitals were given; the study asks for 2"):
        simulate(STUDY, {"h00": TABLES["h00"]})
    few = {name: table.head(9) for name, table in TABLES.items()}
    with pytest.raises(StudyError, match=r"the study: 0 of 4 hospitals have 10 usable rows"):
        simulate(STUDY, few)
    with pytest.raises(StudyError, match="no tables were given"):
        simulate(STUDY, {})


def test_a_variable_that_too_few_hospitals_observe_is_refused_before_anything_is_fitted() -> None:
    lacking = {
        name: (table if name == "h03" else table.assign(age=None, bmi=None)) for name, table in TABLES.items()
    }
    seen: list[Progress] = []
    with pytest.raises(StudyError, match=r"`logistic`: observed at too few hospitals: `age` at 1; .* take"):
        simulate(STUDY, lacking, observe=seen.append)
    assert len(seen) == 1
