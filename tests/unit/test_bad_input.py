"""What is wrong with a study or a table is said in one line that names file, column and key, and no cell.

Most cases call `simulate` on real files; the command itself is tried on one case of each sort, and on what
only a process can meet: a full disk and Ctrl-C.
"""

from __future__ import annotations

import copy
import json
import os
import resource
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from wardround_common.errors import DataError, FitError, StudyError, WardroundError
from wardround_common.study import parse_study, read_study
from wardround_server.simulation import simulate
from wardround_server.transcript import read_transcript

COMMAND = Path(sys.executable).with_name("wardround")
SECRETS = ("SECRET", "7319")  # planted in cells; no message may hold one
HOSPITALS = ("east", "north", "south")
STUDY: dict[str, Any] = {
    "wardround": 1,
    "name": "wards",
    "variables": {
        "age": {"kind": "number", "range": [18, 100]},
        "bmi": {"kind": "number", "range": [10, 60]},
        "sex": {"kind": "category", "levels": ["0", "1"]},
        "ill": {"kind": "category", "levels": ["0", "1"]},
    },
    "outcome": "ill",
    "analyses": [{"kind": "logistic"}],
}

Tables = dict[str, pd.DataFrame]
Spoil = Callable[[Tables], object]  # puts something wrong into the tables


def tables(rows: int = 40) -> Tables:
    """Return made-up patients of each hospital, as the texts that a file would hold."""
    found = {}
    for seed, name in enumerate(HOSPITALS):
        rng = np.random.default_rng(seed)
        columns: dict[str, Any] = {
            "id": [f"{name}{i}" for i in range(rows)],
            "age": rng.integers(18, 101, rows),
            "bmi": rng.integers(150, 400, rows) / 10,
            "sex": rng.integers(0, 2, rows),
            "ill": rng.integers(0, 2, rows),
        }
        found[name] = pd.DataFrame({key: [str(cell) for cell in cells] for key, cells in columns.items()})
    return found


def changed(key: str, value: Any) -> dict[str, Any]:
    """Return the study with one value changed; ``key`` is a path such as ``variables.age.range``."""
    study = copy.deepcopy(STUDY)
    *path, last = key.split(".")
    place = study
    for part in path:
        place = place[int(part)] if isinstance(place, list) else place.setdefault(part, {})
    place[last] = value
    return study


def written(folder: Path, found: Tables) -> dict[str, Path]:
    for name, frame in found.items():
        frame.to_csv(folder / f"{name}.csv", index=False)
    return {name: folder / f"{name}.csv" for name in found}


def line_of(error: BaseException) -> str:
    """Return an error's line, after a look for cells in all that it was raised from."""
    text = str(error)
    assert "\n" not in text
    cause: BaseException | None = error
    while cause is not None:
        assert not [secret for secret in SECRETS if secret in f"{cause} {cause.args}"]
        cause = cause.__cause__ or cause.__context__
    return text


def refused(study: Any, files: Any, kind: type[WardroundError]) -> str:
    with pytest.raises(kind) as caught:
        simulate(study, files)
    return line_of(caught.value)


def put(column: str, cell: str, hospital: str = "south", row: int = 3) -> Spoil:
    """Put a cell into a hospital's table; row 3 is line 5 of its file."""
    return lambda found: found[hospital].__setitem__(
        column, [cell if i == row else old for i, old in enumerate(found[hospital][column])]
    )


def everywhere(column: str, value: Callable[[pd.DataFrame], Any]) -> Spoil:
    """Put a column made of each hospital's table into it."""
    return lambda found: [frame.__setitem__(column, value(frame)) for frame in found.values()]


def without(column: str, *hospitals: str) -> Spoil:
    return lambda found: [found[name].pop(column) for name in hospitals]


def renamed(column: str, other: str, *hospitals: str) -> Spoil:
    return lambda found: [found[name].insert(1, other, found[name].pop(column)) for name in hospitals]


def twice(found: Tables) -> None:
    put("id", "SECRET7319", row=9)(found)
    put("id", "SECRET7319", row=3)(found)


