"""`python -m tests.wheel`: build the wheel, install it where no source is, and run what it installs.

The wheel is built from a copy, so that no build folder is left in the repository. The new environment
borrows this one's packages by a .pth file; the project's own must come from the wheel.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import sysconfig
import tempfile
import tomllib
import venv
import zipfile
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
SIDES = ("common", "client", "server")
NOT_SOURCE = shutil.ignore_patterns("__pycache__", "*.egg-info", "build", ".*")
PACKAGE_DATA = {".csv", ".j2", ".yaml", ".toml", ".md", ".typed"}


class Failed(Exception):
    """The wheel is not what it should be."""


def run(*arguments: str | Path, cwd: Path) -> str:
    """Run a command far from the repository and return its stdout. Failed with its output if it fails."""
    env = {key: value for key, value in os.environ.items() if key not in ("PYTHONPATH", "PYTHONHOME")}
    env |= {"FLWR_TELEMETRY_ENABLED": "0", "FLWR_DISABLE_UPDATE_CHECK": "1"}
    done = subprocess.run([*map(str, arguments)], cwd=cwd, env=env, capture_output=True, text=True)
    if done.returncode:
        command = " ".join(map(str, arguments))
        raise Failed(f"{command}: exit code {done.returncode}\n{done.stdout}{done.stderr}")
    return done.stdout


def built(folder: Path) -> Path:
    """Build the wheel from a copy of what it is made of; return its path."""
    source = folder / "source"
    for side in SIDES:
        shutil.copytree(ROOT / side, source / side, ignore=NOT_SOURCE)
    for file in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / file, source)
    run(sys.executable, "-m", "build", "--wheel", "--outdir", folder / "dist", source, cwd=folder)
    (wheel,) = (folder / "dist").glob("*.whl")
    return wheel


def check_contents(wheel: Path) -> int:
    """Check that every source and data file is in the wheel, and nothing beside; return their number."""
    with zipfile.ZipFile(wheel) as archive:
        held = {name for name in archive.namelist() if ".dist-info/" not in name}
    files = [file.relative_to(ROOT / side) for side in SIDES for file in (ROOT / side).rglob("*")]
    wanted = {
        file.as_posix()
        for file in files
        if file.suffix in PACKAGE_DATA | {".py"} and not {"build", "__pycache__"} & set(file.parts)
    }
    if held != wanted:
        raise Failed(f"not in the wheel: {sorted(wanted - held)}; only there: {sorted(held - wanted)}")
    lacking = PACKAGE_DATA - {Path(name).suffix for name in held}
    if lacking:
        raise Failed(f"the wheel has no file that ends in {sorted(lacking)}")
    return len(held)


def installed(wheel: Path, folder: Path) -> Path:
    """Install the wheel into a new environment; return the folder of its commands."""
    home = folder / "venv"
    venv.create(home, symlinks=True)
    python = home / "bin" / "python"
    run(sys.executable, "-m", "pip", "--python", python, "install", "-q", "--no-deps", wheel, cwd=folder)
    purelib = run(python, "-c", "import sysconfig; print(sysconfig.get_path('purelib'))", cwd=folder)
    site = Path(purelib.strip())
    ours = dict.fromkeys(sysconfig.get_path(which) for which in ("purelib", "platlib"))
    (site / "borrowed.pth").write_text("".join(f"{path}\n" for path in ours), "utf-8")
    where = "import wardround_common as c, wardround_client as l, wardround_server as s; print(c, l, s)"
    if run(python, "-c", where, cwd=folder).count(str(site)) != len(SIDES):
        raise Failed("the new environment does not take the packages from the wheel")
    return home / "bin"


def check_command(command: Path, folder: Path) -> None:
    """Run the installed command on a study that the wheel brings with it."""
    version = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]["version"]
    if "simulate" not in run(command, "--help", cwd=folder):
        raise Failed("`wardround --help` does not list `simulate`")
    if run(command, "--version", cwd=folder).strip() != f"wardround {version}":
        raise Failed(f"`wardround --version` does not say {version}")
    results = json.loads(run(command, "simulate", "flamby-heart", "--json", cwd=folder))
    auc = results["analyses"]["logistic"]["metrics"]["test"]["auc"]
    if abs(auc - 0.8812) > 5e-5:
        raise Failed(f"`wardround simulate flamby-heart`: AUC {auc}, not .8812")


def main() -> int:
    """Check the wheel; one line says how it went."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        try:
            wheel = built(folder)
            files = check_contents(wheel)
            check_command(installed(wheel, folder) / "wardround", folder)
        except Failed as error:
            sys.stderr.write(f"error: {error}\n")
            return 1
        print(f"{wheel.name}: {files} files, installed, runs")
    return 0


if __name__ == "__main__":
    sys.exit(main())
