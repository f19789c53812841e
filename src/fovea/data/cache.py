"""Activations that runs share: one folder, one entry for each split, lm, hook point, filter and machine.

    FOLDER/fovea-cache.json                     says what the folder is; nothing else is ever written into
    FOLDER/.lock                                held while room is made or a chunk is written
    FOLDER/NAME-KEY/manifest.json chunk-*.safetensors     an entry: a ChunkStore; NAME for people, KEY decides
    FOLDER/NAME-KEY/.used                       locked by each run that reads the entry; its time is the last use

    put(chunk) --> room? --yes--> written      no --> entries that no run uses go, the longest unused first, said loudly
                                               still no --> nothing more is kept, said loudly; the run goes on

Two runs may use the cache, and an entry, at once. An entry is reused only under an equal key, and its reuse is logged.
"""

import fcntl
import hashlib
import json
import logging
import os
import shutil
import time
import weakref
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TextIO

import torch
import transformers

from fovea.atomic import remove_folder, write_json
from fovea.data.activations import ActivationChunks
from fovea.data.store import ChunkStore
from fovea.errors import RunError
from fovea.foreign import Refusal, read_object

logger = logging.getLogger("fovea")
_MARK, _LOCK, _USED = "fovea-cache.json", ".lock", ".used"
_ANOTHER = Refusal(RunError, "give another folder, or delete this one")
_FORMAT = {"format": "fovea-activations-1"}
_STALE_SECONDS = 3600.0
"A half-written file this old is of a process that died."


def machine() -> dict[str, Any]:
    """What changes the last bits of activations besides the settings: a cache is not shared across it."""
    gpu = torch.cuda.get_device_name() if torch.cuda.is_available() else None
    return {
        "torch": torch.__version__,
        "transformers": transformers.__version__,
        "cpu": torch.backends.cpu.get_cpu_capability(),
        "threads": torch.get_num_threads(),
        "gpu": gpu,
    }


class SharedCache:
    """A folder of activations, at most `max_bytes` of them.

    Raises:
        RunError: the folder holds something else, or cannot be written.
    """

    def __init__(self, folder: Path, *, max_bytes: int) -> None:
        self.folder, self.max_bytes = folder.expanduser(), max_bytes
        self._used: dict[Path, TextIO] = {}
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            with self._locked():
                self._open()
        except OSError as error:
            raise RunError(f"cache folder {str(folder)!r} cannot be used ({error}); choose another") from None
        # Locks go with the process in any case; a run in a longer process lets go of its entries with the cache.
        weakref.finalize(self, _close_all, self._used)

    def remember(self, chunks: ActivationChunks, *, name: str) -> None:
        """Let `chunks` be read from their entry and kept there; says in the log what is reused."""
        key = hashlib.sha256(json.dumps([chunks.key, machine()], sort_keys=True).encode()).hexdigest()
        entry = self.folder / f"{name}-{key[:16]}"
        with self._locked():
            store = ChunkStore(
                entry,
                key=key,
                precision=chunks.precision,
                dtype=chunks.lm.dtype,
                max_bytes=self.max_bytes,
                room=lambda size: self._room(entry, size),
            )
            self._use(entry)
            write_about(entry, chunks)
        n_kept = store.n_kept
        if n_kept:
            logger.info("activations of %s: %d of %d chunks are reused from %s", name, n_kept, chunks.n_chunks, entry)
        chunks.remember(store)

    @property
    def n_bytes(self) -> int:
        """Size of all chunks of all entries."""
        return sum(_size(entry) for entry in self._entries())

    def _open(self) -> None:
        mark = self.folder / _MARK
        if not mark.exists():
            known = {_LOCK, _MARK} | _records(self.folder)
            others = [
                item.name for item in self.folder.iterdir() if item.name not in known and not item.match(".*.partial")
            ]
            if others:
                raise RunError(
                    f"cache folder {str(self.folder)!r} is not empty and not a cache (it holds {others[0]!r}); give an "
                    "empty or new folder"
                )
            write_json(mark, _FORMAT)
        if read_object(mark, self.folder, _ANOTHER) != _FORMAT:
            raise _ANOTHER.of(f"{mark} was written by another version")
        for leftover in self.folder.glob(".*.removed.partial"):  # made and removed under this lock alone
            shutil.rmtree(leftover)
        for leftover in [found for place in (self.folder, *self._entries()) for found in place.glob(".*.partial")]:
            if time.time() - leftover.stat().st_mtime > _STALE_SECONDS:
                leftover.unlink(missing_ok=True)

    def _entries(self) -> list[Path]:
        return [path for path in self.folder.iterdir() if (path / "manifest.json").exists()]

    def _use(self, entry: Path) -> None:
        """Mark the entry as in use by this process until the cache is dropped."""
        if entry not in self._used:
            file = (entry / _USED).open("a")
            fcntl.flock(file, fcntl.LOCK_SH)
            self._used[entry] = file
        os.utime(entry / _USED)

    @contextmanager
    def _room(self, entry: Path, size: int) -> Generator[bool]:
        """Inside it, no other run writes; True if `size` bytes more may be kept."""
        with self._locked():
            excess = self.n_bytes + size - self.max_bytes
            if excess > 0:
                self._evict(excess, keep=entry)
            yield self.n_bytes + size <= self.max_bytes

    def _evict(self, excess: int, *, keep: Path) -> None:
        """Remove entries that no run uses, the longest unused first, until `excess` bytes are free; else none."""
        idle = [entry for entry in self._entries() if entry != keep and not _in_use(entry)]
        idle.sort(key=lambda entry: (entry / _USED).stat().st_mtime if (entry / _USED).exists() else 0.0)
        if sum(_size(entry) for entry in idle) < excess:
            return
        for entry in idle:
            if excess <= 0:
                return
            size = _size(entry)
            logger.warning(
                "cache %s is full (%d bytes): %s (%d bytes, unused the longest) is removed",
                self.folder,
                self.max_bytes,
                entry.name,
                size,
            )
            remove_folder(entry)
            excess -= size

    @contextmanager
    def _locked(self) -> Generator[None]:
        with (self.folder / _LOCK).open("a") as file:
            fcntl.flock(file, fcntl.LOCK_EX)
            yield


def write_about(entry: Path, chunks: ActivationChunks) -> None:
    """Say in words what an entry holds, for people who look into the folder."""
    about = {
        "lm": chunks.lm.name,
        "dtype": chunks.lm.computation,
        "hook_point": str(chunks.hook_point),
        "corpus": chunks.packed.name,
        "split": chunks.packed.split,
        "context_size": chunks.packed.context_size,
        "precision": chunks.precision,
        **machine(),
    }
    write_json(entry / "about.json", about)


def _records(folder: Path) -> set[str]:
    """Names of the choices of batch sizes (fovea.data.batching), which may be there before the first entry."""
    return {path.name for path in folder.glob("batch-*.json")}


def _size(entry: Path) -> int:
    total = 0
    for item in os.scandir(entry):
        if item.name.startswith("chunk-"):
            try:
                total += item.stat().st_size
            except FileNotFoundError:  # another run has just removed a damaged chunk
                continue
    return total


def _in_use(entry: Path) -> bool:
    """Whether a run holds the entry."""
    with (entry / _USED).open("a") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            return True
    return False


def _close_all(files: dict[Path, TextIO]) -> None:
    for file in files.values():
        file.close()
