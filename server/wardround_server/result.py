"""A finished study: its results, and the files that are made of them."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from wardround_common.files import write_file
from wardround_common.plan import Findings
from wardround_common.study import Study
from wardround_server.conductor import Observer, Progress
from wardround_server.export import export_models
from wardround_server.publish import to_json
from wardround_server.report import ReportMissing
from wardround_server.report.apart import Drawing


@dataclass(frozen=True)
class StudyResult:
    """A finished study. ``results`` is what results.json holds; ``notes`` what a person should know."""

    study: Study
    results: dict[str, Any]
    findings: Findings
    notes: tuple[str, ...] = ()
    comparison: dict[str, Any] | None = None  # what each hospital would reach alone, where that was asked

    def __getitem__(self, analysis: str) -> Any:
        """Return one analysis's part of the results."""
        return self.results["analyses"][analysis]

    def write(
        self, folder: Path, *, command: str = "simulate(...)", comparison: Mapping[str, Any] | None = None
    ) -> tuple[str, ...]:
        """Write results.json, report.html and each model; return notes on what was not written.

        ``command`` is what makes the results again, ``comparison`` the demo's. WardroundError if the disk
        is full.
        """
        write_file(folder / "results.json", to_json(self.results))
        beside = self.comparison if comparison is None else comparison
        with Drawing(self.results, command, beside, self.results["statements"]) as drawing:
            export_models(self.study, self.results, self.findings, folder)
            try:
                page = drawing.page()
            except ReportMissing as error:  # the results are whole without it
                return (str(error),)
        write_file(folder / "report.html", page)
        return ()


class Clock:
    """Passes progress on and adds up each analysis's share of the time."""

    def __init__(self, observe: Observer) -> None:
        self._observe, self._last = observe, time.perf_counter()
        self.seconds: dict[str, float] = {}

    def __call__(self, progress: Progress) -> None:
        """Note the time since the last progress and pass this one on."""
        now = time.perf_counter()
        for analysis in {analysis for analysis, _ in progress.kinds}:
            self.seconds[analysis] = self.seconds.get(analysis, 0.0) + now - self._last
        self._last = now
        self._observe(progress)
