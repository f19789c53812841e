"""Files that are either complete or absent: temporary file in the same folder, fsync, rename.

A checked json holds its own SHA-256, so that a bit that flipped later is noticed too; who changes it on purpose can
write that as well, so it is read as a stranger's file is (fovea.foreign).
"""

import hashlib
import json
import os
import secrets
import shutil
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from fovea.errors import DamagedError
from fovea.foreign import Refusal, read_object

_SUFFIX = ".partial"


@contextmanager
def replacing(path: Path) -> Generator[Path]:
    """A temporary path beside `path`; renamed onto it if the block ends well, removed if it does not.

    Raises:
        OSError: the disk is full or the folder is not writable; nothing half-written is left.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    # A process id is unique on one machine only, and several may share the folder.
    temporary = path.with_name(f".{path.name}.{os.getpid()}-{secrets.token_hex(4)}{_SUFFIX}")
    try:
        yield temporary
        with temporary.open("rb") as file:
            os.fsync(file.fileno())
        temporary.replace(path)
        _sync_folder(path.parent)
    except OSError as error:  # a full disk names no file, and nobody knows the temporary one
        error.filename = str(path)
        raise
    finally:
        temporary.unlink(missing_ok=True)


@contextmanager
def new_folder(path: Path) -> Generator[Path]:
    """A temporary folder beside `path`, which must not exist; renamed to it if the block ends well, else removed.

    What an earlier, killed process left at the temporary place is removed first.

    Raises:
        OSError: the disk is full or the folder is not writable; nothing half-written is left.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}{_SUFFIX}")
    shutil.rmtree(temporary, ignore_errors=True)
    temporary.mkdir()
    try:
        yield temporary
        for item in temporary.rglob("*"):
            if item.is_file():
                with item.open("rb") as file:
                    os.fsync(file.fileno())
        _sync_folder(temporary)
        temporary.rename(path)
        _sync_folder(path.parent)
    except OSError as error:
        error.filename = error.filename or str(path)
        raise
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def remove_folder(path: Path) -> None:
    """Remove a folder, if it is there: renamed first, so that a kill leaves all of it or none, never a half."""
    temporary = path.with_name(f".{path.name}.removed{_SUFFIX}")
    shutil.rmtree(temporary, ignore_errors=True)
    if path.exists():
        path.rename(temporary)
        shutil.rmtree(temporary, ignore_errors=True)


def write_bytes(path: Path, data: bytes) -> None:
    """Write `data` to `path`, atomically."""
    with replacing(path) as temporary:
        temporary.write_bytes(data)


def write_text(path: Path, text: str) -> None:
    """Write UTF-8 `text` to `path`, atomically."""
    write_bytes(path, text.encode())


def write_json(path: Path, value: Any) -> None:
    """Write `value` as indented json with a final newline, atomically. NaN is refused: missing is null."""
    write_text(path, json.dumps(value, indent=2, ensure_ascii=False, allow_nan=False) + "\n")


def write_checked_json(path: Path, value: dict[str, Any]) -> None:
    """Write `value` as json, atomically, with its checksum under "sha256"."""
    write_json(path, {**value, "sha256": _digest(value)})


def read_checked_json(path: Path, again: str = "", *, within: Path | None = None) -> dict[str, Any]:
    """What `write_checked_json` wrote; a file without a checksum, of an older version, as it is.

    Args:
        again: What to do if it is damaged, the end of the message.
        within: Where a link may lead; None for the file's own folder.

    Raises:
        FileNotFoundError: there is no such file.
        DamagedError: it is cut short, not what was written, or no object that fovea.foreign reads.
    """
    path.lstat()  # one that is not there is no damage
    refusal = Refusal(DamagedError, again)
    value = read_object(path, within or path.parent, refusal)
    wanted = value.pop("sha256", None)
    if wanted is not None and _digest(value) != wanted:
        raise refusal.of(f"{path} is damaged (its checksum is wrong)")
    return value


def _digest(value: dict[str, Any]) -> str:
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()


def _sync_folder(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
