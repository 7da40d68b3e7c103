"""`python -m tests.chaos --runs 100`: the storm of `make soak`; saves what came of it for the bench."""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
from pathlib import Path

from tests.chaos.storm import weather

RESULT = Path(__file__).with_name("result.json")


def main() -> int:
    """Run the storm; exit code 1 if a study did not end with the right bits."""
    parser = argparse.ArgumentParser(prog="python -m tests.chaos", description=__doc__)
    parser.add_argument("--runs", type=int, default=100)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--out", type=Path, default=RESULT, help="where the result is saved")
    chosen = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        outcome = weather(Path(folder), chosen.runs, chosen.seed, lambda line: print(line, flush=True))
    for failure in outcome.failures:
        print(failure)
    chosen.out.write_text(json.dumps(outcome.saved(), indent=1) + "\n")
    print(json.dumps(outcome.saved()))
    return 1 if outcome.failures else 0


if __name__ == "__main__":
    sys.exit(main())
