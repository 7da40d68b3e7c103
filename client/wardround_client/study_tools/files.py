"""Writes what a command made: every file whole, or none of them, and nothing over what stands there."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import IO

from wardround_common.errors import WardroundError, listed

Write = Callable[[IO[str]], object]


def check_absent(paths: Iterable[Path], force: bool) -> None:
    """Raise WardroundError if one of the files exists; nothing is asked of them with ``force``."""
    there = [str(path) for path in paths if path.exists()]
    if there and not force:
        exist = "exists" if len(there) == 1 else "exist"
        raise WardroundError(f"{listed(there)}: {exist}; choose another place with `--out`, or add `--force`")


def write_files(contents: Mapping[Path, Write]) -> None:
    """Write all files beside their places, then put them there. WardroundError says what cannot be written.

    Each value is called with an open text file (UTF-8, lines end as it ends them).
    """
    ready: dict[Path, str] = {}
    try:
        for path, write in contents.items():
            try:
                path.parent.mkdir(parents=True, exist_ok=True)
                handle, ready[path] = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
                with os.fdopen(handle, "w", encoding="utf-8", newline="") as file:
                    write(file)
                    file.flush()
                    os.fsync(file.fileno())
                os.chmod(ready[path], 0o644)
                if path.is_dir():
                    raise IsADirectoryError(0, "is a folder")
            except OSError as error:
                raise _unwritable(path, error) from None
        for path in list(ready):
            os.replace(ready[path], path)
            del ready[path]
    finally:
        for name in ready.values():
            Path(name).unlink(missing_ok=True)


def _unwritable(path: Path, error: OSError) -> WardroundError:
    return WardroundError(
        f"{path}: cannot be written ({error.strerror}); make room, or choose another place with `--out`"
    )