# Studies


@pytest.mark.parametrize(
    ("key", "value", "named"),
    [
        ("ridge", 1, ["ridge", "unknown key"]),
        ("predictor", ["age"], ["predictor", "unknown key", "did you mean `predictors`"]),
        ("variables.age.rnage", [1, 2], ["variables.age.rnage", "unknown key", "did you mean `range`"]),
        ("cohort.were", "age > 1", ["cohort.were", "unknown key", "did you mean `where`"]),
        ("privacy.min_hospital", 3, ["privacy.min_hospital", "unknown key", "did you mean `min_hospitals`"]),
        ("split", {"test": 0.3, "seeds": 1}, ["split.seeds", "unknown key", "did you mean `seed`"]),
        ("analyses.0.rigde", 1, ["analyses[0].rigde", "unknown key", "did you mean `ridge`"]),
        ("analyses.0.kind", "logit", ["analyses[0].kind", "`logit`", "`logistic`", "`summary`"]),
        ("analyses.0.ridge", -1, ["analyses[0].ridge", "0"]),
        ("analyses.0.ridge", "much", ["analyses[0].ridge"]),
        ("analyses.0.outcome", "il", ["analyses[0].outcome", "`il`", "did you mean `ill`"]),
        ("analyses.0.outcome", "age", ["analyses[0].outcome", "`age`", "two levels"]),
        ("analyses.0.predictors", ["age", "ill"], ["analyses[0].predictors[1]", "`ill`", "outcome"]),
        ("analyses", [], ["analyses", "{kind: ...}"]),
        ("outcome", "disease", ["outcome", "`disease`", "variables"]),
        ("predictors", ["age", "chol"], ["predictors[1]", "`chol`", "variables"]),
        ("variables.age.kind", "integer", ["variables.age", "number", "category"]),
        ("variables.age.range", [100, 18], ["variables.age.range", "below"]),
        ("variables.sex.levels", ["0"], ["variables.sex", "levels", "2 to"]),
        ("variables.a:b", {"kind": "number", "range": [0, 1]}, ["variables", "`a:b`"]),
        ("cohort.where", "agee > 50", ["cohort.where", "`agee`", "did you mean `age`"]),
        ("cohort.where", "age > ", ["cohort.where", "SQL"]),
        ("split", {"test": 1.5}, ["split.test", "1"]),
        ("privacy.min_hospitals", 1, ["privacy.min_hospitals", "2"]),
        ("out_of_range", "ignore", ["out_of_range", "missing", "drop", "refuse"]),
        ("wardround", 2, ["wardround", "1"]),
    ],
)
def test_a_faulty_study_is_refused_with_its_key(key: str, value: Any, named: list[str]) -> None:
    with pytest.raises(StudyError) as caught:
        parse_study(changed(key, value), "study.yaml")
    line = line_of(caught.value)
    assert line.startswith("study.yaml: ")
    assert [part for part in named if part not in line] == [], line


def test_a_study_file_that_is_not_there_or_a_folder_is_named(tmp_path: Path) -> None:
    for path, reason in ((tmp_path / "no.yaml", "there is no such file"), (tmp_path, "cannot be read")):
        with pytest.raises(StudyError) as caught:
            read_study(path)
        assert str(caught.value).startswith(f"{path}: {reason}")


# Tables: the file, the column, the line, never the cell


