"""Draws the report in a process of its own, while the models are written: both import large libraries.

The process is this Python on this package (`python -m wardround_server.report`); it gets the figures as JSON
on its standard input and answers with the page.
"""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from types import TracebackType
from typing import Any, Self

from wardround_server.report import ReportMissing

MISSING = 3  # exit code where the extra is not installed
DEADLINE_S = 300.0


class Drawing:
    """A report that is being drawn while the ``with`` block runs; arguments as those of ``render``."""

    def __init__(
        self,
        results: Mapping[str, Any],
        command: str,
        comparison: Mapping[str, Any] | None,
        spread: Mapping[str, Any] | None,
    ) -> None:
        told = {"results": results, "command": command, "comparison": comparison, "spread": spread}
        self._told = json.dumps(told, ensure_ascii=False).encode()

    def __enter__(self) -> Self:
        # -P: what lies in the folder where the command is given is no part of this program
        command = [sys.executable, "-P", "-m", "wardround_server.report"]
        pipe = subprocess.PIPE
        self._process = subprocess.Popen(command, stdin=pipe, stdout=pipe, stderr=pipe)  # noqa: S603 (no input)
        self._pool = ThreadPoolExecutor(1, "report")
        self._answer: Future[tuple[bytes, bytes]] = self._pool.submit(
            self._process.communicate, self._told, DEADLINE_S
        )
        return self

    def page(self) -> str:
        """Wait for the page. ReportMissing if the extra is not installed, or drawing failed."""
        try:
            page, complaint = self._answer.result()
        except subprocess.TimeoutExpired:
            raise ReportMissing(f"no report: it took longer than {DEADLINE_S:g} s") from None
        lines = complaint.decode(errors="replace").strip().splitlines() or ["no reason given"]
        if self._process.returncode == MISSING:
            raise ReportMissing(lines[-1])
        if self._process.returncode:
            raise ReportMissing(f"no report: it could not be drawn ({lines[-1]})")
        return page.decode()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._process.kill()  # nothing happens to one that has ended
        self._pool.shutdown()
        self._process.wait()
