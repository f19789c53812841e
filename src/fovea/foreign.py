"""Files that may come from strangers: what they are is looked at before what they say, and size before content.

    path --regular--> in its folder, a regular file --read_text--> bounded, UTF-8 --read_object--> json, not too deep
    with damage(path, refusal): ...     what libraries raise on nonsense, as the refusal

A refusal is the error that the caller's readers raise and what to do about it. What a run writes for itself is read the
same way and holds a checksum besides (fovea.atomic, fovea.tensorfile). SAEs have their own guard, which also makes what
it reads printable (fovea.sae.formats.guard).
"""

import json
import os
import stat
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple, NoReturn

from fovea.errors import DamagedError, FoveaError

MAX_TEXT_BYTES = 256 * 2**20
"Of a file that is read whole as text: metrics.jsonl of a run of a thousand jobs has 30 MB."

MAX_JSON_BYTES = 16 * 2**20
"Of one json document: small objects take 27 times their text in memory."

MAX_DEPTH = 64
"Objects and lists within each other."

_NONSENSE = (
    *(OSError, ValueError, LookupError, TypeError, AttributeError, ArithmeticError),
    *(RuntimeError, MemoryError, AssertionError),
)
"What Python and numpy raise where a value is not what the code expects."


class Refusal(NamedTuple):
    """How a reader says no."""

    error: type[FoveaError]
    again: str = ""
    "What to do, the end of the message; nothing where the caller says it, or does it."

    def of(self, what: str) -> FoveaError:
        """The error that says what is wrong and what to do."""
        return self.error(f"{what}; {self.again}" if self.again else what)


DAMAGED = Refusal(DamagedError)
"Of a file that the run may make again: the caller says what comes of it."


def regular(path: Path, folder: Path, refusal: Refusal) -> Path:
    """`path`, if it is a regular file inside `folder`; a link may lead elsewhere in it, or to blobs of its Hub cache.

    Raises:
        FoveaError: the refusal: it is a pipe, a device, a folder, or a link that leads out or nowhere.
    """
    between = [each for each in path.parents if each.is_relative_to(folder) and each != folder]
    try:
        if stat.S_ISREG(path.lstat().st_mode) and not any(each.is_symlink() for each in between):
            return path
        real, root = path.resolve(strict=True), folder.resolve(strict=True)
        kind = real.stat().st_mode
    except (OSError, RuntimeError, ValueError) as error:
        raise refusal.of(f"{path} cannot be opened ({error})") from None
    if not stat.S_ISREG(kind):
        raise refusal.of(f"{path} is not a regular file")
    if not any(real.is_relative_to(allowed) for allowed in (root, *_cache_of(root))):
        raise refusal.error(
            f"{path} is a link to {real}, outside {folder}; copy that file into the folder if you trust it, or give "
            "the folder where it is"
        )
    return path


def expanded(path: str, refusal: Refusal) -> Path:
    """`path` with ~ as the home folder.

    Raises:
        FoveaError: the refusal: nobody has that home.
    """
    try:
        return Path(path).expanduser()
    except (RuntimeError, ValueError) as error:
        raise refusal.of(f"path {path!r:.200} cannot be read ({error})") from None


def is_there(path: Path, folder: Path, refusal: Refusal) -> bool:
    """Whether there is a file, a `regular` one.

    Raises:
        FoveaError: the refusal: something else is there.
    """
    return os.path.lexists(path) and bool(regular(path, folder, refusal))


def read_text(path: Path, folder: Path, refusal: Refusal, *, most: int = MAX_TEXT_BYTES) -> str:
    """The text of a `regular` file of at most so many bytes.

    Raises:
        FoveaError: the refusal: not regular, too large, or not UTF-8.
    """
    n_bytes = regular(path, folder, refusal).stat().st_size
    if n_bytes > most:
        raise refusal.of(f"{path} has {n_bytes:,} bytes, at most {most:,} are read")
    try:
        return path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise refusal.of(f"{path} cannot be read ({error})") from None


def read_object(path: Path, folder: Path, refusal: Refusal, *, most: int = MAX_JSON_BYTES) -> dict[str, Any]:
    """The object in a json file.

    Raises:
        FoveaError: the refusal: as `read_text`, or not a json object, NaN or an infinity in it, or nested too deep.
    """
    value = parse_json(read_text(path, folder, refusal, most=most), refusal, where=str(path))
    if not isinstance(value, dict):
        raise refusal.of(f"{path}: holds a {type(value).__name__}, but an object is needed")
    return value


def parse_json(text: str, refusal: Refusal, *, where: str, what: str = "valid json, it is damaged") -> Any:
    """The value in a json text, which should be `what`.

    Raises:
        FoveaError: the refusal: not json, NaN or an infinity in it, or nested too deep.
    """
    try:
        value = json.loads(text, parse_constant=_refuse_constant, parse_float=_finite)
        _check_depth(value, MAX_DEPTH)
        return value
    except RecursionError:
        raise refusal.of(f"{where}: nested deeper than {MAX_DEPTH}") from None
    except ValueError as error:
        raise refusal.of(f"{where}: not {what} ({str(error)[:200]})") from None


def is_plain_name(name: str) -> bool:
    """Whether `name` is one part of a path, which leads nowhere else."""
    return bool(name) and name not in (".", "..") and not any(c in name for c in "/\\\0")


@contextmanager
def damage(path: Path, refusal: Refusal, *also: type[Exception], what: str = "damaged") -> Generator[None]:
    """Context that refuses `path` as `what` where what it holds is not what the code inside expects.

    Args:
        also: Errors of the library that reads the file, which are no subclasses of Python's own.

    Raises:
        FoveaError: the refusal.
    """
    try:
        yield
    except FoveaError:
        raise
    except (*_NONSENSE, *also) as error:
        why = f"{type(error).__name__}: {str(error)[:200]}"
        raise refusal.of(f"{path} is {what} ({why})") from error


def _check_depth(value: Any, depth: int) -> None:
    if depth == 0:
        raise RecursionError
    for each in value.values() if isinstance(value, dict) else value if isinstance(value, list) else ():
        if isinstance(each, dict | list):
            _check_depth(each, depth - 1)


def _refuse_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is not a number; missing is null")


def _finite(text: str) -> float:
    value = float(text)
    if value in (float("inf"), float("-inf")):
        raise ValueError(f"{text[:40]} is more than a float holds")
    return value


def _cache_of(root: Path) -> tuple[Path, ...]:
    """The blobs of the cached repository that `root` is in."""
    for parent in (root, *root.parents):
        if parent.name == "snapshots" and parent.parent.name.startswith("models--"):
            return (parent.parent / "blobs",)
    return ()
