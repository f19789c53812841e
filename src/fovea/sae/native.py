"""The C kernels of native.c on torch tensors; where they cannot run, the torch path stands (`usable` says).

All are exact and owe nothing to the number of threads. Tensors are dense and on the CPU; float32, and int64 for places.
"""

import ctypes
from collections.abc import Generator
from contextlib import contextmanager
from contextvars import ContextVar
from functools import partial
from typing import Any, NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.autograd.function import once_differentiable

from fovea.sae.native_build import library

_floats = partial(torch.empty, dtype=torch.float32, device="cpu")
_places = partial(torch.empty, dtype=torch.int64, device="cpu")
"Whatever the default device is: kernels write to memory."

_off = ContextVar("_off", default=False)


@contextmanager
def torch_path() -> Generator[None]:
    """Within, no kernel is used: for tests and measurements."""
    token = _off.set(True)
    try:
        yield
    finally:
        _off.reset(token)


def usable(tensor: Tensor) -> bool:
    """True if the kernels can work on such a tensor here."""
    return tensor.device.type == "cpu" and tensor.dtype == torch.float32 and not _off.get() and library() is not None


class Entries(NamedTuple):
    """Chosen pre-activations, ordered by token and latent."""

    offsets: Int[Tensor, " rows_plus_1"]
    tokens: Int[Tensor, " entries"]
    latents: Int[Tensor, " entries"]
    values: Float[Tensor, " entries"]


class Order(NamedTuple):
    """Entries by latent."""

    offsets: Int[Tensor, " d_sae_plus_1"]
    order: Int[Tensor, " entries"]
    tokens: Int[Tensor, " entries"]


class Errors(NamedTuple):
    """What `rebuild` writes."""

    x_hat: Float[Tensor, "n_target d_in"]
    error: Float[Tensor, "tokens d_in"]
    squares: Float[Tensor, " tokens"]
    "Squared length of each error."
    inner: Float[Tensor, " entries"]
    "Inner product of an entry's error and its row: half of how the square changes with the value."


class TopSlots:
    """The k largest positive values of rows that come a chunk at a time."""

    def __init__(self, n_rows: int, k: int) -> None:
        self.k, self.n_taken = k, 0
        self.latents = _places(n_rows, k)
        self.values = _floats(n_rows, k)
        self.counts = _places(n_rows)
        self.scratch = torch.empty(torch.get_num_threads(), 2, 4 * k + 128, dtype=torch.int32, device="cpu")

    def take(self, product: Float[Tensor, "rows columns"], bias: Float[Tensor, " columns"] | None = None) -> None:
        """Choose from the next rows, to each of which the bias is added. Equal values: the first column."""
        rows = slice(self.n_taken, self.n_taken + len(product))
        room, slots = self.scratch.shape[2], (self.latents[rows], self.values[rows], self.counts[rows])
        given = (product.contiguous(), None if bias is None else bias.contiguous())
        _call("top_of_rows", *given, *product.shape, self.k, self.scratch, room, *slots, len(self.scratch))
        self.n_taken = rows.stop

    def entries(self) -> Entries:
        """All that were chosen."""
        n_rows = len(self.counts)
        found = _entries(n_rows, int(self.counts.sum()))
        _call("compact", self.latents, self.values, self.counts, n_rows, self.k, *found)
        return found


def above(
    product: Float[Tensor, "rows columns"],
    floor: Float[Tensor, "*columns"],
    *,
    first_token: int,
    bias: Float[Tensor, " columns"] | None = None,
) -> Entries:
    """Every product plus bias above `floor`, one for all columns or one each."""
    n_rows, n_columns = product.shape
    given = (product.contiguous(), None if bias is None else bias.contiguous(), n_rows, n_columns)
    floor, threads = floor.contiguous(), torch.get_num_threads()
    counts = _places(n_rows)
    _call("count_above", *given, floor, int(floor.dim() > 0), counts, threads)
    found = _entries(n_rows, int(counts.sum()))
    torch.cumsum(counts, 0, out=found.offsets[1:])
    _call("take_above", *given, floor, int(floor.dim() > 0), found.offsets, first_token, *found[1:], threads)
    return found


def keep_largest(
    tokens: Int[Tensor, " entries"], latents: Int[Tensor, " entries"], values: Float[Tensor, " entries"], *, n: int
) -> tuple[Int[Tensor, " n"], Int[Tensor, " n"], Float[Tensor, " n"]]:
    """The n largest of more positive entries, in order, in the same memory; of equal ones the first."""
    _call("keep_largest_entries", tokens, latents, values, len(values), n)
    return tokens[:n], latents[:n], values[:n]


def by_latent(latents: Int[Tensor, " entries"], tokens: Int[Tensor, " entries"], *, d_sae: int) -> Order:
    """Entries in the order of their latents, those of one in the order that they had."""
    found = Order(_places(d_sae + 1), torch.empty_like(latents), torch.empty_like(latents))
    _call("by_latent", latents.contiguous(), tokens.contiguous(), len(latents), d_sae, *found)
    return found


def sum_values(found: Order, values: Float[Tensor, " entries"]) -> Float[Tensor, " d_sae"]:
    """Per latent, the sum of its values, which are given in the order that they had."""
    out = _floats(len(found.offsets) - 1)
    _call("sum_values", found.offsets, found.order, values.contiguous(), len(out), out)
    return out


