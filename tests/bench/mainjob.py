"""The figures of the main job: forest, federated averaging, the classic script, and the demo with its report.

Every model is judged on held-out rows beside scikit-learn's on the pooled rows of the same split.
"""

from __future__ import annotations

import json
import statistics
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from tests.bench.foundation import SHARES, split_by_prevalence, two_classes
from tests.bench.measure import (
    Figure,
    at_least,
    at_most,
    in_fresh_process,
    median_s,
    wardround,
)
from wardround_common.typing import Ints
from wardround_server.demo.classic import compare
from wardround_server.shipped import tables

SEEDS = 20


def figures() -> Iterator[Figure]:
    """Measure everything; about two minutes."""
    with tempfile.TemporaryDirectory() as folder:
        yield from _flamby(Path(folder))
        yield from _classic(Path(folder))
        yield from _forest(Path(folder))
        yield from _fedavg(Path(folder))
        yield from _demo(Path(folder))


def _flamby(folder: Path) -> Iterator[Figure]:
    wardround("simulate", "flamby-heart", "--quiet", "--out", folder / "flamby")
    found = _results(folder / "flamby")["forest"]["metrics"]["test"]
    yield at_least("flamby_forest_auc", found["auc"], "", 0.87)
    rows = pd.concat([pd.read_csv(file) for file in tables("flamby-heart").values()])
    names = [name for name in rows.columns if name not in ("id", "fold", "disease")]
    test = (rows["fold"] == "test").to_numpy()
    x, y = rows[names].to_numpy(float), rows["disease"].to_numpy()
    yield Figure("flamby_sklearn_auc", _sklearn_auc(x, y, test, 8), "mean of 5 seeds")


def _classic(folder: Path) -> Iterator[Figure]:
    runs = [compare(seed, folder / "classic")[0] for seed in range(SEEDS)]
    federated = statistics.fmean(run["federated_accuracy"] for run in runs)
    familiar = statistics.fmean(run["familiar_accuracy"] for run in runs)
    yield Figure("classic_federated_accuracy", federated, f"mean of {SEEDS} seeds")
    yield Figure("classic_sklearn_accuracy", familiar, f"mean of {SEEDS} seeds")
    yield at_most("classic_accuracy_off", abs(federated - familiar), "", 0.02)


def _forest(folder: Path) -> Iterator[Figure]:
    x, y = two_classes()
    test = np.random.default_rng(3).random(len(y)) < 0.3
    analyses = [{"kind": "forest", "trees": 100, "depth": 8}]
    arguments = _written(folder / "forest", x, y, test, split_by_prevalence(y), analyses)
    yield at_most("forest_15000x20_100_trees", median_s(lambda: wardround(*arguments)), "s", 10)
    auc = _results(folder / "forest" / "out")["forest"]["metrics"]["test"]["auc"]
    own = _sklearn_auc(x, y, test, 8)
    yield Figure("forest_15000x20_auc", auc, "")
    yield Figure("forest_15000x20_sklearn_auc", own, "mean of 5 seeds")
    yield at_most("forest_15000x20_auc_off", abs(auc - own), "", 0.005)


def _fedavg(folder: Path) -> Iterator[Figure]:
    from sklearn.datasets import load_breast_cancer

    x, y = load_breast_cancer(return_X_y=True)
    generator = np.random.default_rng(5)
    test = generator.random(len(y)) < 0.3
    ends = np.cumsum(np.array(SHARES[:-1]) * len(y)).astype(int)
    parts = np.split(generator.permutation(len(y)), ends)
    analyses = [{"kind": "fedavg", "estimator": "SGDClassifier", "rounds": 50}]
    arguments = _written(folder / "fedavg", x, y, test, parts, analyses)
    yield at_most("fedavg_breast_cancer_50_rounds", median_s(lambda: wardround(*arguments)), "s", 10)
    found = _results(folder / "fedavg" / "out")["fedavg"]["metrics"]["test"]
    yield at_least("fedavg_breast_cancer_auc", found["auc"], "", 0.985)


def _demo(folder: Path) -> Iterator[Figure]:
    demo = folder / "demo"
    yield at_most("demo_with_report", median_s(lambda: wardround("demo", "--out", demo)), "s", 20)
    size = (demo / "report.html").stat().st_size
    yield at_most("report_size", size / 2**20, "MiB", 3)
    yield at_most("report_made", in_fresh_process(report_s, str(demo)), "s", 5)


def report_s(folder: str) -> float:
    """Return the seconds that the demo's report takes, imports included."""
    import time

    results = json.loads((Path(folder) / "results.json").read_text("utf-8"))
    compared = json.loads((Path(folder) / "comparison.json").read_text("utf-8"))
    start = time.perf_counter()
    from wardround_server.report import render

    render(results, command="wardround demo", comparison=compared)
    return time.perf_counter() - start


def _sklearn_auc(x: Any, y: Any, test: Any, depth: int) -> float:
    """Return the mean AUC on the held-out rows over five of scikit-learn's forests, leaves of 11."""
    from sklearn.ensemble import RandomForestClassifier
    from sklearn.metrics import roc_auc_score

    found = []
    for seed in range(5):
        model: Any = RandomForestClassifier(
            100, max_depth=depth, min_samples_leaf=11, random_state=seed, n_jobs=2
        )
        model.fit(x[~test], y[~test])
        found.append(float(roc_auc_score(y[test], model.predict_proba(x[test])[:, 1])))
    return statistics.fmean(found)


def _written(
    folder: Path, x: Any, y: Any, test: Any, parts: list[Ints], analyses: list[dict[str, Any]]
) -> list[str | Path]:
    """Write study and tables; return the arguments of `wardround`."""
    names = [f"x{i}" for i in range(x.shape[1])]
    reach = 10.0 ** np.ceil(np.log10(np.abs(x).max(axis=0)))  # as round as a range that people declare
    numbers = {
        name: {"kind": "number", "range": [-r, r]} for name, r in zip(names, reach.tolist(), strict=True)
    }
    study = {
        "wardround": 1,
        "name": "bench",
        "variables": {**numbers, "y": {"kind": "category", "levels": ["0", "1"]}},
        "outcome": "y",
        "out_of_range": "refuse",
        "split": {"column": "fold"},
        "analyses": analyses,
    }
    folder.mkdir()
    (folder / "study.json").write_text(json.dumps(study), "utf-8")
    table = pd.DataFrame(x, columns=names).assign(y=y, fold=np.where(test, "test", "train"))
    arguments: list[str | Path] = ["simulate", folder / "study.json", "--quiet", "--out", folder / "out"]
    for i, rows in enumerate(parts):
        table.iloc[rows].to_csv(folder / f"h{i}.csv", index=False)
        arguments += ["--data", f"h{i}={folder / f'h{i}.csv'}"]
    return arguments


def _results(folder: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((folder / "results.json").read_text("utf-8"))["analyses"]
    return found
