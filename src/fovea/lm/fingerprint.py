"""One hash that tells two language models apart: their config and their weights as stored.

    config.json without paths, versions and dtype --+
    name, dtype, shape, sha256(bytes) per tensor  --+--> sha256

The compute dtype is no part of it, nor is sharding: the same weights on disk give the same fingerprint everywhere.
"""

import hashlib
import json
import mmap
from collections.abc import Callable, Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

from fovea.errors import ModelError
from fovea.foreign import Refusal, damage, is_plain_name, is_there, read_object, regular

AGAIN = Refusal(ModelError, "fetch the model again")
MAX_HEADER_BYTES = 100_000_000
"Of a safetensors file, as its own library allows."

_NOT_IDENTITY = frozenset({"_name_or_path", "transformers_version", "dtype", "torch_dtype", "_attn_implementation"})
"Config keys that change while the model stays the same."


class _Item(NamedTuple):
    name: str
    dtype: str
    shape: list[int]
    data: Callable[[], memoryview | bytes]


def of_folder(folder: Path) -> str:
    """Fingerprint of a Hugging Face folder with safetensors weights, read at the speed of the disk."""
    config = read_object(folder / "config.json", folder, AGAIN)
    items: list[_Item] = []
    for path in weight_files(folder):
        with damage(path, AGAIN):
            items += _items(regular(path, folder, AGAIN))
    return _combine(config, items)


def _items(path: Path) -> list[_Item]:
    with path.open("rb") as file:
        view = memoryview(mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ))
    start = 8 + int.from_bytes(view[:8], "little")
    if start > min(len(view), MAX_HEADER_BYTES):
        raise ValueError(f"its header claims {start - 8:,} bytes")
    header: dict[str, Any] = json.loads(bytes(view[8:start]))
    items: list[_Item] = []
    for name, entry in header.items():
        if name != "__metadata__":
            begin, end = entry["data_offsets"]
            if not 0 <= begin <= end <= len(view) - start:
                raise ValueError(f"tensor {name!r:.100} lies outside the file")
            data = view[start + begin : start + end]
            items.append(_Item(name, entry["dtype"], entry["shape"], lambda data=data: data))
    return items


def of_model(config: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> str:
    """Fingerprint of a model that has no files, from its config and its tensors; not comparable with `of_folder`."""
    items = [
        _Item(name, str(tensor.dtype), list(tensor.shape), lambda tensor=tensor: _bytes(tensor))
        for name, tensor in tensors.items()
    ]
    return _combine(config, items)


def weight_files(folder: Path) -> list[Path]:
    """The safetensors files that transformers loads from `folder`; empty if there are none.

    Raises:
        ModelError: the index of the files is damaged, or names what is not a safetensors file of the folder.
    """
    if is_there(folder / "model.safetensors", folder, AGAIN):
        return [folder / "model.safetensors"]
    index = folder / "model.safetensors.index.json"
    if not is_there(index, folder, AGAIN):
        return []
    with damage(index, AGAIN):
        names = set(read_object(index, folder, AGAIN)["weight_map"].values())
        for name in names:
            if not isinstance(name, str) or not is_plain_name(name) or not name.endswith(".safetensors"):
                raise ValueError(f"it names {name!r:.100}, which is no safetensors file of the folder")
        return [regular(folder / name, folder, AGAIN) for name in sorted(names)]


def _combine(config: Mapping[str, Any], items: Iterable[_Item]) -> str:
    ordered = sorted(items, key=lambda item: item.name)
    # hashlib lets go of the interpreter while it hashes, so threads help.
    with ThreadPoolExecutor() as pool:
        digests = list(pool.map(_digest, ordered))
    identity = {key: value for key, value in config.items() if key not in _NOT_IDENTITY}
    total = hashlib.sha256(json.dumps(identity, sort_keys=True, default=str).encode())
    for item, digest in zip(ordered, digests, strict=True):
        total.update(json.dumps([item.name, item.dtype, item.shape, digest]).encode())
    return total.hexdigest()


def _digest(item: _Item) -> str:
    return hashlib.sha256(item.data()).hexdigest()


def _bytes(tensor: Tensor) -> bytes:
    return tensor.detach().contiguous().cpu().view(-1).view(torch.uint8).numpy().tobytes()
