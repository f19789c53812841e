"""What one SAE did on one corpus, on disk until the evidence is whole: a killed collection goes on with the next part.

features/.parts/KEY/CORPUS--JOB.safetensors     the key is in the path, so parts of other text or SAEs are never read
"""

import logging
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from fovea.errors import DamagedError
from fovea.features.collect import Gathered, Totals
from fovea.features.kept import Entries
from fovea.foreign import DAMAGED, damage
from fovea.tensorfile import read_checked, write_checked

logger = logging.getLogger("fovea")
_ENTRIES = ("top", "sample")


class Part(NamedTuple):
    """What was gathered, and on how much text."""

    gathered: Gathered
    totals: Totals


def part_path(folder: Path, corpus: str, job: str) -> Path:
    """Where `folder` keeps a part."""
    return folder / f"{corpus}--{job}.safetensors"


def save_part(path: Path, part: Part) -> None:
    """Write a part, atomically."""
    tensors: dict[str, Tensor] = {"totals": torch.tensor(list(part.totals))}
    for name, value in part.gathered._asdict().items():
        columns = value._asdict() if name in _ENTRIES else {"": value}
        tensors |= {f"{name}.{column}": _tensor(array) for column, array in columns.items()}
    write_checked(path, tensors)


def load_part(path: Path) -> Part:
    """What `save_part` wrote.

    Raises:
        DamagedError: the file is not that any more.
    """
    tensors = read_checked(path).tensors
    fields: dict[str, Any] = {}
    with damage(path, DAMAGED):
        arrays = {name: tensor.numpy() for name, tensor in tensors.items()}
        for name in Gathered._fields:
            if name in _ENTRIES:
                columns: dict[str, Any] = {column: arrays[f"{name}.{column}"] for column in Entries._fields}
                for column in ("key", "around"):
                    columns[column] = columns[column].view(np.uint64)
                fields[name] = Entries(**columns)
            else:
                fields[name] = arrays[f"{name}."]
        return Part(Gathered(**fields), Totals(*arrays["totals"].tolist()))


def is_whole(path: Path) -> bool:
    """Whether a part is there and unharmed; one that is damaged is said in the log."""
    try:
        load_part(path)
    except FileNotFoundError:
        return False
    except DamagedError as error:
        logger.warning("%s: it is gathered again", error)
        return False
    return True


def _tensor(array: NDArray[Any]) -> Tensor:
    """64-bit keys as signed numbers of the same bits: safetensors of every version has those."""
    array = np.ascontiguousarray(array)
    return torch.from_numpy(array.view(np.int64) if array.dtype == np.uint64 else array)
