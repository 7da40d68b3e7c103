"""`wardround demo`: four real hospitals, one command."""

from __future__ import annotations

import shutil
import sys
from functools import partial
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console

from wardround_client.gate import read_policy
from wardround_client.reader import read
from wardround_client.sources import open_table
from wardround_client.store import NodeStore
from wardround_common.analyses.forest import ForestSpec
from wardround_common.analyses.logistic import LogisticSpec
from wardround_common.errors import StudyError, did_you_mean, listed
from wardround_common.files import unwritable, write_file, write_private
from wardround_common.sealing.identity import Identity
from wardround_common.study import Study, read_study, study_key
from wardround_server import show
from wardround_server.demo import classic
from wardround_server.publish import to_json
from wardround_server.result import StudyResult
from wardround_server.shipped import shipped, shipped_tables
from wardround_server.simulation import Hospital, run
from wardround_server.transcript import Transcript

NAME = "heart-disease"
SHOWN = (NAME, classic.NAME)


def demo_command(
    study: Annotated[str, typer.Argument(help="`heart-disease`, or `classic`.")] = NAME,
    out: Annotated[Path, typer.Option(help="Where the hospitals' homes and the results are put.")] = Path(
        "wardround-demo"
    ),
    over_network: Annotated[
        bool, typer.Option("--network", help="Between real processes, over TLS on this machine.")
    ] = False,
    as_json: Annotated[
        bool, typer.Option("--json", help="Print the results and the comparison as JSON.")
    ] = False,
) -> None:
    """Let four hospitals of the UCI Heart Disease data learn shared models, no row leaving any.

    Each has a home of its own with its table, policy, keys and database. Beside the federated models
    stand the pooled ones, which only a demo can fit, and what each hospital would reach alone; report.html
    shows it all. STUDY `classic` runs the familiar script, a forest on one CSV, beside its federated twin.

    Examples:
      wardround demo --out /tmp/demo

      wardround demo --network

      wardround demo classic
    """
    if study not in SHOWN:
        raise StudyError(f"{study}: no demonstration{did_you_mean(study, SHOWN)}; there are {listed(SHOWN)}")
    if over_network and study != NAME:
        raise StudyError(f"--network is for the demonstration `{NAME}`")
    if over_network:
        from wardround_server.demo.network import run_network

        run_network(out, as_json)
    elif study == classic.NAME:
        classic.run_classic(out, as_json)
    else:
        _heart_disease(out, as_json)


def _heart_disease(out: Path, as_json: bool) -> None:
    study = read_study(shipped(NAME))
    console = Console(file=sys.stderr)
    if not as_json:
        console.print(f"[bold]{study.title}[/bold]: four hospitals, one study, no row leaves a hospital")
    with show.progress("demo", as_json) as observe:
        hospitals = [_home(out / "hospitals" / name, file) for name, file in shipped_tables(NAME).items()]
        transcript = Transcript()
        result = run(study, hospitals, transcript, observe)
        write_file(out / "study.yaml", shipped(NAME).read_text("utf-8"))
        compared = _compare(study, hospitals, result)
        released = {one.name: _released(one, transcript) for one in hospitals}
        for one in hospitals:
            one.store.close()
    shown = {**result.results, "comparison": {**compared, "numbers_released_masked": released}}
    write_file(out / "comparison.json", to_json(shown["comparison"]))
    notes = result.write(out, command="wardround demo", comparison=shown["comparison"])
    if as_json:
        sys.stdout.write(to_json(shown))
        return
    show.results(Console(), result.results)
    Console().print(show.comparison(compared))
    furthest = compared["furthest_coefficient"]
    Console().print(
        f"Federated and pooled coefficients differ by {furthest:.1e} at most. Each hospital sent "
        f"{max(released.values()):,} numbers, all masked: only their sums can be read.\n"
        f"Results: {out / 'results.json'}",
        soft_wrap=True,
        highlight=False,
    )
    show.written(Console(), out, notes)


def _released(hospital: Hospital, transcript: Transcript) -> int:
    """Return how many numbers a hospital's ledger was charged for this run."""
    opening = transcript.opening
    binding = b"" if opening is None else opening.roster.digest
    return sum(charge.numbers for charge in hospital.store.ledger() if charge.binding == binding)


def _home(home: Path, file: Path) -> Hospital:
    """Make a hospital's home on first use, or take it up again."""
    try:
        (home / "keys").mkdir(mode=0o700, parents=True, exist_ok=True)
        shutil.copyfile(file, home / "table.csv")
        if not (home / "policy.toml").exists():
            shutil.copyfile(file.parent.parent / "policy.toml", home / "policy.toml")
        identity = _identity(home / "keys" / "identity.pem")
    except OSError as error:
        raise unwritable(home, error) from None
    return Hospital(
        home.name,
        partial(open_table, home / "table.csv"),
        identity,
        read_policy(home / "policy.toml"),
        NodeStore(home / "node.db"),
    )


def _identity(path: Path) -> Identity:
    """Load a hospital's key, or make it in a file that only its owner can read, whole or not at all."""
    if path.exists():
        return Identity.from_pem(path.read_bytes())
    identity = Identity.generate()
    write_private(path, identity.to_pem())
    return identity


def _compare(study: Study, hospitals: list[Hospital], result: StudyResult) -> dict[str, Any]:
    # scikit-learn is slow to import, and only the demo's comparison needs it
    from wardround_server.demo.compare import compare

    cohorts = {one.name: read(one.open(), study, one.name, study_key(study)).cohort for one in hospitals}
    found = result["logistic"]
    federated = {
        term: one["value"] for term, one in found["coefficients"].items() if one["value"] is not None
    }
    ridge = next(spec.ridge for spec in study.analyses if isinstance(spec, LogisticSpec))
    forest = next(spec for spec in study.analyses if isinstance(spec, ForestSpec))
    compared = compare(cohorts, str(study.outcome), ridge, forest, study.privacy.min_cell, federated)
    test = found["metrics"]["test"]
    scores = {
        "federated": _score(found),
        "pooled (scikit-learn)": vars(compared.pooled),
        **{f"{name} alone": vars(score) for name, score in compared.local.items()},
        "federated forest": _score(result["forest"]),
        "pooled forest (scikit-learn)": vars(compared.forest),
    }
    return {"test_rows": test["n"], "furthest_coefficient": compared.furthest, "scores": scores}


def _score(found: dict[str, Any]) -> dict[str, Any]:
    test = found["metrics"]["test"]
    return {"rows": found["n"], "auc": test["auc"], "accuracy": test["accuracy"]}
