"""What follows the encoder product, on the few active latents of each token alone.

    code: (token, latent, value), ordered by token
    entry_pre:  pre-activations of the entries     backward: d W_enc by one gather per latent, d b_enc, d pre_bias
    rebuild:    values of the entries --> x_hat    backward: d value by a sampled product, d W_dec by another gather

What lies between the two (ReLU, thresholds, gates, L1) is ordinary differentiable code on the entries. The order of the
entries by latent, which both weight gradients need, is found once. `dense_reconstruct` is the same function written
plainly; the tests hold the two together to 1e-5.
"""

import warnings
from functools import cached_property
from typing import Any, NamedTuple

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor
from torch.autograd.function import once_differentiable

from fovea.sae import kernels, native

with warnings.catch_warnings():
    # torch says once per process that CSR tensors are in beta; the product used here is held by tests.
    warnings.simplefilter("ignore")
    torch.sparse_csr_tensor(torch.zeros(2, dtype=torch.long), torch.zeros(0, dtype=torch.long), torch.zeros(0), (1, 1))


class SparseCode(NamedTuple):
    """Active latents in ragged form, ordered by token."""

    offsets: Int[Tensor, " tokens_plus_1"]
    "Token t owns entries offsets[t] to offsets[t + 1]."
    tokens: Int[Tensor, " entries"]
    latents: Int[Tensor, " entries"]
    "Each at most once in a token, in no order."
    values: Float[Tensor, " entries"]
    "No gradient."
    d_sae: int

    @property
    def n_tokens(self) -> int:
        """Tokens, those without an active latent too."""
        return len(self.offsets) - 1

    def counts(self) -> Int[Tensor, " d_sae"]:
        """Tokens on which each latent is active."""
        return torch.bincount(self.latents, minlength=self.d_sae)

    def dense(self) -> Float[Tensor, "tokens d_sae"]:
        """The latents as a matrix."""
        latents = self.values.new_zeros(self.n_tokens, self.d_sae)
        return latents.index_put_((self.tokens, self.latents), self.values)


def code_of(
    tokens: Int[Tensor, " entries"],
    latents: Int[Tensor, " entries"],
    values: Float[Tensor, " entries"],
    *,
    n_tokens: int,
    d_sae: int,
) -> SparseCode:
    """Entries that are ordered by token, as a code."""
    return SparseCode(_starts(tokens, n_tokens), tokens, latents, values, d_sae)


def sparse_code(latents: Float[Tensor, "tokens d_sae"]) -> SparseCode:
    """The positive entries of a matrix of latents."""
    n_tokens, d_sae = latents.shape
    flat = true_positions(latents > 0)
    tokens = flat // d_sae
    values = latents.flatten()[flat]
    return code_of(tokens, flat - tokens * d_sae, values, n_tokens=n_tokens, d_sae=d_sae)


def join(code: SparseCode, other: SparseCode) -> SparseCode:
    """Two codes of the same tokens as one of twice as many: token n + t is token t of `other`."""
    return SparseCode(
        torch.cat([code.offsets, other.offsets[1:] + len(code.values)]),
        torch.cat([code.tokens, other.tokens + code.n_tokens]),
        torch.cat([code.latents, other.latents]),
        torch.cat([code.values, other.values]),
        code.d_sae,
    )


