"""`python -m tests.fuzz`: atheris (coverage-guided) over each decoder, from its seeds and its corpus.

A target that fails leaves the input in the folder that `--out` names; what is kept as a regression belongs
into tests/fuzz/corpus/TARGET. `--seeds` writes the present seeds there.
"""

from __future__ import annotations

import argparse
import hashlib
import logging
import os
import subprocess
import sys
import tempfile
import warnings
from importlib.util import find_spec
from pathlib import Path

os.environ.setdefault("FLWR_TELEMETRY_ENABLED", "0")
PACKAGES = ["wardround_common", "wardround_client", "wardround_server"]
_MOST_SEED = 4 << 10  # bytes of one that is kept
_MOST_INPUT = 1 << 14
_NOT_KEPT = {"identity-key", "node-key", "certificate"}  # whole private keys have no place in a repository


def main() -> int:
    """Run the targets, one process each; exit code 1 if one fails, 2 if there is no atheris or target."""
    parser = argparse.ArgumentParser(prog="python -m tests.fuzz", description=__doc__)
    parser.add_argument("targets", nargs="*", metavar="TARGET", help="all by default")
    parser.add_argument("--runs", type=int, default=0, help="inputs for each target; 0: no limit")
    parser.add_argument("--seconds", type=int, default=10, help="for each target; 0: no limit")
    parser.add_argument(
        "--out", type=Path, default=Path(".hypothesis/fuzz"), help="where failing inputs are put"
    )
    parser.add_argument("--list", action="store_true", help="name the targets")
    parser.add_argument("--seeds", action="store_true", help="write the present seeds into the corpus")
    parser.add_argument("--alone", action="store_true", help=argparse.SUPPRESS)
    chosen = parser.parse_args()
    if chosen.alone:
        return _fuzz(chosen.targets[0], chosen.runs, chosen.seconds, chosen.out)

    from tests.fuzz.targets import TARGETS

    unknown = set(chosen.targets) - set(TARGETS)
    if unknown:
        sys.stderr.write(f"error: there is no target {', '.join(sorted(unknown))}; see --list\n")
        return 2
    names = chosen.targets or list(TARGETS)
    if chosen.list:
        print("\n".join(names))
        return 0
    if chosen.seeds:
        for name in names:
            _keep(name)
        return 0
    if find_spec("atheris") is None:
        sys.stderr.write(
            "error: atheris is not installed; pip install -e '.[fuzz]' (there is one for Linux alone)\n"
        )
        return 2
    failed = [name for name in names if _apart(name, chosen)]
    print(f"{len(names)} targets, {len(failed)} failed: {', '.join(failed) or 'none'}")
    return 1 if failed else 0


def _apart(name: str, chosen: argparse.Namespace) -> int:
    """Fuzz in a process of its own, since libFuzzer ends the one that it runs in."""
    limits = [f"--runs={chosen.runs}", f"--seconds={chosen.seconds}", f"--out={chosen.out}"]
    command = [sys.executable, "-m", "tests.fuzz", "--alone", *limits, name]
    with tempfile.TemporaryDirectory(prefix="fuzz-") as scratch:
        code = subprocess.run(command, env={**os.environ, "TMPDIR": scratch}, check=False).returncode
    print(f"{name}: {'failed' if code else 'ok'}", flush=True)
    return code


def _fuzz(name: str, runs: int, seconds: int, out: Path) -> int:
    """Hand the process over to libFuzzer."""
    import atheris

    with atheris.instrument_imports(include=PACKAGES):
        from tests.fuzz.targets import TARGETS
    warnings.simplefilter("ignore")
    logging.disable()
    target = TARGETS[name]
    out.mkdir(parents=True, exist_ok=True)
    seeds = Path(tempfile.mkdtemp())  # in the folder that the parent removes: libFuzzer does not return
    for i, data in enumerate((*target.seeds(), *target.found())):
        (seeds / f"{i:03d}").write_bytes(data)
    options = {
        "max_total_time": seconds,
        "runs": runs or -1,
        "max_len": _MOST_INPUT,
        "len_control": 0 if target.scripted else 100,
        "timeout": 10,
        "rss_limit_mb": 1536,
        "detect_leaks": 0,
        "artifact_prefix": f"{out}/{name}-",
    }
    arguments = [f"-{key}={value}" for key, value in options.items()]

    def once(data: bytes) -> None:
        try:
            target.accepts(data)
        except BaseException:  # libFuzzer keeps what ends the process, not what Python raises
            (out / f"{name}-{hashlib.sha256(data).hexdigest()[:8]}").write_bytes(data)
            raise

    atheris.Setup([sys.argv[0], *arguments, str(seeds)], once)
    atheris.Fuzz()
    return 0


def _keep(name: str) -> None:
    """Write a target's seeds into its corpus; scripts need no file."""
    from tests.fuzz.target import CORPUS
    from tests.fuzz.targets import TARGETS

    folder = CORPUS / name
    for path in folder.glob("seed-*"):
        path.unlink()
    if TARGETS[name].scripted or name in _NOT_KEPT:
        return
    for data in TARGETS[name].seeds():
        if len(data) <= _MOST_SEED:
            folder.mkdir(parents=True, exist_ok=True)
            (folder / f"seed-{hashlib.sha256(data).hexdigest()[:8]}").write_bytes(data)


if __name__ == "__main__":
    sys.exit(main())
