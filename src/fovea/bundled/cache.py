"""The user's cache folder, checksums of files in it, and a lock that holds between processes.

$FOVEA_CACHE, else $XDG_CACHE_HOME/fovea, else ~/.cache/fovea
|-- packages/   wheels on their way in; removed once their contents are unpacked
|-- models/     converted lms, one folder each with its manifest.json
|-- corpora/    NAME.jsonl.zst + NAME.json
`-- locks/      one empty file per asset
"""

import hashlib
import os
from collections.abc import Callable, Generator
from contextlib import contextmanager
from pathlib import Path

from filelock import FileLock

_BLOCK = 1 << 20


def cache_folder() -> Path:
    """The folder that fetched assets live in; it need not exist yet."""
    own = os.environ.get("FOVEA_CACHE")
    if own:
        return Path(own).expanduser()
    shared = os.environ.get("XDG_CACHE_HOME")
    return (Path(shared) if shared else Path.home() / ".cache") / "fovea"


def sha256_of(path: Path, advance: Callable[[int], None] | None = None) -> str:
    """Hex sha256 of a file's bytes, read in blocks; `advance` is told the number of bytes of each block."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while block := file.read(_BLOCK):
            digest.update(block)
            if advance is not None:
                advance(len(block))
    return digest.hexdigest()


@contextmanager
def locked(name: str) -> Generator[None]:
    """Hold the lock `name` among all processes that share the cache folder; a killed process releases it."""
    folder = cache_folder() / "locks"
    folder.mkdir(parents=True, exist_ok=True)
    with FileLock(folder / f"{name}.lock"):
        yield