def true_positions(mask: Bool[Tensor, "rows columns"]) -> Int[Tensor, " found"]:
    """Flat positions of True, ascending. Where few are, eight are passed over at a time."""
    flat = mask.flatten()
    if flat.numel() % 8 or flat.is_cuda:  # there each search waits for the device
        return flat.nonzero().squeeze(1)
    words = flat.view(torch.int64).nonzero().squeeze(1)
    within = flat.view(len(flat) // 8, 8).index_select(0, words).flatten().nonzero().squeeze(1)
    return words[within >> 3] * 8 + (within & 7)


def decode(code: SparseCode, W_dec: Float[Tensor, "d_sae d_in"]) -> Float[Tensor, "tokens d_in"]:
    """Sum of value times decoder row over the active latents of each token; no bias, no gradient."""
    return _gather(code.offsets, code.latents, code.values, W_dec.detach())


class Parts(NamedTuple):
    """The weights through which a reconstruction is differentiated."""

    W_enc: Float[Tensor, "d_in d_sae"]
    b_enc: Float[Tensor, " d_sae"]
    W_dec: Float[Tensor, "d_sae d_in"]
    pre_bias: Float[Tensor, " d_in"] | None


class ByLatent:
    """The entries of a code in the order of their latents; found when first asked for."""

    def __init__(self, code: SparseCode) -> None:
        self.code = code

    @cached_property
    def entries(self) -> native.Order:
        """Where each latent's entries begin, and the place in the code and the token of each."""
        code = self.code
        if native.usable(code.values):
            return native.by_latent(code.latents, code.tokens, d_sae=code.d_sae)
        latents, order = code.latents.int().sort(stable=True)
        return native.Order(_starts(latents, code.d_sae), order, code.tokens[order])

    def gather(
        self, values: Float[Tensor, " entries"], rows: Float[Tensor, "tokens d_in"]
    ) -> Float[Tensor, "d_sae d_in"]:
        """Per latent, the sum of value times the row of the entry's token."""
        offsets, order, tokens = self.entries
        tokens = tokens if len(rows) == self.code.n_tokens else tokens % len(rows)
        if native.usable(rows):
            return native.sum_rows(offsets, tokens, values, rows=rows, order=order)
        return _gather(offsets, tokens, values.index_select(0, order), rows)

    def sums(self, values: Float[Tensor, " entries"]) -> Float[Tensor, " d_sae"]:
        """Per latent, the sum of values. In a fixed order on every device."""
        if native.usable(values):
            return native.sum_values(self.entries, values)
        if values.device.type == "cpu":
            return torch.bincount(self.code.latents, values, minlength=self.code.d_sae).to(values.dtype)  # of none: int
        return torch.segment_reduce(values[self.entries.order], "sum", offsets=self.entries.offsets)


def entry_pre(by_latent: ByLatent, x_centred: Float[Tensor, "tokens d_in"], parts: Parts) -> Float[Tensor, " entries"]:
    """The code's values as pre-activations: gradients for W_enc, b_enc and the pre-bias; none for x or the choice.

    Args:
        x_centred: x - pre_bias, without gradient: its part through the pre-bias is computed here.
    """
    values: Tensor = _EntryPre.apply(
        by_latent.code.values, by_latent, x_centred, parts.pre_bias, parts.W_enc, parts.b_enc
    )
    return values


def rebuild(
    by_latent: ByLatent,
    values: Float[Tensor, " entries"],
    W_dec: Float[Tensor, "d_sae d_in"],
    *,
    b_dec: Float[Tensor, " d_in"] | None,
) -> Float[Tensor, "tokens d_in"]:
    """`decode` of the code's places with these values, plus b_dec; gradients for values, W_dec and b_dec."""
    x_hat: Tensor = _Rebuild.apply(values, W_dec, b_dec, by_latent)
    return x_hat


class SquaredErrors(NamedTuple):
    """What `squared_errors` gives."""

    squares: Float[Tensor, " tokens"]
    x_hat: Float[Tensor, "n_target d_in"]
    "Of the first half, where there are two. No gradient."


def squared_errors(
    by_latent: ByLatent,
    values: Float[Tensor, " entries"],
    W_dec: Float[Tensor, "d_sae d_in"],
    *,
    b_dec: Float[Tensor, " d_in"],
    target: Float[Tensor, "n_target d_in"],
) -> SquaredErrors:
    """|x_hat - target|^2 of each token, with gradients for values, W_dec and b_dec. Only where `native.usable`.

    `rebuild` and `mse` in one: W_dec is read once for both directions, and no gradient of x_hat is ever written. A code
    of twice the tokens of `target` (`join`) has a second half, without b_dec, that rebuilds what the first leaves.
    """
    squares, x_hat = _SquaredErrors.apply(values, W_dec, b_dec, by_latent, target)  # pyright: ignore[reportGeneralTypeIssues]
    return SquaredErrors(squares, x_hat)


def watch(
    x_hat: Float[Tensor, "tokens d_in"],
    silent: Float[Tensor, " entries"],
    *,
    code: SparseCode,
    W_dec: Float[Tensor, "d_sae d_in"],
) -> Float[Tensor, "tokens d_in"]:
    """`x_hat` as it is, with the gradient that each entry of `code` would get as a latent of it.

    Args:
        silent: The entries as latents: zeros, which add nothing.
    """
    watched: Tensor = _Watch.apply(x_hat, silent, code, W_dec.detach())
    return watched


def part_of(code: SparseCode, mask: Bool[Tensor, " entries"]) -> SparseCode:
    """The code's entries where `mask` is True."""
    chosen = mask.nonzero().squeeze(1)
    tokens, latents, values = (tensor[chosen] for tensor in (code.tokens, code.latents, code.values))
    return code_of(tokens, latents, values, n_tokens=code.n_tokens, d_sae=code.d_sae)


def per_entry(vector: Float[Tensor, " d_sae"], by_latent: ByLatent) -> Float[Tensor, " entries"]:
    """The value that each entry's latent has in `vector`, with its gradient."""
    values: Tensor = _PerEntry.apply(vector, by_latent)
    return values


def reconstruct(
    code: SparseCode, x_centred: Float[Tensor, "tokens d_in"], parts: Parts
) -> Float[Tensor, "tokens d_in"]:
    """`decode(code)` with gradients for W_enc, b_enc, W_dec and the pre-bias."""
    by_latent = ByLatent(code)
    return rebuild(by_latent, entry_pre(by_latent, x_centred, parts), parts.W_dec, b_dec=None)


def dense_reconstruct(
    code: SparseCode, x_centred: Float[Tensor, "tokens d_in"], parts: Parts
) -> Float[Tensor, "tokens d_in"]:
    """`reconstruct` by dense products and automatic differentiation: the reference."""
    x_centred = x_centred.detach()
    if parts.pre_bias is not None:
        x_centred = x_centred + parts.pre_bias.detach() - parts.pre_bias
    active = code.dense() > 0
    return torch.where(active, x_centred @ parts.W_enc + parts.b_enc, 0.0) @ parts.W_dec


class _EntryPre(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        values: Tensor,
        by_latent: ByLatent,
        x_centred: Tensor,
        pre_bias: Tensor | None,
        W_enc: Tensor,
        b_enc: Tensor,
    ) -> Tensor:
        del pre_bias, b_enc
        ctx.by_latent = by_latent
        ctx.save_for_backward(x_centred, W_enc)
        return values.view_as(values)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grad_outputs: Tensor) -> tuple[Tensor | None, ...]:  # pyright: ignore[reportIncompatibleMethodOverride]
        (d_values,) = grad_outputs
        x_centred, W_enc = ctx.saved_tensors
        by_latent: ByLatent = ctx.by_latent
        _, _, _, needs_pre_bias, needs_W_enc, _ = ctx.needs_input_grad
        d_b = by_latent.sums(d_values)
        d_W_enc = by_latent.gather(d_values, x_centred).T if needs_W_enc else None
        d_pre_bias = -(W_enc @ d_b) if needs_pre_bias else None
        return None, None, None, d_pre_bias, d_W_enc, d_b


