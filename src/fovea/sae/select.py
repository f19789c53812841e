"""Which latents are active: the encoder product in chunks, of each of which only the few chosen entries are kept.

    x_centred --(encoder)--> chunk of pre --(top k of rows | above a threshold)--> entries --> code

Every choice is exact. What dead latents would give (AuxK) is taken from the same chunks, so it costs no second product.
"""

from collections.abc import Generator, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor

from fovea.sae import kernels, native
from fovea.sae.encoder import Encoder
from fovea.sae.sparse import SparseCode, code_of, true_positions

SAMPLE_ROWS = 64
"Rows from which a threshold or a density is guessed; a guess affects time only, never which latents are chosen."

SPARSE_UP_TO = 0.125
"Entries per pre-activation up to which the sparse path is taken (measured on two CPUs)."


_only_dense = ContextVar("_only_dense", default=False)


@contextmanager
def dense_reference() -> Generator[None]:
    """Within, every loss takes its dense path: the reference that tests and benchmarks compare with."""
    token = _only_dense.set(True)
    try:
        yield
    finally:
        _only_dense.reset(token)


def only_dense() -> bool:
    """True within `dense_reference`."""
    return _only_dense.get()


class Dead(NamedTuple):
    """What to keep of the pre-activations of dead latents."""

    latents: Int[Tensor, " d_dead"]
    n_largest: int | None
    "Only so many of each token, where positive; None: all."


class Selection(NamedTuple):
    """The choice, and what the dead latents have."""

    code: SparseCode
    dead: SparseCode | Float[Tensor, "tokens d_dead"] | None
    "A code of the n largest, or all as a matrix; None if not asked for."


class Rows(NamedTuple):
    """The largest values of each row, in no order."""

    values: Float[Tensor, "rows k"]
    indices: Int[Tensor, "rows k"]


def select_topk(
    x_centred: Float[Tensor, "tokens d_in"], encoder: Encoder, k: int, *, dead: Dead | None = None
) -> Selection:
    """The k largest pre-activations of each token, where positive. Equal values: any, but always the same."""
    collected, tops = _DeadCollector(dead, x_centred, encoder), _tops(x_centred, encoder, k)
    for product, bias in _with_bias(x_centred, encoder):
        tops.take(product, bias)
        collected.take(product, bias)
    return Selection(tops.code(), collected.result())


def select_batch_topk(
    x_centred: Float[Tensor, "tokens d_in"], encoder: Encoder, k: int, *, dead: Dead | None = None
) -> Selection:
    """The tokens * k largest pre-activations of the batch, where positive. Equal values: the first token and latent.

    A threshold guessed from a sample of rows leaves few candidates, among which the exact choice is made; if it left
    fewer than tokens * k, all positive pre-activations are candidates.
    """
    n_kept, d_sae = k * len(x_centred), encoder.W.shape[1]
    guess = _guess_threshold(x_centred, encoder, k)
    collected = _DeadCollector(dead, x_centred, encoder)
    found = _above(x_centred, encoder, guess, collected)
    if len(found.values) < n_kept and guess > 0:
        found = _above(x_centred, encoder, torch.zeros_like(guess), None)
    if len(found.values) > n_kept:
        found = _largest(found, n_kept)
    code = code_of(*found, n_tokens=len(x_centred), d_sae=d_sae)
    return Selection(code, collected.result())


def select_above(
    x_centred: Float[Tensor, "tokens d_in"], encoder: Encoder, floor: Float[Tensor, " d_sae"]
) -> SparseCode | None:
    """Every pre-activation above its latent's floor; None if a sample of the rows has more than SPARSE_UP_TO.

    Values may be negative where the floor is.
    """
    if only_dense():
        return None
    n_tokens, d_sae = len(x_centred), encoder.W.shape[1]
    sample = encoder.pre(x_centred[:SAMPLE_ROWS]) > floor
    if sample.count_nonzero() > SPARSE_UP_TO * sample.numel():
        return None
    return code_of(*_above(x_centred, encoder, floor, None), n_tokens=n_tokens, d_sae=d_sae)


