"""Tensors in a file that is complete or absent. Apart from `atomic`, so that what only reads need not import torch."""

import errno
from collections.abc import Mapping
from pathlib import Path

from safetensors import SafetensorError
from safetensors.torch import save_file
from torch import Tensor

from fovea.atomic import replacing


def write_tensors(path: Path, tensors: Mapping[str, Tensor], metadata: Mapping[str, str] | None = None) -> None:
    """Write named tensors as safetensors, atomically."""
    contiguous = {name: tensor.detach().contiguous().cpu() for name, tensor in tensors.items()}
    with replacing(path) as temporary:
        try:
            save_file(contiguous, temporary, metadata=dict(metadata or {}))
        except SafetensorError as error:  # what safetensors makes of a full disk
            raise OSError(errno.EIO, str(error), str(path)) from error
        temporary.chmod(0o644)  # safetensors leaves a file that only its owner can read