class _Rebuild(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, values: Tensor, W_dec: Tensor, b_dec: Tensor | None, by_latent: ByLatent) -> Tensor:
        ctx.by_latent = by_latent
        ctx.save_for_backward(values, W_dec)
        x_hat = _gather(by_latent.code.offsets, by_latent.code.latents, values, W_dec.detach())
        return x_hat if b_dec is None else x_hat.add_(b_dec)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grad_outputs: Tensor) -> tuple[Tensor | None, ...]:  # pyright: ignore[reportIncompatibleMethodOverride]
        (d_x_hat,) = grad_outputs
        values, W_dec = ctx.saved_tensors
        needs_values, needs_W_dec, needs_b_dec, _ = ctx.needs_input_grad
        d_values = _sampled_product(ctx.by_latent.code, d_x_hat, W_dec) if needs_values else None
        d_W_dec = ctx.by_latent.gather(values, d_x_hat) if needs_W_dec else None
        return d_values, d_W_dec, d_x_hat.sum(dim=0) if needs_b_dec else None, None


class _SquaredErrors(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, values: Tensor, W_dec: Tensor, b_dec: Tensor, by_latent: ByLatent, target: Tensor
    ) -> tuple[Tensor, Tensor]:
        code = by_latent.code
        entries = native.Entries(code.offsets, code.tokens, code.latents, values.detach())
        found = native.rebuild(entries, rows=W_dec.detach(), bias=b_dec.detach(), target=target)
        ctx.by_latent, ctx.n_target = by_latent, len(target)
        ctx.save_for_backward(values, found.error, found.inner)
        ctx.mark_non_differentiable(found.x_hat)
        ctx.set_materialize_grads(False)  # else zeros as large as x_hat are made to say that it has none
        return found.squares, found.x_hat

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grad_outputs: Tensor | None) -> tuple[Tensor | None, ...]:  # pyright: ignore[reportIncompatibleMethodOverride]
        of_squares, _ = grad_outputs
        assert of_squares is not None, "what is differentiated"
        twice = 2.0 * of_squares
        values, error, inner = ctx.saved_tensors
        needs_values, needs_W_dec, needs_b_dec, _, _ = ctx.needs_input_grad
        of_entry = twice.index_select(0, ctx.by_latent.code.tokens)
        d_values = inner * of_entry if needs_values else None
        d_W_dec = ctx.by_latent.gather(values * of_entry, error) if needs_W_dec else None
        d_b_dec = twice[: ctx.n_target] @ error[: ctx.n_target] if needs_b_dec else None
        return d_values, d_W_dec, d_b_dec, None, None


