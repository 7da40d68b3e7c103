"""Rules about the source itself that no linter of ours holds: Flower's internals, and ways to run code."""

from __future__ import annotations

import ast
import re
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
SOURCES = sorted(file for side in ("common", "client", "server") for file in (ROOT / side).rglob("*.py"))

FLOWER_IS_PUBLIC_IN = ("flwr.app", "flwr.clientapp", "flwr.serverapp", "flwr.serverapp.strategy")
MAY_TOUCH_INTERNALS = ("server/wardround_server/grid/", "client/wardround_client/link.py")

CODE_IN_DATA = ("pickle", "marshal", "shelve", "dill", "cloudpickle", "joblib")
RUNS_TEXT = ("eval", "exec", "compile", "__import__", "os.system", "os.popen")

MACHINE_PATHS = re.compile("|".join(("/" + "work/", "/tmp" + r"/w\b", "/" + "root/")).encode())


def imported(tree: ast.AST) -> Iterator[str]:
    """Yield every module that is imported, and of a package also what is imported from it."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (name.name for name in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            if node.module == "flwr":
                yield from (f"flwr.{name.name}" for name in node.names)
            else:
                yield node.module


def flower_internals(tree: ast.AST) -> list[str]:
    return [
        module
        for module in imported(tree)
        if module.split(".")[0] == "flwr" and module not in FLOWER_IS_PUBLIC_IN
    ]


def running_of_data(tree: ast.AST) -> list[str]:
    found = [module for module in imported(tree) if module.split(".")[0] in CODE_IN_DATA]
    for node in ast.walk(tree):
        if isinstance(node, ast.Call):
            called = ast.unparse(node.func)
            true = [word.arg for word in node.keywords if ast.unparse(word.value) == "True"]
            found += [called] if called in RUNS_TEXT else []
            found += [f"{called}({word}=True)" for word in true if word in ("shell", "allow_pickle")]
    return found


def sources() -> Iterator[tuple[str, ast.AST]]:
    for file in SOURCES:
        yield file.relative_to(ROOT).as_posix(), ast.parse(file.read_text("utf-8"))


def test_flowers_internals_are_imported_by_the_grid_and_the_link_only() -> None:
    touching = {name: found for name, tree in sources() if (found := flower_internals(tree))}
    for place in MAY_TOUCH_INTERNALS:
        assert any(name.startswith(place) for name in touching), "the rule finds what is there"
    assert {name: touching[name] for name in touching if not name.startswith(MAY_TOUCH_INTERNALS)} == {}


def test_no_source_runs_code_that_it_reads() -> None:
    assert {name: found for name, tree in sources() if (found := running_of_data(tree))} == {}


@pytest.mark.parametrize(
    ("source", "breaks"),
    [
        ("from flwr.app import Message\nimport flwr.serverapp.strategy\nfrom flwr import clientapp", False),
        ("from flwr.supercore.run import Run", True),
        ("import flwr", True),
        ("from flwr import common", True),
        ("def f():\n    import pickle", True),
        ("from joblib.externals import loky", True),
        ("a.exec(x)\nre.compile(x)\nmodel.eval()", False),
        ("f(eval(x))", True),
        ("import os\nos.system('ls')", True),
        ("subprocess.run(x, shell=False)", False),
        ("subprocess.run(x, shell=True)", True),
        ("np.load(x, allow_pickle=True)", True),
    ],
)
def test_the_rules_find_what_breaks_them(source: str, breaks: bool) -> None:
    tree = ast.parse(source)
    assert bool(flower_internals(tree) + running_of_data(tree)) is breaks


def test_no_file_names_a_path_of_the_machine_it_was_written_on() -> None:
    listed = subprocess.run(
        ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"], cwd=ROOT, capture_output=True
    )
    if listed.returncode:
        pytest.skip("not a git checkout")
    files = [ROOT / name for name in listed.stdout.decode().split("\0") if name]
    contents = {file.relative_to(ROOT).as_posix(): file.read_bytes() for file in files if file.is_file()}
    assert "pyproject.toml" in contents
    naming = [name for name, content in contents.items() if MACHINE_PATHS.search(content)]
    assert naming == []
