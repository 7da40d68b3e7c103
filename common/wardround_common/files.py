"""Writes what a command made: every file whole, or none of them; and secrets for their owner's eyes only."""

from __future__ import annotations

import io
import os
import stat
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


def try_folder(folder: Path) -> None:
    """Try to write where the folder is, or will be made; leaves nothing there.

    A long study should not end where its results can't be kept.
    """
    existing = next(path for path in (folder.absolute(), *folder.absolute().parents) if path.exists())
    try:
        with tempfile.TemporaryFile(dir=existing) as file:
            file.write(b"0" * 4096)
            file.flush()
    except OSError as error:
        raise unwritable(folder, error) from None


def write_file(path: Path, content: str | bytes) -> None:
    """Write a file whole or not at all, a text in UTF-8. WardroundError names it and says what to do."""
    write_files({path: content})


def write_files(contents: Mapping[Path, str | bytes | Write]) -> None:
    """Write all files beside their places, then put them there. WardroundError says what cannot be written.

    A function is called with an open text file (UTF-8, lines end as it ends them).
    """
    ready: dict[Path, str] = {}
    try:
        for path, content in contents.items():
            try:
                path.parent.mkdir(parents=True, exist_ok=True)
                handle, ready[path] = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
                _fill(handle, content)
                os.chmod(ready[path], 0o644)
                if path.is_dir():
                    raise IsADirectoryError(0, "is a folder")
            except OSError as error:
                raise unwritable(path, error) from None
        for path in list(ready):
            try:
                os.replace(ready[path], path)
            except OSError as error:
                raise unwritable(path, error) from None
            del ready[path]
    finally:
        for name in ready.values():
            Path(name).unlink(missing_ok=True)


def write_private(path: Path, content: bytes) -> None:
    """Write a secret whole or not at all, in a file that its owner alone can read.

    WardroundError if it can't.
    """
    try:
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        handle, fresh = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")  # mkstemp makes it 0600
        try:
            _fill(handle, content)
            os.replace(fresh, path)
        except BaseException:
            Path(fresh).unlink(missing_ok=True)
            raise
    except OSError as error:
        raise WardroundError(f"{path}: cannot be written ({error.strerror})") from None


def read_private(path: Path, most: int = 1 << 16) -> bytes:
    """Read a secret. WardroundError if others may read its file, or it is no such file."""
    try:
        handle = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC)
        with os.fdopen(handle, "rb") as file:
            about = os.fstat(handle)
            if not stat.S_ISREG(about.st_mode):
                raise WardroundError(f"{path}: not a file")
            if about.st_mode & 0o077:
                raise WardroundError(
                    f"{path}: others on this machine can read it (mode {about.st_mode & 0o777:04o}); make "
                    f"sure that nobody did, then: chmod 600 {path}"
                )
            if about.st_size > most:
                raise WardroundError(f"{path}: too long to be what it should be")
            return file.read()
    except FileNotFoundError:
        raise WardroundError(f"{path}: there is no such file") from None
    except OSError as error:
        raise WardroundError(f"{path}: cannot be read ({error.strerror})") from None


def _fill(handle: int, content: str | bytes | Write) -> None:
    with os.fdopen(handle, "wb") as file:
        if callable(content):
            text = io.TextIOWrapper(file, encoding="utf-8", newline="", write_through=True)
            content(text)
            text.flush()
            text.detach()
        else:
            file.write(content.encode() if isinstance(content, str) else content)
        file.flush()
        os.fsync(file.fileno())


def unwritable(path: Path, error: OSError) -> WardroundError:
    """Return the error that names the place and says what to do."""
    return WardroundError(
        f"{path}: cannot be written ({error.strerror}); make room, or choose another place with `--out`"
    )
