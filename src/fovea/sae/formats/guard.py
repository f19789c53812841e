"""Files that strangers wrote: opened only where they should be, read only as far as they are plausible.

folder, name --found--> a regular file inside the folder --read_json--> values that can be printed and written again
"""

import json
import math
import os
import stat
from pathlib import Path
from typing import Any

from fovea.errors import SAEError, UnknownReferenceError

MAX_JSON_BYTES = 4 * 2**20
"A description of one SAE is some kilobytes."

MAX_JSON_DEPTH = 32
"Objects and lists within each other."

_AGAIN = "download or write the SAE again"


def found(folder: Path, *names: str) -> Path | None:
    """The first of `names` in `folder` that is there, as a regular file inside it; None if none is.

    A link may lead elsewhere in the folder, or, in a cache of the Hub, to the cache's own blobs.

    Raises:
        SAEError: what is there is no regular file, or a link that leads out of the folder.
    """
    for name in names:
        path = folder / name
        if not os.path.lexists(path):
            continue
        check_inside(path, folder)
        return path
    return None


def check_inside(path: Path, folder: Path) -> None:
    """Refuse a path that is no regular file, or leads out of `folder`.

    Raises:
        SAEError: it is or does; or the link leads nowhere.
    """
    between = [each for each in path.parents if each.is_relative_to(folder) and each != folder]
    if stat.S_ISREG(path.lstat().st_mode) and not any(each.is_symlink() for each in between):
        return
    try:
        real, root = path.resolve(strict=True), folder.resolve(strict=True)
        kind = real.stat().st_mode
    except (OSError, RuntimeError) as error:
        raise SAEError(f"{path} cannot be opened ({error}); {_AGAIN}") from None
    if not stat.S_ISREG(kind):
        raise SAEError(f"{path} is not a regular file; give a folder with the files of one SAE")
    if not any(real.is_relative_to(allowed) for allowed in (root, *_cache_of(root))):
        raise SAEError(
            f"{path} is a link to {real}, outside {folder}; copy that file into the folder if you trust it, or give "
            "the folder where it is"
        )


def existing_folder(path: Path) -> Path:
    """`path`, or the newest snapshot in it if it is a repository in a local cache of the Hub.

    Raises:
        UnknownReferenceError: it is no folder, or a cached repository without a snapshot.
    """
    if not path.is_dir():
        raise UnknownReferenceError(f"{str(path)!r} is not a folder")
    if not path.name.startswith("models--") or not (path / "snapshots").is_dir():
        return path
    main = path / "refs" / "main"
    snapshots = sorted(each for each in (path / "snapshots").iterdir() if each.is_dir())
    named = path / "snapshots" / main.read_text().strip() if main.is_file() else None
    if named in snapshots:
        return named
    if len(snapshots) == 1:
        return snapshots[0]
    raise UnknownReferenceError(
        f"{str(path)!r} is a cached repository with {len(snapshots)} snapshots and none of them is refs/main; give the "
        "folder of one of them"
    )


def read_json(path: Path) -> dict[str, Any]:
    """The object in a json file. Infinities become the text "inf", so that it can be written again.

    Raises:
        SAEError: too large, too deep, not json, not an object.
    """
    n_bytes = path.stat().st_size
    if n_bytes > MAX_JSON_BYTES:
        raise SAEError(f"{path} has {n_bytes} bytes, but a description has at most {MAX_JSON_BYTES}; {_AGAIN}")
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except RecursionError:
        raise SAEError(f"{path} is nested deeper than {MAX_JSON_DEPTH}; {_AGAIN}") from None
    except ValueError as error:
        raise SAEError(f"{path} is not valid json ({str(error)[:200]}); write or download the SAE again") from None
    if not isinstance(value, dict):
        raise SAEError(f"{path} holds a {type(value).__name__}, not an object; write or download the SAE again")
    return _printable(value, path, 1)


def _printable(value: Any, path: Path, depth: int) -> Any:
    """`value` with what json, UTF-8 and terminals cannot hold as text."""
    if depth > MAX_JSON_DEPTH:
        raise SAEError(f"{path} is nested deeper than {MAX_JSON_DEPTH}; {_AGAIN}")
    if isinstance(value, dict):
        return {_text(key): _printable(each, path, depth + 1) for key, each in value.items()}
    if isinstance(value, list):
        return [_printable(each, path, depth + 1) for each in value]
    if isinstance(value, float) and not math.isfinite(value):
        return str(value)
    return _text(value) if isinstance(value, str) else value


def _text(text: str) -> str:
    """`text` with control characters and lone surrogates escaped."""
    if text.isprintable():
        return text
    return "".join(c if c.isprintable() or c in "\n\t" else c.encode("unicode_escape").decode() for c in text)


def _cache_of(root: Path) -> tuple[Path, ...]:
    """The blobs of the cached repository that `root` is in."""
    for parent in (root, *root.parents):
        if parent.name == "snapshots" and parent.parent.name.startswith("models--"):
            return (parent.parent / "blobs",)
    return ()
