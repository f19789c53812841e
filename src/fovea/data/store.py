"""A memo of chunks on disk: each is either kept whole and unharmed, or made again.

    get(i): file there? --> checksum right? --> tensors          put(i): room left? --> file, atomically
              no: None      no: None, with a warning

    folder/manifest.json (key, dtype)   folder/chunk-000000.safetensors (its SHA-256 in the metadata)

A memo never decides a value: `x` is kept only in a dtype that holds it exactly.
"""

import hashlib
import json
import logging
from collections.abc import Mapping
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from fovea.atomic import write_json
from fovea.errors import RunError
from fovea.tensorfile import write_tensors

logger = logging.getLogger("fovea")
_FORMAT = 1
_DTYPES = {torch.bfloat16: "bfloat16", torch.float32: "float32"}


class ChunkStore:
    """Chunks by index, at most `max_bytes` of them.

    Args:
        key: Fingerprint of all that decides the chunks.
        dtype: What x is kept in: bfloat16 where the lm runs in it (exact, half the size), else float32.
        max_bytes: When the next chunk would not fit, no more are kept; None for no limit.

    Raises:
        RunError: the folder holds chunks of another key or dtype, or something else.
    """

    def __init__(self, folder: Path, *, key: str, dtype: torch.dtype, max_bytes: int | None = None) -> None:
        assert dtype in _DTYPES, f"chunks are kept in bfloat16 or float32, not {dtype}"
        self.folder, self.key, self.dtype, self.max_bytes = folder, key, dtype, max_bytes
        self._closed = False
        self._open()
        self.n_bytes = sum(path.stat().st_size for path in folder.glob("chunk-*.safetensors"))

    def holds(self, index: int) -> bool:
        """True if there is a file for that chunk; whether it is unharmed shows when it is read."""
        return self._path(index).exists()

    def get(self, index: int) -> dict[str, Tensor] | None:
        """The tensors of a chunk, x in `dtype`; None if it is not kept or the file is damaged (logged, and removed)."""
        path = self._path(index)
        if not path.exists():
            return None
        try:
            with safe_open(path, framework="pt") as file:
                metadata = file.metadata() or {}
                tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
        except (SafetensorError, OSError, ValueError) as error:
            return self._discard(path, str(error))
        if metadata.get("sha256") != _digest(tensors) or metadata.get("key") != self.key:
            return self._discard(path, "its checksum is wrong")
        return tensors

    def put(self, index: int, tensors: Mapping[str, Tensor]) -> None:
        """Keep a chunk, if there is room and disk for it; the first that can not be kept is logged and ends keeping."""
        exact = tensors["x"].to(self.dtype)
        assert torch.equal(exact.float(), tensors["x"].float()), f"x is not exact in {self.dtype}"
        kept = {**tensors, "x": exact}
        size = sum(tensor.nbytes for tensor in kept.values())
        if self._closed:
            return
        if self.max_bytes is not None and self.n_bytes + size > self.max_bytes:
            self._close(f"its limit of {self.max_bytes:,} bytes is reached")
            return
        path = self._path(index)
        try:
            write_tensors(path, kept, {"sha256": _digest(kept), "key": self.key})
        except (SafetensorError, OSError) as error:
            self._close(str(error))
            return
        self.n_bytes += path.stat().st_size

    def _open(self) -> None:
        self.folder.mkdir(parents=True, exist_ok=True)
        path = self.folder / "manifest.json"
        wanted = {"format": _FORMAT, "key": self.key, "dtype": _DTYPES[self.dtype]}
        if not path.exists():
            if any(item for item in self.folder.iterdir() if not item.name.startswith(".")):
                raise RunError(f"{self.folder} holds something else, not activations; choose an empty or new folder")
            write_json(path, wanted)
        try:
            found = json.loads(path.read_text())
        except ValueError as error:
            raise RunError(f"{path} is damaged ({error}); delete {self.folder}: it will be made again") from None
        if found != wanted:
            raise RunError(
                f"{self.folder} holds activations of another corpus, lm, hook point, filter or dtype: {found}, "
                f"not {wanted}; "
                "choose another folder or delete this one"
            )
        for leftover in self.folder.glob(".*.partial"):
            leftover.unlink()

    def _path(self, index: int) -> Path:
        return self.folder / f"chunk-{index:06d}.safetensors"

    def _discard(self, path: Path, reason: str) -> None:
        logger.warning("%s is damaged (%s): it is removed and computed again", path, reason)
        self.n_bytes -= path.stat().st_size
        path.unlink()

    def _close(self, reason: str) -> None:
        self._closed = True
        logger.warning("no more activations are kept in %s: %s; the others are computed each time", self.folder, reason)


def _digest(tensors: Mapping[str, Tensor]) -> str:
    """SHA-256 over names, types, shapes and bytes."""
    digest = hashlib.sha256()
    for name in sorted(tensors):
        tensor = tensors[name].contiguous()
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
        digest.update(tensor.flatten().view(torch.uint8).numpy().data)
    return digest.hexdigest()
