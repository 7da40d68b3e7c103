"""The figures of the foundation: exactness, time and memory of logistic regression, and the demo.

Every fit is compared with scikit-learn's on the pooled rows, solved to convergence (newton-cholesky, 1e-12).
Coefficients are compared twice, in the variables' own units and in units of their standard deviations, and
the larger difference counts: the first alone would be lenient with cholesterol, the second with ratios.
"""

from __future__ import annotations

import json
import statistics
import tempfile
import time
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from tests.bench.measure import (
    Figure,
    at_most,
    in_fresh_process,
    median_s,
    memory_bytes,
    near,
    none,
    wall_s,
    wardround,
)
from wardround_common.study import Study, parse_study
from wardround_common.typing import Floats, Ints
from wardround_server.conductor import Progress
from wardround_server.shipped import tables
from wardround_server.simulation import StudyResult, simulate

SHARES = (0.4, 0.3, 0.2, 0.1)  # of the rows, by hospital
PREVALENCE = (0.27, None, 0.65, 0.86)  # None: what is left, about 46 %
RANGE = (-20.0, 20.0)  # declared for every variable; what lies outside is refused


def figures() -> Iterator[Figure]:
    """Measure everything; about two minutes."""
    with tempfile.TemporaryDirectory() as folder:
        yield from _flamby(Path(folder))
        yield from _split_rows(Path(folder))
    yield from _many_hospitals()
    yield from _many_rows()
    with tempfile.TemporaryDirectory() as folder:
        yield at_most("demo", median_s(lambda: wardround("demo", "--out", folder)), "s", 10)


# FLamby's Fed-Heart-Disease


def _flamby(folder: Path) -> Iterator[Figure]:
    wardround("simulate", "flamby-heart", "--quiet", "--out", folder)
    found = json.loads((folder / "results.json").read_text("utf-8"))["analyses"]["logistic"]
    test = found["metrics"]["test"]
    yield near("flamby_auc", test["auc"], "", 0.8812, 5e-5)
    yield near("flamby_accuracy", test["accuracy"], "", 0.7953, 5e-5)
    rows = pd.concat([pd.read_csv(file) for file in tables("flamby-heart").values()])
    rows = rows[rows["fold"] != "test"]
    coded = {"sex", "cp", "fbs", "restecg", "exang"}
    names = [name for name in rows.columns if name not in ("id", "fold", "disease")]
    parts = {}
    for name in names:
        if name not in coded:
            parts[name] = rows[name]
            continue
        for level in sorted(rows[name].unique())[1:]:
            parts[f"{name}={level:g}"] = (rows[name] == level).astype(float)
    difference = _furthest(found, pd.DataFrame(parts), rows["disease"].to_numpy(), ridge=1.0)
    yield at_most("flamby_coefficients_off", difference, "own or sd units", 1e-8)


# 15,000 rows, split in two ways


def _split_rows(folder: Path) -> Iterator[Figure]:
    x, y = two_classes()
    four = split_by_prevalence(y)
    prevalence = [round(float(y[rows].mean()), 2) for rows in four]
    if not (prevalence[0] == 0.27 < prevalence[1] < prevalence[2] < prevalence[3] == 0.86):
        raise RuntimeError(f"the rows cannot be split by prevalence: {prevalence}")
    names = [f"x{i}" for i in range(x.shape[1])]
    found = {}
    for label, parts in (("4", four), ("20", _unevenly(len(y), 20))):
        arguments = _written(folder / label, pd.DataFrame(x, columns=names).assign(y=y), parts)
        seconds = median_s(lambda a=arguments: wardround(*a), 3 if label == "4" else 1)  # type: ignore[misc]
        found[label] = json.loads((folder / label / "out" / "results.json").read_text("utf-8"))
        if label == "4":
            yield at_most("simulate_15000x20", seconds, "s", 4)
    logistic = found["4"]["analyses"]["logistic"]
    difference = _furthest(logistic, pd.DataFrame(x, columns=names), y, ridge=0.0)
    yield at_most("simulate_15000x20_coefficients_off", difference, "own or sd units", 1e-8)
    four_way, twenty_way = (dict(_leaves(_timeless(one["analyses"]))) for one in found.values())
    differing = {key for key in four_way | twenty_way if four_way.get(key) != twenty_way.get(key)}
    yield none("simulate_15000x20_differs_over_20_hospitals", len(differing), f"of {len(four_way)} values")