@pytest.mark.parametrize(
    ("spoil", "study", "named"),
    [
        (put("age", "SECRET"), STUDY, ["`age`", "1 cell is not a number", "line 5", "variables.age.missing"]),
        (put("sex", "SECRET"), STUDY, ["`sex`", "1 cell is none of", "line 5", "variables.sex.levels"]),
        (put("sex", "7319"), STUDY, ["`sex`", "none of the dictionary's levels", "line 5"]),
        (put("ill", "7319.5"), STUDY, ["`ill`", "none of the dictionary's levels", "line 5"]),
        (put("age", "7319.7"), changed("out_of_range", "refuse"),
         ["`age`", "1 cell is outside 18 to 100", "line 5", "variables.age.range", "out_of_range"]),
        (twice, STUDY, ["`id`", "1 cell is an id that stood there before", "line 11", "rows: many"]),
        (put("id", ""), STUDY, ["`id`", "1 cell is empty", "line 5"]),
        (renamed("age", "Age", "south"), STUDY,
         ["no column `age`", "`Age`", "column: Age", "variables.age"]),
        (put("age", "30"), changed("split", {"column": "fold"}), ["no column `fold`", "split.column"]),
        (put("age", "30"), changed("max_rows", 39), ["40 rows", "max_rows"]),
    ],
)  # fmt: skip
def test_a_table_that_does_not_fit_is_refused_with_its_file_and_column(
    tmp_path: Path, spoil: Spoil, study: dict[str, Any], named: list[str]
) -> None:
    found = tables()
    if "split" in study:
        for name in ("east", "north"):
            found[name]["fold"] = "train"
    if "max_rows" in study:
        found = {**tables(39), "south": found["south"]}
    spoil(found)
    line = refused(study, written(tmp_path, found), DataError)
    assert line.startswith(f"{tmp_path / 'south.csv'}: ")
    assert [part for part in named if part not in line] == [], line


@pytest.mark.parametrize(
    ("name", "content", "named"),
    [
        ("south.csv", b"", "is empty"),
        ("south.csv", b"id,age,bmi,sex,ill\n", "has a header but no rows"),
        ("south.csv", b"1,7319,25,0,1\n2,50,25,0,1\n", "the first line holds numbers"),
        ("south.csv", b"id,age,bmi,sex,ill\n1,50,25,0,1\n2,SECRET,7319\n", "line 3 has 3 cells"),
        ("south.csv", b'id,age,bmi,sex,ill\n1,"SECRET,25,0,1\n', "a quote in line 2"),
        ("south.csv", b"id,age,bmi,sex,ill\n1,SECRET\xe9,25,0,1\n", "is not UTF-8 in line 2"),
        ("south.csv", "id,age\nSECRET,1\n".encode("utf-16"), "save it as UTF-8"),
        ("south.csv.gz", b"SECRET", "cannot be read as gzip"),
        ("south.parquet", b"PAR1 SECRET", "is not a Parquet file, or is not whole"),
        ("south.parquet", b"PAR1 SECRET 7319 PAR1", "cannot be read as Parquet"),
        ("south.xlsx", b"SECRET", "of unknown kind"),
        ("south", b"SECRET", "of unknown kind"),
    ],
)
def test_a_file_that_is_no_table_is_refused_by_its_name(
    tmp_path: Path, name: str, content: bytes, named: str
) -> None:
    files = written(tmp_path, tables())
    files["south"] = tmp_path / name
    files["south"].write_bytes(content)
    line = refused(STUDY, files, DataError)
    assert line.startswith(f"{tmp_path / name}: ")
    assert named in line


def test_a_file_that_is_not_there_or_a_folder_or_of_another_owner_is_named(tmp_path: Path) -> None:
    files = written(tmp_path, tables())
    for path, reason in (("no.csv", "there is no such file"), (".", "of unknown kind")):
        line = refused(STUDY, {**files, "south": tmp_path / path}, DataError)
        assert line.startswith(f"{tmp_path / path}: {reason}")
    files["south"].chmod(0)
    with unprivileged():
        line = refused(STUDY, files, DataError)
    assert line.endswith("no permission to read it")


@contextmanager
def unprivileged() -> Iterator[None]:
    """Give up root's right to read everything, for as long as the context lasts."""
    before = os.geteuid()
    if before == 0:
        os.seteuid(65534)
    try:
        yield
    finally:
        os.seteuid(before)


# What the federation as a whole cannot answer


