"""How exactly activations are kept: as the lm gave them, or rounded, with the error measured.

    exact      x in the lm's own dtype                                  0
    bfloat16   x rounded to 8 significant bits                            relative error of a number <= 2^-8
    int8       row scale * column scale * integer in [-127, 127]        a column's error <= its scale / 2 in each row

Rounding is part of what a chunk is: rounded chunks are rounded whether a store holds them or not. Scales are those of
one chunk, so a chunk stays a function of its index.
"""

from collections.abc import Mapping
from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor

Precision = Literal["exact", "bfloat16", "int8"]


def pack(x: Float[Tensor, "tokens d_in"], precision: Precision) -> dict[str, Tensor]:
    """The tensors that stand for x."""
    if precision == "int8":
        columns = _scale(x, dim=0)
        rows = _scale(x / columns, dim=1) / 127
        return {"x": (x / columns / rows).round().to(torch.int8), "rows": rows, "columns": columns}
    return {"x": x.to(torch.bfloat16) if precision == "bfloat16" else x}


def unpack(tensors: Mapping[str, Tensor]) -> Float[Tensor, "tokens d_in"]:
    """x in float32, from what `pack` gave."""
    x = tensors["x"].float()
    return x if "rows" not in tensors else x * tensors["rows"] * tensors["columns"]


def dtype_of(precision: Precision, *, dtype: torch.dtype) -> torch.dtype:
    """A dtype that holds every unpacked x exactly, for an lm that computes in `dtype`."""
    return {"exact": dtype, "bfloat16": torch.bfloat16, "int8": torch.float32}[precision]


def bytes_per_value(precision: Precision, *, dtype: torch.dtype) -> int:
    """Bytes on disk for each number of x; scales are left out."""
    return {"exact": dtype.itemsize, "bfloat16": 2, "int8": 1}[precision]


def fvu(x: Float[Tensor, "tokens d_in"], x_hat: Float[Tensor, "tokens d_in"]) -> float | None:
    """sum |x - x_hat|^2 / sum |x - mean x|^2 in float64; None where x does not vary."""
    x, x_hat = x.double(), x_hat.double()
    variance = (x - x.mean(dim=0)).square().sum().item() if len(x) else 0.0
    return None if variance == 0.0 else (x - x_hat).square().sum().item() / variance


def _scale(x: Tensor, *, dim: int) -> Tensor:
    """Largest magnitude along `dim`; 1 where all are 0 (or where there is nothing)."""
    if x.shape[dim] == 0:
        return torch.ones_like(x.sum(dim=dim, keepdim=True))
    largest = x.abs().amax(dim=dim, keepdim=True)
    return torch.where(largest > 0, largest, 1.0)
