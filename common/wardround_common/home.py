"""What a hospital's home and a coordinator's have in common: where it is, its TOML files, its lock."""

from __future__ import annotations

import fcntl
import json
import logging
import os
import re
import tomllib
from collections.abc import Iterator
from contextlib import contextmanager
from logging.handlers import RotatingFileHandler
from pathlib import Path
from typing import Annotated, Any, ClassVar, Self, TypeVar

from pydantic import AfterValidator, BaseModel, ConfigDict, ValidationError

from wardround_common.enrolment import MOST_JSON, Enrolment, check_name, split_address
from wardround_common.errors import WardroundError
from wardround_common.files import write_file

VARIABLE = "WARDROUND_HOME"
LOG = "wardround"  # the logger of whatever runs for long
M = TypeVar("M", bound=BaseModel)


class Part(BaseModel):
    """A table of a TOML file; unknown keys are errors."""

    model_config = ConfigDict(extra="forbid", frozen=True)


def _checked_name(value: str) -> str:
    try:
        check_name(value)
    except WardroundError as error:
        raise ValueError(str(error)) from None
    return value


def _checked_address(value: str) -> str:
    try:
        split_address(value)
    except WardroundError as error:
        raise ValueError(str(error)) from None
    return value


Name = Annotated[str, AfterValidator(_checked_name)]
Address = Annotated[str, AfterValidator(_checked_address)]  # host:port


def find_home(path: Path | None) -> Path:
    """Return the home that was given, or that of the environment, or the usual one."""
    return path or Path(os.environ.get(VARIABLE) or Path.home() / ".wardround")


class Home:
    """A home's paths. Everything in it is read when asked for, and an error names its file."""

    whose: ClassVar[str]  # "hospital's" or "coordinator's"
    made_by: ClassVar[str]  # the command that makes one

    def __init__(self, path: Path) -> None:
        self.path = path

    @classmethod
    def open(cls, path: Path | None) -> Self:
        """Return the home at ``path`` or its usual place. WardroundError if nobody of this kind is there."""
        home = cls(find_home(path))
        if not home.config_file.exists():
            raise WardroundError(
                f"{home.path}: no {cls.whose} home; make one with `{cls.made_by}`, or give "
                f"its folder with --home or {VARIABLE}"
            )
        return home

    @property
    def config_file(self) -> Path:
        """config.toml."""
        return self.path / "config.toml"

    @property
    def status_file(self) -> Path:
        """What its running process last said of itself."""
        return self.path / "status.json"

    @property
    def lock_file(self) -> Path:
        """Held by its running process."""
        return self.path / "serve.lock"


def read_toml(path: Path, model: type[M], sample: str) -> M:
    """Read and check a TOML file. WardroundError names the file and the key at fault, never a value."""
    try:
        return model.model_validate(tomllib.loads(path.read_text("utf-8")))
    except OSError as error:
        raise WardroundError(f"{path}: cannot be read ({error.strerror})") from None
    except (ValueError, RecursionError) as error:
        if isinstance(error, ValidationError):
            raise _fault(path, error, sample) from None
        raise WardroundError(f"{path}: not readable as TOML ({error})") from None


def _fault(path: Path, error: ValidationError, sample: str) -> WardroundError:
    fault = error.errors(include_url=False, include_input=False)[0]
    key = ".".join(map(str, fault["loc"]))
    return WardroundError(f"{path}: {key}: {fault['msg']}; see {sample}")


def read_enrolment(path: Path) -> Enrolment:
    """Read a hospital's enrolment file and check its signatures. WardroundError names the file."""
    try:
        with path.open("rb") as file:
            enrolment = Enrolment.from_json(file.read(MOST_JSON + 1))
        enrolment.verify()
    except OSError as error:
        raise WardroundError(f"{path}: cannot be read ({error.strerror})") from None
    except WardroundError as error:
        raise WardroundError(f"{path}: {error}") from None
    return enrolment


def toml_text(text: str) -> str:
    """Return a text as TOML writes it."""
    escaped = re.sub(r'[\x00-\x1f"\\\x7f]', lambda found: f"\\u{ord(found.group()):04x}", text)
    return f'"{escaped}"'


def make_folders(home: Path, *names: str) -> None:
    """Make a home and folders in it, for its owner only. WardroundError where they can't be made."""
    try:
        for folder in (home, *(home / name for name in names)):
            folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    except OSError as error:
        raise WardroundError(f"{home}: cannot be made ({error.strerror})") from None


@contextmanager
def locked(path: Path, whose: str) -> Iterator[None]:
    """Hold a lock file while the block runs. WardroundError, naming ``whose``, if another holds it."""
    try:
        handle = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    except OSError as error:
        raise WardroundError(f"{path}: cannot be opened ({error.strerror})") from None
    try:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise WardroundError(f"{path.parent}: {whose} runs already") from None
        yield
    finally:
        os.close(handle)


def is_locked(path: Path) -> bool:
    """Tell whether a running process holds a lock file."""
    try:
        handle = os.open(path, os.O_RDWR | os.O_CLOEXEC)
    except OSError:
        return False
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    finally:
        os.close(handle)
    return False


def open_log(path: Path, *, quiet: bool = False) -> logging.Logger:
    """Log to a file that is turned over at 5 MB, and to stderr unless ``quiet``; never a value or secret."""
    log = logging.getLogger(LOG)
    log.setLevel(logging.INFO)
    log.propagate = False
    for handler in log.handlers[:]:
        log.removeHandler(handler)
        handler.close()
    try:
        handlers: list[logging.Handler] = [RotatingFileHandler(path, maxBytes=5 << 20, backupCount=3)]
    except OSError as error:
        raise WardroundError(f"{path}: cannot be written ({error.strerror})") from None
    if not quiet:
        handlers.append(logging.StreamHandler())
    for handler in handlers:
        handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(message)s"))
        log.addHandler(handler)
    for other in ("httpx", "httpcore", "flwr"):
        logging.getLogger(other).setLevel(logging.WARNING)
    return log


def write_status(path: Path, status: dict[str, Any]) -> None:
    """Say how things stand, in a file that other commands read; a full disk does not stop the work."""
    try:
        write_file(path, json.dumps(status, indent=1, sort_keys=True, ensure_ascii=False) + "\n")
    except WardroundError as error:
        logging.getLogger(LOG).error("%s", error)


def read_status(path: Path) -> dict[str, Any]:
    """Return how things stand; nothing where nobody said so."""
    try:
        found = json.loads(path.read_text("utf-8"))
    except (OSError, ValueError, RecursionError):
        return {}
    return found if isinstance(found, dict) else {}