@pytest.mark.parametrize(
    ("spoil", "study", "kind", "named"),
    [
        (without("bmi", *HOSPITALS), STUDY, DataError,
         ["variables.bmi", "no file has a column `bmi`", "east.csv", "north.csv", "south.csv"]),
        (renamed("bmi", "bmi2", *HOSPITALS), STUDY, DataError,
         ["variables.bmi", "did you mean `bmi2`"]),
        (without("bmi", "east"), STUDY, StudyError,
         ["`logistic`", "`bmi` at 2", "privacy.min_hospitals` is 3"]),
        (lambda t: t.pop("east"), STUDY, StudyError,
         ["2 hospitals were given", "3 at least", "privacy.min_hospitals"]),
        (lambda t: t.update(south=t["south"][:9]), STUDY, StudyError,
         ["2 of 3 hospitals", "privacy.min_rows", "privacy.min_hospitals"]),
        (lambda t: None, changed("privacy.min_rows", 41), StudyError,
         ["0 of 3 hospitals", "41 usable rows", "privacy.min_rows"]),
        (lambda t: t.update({n: f[:9] for n, f in t.items()}), changed("privacy.min_rows", 5), StudyError,
         ["`logistic`", "3 terms for 27 training rows", "one term per ten rows", "predictors"]),
        (lambda t: None, changed("cohort.where", "age > 200"), StudyError,
         ["0 of 3 hospitals", "privacy.min_rows"]),
        (everywhere("ill", lambda f: ""), STUDY, StudyError, ["`logistic`", "0 of 3 hospitals"]),
        (lambda t: None, {**STUDY, "split": {"column": "sex", "test": "2"}}, StudyError,
         ["`logistic`", "is held out", "`split`"]),
        (everywhere("ill", lambda f: "1"), STUDY, FitError,
         ["`logistic`", "120 training rows", "same outcome `ill`"]),
        (everywhere("ill", lambda f: (f["age"].astype(int) > 60).astype(int)), STUDY, FitError,
         ["`logistic`", "outcome `ill`", "perfectly separated by `age`", "ridge: 1"]),
        (everywhere("ill", lambda f: f["ill"].where(f["sex"] == "0", "1")), STUDY, FitError,
         ["`logistic`", "perfectly separated by `sex=1`", "ridge: 1"]),
        (everywhere("bmi", lambda f: f["age"].astype(int) / 4 + 10), STUDY, FitError,
         ["`logistic`", "`bmi` is collinear with `age`", "ridge: 1"]),
        (everywhere("bmi", lambda f: "25.1"), STUDY, FitError,
         ["`logistic`", "`bmi` is constant", "predictors"]),
        (everywhere("sex", lambda f: "1"), STUDY, FitError,
         ["`logistic`", "`sex` is constant", "predictors"]),
    ],
)  # fmt: skip
def test_what_the_hospitals_together_cannot_answer_is_refused_with_what_to_change(
    tmp_path: Path, spoil: Spoil, study: dict[str, Any], kind: type[WardroundError], named: list[str]
) -> None:
    found = tables()
    spoil(found)
    line = refused(study, written(tmp_path, found), kind)
    assert [part for part in named if part not in line] == [], line


def test_what_is_separated_or_collinear_can_be_fitted_with_a_ridge() -> None:
    found = tables()
    everywhere("ill", lambda f: (f["age"].astype(int) > 60).astype(int))(found)
    everywhere("bmi", lambda f: f["age"].astype(int) / 4 + 10)(found)
    result = simulate(changed("analyses.0.ridge", 1), found)
    assert result["logistic"]["coefficients"]["age"]["value"] > 0


def test_a_file_that_is_no_transcript_is_named_and_left_as_it_was(tmp_path: Path) -> None:
    file = tmp_path / "study.yaml"
    file.write_text(json.dumps(STUDY))
    for act in (lambda: simulate(STUDY, tables(), transcript=file), lambda: read_transcript(file)):
        with pytest.raises(WardroundError) as caught:
            act()
        assert line_of(caught.value) == f"{file}: this is no transcript"
    assert file.read_text() == json.dumps(STUDY)


# The command


