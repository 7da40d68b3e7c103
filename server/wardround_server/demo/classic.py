"""`wardround demo classic`: the familiar script on one table beside its federated twin on four."""

from __future__ import annotations

import inspect
import sys
from pathlib import Path
from typing import Any

import pandas as pd
from rich.console import Console
from rich.syntax import Syntax
from rich.table import Table

from wardround_client.reader import read
from wardround_client.sources import open_table
from wardround_common.files import try_folder, write_file
from wardround_common.study import Study, parse_study, read_study, study_key
from wardround_server import show
from wardround_server.publish import to_json
from wardround_server.result import StudyResult
from wardround_server.shipped import shipped, shipped_tables
from wardround_server.simulation import simulate

NAME = "classic"


def run_classic(out: Path, as_json: bool) -> None:
    """Run both, and print them side by side with the accuracy that each reaches."""
    try_folder(out)
    with show.progress(NAME, as_json) as observe:
        compared, result = compare(0, out, observe)
    notes = result.write(out, command="wardround demo classic")
    write_file(out / "study.yaml", shipped(NAME).read_text("utf-8"))
    write_file(out / "comparison.json", to_json(compared))
    if as_json:
        sys.stdout.write(to_json({**result.results, "comparison": compared}))
        return
    console = Console()
    console.print(_beside(console, compared))
    console.print(f"Results: {out / 'results.json'}", soft_wrap=True, highlight=False)
    show.written(console, out, notes)


def compare(seed: int, out: Path, observe: Any = lambda progress: None) -> tuple[dict[str, Any], StudyResult]:
    """Run study and script with one seed for split and forest; ``out`` gets the script's table."""
    from wardround_server.demo.familiar import familiar  # scikit-learn is slow to import

    study = seeded(seed)
    result = simulate(study, shipped_tables(NAME), observe=observe)
    file = out / "patients.csv"
    write_file(file, _pooled(study).to_csv(index=False))
    metrics = result["forest"]["metrics"]["test"]
    return {
        "test_rows": metrics["n"],
        "familiar_accuracy": familiar(file, seed),
        "federated_accuracy": metrics["accuracy"],
        "federated_auc": metrics["auc"],
    }, result


def seeded(seed: int) -> Study:
    """Return the study with another seed for its split and its forest."""
    data = read_study(shipped(NAME)).model_dump(mode="json", serialize_as_any=True)
    data["split"]["seed"] = data["analyses"][0]["seed"] = seed
    return parse_study(data)


def _pooled(study: Study) -> pd.DataFrame:
    """Return all hospitals' rows as one table, which only a demo can, with the study's own split."""
    parts = []
    for name, file in shipped_tables(NAME).items():
        held_out = read(open_table(file), study, name, study_key(study)).cohort.held_out
        parts.append(pd.read_csv(file).assign(held_out=held_out).astype({"held_out": int}))
    return pd.concat(parts, ignore_index=True)


def _beside(console: Console, compared: dict[str, Any]) -> Table:
    """Return script and study side by side, or one above the other where the terminal is narrow."""
    from wardround_server.demo.familiar import familiar

    _, start, rest = shipped(NAME).read_text("utf-8").partition("wardround:")
    head = f"{compared['test_rows']} held-out patients, the same for both"
    table = Table(title=head, title_justify="left", show_lines=True)
    left = (
        "the familiar script, on one table",
        _code(inspect.getsource(familiar), "python"),
        f"[bold]accuracy {compared['familiar_accuracy']:.3f}[/bold]\nall rows had to be brought to one place",
    )
    right = (
        "its federated twin, on four hospitals' tables",
        _code(start + rest, "yaml"),
        f"[bold]accuracy {compared['federated_accuracy']:.3f}[/bold]\nno row left its hospital",
    )
    wide = console.width >= 120
    for title in (left[0], right[0]) if wide else (f"{left[0]}; then {right[0]}",):
        table.add_column(title, ratio=1)
    for cells in zip(left[1:], right[1:], strict=True) if wide else [(c,) for c in (*left[1:], *right[1:])]:
        table.add_row(*cells)
    return table


def _code(text: str, language: str) -> Syntax:
    return Syntax(text.rstrip(), language, theme="ansi_light", word_wrap=True, background_color="default")
