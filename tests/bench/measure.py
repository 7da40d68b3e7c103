"""What all parts of the bench share: figures with their goals, and the ways of measuring them.

What is timed or weighed runs in a process of its own, as a user's would, so that nothing which the bench
has imported or computed before is in the figure.
"""

from __future__ import annotations

import json
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]


@dataclass(frozen=True)
class Figure:
    """One measured figure. ``goal`` None: it is told beside another one, and has no goal of its own."""

    name: str
    value: float
    unit: str
    goal: str | None = None
    ok: bool = True

    def line(self) -> str:
        """Return the figure as one line of JSON, its value with six digits."""
        return json.dumps({**asdict(self), "value": float(f"{self.value:.6g}")})


Part = Callable[[], Iterator[Figure]]


def at_most(name: str, value: float, unit: str, most: float) -> Figure:
    """Return a figure whose goal is ``value <= most``; NaN misses it."""
    return Figure(name, value, unit, f"<= {most:g}", value <= most)


def at_least(name: str, value: float, unit: str, least: float) -> Figure:
    """Return a figure whose goal is ``value >= least``; NaN misses it."""
    return Figure(name, value, unit, f">= {least:g}", value >= least)


def near(name: str, value: float, unit: str, wanted: float, within: float) -> Figure:
    """Return a figure whose goal is ``wanted``, give or take ``within``."""
    return Figure(name, value, unit, f"{wanted:g} +- {within:g}", abs(value - wanted) <= within)


def none(name: str, value: int, unit: str) -> Figure:
    """Return a figure whose goal is that there is none."""
    return Figure(name, value, unit, "== 0", value == 0)


def run(*arguments: str | Path) -> str:
    """Run a command of this environment to its end and return its stdout. RuntimeError if it fails."""
    env = {**os.environ, "FLWR_TELEMETRY_ENABLED": "0", "FLWR_DISABLE_UPDATE_CHECK": "1"}
    done = subprocess.run([*map(str, arguments)], cwd=ROOT, env=env, capture_output=True, text=True)
    if done.returncode:
        raise RuntimeError(f"{' '.join(map(str, arguments))}: exit code {done.returncode}\n{done.stderr}")
    return done.stdout


def wardround(*arguments: str | Path) -> str:
    """Run the real command `wardround`, the one beside this interpreter, and return its stdout."""
    return run(Path(sys.executable).with_name("wardround"), *arguments)


def in_fresh_process(function: Callable[..., Any], *arguments: str | int) -> Any:
    """Return what a function of a module returns in a new process, by way of JSON."""
    code = (
        f"import json; from {function.__module__} import {function.__name__} as f; "
        f"print(json.dumps(f(*{arguments!r})))"
    )
    return json.loads(run(sys.executable, "-c", code).splitlines()[-1])


def median_s(act: Callable[[], object], times: int = 3) -> float:
    """Return the median of the wall time of ``act()``, in seconds."""
    return statistics.median(wall_s(act) for _ in range(times))


def wall_s(act: Callable[[], object]) -> float:
    """Return the wall time of one ``act()``, in seconds."""
    start = time.perf_counter()
    act()
    return time.perf_counter() - start


def memory_bytes(which: str) -> int:
    """Return this process's resident memory: ``VmRSS`` is now, ``VmHWM`` the most there ever was."""
    for line in Path("/proc/self/status").read_text("ascii").splitlines():
        name, _, rest = line.partition(":")
        if name == which:
            return 1024 * int(rest.split()[0])
    raise RuntimeError(f"/proc/self/status has no {which}")
