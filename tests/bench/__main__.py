"""Print one JSON line per figure; exit code 1 if a goal is missed, 2 for a part that does not exist."""

from __future__ import annotations

import argparse
import sys

from tests.bench import foundation, governance, mainjob, network, sealing
from tests.bench.measure import Part

PARTS: dict[str, Part] = {
    "foundation": foundation.figures,
    "governance": governance.figures,
    "mainjob": mainjob.figures,
    "network": network.figures,
    "sealing": sealing.figures,
}


def main() -> int:
    """Run the parts that were asked for, all of them by default."""
    parser = argparse.ArgumentParser(prog="python -m tests.bench", description=__doc__)
    parser.add_argument("--only", metavar="PART", help=f"one of: {', '.join(PARTS)}")
    only = parser.parse_args().only
    if only is not None and only not in PARTS:
        sys.stderr.write(f"error: there is no part `{only}`; there are: {', '.join(PARTS)}\n")
        return 2
    ok = True
    for name, part in PARTS.items():
        if only in (None, name):
            for figure in part():
                print(figure.line(), flush=True)
                ok = ok and figure.ok
    return 0 if ok else 1


if __name__ == "__main__":
    sys.exit(main())