def wardround(
    *arguments: str | Path, cwd: Path, before: Callable[[], None] | None = None
) -> subprocess.CompletedProcess[str]:
    """Run the command in a folder; ``before`` runs in its process first."""
    command: list[Any] = [COMMAND, *arguments]
    return subprocess.run(command, cwd=cwd, capture_output=True, text=True, timeout=120, preexec_fn=before)


def assert_one_line(code: int, stdout: str, stderr: str, *named: str) -> None:
    assert (code, stdout) == (2, ""), stderr
    assert stderr.startswith("error: ")
    assert stderr.endswith("\n")
    assert stderr.count("\n") == 1
    assert "Traceback" not in stderr
    assert [part for part in named if part not in stderr] == [], stderr
    assert [secret for secret in SECRETS if secret in stderr] == []


@pytest.mark.parametrize(
    ("study", "spoil", "named"),
    [
        ("no.yaml", None, ["no.yaml: there is no such file"]),
        ("flamby", None, ["flamby: neither a file nor a shipped study", "`flamby-heart`"]),
        (b"wardround: 1\nname: \xff\n", None, ["study.yaml: byte 19 is not UTF-8"]),
        (b"wardround: 1\nname: a: b\n", None, ["study.yaml line 2"]),
        (changed("analyses.0.rigde", 1), None, ["study.yaml: analyses[0].rigde: unknown key", "`ridge`"]),
        (STUDY, put("age", "SECRET7319"), ["south.csv: column `age`: 1 cell is not a number", "line 5"]),
        (STUDY, lambda t: t.update(south=t["south"][:0]), ["south.csv: has a header but no rows"]),
        (STUDY, lambda t: t.pop("east"), ["2 hospitals were given", "privacy.min_hospitals"]),
        (STUDY, everywhere("ill", lambda f: f["sex"]), ["separated by `sex=1`", "ridge: 1"]),
    ],
)
def test_the_command_says_what_is_wrong_in_one_line(
    tmp_path: Path, study: Any, spoil: Spoil | None, named: list[str]
) -> None:
    found = tables()
    if spoil is not None:
        spoil(found)
    if not isinstance(study, str):
        content = study if isinstance(study, bytes) else json.dumps(study).encode()
        (tmp_path / "study.yaml").write_bytes(content)
        study = "study.yaml"
    data = [f"--data={name}={file.name}" for name, file in written(tmp_path, found).items()]
    done = wardround("simulate", study, *data, "--out", "out", cwd=tmp_path)
    assert_one_line(done.returncode, done.stdout, done.stderr, *named)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("data", "named"),
    [
        (["south.csv"], ["--data south.csv", "NAME=FILE"]),
        (["south=south.csv", "south=north.csv"], ["--data south=north.csv", "`south` is given twice"]),
    ],
)
def test_the_command_refuses_tables_without_a_name_of_their_own(
    tmp_path: Path, data: list[str], named: list[str]
) -> None:
    done = wardround("simulate", "flamby-heart", *(f"--data={one}" for one in data), cwd=tmp_path)
    assert_one_line(done.returncode, done.stdout, done.stderr, *named)


# A full disk: a file system of two pages where one may be mounted, and a limit on the size of a file

FULL = 8192
MOUNTED = f'mount -t tmpfs -o size={FULL} none "$0" && "$@"; code=$?; ls -A "$0" >"$0.left"; exit $code'


def limit(most: int = FULL) -> None:
    resource.setrlimit(resource.RLIMIT_FSIZE, (most, most))


def with_a_full_disk(way: str, full: Path, *arguments: str | Path) -> list[str]:
    """Run the command while there is no room in a folder, check its line, and return what files it left."""
    full.mkdir()
    command: list[Any] = [COMMAND, "simulate", "flamby-heart", "--quiet", *arguments]
    if way == "mounted":
        private = [shutil.which("unshare") or "unshare", "-m"]
        try:
            subprocess.run([*private, "sh", "-c", MOUNTED, full, "true"], check=True, capture_output=True)
        except (OSError, subprocess.CalledProcessError):
            pytest.skip("no file system may be mounted here")
        command = [*private, "sh", "-c", MOUNTED, full, *command]
    before = limit if way == "limited" else None
    done = subprocess.run(command, cwd=full.parent, capture_output=True, text=True, preexec_fn=before)
    assert_one_line(done.returncode, done.stdout, done.stderr, f"{full}/", "make room")
    if way == "mounted":
        return Path(f"{full}.left").read_text("utf-8").split()
    return [file.name for file in full.iterdir()]


