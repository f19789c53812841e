"""A memo of chunks on disk: each is either kept whole and unharmed, or made again.

    get(i): file there? --> checksum right? --> tensors          put(i): room left? --> file, atomically
              no: None      no: None, with a warning

    folder/manifest.json (key, dtype)   folder/chunk-000000.safetensors (its SHA-256 in the metadata)
    folder/rounding.json (what a precision other than "exact" costs)

A memo never decides a value: rounding, where it is wanted, is part of what a chunk is (fovea.data.precision).
"""

import logging
import os
from collections.abc import Callable, Generator, Mapping
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from fovea.atomic import read_checked_json, write_checked_json, write_json
from fovea.data.precision import Precision
from fovea.errors import DamagedError, RunError
from fovea.foreign import DAMAGED, is_there
from fovea.tensorfile import digest, write_tensors

logger = logging.getLogger("fovea")
_FORMAT = 1
_DTYPES = {torch.bfloat16: "bfloat16", torch.float32: "float32"}


class ChunkStore:
    """Chunks by index, at most `max_bytes` of them.

    Args:
        key: Fingerprint of all that decides the chunks.
        dtype: What the lm runs in: bfloat16 or float32. With precision "exact", what x is kept in.
        max_bytes: When the next chunk would not fit, no more are kept; None for no limit.
        precision: How exactly x is kept.
        room: Given a size in bytes, a context that holds True if a chunk of that size may be kept, for a folder that
            is one of several; other processes may then be writing, so their half-written files stay. None: max_bytes
            alone decides, and the folder is this process's own.

    Raises:
        RunError: the folder holds chunks of another key or dtype, or something else.
    """

    def __init__(
        self,
        folder: Path,
        *,
        key: str,
        dtype: torch.dtype,
        max_bytes: int | None = None,
        precision: Precision = "exact",
        room: Callable[[int], AbstractContextManager[bool]] | None = None,
    ) -> None:
        assert dtype in _DTYPES, f"chunks are kept in bfloat16 or float32, not {dtype}"
        self.folder, self.key, self.dtype, self.max_bytes, self.precision = folder, key, dtype, max_bytes, precision
        self._closed = False
        self._room = room or self._own_room
        self._open(is_own=room is None)
        self.n_bytes = sum(path.lstat().st_size for path in folder.glob("chunk-*.safetensors"))

    @property
    def n_kept(self) -> int:
        """Chunks that are there, those of other processes too."""
        return sum(1 for _ in self.folder.glob("chunk-*.safetensors"))

    def holds(self, index: int) -> bool:
        """True if there is a file for that chunk; whether it is unharmed shows when it is read."""
        return self._path(index).exists()

    def get(self, index: int) -> dict[str, Tensor] | None:
        """The tensors of a chunk as they were put; None if it is not kept or the file is damaged (logged, removed)."""
        path = self._path(index)
        try:
            if not is_there(path, self.folder, DAMAGED):
                return None
            with safe_open(path, framework="pt") as file:
                metadata = file.metadata() or {}
                tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
        except FileNotFoundError:
            return None
        except (SafetensorError, OSError, ValueError, TypeError, RuntimeError, DamagedError) as error:
            return self._discard(path, str(error))
        if metadata.get("sha256") != digest(tensors) or metadata.get("key") != self.key:
            return self._discard(path, "its checksum is wrong")
        return tensors

    def put(self, index: int, tensors: Mapping[str, Tensor]) -> None:
        """Keep a chunk, if there is room and disk for it; the first that can not be kept is logged and ends keeping."""
        if self._closed:
            return
        path, kept = self._path(index), dict(tensors)
        if self.precision == "exact":
            kept["x"] = tensors["x"].to(self.dtype)
            assert torch.equal(kept["x"].float(), tensors["x"].float()), f"x is not exact in {self.dtype}"
        try:
            with self._room(sum(tensor.nbytes for tensor in kept.values())) as is_room:
                if not is_room:
                    self._close(f"its limit of {self.max_bytes:,} bytes is reached")
                    return
                write_tensors(path, kept, {"sha256": digest(kept), "key": self.key})
                self.n_bytes += path.stat().st_size
        except (SafetensorError, OSError) as error:
            self._close(str(error))

    def note_rounding(self, fvu: float | None, *, n_tokens: int) -> None:
        """Write and log what rounding costs, as measured on some rows; the first measurement stays."""
        path = self.folder / "rounding.json"
        with self._room(0):
            if path.exists():
                return
            write_json(path, {"precision": self.precision, "fvu": fvu, "n_tokens": n_tokens})
        logger.warning(
            "activations in %s are kept in %s, not exactly: rounding loses %s of their variance (%d tokens measured)",
            self.folder,
            self.precision,
            "none" if fvu is None else f"{fvu:.2g}",
            n_tokens,
        )

    @contextmanager
    def _own_room(self, size: int) -> Generator[bool]:
        yield self.max_bytes is None or self.n_bytes + size <= self.max_bytes

    def _open(self, *, is_own: bool) -> None:
        self.folder.mkdir(parents=True, exist_ok=True)
        path = self.folder / "manifest.json"
        dtype = _DTYPES[self.dtype] if self.precision == "exact" else self.precision
        wanted = {"format": _FORMAT, "key": self.key, "dtype": dtype}
        if not path.exists():
            others = {item.name for item in self.folder.iterdir() if not item.name.startswith(".")}
            if is_own and any(map(_is_chunk, others)):
                self._clear("its manifest is gone")
                others = {name for name in others if not _is_chunk(name)}
            if others:
                raise RunError(f"{self.folder} holds something else, not activations; choose an empty or new folder")
            write_checked_json(path, wanted)
        try:
            found = read_checked_json(path)
        except DamagedError as error:
            if not is_own:
                raise DamagedError(f"{error}; delete {self.folder}: it will be made again") from None
            self._clear(str(error))
            write_checked_json(path, wanted)
            found = wanted
        if found != wanted:
            raise RunError(
                f"{self.folder} holds activations of another corpus, lm, hook point, filter or dtype: {found}, "
                f"not {wanted}; "
                "choose another folder or delete this one"
            )
        for leftover in self.folder.glob(".*.partial") if is_own else ():
            leftover.unlink()

    def _clear(self, reason: str) -> None:
        """Remove what can be made again."""
        logger.warning("%s is emptied and made again (%s)", self.folder, reason)
        for path in self.folder.iterdir():
            if _is_chunk(path.name):
                path.unlink()

    def _path(self, index: int) -> Path:
        return self.folder / f"chunk-{index:06d}.safetensors"

    def _discard(self, path: Path, reason: str) -> None:
        logger.warning("%s is damaged (%s): it is removed and computed again", path, reason)
        if os.path.lexists(path):
            self.n_bytes -= path.lstat().st_size
        path.unlink(missing_ok=True)

    def _close(self, reason: str) -> None:
        self._closed = True
        logger.warning("no more activations are kept in %s: %s; the others are computed each time", self.folder, reason)


def _is_chunk(name: str) -> bool:
    return name == "rounding.json" or (name.startswith("chunk-") and name.endswith(".safetensors"))
