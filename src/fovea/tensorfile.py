"""Tensors in a file that is complete or absent. Apart from `atomic`, so that what only reads need not import torch.

A checked file holds a SHA-256 of all that is in it: what a disk loses or flips later is noticed when it is read, and
what somebody else put there is refused as a stranger's file is (fovea.foreign).
"""

import errno
import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from fovea.atomic import replacing
from fovea.errors import DamagedError
from fovea.foreign import Refusal, damage, regular


class Checked(NamedTuple):
    """What a checked file holds."""

    tensors: dict[str, Tensor]
    metadata: dict[str, str]


def write_tensors(path: Path, tensors: Mapping[str, Tensor], metadata: Mapping[str, str] | None = None) -> None:
    """Write named tensors as safetensors, atomically."""
    contiguous = {name: tensor.detach().contiguous().cpu() for name, tensor in tensors.items()}
    with replacing(path) as temporary:
        try:
            save_file(contiguous, temporary, metadata=dict(metadata or {}))
        except SafetensorError as error:  # what safetensors makes of a full disk
            raise OSError(errno.EIO, str(error), str(path)) from error
        temporary.chmod(0o644)  # safetensors leaves a file that only its owner can read


def write_checked(path: Path, tensors: Mapping[str, Tensor], metadata: Mapping[str, str] | None = None) -> None:
    """Write named tensors and words about them, atomically, with a checksum of both."""
    said = dict(metadata or {})
    # One entry: safetensors writes several in any order, and equal content should be equal bytes.
    write_tensors(path, tensors, {"checked": json.dumps({**said, "sha256": digest(tensors, said)})})


def read_checked(path: Path, again: str = "", *, within: Path | None = None) -> Checked:
    """What `write_checked` wrote; a file without a checksum, of an older version, as it is.

    Args:
        again: What to do if it is damaged, the end of the message.
        within: Where a link may lead; None for the file's own folder.

    Raises:
        FileNotFoundError: there is no such file.
        DamagedError: it is cut short, not what was written, or not a regular file.
    """
    path.lstat()  # one that is not there is no damage
    refusal = Refusal(DamagedError, again)
    with damage(path, refusal, SafetensorError):
        with safe_open(regular(path, within or path.parent, refusal), framework="pt") as file:
            header: dict[str, str] = file.metadata() or {}
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
        metadata: dict[str, Any] = dict(json.loads(header["checked"])) if "checked" in header else header
        if not all(isinstance(each, str) for each in metadata.values()):
            raise TypeError("its metadata is not text")
        wanted = metadata.pop("sha256", None)
        if wanted is not None and wanted != digest(tensors, metadata):
            raise refusal.of(f"{path} is damaged (its checksum is wrong)")
    return Checked(tensors, metadata)


def digest(tensors: Mapping[str, Tensor], metadata: Mapping[str, str] | None = None) -> str:
    """SHA-256 over names, types, shapes and bytes, and over the metadata where there is some."""
    found = hashlib.sha256()
    for name in sorted(tensors):
        tensor = tensors[name].detach().cpu().contiguous()
        found.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
        found.update(tensor.flatten().view(torch.uint8).numpy().data)
    if metadata:
        found.update(json.dumps(dict(metadata), sort_keys=True).encode())
    return found.hexdigest()