@pytest.mark.parametrize("way", ["mounted", "limited"])
def test_a_full_disk_leaves_no_results_half_written(tmp_path: Path, way: str) -> None:
    assert with_a_full_disk(way, tmp_path / "full", "--out", tmp_path / "full") == []


@pytest.mark.parametrize("way", ["mounted", "limited"])
def test_a_study_goes_on_from_a_transcript_for_which_there_was_no_room(tmp_path: Path, way: str) -> None:
    transcript = tmp_path / "full" / "study.transcript"
    options = ("--transcript", transcript, "--out", tmp_path / "out")
    assert with_a_full_disk(way, tmp_path / "full", *options) == ["study.transcript"]
    assert not (tmp_path / "out").exists()
    if way == "mounted":
        return  # it is gone with its disk
    kept = transcript.read_bytes()
    assert len(kept) > 0
    done = wardround("simulate", "flamby-heart", *options, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert transcript.read_bytes().startswith(kept)
    assert (tmp_path / "out" / "results.json").is_file()


def test_a_full_disk_under_the_hospitals_databases_is_said(tmp_path: Path) -> None:
    done = wardround("demo", "--json", "--out", "demo", cwd=tmp_path, before=lambda: limit(1 << 17))
    assert_one_line(done.returncode, done.stdout, done.stderr, "node.db", "make room")
    assert not (tmp_path / "demo" / "results.json").exists()


# Ctrl-C


@pytest.fixture
def long_study(tmp_path: Path) -> list[str]:
    """Return the arguments of a study that takes seconds, whose folder is the current one."""
    models = [{"kind": "logistic", "name": f"model-{i}", "ridge": i} for i in range(6)]
    (tmp_path / "study.json").write_text(json.dumps(changed("analyses", models)))
    frame = pd.concat([tables(10_000)[name] for name in HOSPITALS] * 3).drop(columns="id")
    frame.to_csv(tmp_path / "large.csv", index=False)
    data = [f"--data={name}=large.csv" for name in HOSPITALS]
    return ["simulate", "study.json", *data, "--transcript", "study.transcript", "--out", "out"]


def reads_a_table(process: int, folder: Path) -> bool:
    opened = Path(f"/proc/{process}/fd")
    return any(link.exists() and link.resolve() == folder / "large.csv" for link in opened.iterdir())


def has_opened_a_sum(process: int, folder: Path) -> bool:
    transcript = folder / "study.transcript"
    return transcript.exists() and transcript.stat().st_size > 4096


@pytest.mark.parametrize("at", [reads_a_table, has_opened_a_sum])
def test_ctrl_c_ends_in_one_line_and_leaves_nothing_half_written(
    tmp_path: Path, long_study: list[str], at: Callable[[int, Path], bool]
) -> None:
    process = subprocess.Popen(
        [COMMAND, *long_study],
        cwd=tmp_path,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),  # nohup and & ignore it
    )
    while process.poll() is None and not at(process.pid, tmp_path):
        time.sleep(0.002)
    process.send_signal(signal.SIGINT)
    stdout, stderr = process.communicate(timeout=60)
    assert_one_line(process.returncode, stdout, stderr, "interrupted")
    files = sorted(file.name for file in tmp_path.rglob("*"))
    assert [name for name in files if name != "study.transcript"] == ["large.csv", "study.json"]
    if at is has_opened_a_sum:
        done = wardround(*long_study, cwd=tmp_path)
        assert done.returncode == 0, done.stderr
        assert (tmp_path / "out" / "results.json").is_file()
