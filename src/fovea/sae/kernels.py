"""Triton kernels of the sparse products, for tensors on a CUDA device; without Triton or CUDA the torch path stands.

    gather            per group, the sum of value times a row: decode (groups are tokens), both weight gradients
                      (groups are latents)
    sampled_product   per entry, the inner product of two rows: the gradient of values

One program owns one group (or one block of entries) and a block of columns, and adds in the order of the entries: no
atomic operations, so results repeat bit for bit. On a CPU they run in Triton's interpreter, for tests alone.
"""

import importlib.util
import os
from functools import cache
from types import ModuleType

import torch
from jaxtyping import Float, Int
from torch import Tensor


@cache
def installed() -> bool:
    """True if Triton can be imported."""
    return importlib.util.find_spec("triton") is not None


def interpreted() -> bool:
    """True if Triton was told to run its kernels on the CPU."""
    return os.environ.get("TRITON_INTERPRET") == "1"


def usable(rows: Tensor) -> bool:
    """True if the kernels can work on tensors where `rows` is."""
    return rows.dtype == torch.float32 and (rows.is_cuda or interpreted()) and installed()


def gather(
    offsets: Int[Tensor, " groups_plus_1"],
    indices: Int[Tensor, " entries"],
    values: Float[Tensor, " entries"],
    *,
    rows: Float[Tensor, "n_rows d_in"],
) -> Float[Tensor, "groups d_in"]:
    """Per group g, the sum over its entries (offsets[g] to offsets[g + 1]) of value times the row at index."""
    n_groups, width = len(offsets) - 1, rows.shape[1]
    out = rows.new_empty(n_groups, width)
    block = min(512, _power_of_2(width))
    if n_groups:
        grid = (n_groups, -(-width // block))
        with torch.cuda.device_of(rows):  # Triton launches on the current device, whatever its arguments lie on
            _source().gather_kernel[grid](
                offsets, indices.contiguous(), values.contiguous(), rows.contiguous(), out, width, BLOCK=block
            )
    return out


def sampled_product(
    left: Int[Tensor, " entries"],
    right: Int[Tensor, " entries"],
    *,
    left_rows: Float[Tensor, "n_left d_in"],
    right_rows: Float[Tensor, "n_right d_in"],
) -> Float[Tensor, " entries"]:
    """Per entry, the inner product of row `left` of one matrix and row `right` of the other."""
    n, width = len(left), left_rows.shape[1]
    out = left_rows.new_empty(n)
    if n:
        source, block = _source(), min(128, _power_of_2(width))
        with torch.cuda.device_of(left_rows):
            source.sampled_kernel[(-(-n // source.ENTRIES),)](
                left.contiguous(),
                right.contiguous(),
                left_rows.contiguous(),
                right_rows.contiguous(),
                out,
                n,
                width,
                BLOCK=block,
            )
    return out


def _power_of_2(n: int) -> int:
    return 1 << max(4, (n - 1).bit_length())


@cache
def _source() -> ModuleType:
    from fovea import triton_source

    return triton_source