def sum_rows(
    offsets: Int[Tensor, " groups_plus_1"],
    indices: Int[Tensor, " entries"],
    values: Float[Tensor, " entries"],
    *,
    rows: Float[Tensor, "n_rows d_in"],
    order: Int[Tensor, " entries"] | None = None,
) -> Float[Tensor, "groups d_in"]:
    """Per group g, the sum over its entries (offsets[g] to offsets[g + 1]) of value times the row at index.

    With `order`, the value of entry e is values[order[e]].
    """
    offsets, indices, values, rows = (each.contiguous() for each in (offsets, indices, values, rows))
    n_groups, width = len(offsets) - 1, rows.shape[1]
    out = _floats(n_groups, width)
    _call("sum_rows", offsets, indices, order, values, n_groups, rows, width, out, torch.get_num_threads())
    return out


def sampled_product(
    offsets: Int[Tensor, " tokens_plus_1"],
    indices: Int[Tensor, " entries"],
    *,
    left: Float[Tensor, "tokens d_in"],
    rows: Float[Tensor, "n_rows d_in"],
) -> Float[Tensor, " entries"]:
    """Per entry, the inner product of its token's row of `left` and the row at index."""
    offsets, indices, left, rows = (each.contiguous() for each in (offsets, indices, left, rows))
    out = _floats(len(indices))
    _call("sampled_product", offsets, indices, *left.shape[:1], left, rows, left.shape[1], out, torch.get_num_threads())
    return out


def rebuild(
    entries: Entries,
    *,
    rows: Float[Tensor, "d_sae d_in"],
    bias: Float[Tensor, " d_in"],
    target: Float[Tensor, "n_target d_in"],
) -> Errors:
    """x_hat = bias + sum of value times row, and what becomes of x_hat - target, in one pass over the rows.

    With twice the tokens of `target`, token n + t has no bias, and rebuilds the error of token t.
    """
    offsets, _, latents, values = (each.contiguous() for each in entries)
    rows, bias, target, threads = rows.contiguous(), bias.contiguous(), target.contiguous(), torch.get_num_threads()
    n, (n_tokens, width) = len(offsets) - 1, target.shape
    found = Errors(_floats(n_tokens, width), _floats(n, width), _floats(n), _floats(len(values)))

    def run(first: int, *how: Tensor | int | float | None) -> None:
        where = (found.error[first:], found.squares[first:], found.inner)
        _call("rebuild", offsets[first:], latents, values, n_tokens, rows, width, *how, *where, threads)

    run(0, bias, target, 1.0, found.x_hat)
    if n > n_tokens:
        run(n_tokens, None, found.error, -1.0, None)  # target - x_hat is -error
    return found


class Gates(NamedTuple):
    """What `gates` gives."""

    latents: Float[Tensor, "tokens d_sae"]
    open: Float[Tensor, "tokens d_sae"]
    "ReLU of the gates."
    sum_open: Float[Tensor, " d_sae"]
    "Over tokens."
    n_fired: Float[Tensor, " d_sae"]
    "Tokens on which each latent is above 0. No gradient."


def gates(
    product: Float[Tensor, "tokens d_sae"],
    b_gate: Float[Tensor, " d_sae"],
    gain: Float[Tensor, " d_sae"],
    *,
    b_mag: Float[Tensor, " d_sae"],
) -> Gates:
    """ReLU(product * gain + b_mag) where product + b_gate is above 0, and ReLU of that, with gradients for all four."""
    return Gates(*_Gates.apply(product, b_gate, gain, b_mag))  # pyright: ignore[reportGeneralTypeIssues]


class _Gates(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, product: Tensor, b_gate: Tensor, gain: Tensor, b_mag: Tensor) -> tuple[Tensor, ...]:
        product, gain = product.contiguous(), gain.contiguous()
        found = Gates(*(torch.empty_like(each) for each in (product, product, gain, gain)))
        threads = torch.get_num_threads()
        _call("gates", product, b_gate.contiguous(), gain, b_mag.contiguous(), *product.shape, *found, threads)
        ctx.save_for_backward(product, found.latents, found.open, gain)
        ctx.mark_non_differentiable(found.n_fired)
        return tuple(found)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grad_outputs: Tensor) -> tuple[Tensor, ...]:  # pyright: ignore[reportIncompatibleMethodOverride]
        given = [each.contiguous() for each in grad_outputs[:3]]
        product, _, _, gain = saved = ctx.saved_tensors
        gradients = tuple(torch.empty_like(each) for each in (product, gain, gain, gain))
        _call("gates_backward", *saved, *given, *product.shape, *gradients, torch.get_num_threads())
        return gradients


def _entries(n_rows: int, n: int) -> Entries:
    offsets, tokens, latents = (_places(size) for size in (n_rows + 1, n, n))
    offsets[0] = 0
    return Entries(offsets, tokens, latents, _floats(n))


def _call(name: str, *arguments: Tensor | int | float | None) -> None:
    """Run a kernel; its sizes are 64 bits wide."""
    kernels = library()
    assert kernels is not None, "ask `usable` first"
    kernels[name](*(_in_c(argument) for argument in arguments))


def _in_c(argument: Tensor | int | float | None) -> ctypes.c_void_p | ctypes.c_int64 | ctypes.c_float:
    if isinstance(argument, Tensor):
        assert argument.is_contiguous(), "kernels read dense memory"
        assert argument.device.type == "cpu", f"kernels read the processor's memory, not that of {argument.device}"
        return ctypes.c_void_p(argument.data_ptr())
    if isinstance(argument, int):
        return ctypes.c_int64(argument)
    return ctypes.c_void_p(None) if argument is None else ctypes.c_float(argument)