def two_classes() -> tuple[Floats, Ints]:
    """Return 15,000 rows of 20 variables, 12 of which tell two classes apart."""
    from sklearn.datasets import make_classification

    x, y = make_classification(
        n_samples=15_000, n_features=20, n_informative=12, n_redundant=0, weights=[0.54], random_state=20
    )
    return x, y


def split_by_prevalence(y: Ints) -> list[Ints]:
    """Split the rows over four hospitals so that prevalence runs from 27 % to 86 %; row positions each."""
    sizes = [round(share * len(y)) for share in SHARES]
    positives = [None if p is None else round(p * size) for p, size in zip(PREVALENCE, sizes, strict=True)]
    rest = int(y.sum()) - sum(n for n in positives if n is not None)
    counts = [rest if n is None else n for n in positives]
    with_, without = np.flatnonzero(y == 1), np.flatnonzero(y == 0)
    found = []
    for size, positive in zip(sizes, counts, strict=True):
        found.append(np.sort(np.concatenate([with_[:positive], without[: size - positive]])))
        with_, without = with_[positive:], without[size - positive :]
    return found


def _unevenly(rows: int, hospitals: int) -> list[Ints]:
    """Split shuffled rows into parts from about 70 to 1,400 rows."""
    order = np.random.default_rng(3).permutation(rows)
    ends = np.cumsum(np.arange(1, hospitals)) * rows // (hospitals * (hospitals + 1) // 2)
    return np.split(order, ends)


def _written(folder: Path, table: pd.DataFrame, parts: list[Ints]) -> list[str | Path]:
    """Write study and tables, every float with all its digits; return the arguments of `wardround`."""
    folder.mkdir()
    names = [name for name in table.columns if name != "y"]
    (folder / "study.json").write_text(json.dumps(_study(names)), "utf-8")
    arguments: list[str | Path] = ["simulate", folder / "study.json", "--quiet", "--out", folder / "out"]
    for i, rows in enumerate(parts):
        table.iloc[rows].to_csv(folder / f"h{i}.csv", index=False)  # pandas writes the shortest exact repr
        arguments += ["--data", f"h{i}={folder / f'h{i}.csv'}"]
    return arguments


def _timeless(analyses: dict[str, Any]) -> dict[str, Any]:
    return {name: {**found, "seconds": None} for name, found in analyses.items()}


def _leaves(value: Any, path: str = "") -> Iterator[tuple[str, Any]]:
    """Yield every value of nested JSON with its path."""
    if isinstance(value, (dict, list)):
        for key, one in value.items() if isinstance(value, dict) else enumerate(value):
            yield from _leaves(one, f"{path}/{key}")
    else:
        yield path, value


# Frames in memory


def _many_hospitals() -> Iterator[Figure]:
    found = in_fresh_process(hundred)
    yield at_most("100_hospitals_x_500x20_logistic", found["fit"], "s", 8)
    yield Figure("100_hospitals_x_500x20_simulate", found["whole"], "s")


def _many_rows() -> Iterator[Figure]:
    found = in_fresh_process(million_beside_sklearn)
    yield at_most("1000000x30_logistic_to_sklearn", found["fit"] / found["sklearn"], "ratio", 2)
    yield Figure("1000000x30_logistic", found["fit"], "s")
    yield Figure("1000000x30_sklearn", found["sklearn"], "s")
    yield Figure("1000000x30_evaluation", found["evaluation"], "s")
    yield Figure("1000000x30_simulate", found["whole"], "s")
    yield at_most("1000000x30_coefficients_off", found["off"], "own or sd units", 1e-8)
    weighed = in_fresh_process(million_weighed)
    yield at_most("1000000x30_memory_to_table", weighed["peak"] / weighed["table"], "ratio", 3)


def hundred() -> dict[str, float]:
    """Time a study over 100 hospitals of 500 rows."""
    study, frames = _drawn(50_000, 20, [0.01] * 100)
    _timed(*_drawn(2_000, 20, [0.25] * 4))  # a warm-up
    return _timed(study, frames)[1]


def million_beside_sklearn() -> dict[str, float]:
    """Time a study over a million rows at four hospitals, and scikit-learn on the pooled rows, in turn."""
    study, frames = _drawn(1_000_000, 30, SHARES)
    names = [name for name in study.variables if name != "y"]
    x = np.ascontiguousarray(np.concatenate([frame[names].to_numpy() for frame in frames.values()]))
    y = np.concatenate([frame["y"].to_numpy() for frame in frames.values()])
    runs: list[dict[str, float]] = []
    for _ in range(4):
        result, times = _timed(study, frames)
        times["sklearn"] = wall_s(lambda: _sklearn(x, y, 0.0, 1e-10))
        runs.append(times)
    middle = {name: statistics.median(times[name] for times in runs[1:]) for name in runs[0]}
    off = _furthest(result["logistic"], pd.DataFrame(x, columns=names, copy=False), y, ridge=0.0)
    return {**middle, "off": off}