def top_of_rows(pre: Float[Tensor, "rows columns"], k: int) -> Rows:
    """The k largest values of each row, exactly.

    The k largest lie in the k groups of columns with the largest maxima. Maxima are cheap where torch.topk is not: a
    processor takes them eight at a time.
    """
    n, width = pre.shape
    if pre.device.type != "cpu" or not pre.is_contiguous():
        return Rows(*pre.topk(k, dim=1, sorted=False))
    if width % 32 == 0 and width >= 128 * k:  # groups of neighbours: whole cache lines are copied
        n_groups = width // 32
        groups = pre.view(n * n_groups, 32)
        chosen = groups.amax(dim=1).view(n, n_groups).topk(k, dim=1, sorted=False).indices
        first = torch.arange(0, n * n_groups, n_groups, device=pre.device)
        candidates = groups.index_select(0, (chosen + first[:, None]).flatten()).view(n, 32 * k)
        top = top_of_rows(candidates, k)
        return Rows(top.values, chosen.gather(1, top.indices // 32) * 32 + top.indices % 32)
    for size in (8, 4):  # groups of columns that lie far apart: maxima of whole vectors
        if width % size == 0 and width >= 2 * size * k:
            n_groups = width // size
            groups = pre.view(n, size, n_groups)
            chosen = groups.amax(dim=1).topk(k, dim=1, sorted=False).indices
            candidates = groups.gather(2, chosen[:, None, :].expand(n, size, k)).view(n, size * k)
            top = candidates.topk(k, dim=1, sorted=False)
            return Rows(top.values, top.indices // k * n_groups + chosen.gather(1, top.indices % k))
    return Rows(*pre.topk(k, dim=1, sorted=False))


def _with_bias(x_centred: Tensor, encoder: Encoder) -> Iterator[tuple[Tensor, Tensor | None]]:
    """Products with the bias that is still to be added, which kernels do; elsewhere pre-activations, and None."""
    if native.usable(x_centred) and not kernels.usable(x_centred):
        return ((product, encoder.b) for product in encoder.products(x_centred))
    return ((pre, None) for pre in encoder.chunks(x_centred))


class _Tops:
    """The k largest of each row of consecutive chunks, where positive."""

    def __init__(self, k: int, d_sae: int) -> None:
        self.k, self.d_sae, self.found = k, d_sae, list[Rows]()

    def take(self, pre: Tensor, bias: Tensor | None) -> None:
        assert bias is None, "added already"
        self.found.append(top_of_rows(pre, self.k))

    def code(self) -> SparseCode:
        return _positive(self.found, self.d_sae)


class _NativeTops:
    """`_Tops` by a kernel."""

    def __init__(self, k: int, d_sae: int, n_tokens: int) -> None:
        self.slots, self.d_sae = native.TopSlots(n_tokens, k), d_sae

    def take(self, product: Tensor, bias: Tensor | None) -> None:
        self.slots.take(product, bias)

    def code(self) -> SparseCode:
        return SparseCode(*self.slots.entries(), self.d_sae)


def _tops(x_centred: Tensor, encoder: Encoder, k: int) -> _Tops | _NativeTops:
    d_sae = encoder.W.shape[1]
    return _NativeTops(k, d_sae, len(x_centred)) if native.usable(x_centred) else _Tops(k, d_sae)


class _DeadCollector:
    """Keeps of each chunk what is asked of the dead latents."""

    def __init__(self, ask: Dead | None, x_centred: Tensor, encoder: Encoder) -> None:
        self.ask = ask
        self.matrices: list[Tensor] = []
        n_largest = None if ask is None else ask.n_largest
        self.tops = None if n_largest is None else _tops(x_centred, encoder, n_largest)

    def take(self, product: Tensor, bias: Tensor | None) -> None:
        if self.ask is None:
            return
        part = product.index_select(1, self.ask.latents)
        if bias is not None:
            part += bias[self.ask.latents]
        if self.tops is None:
            self.matrices.append(part)
        else:
            self.tops.take(part, None)

    def result(self) -> SparseCode | Tensor | None:
        if self.ask is None:
            return None
        if self.tops is None:
            return torch.cat(self.matrices)
        code = self.tops.code()
        return code._replace(latents=self.ask.latents[code.latents])


def _guess_threshold(x_centred: Tensor, encoder: Encoder, k: int) -> Tensor:
    """A value that somewhat more than k pre-activations per token exceed; 0 when guessing would not pay."""
    n_rows = len(x_centred)
    if n_rows < 4 * SAMPLE_ROWS:
        return x_centred.new_zeros(())
    pre = encoder.pre(x_centred[:: n_rows // SAMPLE_ROWS])
    rank = round(1.4 * k * len(pre))
    if rank >= pre.numel():
        return x_centred.new_zeros(())
    return kth_largest(pre.flatten(), rank).clamp_min(0.0)


def kth_largest(values: Float[Tensor, " n"], k: int) -> Float[Tensor, ""]:
    """The k-th largest. On a GPU by sorting: torch.kthvalue there gives one block of threads all of the work."""
    if values.is_cuda:
        return values.sort(descending=True).values[k - 1]
    return values.kthvalue(len(values) - k + 1).values


class _Found(NamedTuple):
    """Entries, ordered by token and latent."""

    tokens: Int[Tensor, " entries"]
    latents: Int[Tensor, " entries"]
    values: Float[Tensor, " entries"]


def _above(x_centred: Tensor, encoder: Encoder, floor: Tensor, collected: _DeadCollector | None) -> _Found:
    """Every pre-activation above `floor`."""
    found: list[_Found] = []
    start = 0
    for product, bias in _with_bias(x_centred, encoder):
        found.append(_above_in(product, bias, floor, start))
        start += len(product)
        if collected is not None:
            collected.take(product, bias)
    return _Found(*(torch.cat(parts) for parts in zip(*found, strict=True)))


def _above_in(pre: Tensor, bias: Tensor | None, floor: Tensor, first_token: int) -> _Found:
    if native.usable(pre):
        return _Found(*native.above(pre, floor, first_token=first_token, bias=bias)[1:])
    assert bias is None, "added already"
    flat = true_positions(pre > floor)
    rows = flat // pre.shape[1]
    return _Found(rows + first_token, flat - rows * pre.shape[1], pre.flatten()[flat])


def _largest(found: _Found, n: int) -> _Found:
    """The n entries of the largest values; of those equal to the smallest kept one, the first in order."""
    if native.usable(found.values):
        return _Found(*native.keep_largest(*found, n=n))
    kept = _exactly_largest(found.values, n)
    return _Found(*(each[kept] for each in found))


def _exactly_largest(values: Tensor, n: int) -> Tensor:
    """Mask of the n largest values; of those equal to the smallest kept one, the first in order."""
    cut = kth_largest(values, n)
    kept = values > cut
    tied = values == cut
    return kept | (tied & (tied.cumsum(0) <= n - kept.sum()))


def _positive(tops: list[Rows], d_sae: int) -> SparseCode:
    """The positive entries of a rectangular choice [tokens k]."""
    latents, values = (torch.cat([getattr(top, name) for top in tops]) for name in ("indices", "values"))
    n_tokens, k = latents.shape
    positive = true_positions(values > 0)
    latents, values = latents.flatten()[positive], values.flatten()[positive]
    return code_of(positive // k, latents, values, n_tokens=n_tokens, d_sae=d_sae)