class _Watch(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x_hat: Tensor, silent: Tensor, code: SparseCode, W_dec: Tensor) -> Tensor:
        del silent
        ctx.code = code
        ctx.save_for_backward(W_dec)
        return x_hat.view_as(x_hat)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grad_outputs: Tensor) -> tuple[Tensor | None, ...]:  # pyright: ignore[reportIncompatibleMethodOverride]
        (d_x_hat,) = grad_outputs
        (W_dec,) = ctx.saved_tensors
        return d_x_hat, _sampled_product(ctx.code, d_x_hat, W_dec), None, None


class _PerEntry(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, vector: Tensor, by_latent: ByLatent) -> Tensor:
        ctx.by_latent = by_latent
        return vector.index_select(0, by_latent.code.latents)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grad_outputs: Tensor) -> tuple[Tensor | None, ...]:  # pyright: ignore[reportIncompatibleMethodOverride]
        return ctx.by_latent.sums(grad_outputs[0]), None


def _gather(offsets: Tensor, indices: Tensor, values: Tensor, rows: Tensor) -> Tensor:
    """Per group, the sum of value times the row at index [groups d_in]: no copy of a row, groups side by side."""
    if kernels.usable(rows):
        return kernels.gather(offsets, indices, values, rows=rows)
    if native.usable(rows):
        return native.sum_rows(offsets, indices, values, rows=rows)
    return torch.nn.functional.embedding_bag(
        indices, rows, offsets, mode="sum", per_sample_weights=values, include_last_offset=True
    )


def _sampled_product(code: SparseCode, rows: Tensor, W_dec: Tensor) -> Tensor:
    """Per entry, the inner product of its token's row and its latent's decoder row."""
    if kernels.usable(rows):
        return kernels.sampled_product(code.tokens, code.latents, left_rows=rows, right_rows=W_dec)
    if native.usable(rows):
        return native.sampled_product(code.offsets, code.latents, left=rows, rows=W_dec)
    size = (code.n_tokens, code.d_sae)
    pattern = torch.sparse_csr_tensor(code.offsets, code.latents, code.values, size, check_invariants=False)
    return torch.sparse.sampled_addmm(pattern, rows, W_dec.T, beta=0.0).values()


def _starts(ascending: Tensor, n_groups: int) -> Tensor:
    """Where each group of an ascending list of numbers begins, and the end of the last [n_groups + 1]."""
    if ascending.is_cuda:  # a count there waits for the device; a search does not
        return torch.searchsorted(ascending, torch.arange(n_groups + 1, dtype=ascending.dtype, device=ascending.device))
    return torch.nn.functional.pad(torch.bincount(ascending, minlength=n_groups).cumsum(0), (1, 0))