def million_weighed() -> dict[str, int]:
    """Weigh a study over a million rows at four hospitals: its most memory, tables included."""
    _timed(*_drawn(2_000, 30, SHARES))  # so that all is imported, and every arena and thread made
    before = memory_bytes("VmRSS")
    study, frames = _drawn(1_000_000, 30, SHARES)
    table = sum(int(frame.memory_usage(index=False).sum()) for frame in frames.values())
    _timed(study, frames)
    return {"peak": memory_bytes("VmHWM") - before, "table": table}


def _timed(study: Study, frames: dict[str, pd.DataFrame]) -> tuple[StudyResult, dict[str, float]]:
    """Run a study of one logistic model: seconds of the whole, the fit and its evaluation."""
    seconds = {"flow": 0.0, "logistic": 0.0, "evaluate": 0.0}
    last = start = time.perf_counter()

    def observe(progress: Progress) -> None:
        nonlocal last
        now = time.perf_counter()
        (kind,) = {kind.partition(".")[0] for _, kind in progress.kinds}
        seconds["logistic" if kind in ("moments", "columns") else kind] += now - last
        last = now

    result = simulate(study, frames, observe=observe)
    whole = time.perf_counter() - start
    return result, {"whole": whole, "fit": seconds["logistic"], "evaluation": seconds["evaluate"]}


def _drawn(rows: int, columns: int, shares: Any) -> tuple[Study, dict[str, pd.DataFrame]]:
    """Draw a table per hospital, column by column in place, so that the tables are never held twice."""
    rng = np.random.default_rng(1)
    slopes = rng.normal(size=columns) / np.sqrt(columns)
    frames = {}
    for i, share in enumerate(shares):
        own = round(share * rows)
        cells, eta = np.empty((columns, own)), np.full(own, -0.3)
        for column, slope in zip(cells, slopes, strict=True):
            rng.standard_normal(out=column)
            eta += slope * column
        frame = pd.DataFrame(cells.T, columns=[f"x{j}" for j in range(columns)], copy=False)
        frame["y"] = (rng.random(own) < 1 / (1 + np.exp(-eta))).astype(np.int8)
        frames[f"h{i:03d}"] = frame
    return parse_study(_study([f"x{j}" for j in range(columns)])), frames


# What the parts share


def _study(names: list[str]) -> dict[str, Any]:
    number, category = {"kind": "number", "range": list(RANGE)}, {"kind": "category", "levels": ["0", "1"]}
    return {
        "wardround": 1,
        "name": "bench",
        "variables": {**dict.fromkeys(names, number), "y": category},
        "outcome": "y",
        "out_of_range": "refuse",
        "analyses": [{"kind": "logistic"}],
    }


def _sklearn(x: Floats, y: Ints, ridge: float, tolerance: float) -> Any:
    from sklearn.linear_model import LogisticRegression

    model: Any = LogisticRegression(  # type: ignore[no-untyped-call]
        C=1 / ridge if ridge else np.inf, solver="newton-cholesky", tol=tolerance, max_iter=1000
    )
    with warnings.catch_warnings():  # at 1e-12 its line search may end at the last bit
        warnings.simplefilter("ignore")
        return model.fit(x, y)


def _furthest(found: dict[str, Any], terms: pd.DataFrame, y: Ints, ridge: float) -> float:
    """Return the largest difference of a coefficient from the converged pooled fit, by either unit."""
    mean, sd = terms.mean().to_numpy(), terms.std(ddof=0).to_numpy()
    model = _sklearn((terms.to_numpy() - mean) / sd, y, ridge, 1e-12)
    own: Floats = model.coef_[0] / sd
    intercept = float(model.intercept_[0] - own @ mean)
    shown = {term: one["value"] for term, one in found["coefficients"].items()}
    if set(shown) != {"intercept", *terms.columns}:
        raise RuntimeError(f"other terms than the pooled fit's: {sorted(shown)}")
    off = np.abs(np.array([shown[term] for term in terms.columns]) - own)
    return float(max(abs(shown["intercept"] - intercept), off.max(), (off * sd).max()))
