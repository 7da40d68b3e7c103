"""What a fuzzer runs: one decoder, its valid inputs, and which errors it may raise."""

from __future__ import annotations

import random
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from wardround_common.errors import WardroundError

CORPUS = Path(__file__).with_name("corpus")
MOST_SECONDS = 5.0  # of a processor for one input; the slowest honest one takes a tenth of it
Run = Callable[[bytes], None]
TARGETS: dict[str, Target] = {}


@dataclass(frozen=True)
class Target:
    """A decoder. ``run`` decodes and checks what must hold of what decodes.

    ``errors``: what it may raise; ``seeds``: valid inputs. Of a ``scripted`` one, inputs are scripts
    (``edits.Script``) of what is changed in valid ones, and the empty script changes nothing.
    """

    name: str
    run: Run
    seeds: Callable[[], list[bytes]]
    errors: tuple[type[Exception], ...]
    scripted: bool

    def accepts(self, data: bytes) -> bool:
        """Run one input; return whether it was decoded, not refused. Raises what no decoder may raise."""
        begun = time.process_time()
        try:
            self.run(data)
        except self.errors:
            return False
        finally:
            seconds = time.process_time() - begun
            assert seconds < MOST_SECONDS, f"{self.name}: {seconds:.1f} s for {len(data)} bytes"
        return True

    def found(self) -> list[bytes]:
        """Return the inputs that once were a fault, and seeds that were kept."""
        return [path.read_bytes() for path in sorted((CORPUS / self.name).glob("*"))]


def target(name: str, seeds: Callable[[], list[bytes]], *errors: type[Exception]) -> Callable[[Run], Run]:
    """Enter a decoder; it may raise WardroundError, or the given errors only."""

    def enter(run: Run) -> Run:
        assert name not in TARGETS
        TARGETS[name] = Target(name, run, seeds, errors or (WardroundError,), scripted=False)
        return run

    return enter


def scripted(name: str, *errors: type[Exception]) -> Callable[[Run], Run]:
    """Enter a decoder whose inputs are scripts."""

    def enter(run: Run) -> Run:
        assert name not in TARGETS

        def seeds() -> list[bytes]:
            chance = random.Random(name)
            return [b"", *(chance.randbytes(4 + 2 * i) for i in range(12))]

        TARGETS[name] = Target(name, run, seeds, errors or (WardroundError,), scripted=True)
        return run

    return enter
