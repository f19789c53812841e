"""The fast exact path of topk and batch_topk: only the encoder product is dense.

    x_centred --(encoder, in chunks)--> pre --(select)--> code: (token, latent, value), a few per token
    code --(embedding_bag)--> x_hat;   backward: d value by a sampled product, both weight gradients by one sort of the
    code by latent and two sparse products

`dense_reconstruct` is the same function written plainly; the tests hold the two together to 1e-5.
"""

import warnings
from typing import Any, NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.autograd.function import once_differentiable

from fovea.sae.encoder import Encoder

SAMPLE_ROWS = 256
"Rows from which BatchTopK guesses its threshold; the guess affects time only, never the result."


with warnings.catch_warnings():
    # torch says once per process that CSR tensors are in beta; the two products used here are held by tests.
    warnings.simplefilter("ignore")
    torch.sparse_csr_tensor(torch.zeros(2, dtype=torch.long), torch.zeros(0, dtype=torch.long), torch.zeros(0), (1, 1))


class SparseCode(NamedTuple):
    """Active latents in ragged form, ordered by token."""

    offsets: Int[Tensor, " tokens_plus_1"]
    "Token t owns entries offsets[t] to offsets[t + 1]."
    tokens: Int[Tensor, " entries"]
    latents: Int[Tensor, " entries"]
    values: Float[Tensor, " entries"]
    "Above zero; no gradient."
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


def select_topk(x_centred: Float[Tensor, "tokens d_in"], encoder: Encoder, k: int) -> SparseCode:
    """The k largest pre-activations of each token, where positive. Equal values: the choice of torch.topk."""
    d_sae = encoder.W.shape[1]
    tops = [pre.topk(k, dim=1, sorted=False) for pre in encoder.chunks(x_centred)]
    latents, order = torch.cat([top.indices for top in tops]).sort(dim=1)
    values = torch.cat([top.values for top in tops]).gather(1, order)
    return _ragged(latents, values, d_sae)


def select_batch_topk(x_centred: Float[Tensor, "tokens d_in"], encoder: Encoder, k: int) -> SparseCode:
    """The tokens * k largest pre-activations of the batch, where positive. Equal values: the first token and latent.

    A threshold guessed from a sample of rows leaves few candidates, among which the exact choice is made; if it left
    fewer than tokens * k, all positive pre-activations are candidates.
    """
    n_kept = k * len(x_centred)
    guess = _guess_threshold(x_centred, encoder, k)
    flat, values = _above(x_centred, encoder, guess)
    if len(flat) < n_kept and guess > 0:
        flat, values = _above(x_centred, encoder, 0.0)
    if len(flat) > n_kept:
        kept = _exactly_largest(values, n_kept)
        flat, values = flat[kept], values[kept]
    d_sae = encoder.W.shape[1]
    tokens = flat // d_sae
    return _code(tokens, flat - tokens * d_sae, values, len(x_centred), d_sae)


def select_dead(
    x_centred: Float[Tensor, "tokens d_in"], encoder: Encoder, dead: Int[Tensor, " d_dead"], *, k_aux: int
) -> SparseCode:
    """The k_aux largest pre-activations of the dead latents on each token, where positive."""
    part = Encoder(encoder.W[:, dead], encoder.b[dead], encoder.compute_dtype)
    code = select_topk(x_centred, part, k_aux)
    return code._replace(latents=dead[code.latents], d_sae=encoder.W.shape[1])


def sparse_code(latents: Float[Tensor, "tokens d_sae"]) -> SparseCode:
    """The positive entries of a matrix of latents."""
    n_tokens, d_sae = latents.shape
    flat = (latents > 0).flatten().nonzero().squeeze(1)
    tokens = flat // d_sae
    return _code(tokens, flat - tokens * d_sae, latents.flatten()[flat], n_tokens, d_sae)


def decode(code: SparseCode, W_dec: Float[Tensor, "d_sae d_in"]) -> Float[Tensor, "tokens d_in"]:
    """Sum of value times decoder row over the active latents of each token; no bias, no gradient."""
    return torch.nn.functional.embedding_bag(
        code.latents,
        W_dec.detach(),
        code.offsets,
        mode="sum",
        per_sample_weights=code.values,
        include_last_offset=True,
    )


class Parts(NamedTuple):
    """The weights through which a reconstruction is differentiated."""

    W_enc: Float[Tensor, "d_in d_sae"]
    b_enc: Float[Tensor, " d_sae"]
    W_dec: Float[Tensor, "d_sae d_in"]
    pre_bias: Float[Tensor, " d_in"] | None


def reconstruct(
    code: SparseCode, x_centred: Float[Tensor, "tokens d_in"], parts: Parts
) -> Float[Tensor, "tokens d_in"]:
    """`decode(code)` with gradients for W_enc, b_enc, W_dec and the pre-bias; none for x or the choice of latents.

    Args:
        x_centred: x - pre_bias, without gradient: its part through the pre-bias is computed here.
    """
    x_hat: Tensor = _Reconstruct.apply(code, x_centred.detach(), parts.pre_bias, parts.W_enc, parts.b_enc, parts.W_dec)
    return x_hat


def dense_reconstruct(
    code: SparseCode, x_centred: Float[Tensor, "tokens d_in"], parts: Parts
) -> Float[Tensor, "tokens d_in"]:
    """`reconstruct` by dense products and automatic differentiation: the reference."""
    x_centred = x_centred.detach()
    if parts.pre_bias is not None:
        x_centred = x_centred + parts.pre_bias.detach() - parts.pre_bias
    active = code.dense() > 0
    return torch.where(active, x_centred @ parts.W_enc + parts.b_enc, 0.0) @ parts.W_dec


class _Reconstruct(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        code: SparseCode,
        x_centred: Tensor,
        pre_bias: Tensor | None,
        W_enc: Tensor,
        b_enc: Tensor,
        W_dec: Tensor,
    ) -> Tensor:
        del pre_bias, b_enc
        ctx.code = code
        ctx.save_for_backward(x_centred, W_enc, W_dec)
        return decode(code, W_dec)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grad_outputs: Tensor) -> tuple[Tensor | None, ...]:  # pyright: ignore[reportIncompatibleMethodOverride]
        (d_x_hat,) = grad_outputs
        code: SparseCode = ctx.code
        x_centred, W_enc, W_dec = ctx.saved_tensors
        _, _, needs_pre_bias, needs_W_enc, _, needs_W_dec = ctx.needs_input_grad
        d_values = _sampled_product(code, d_x_hat, W_dec)
        d_b = torch.bincount(code.latents, d_values, minlength=code.d_sae).to(d_values)  # integers where nothing fires
        by_latent = _by_latent(code)
        d_W_enc = by_latent.gather(d_values, x_centred).T if needs_W_enc else None
        d_W_dec = by_latent.gather(code.values, d_x_hat) if needs_W_dec else None
        d_pre_bias = -(W_enc @ d_b) if needs_pre_bias else None
        return None, None, d_pre_bias, d_W_enc, d_b, d_W_dec


class _ByLatent(NamedTuple):
    """The entries of a code sorted by latent."""

    order: Tensor
    offsets: Tensor
    tokens: Tensor
    n_tokens: int

    def gather(self, values: Tensor, rows: Tensor) -> Tensor:
        """Per latent, the sum of value times the row of the entry's token [d_sae d_in]."""
        size = (len(self.offsets) - 1, self.n_tokens)
        matrix = torch.sparse_csr_tensor(self.offsets, self.tokens, values[self.order], size, check_invariants=False)
        return matrix @ rows


def _by_latent(code: SparseCode) -> _ByLatent:
    order = code.latents.int().sort(stable=True).indices
    return _ByLatent(order, _offsets(code.counts()), code.tokens[order], code.n_tokens)


def _sampled_product(code: SparseCode, rows: Tensor, W_dec: Tensor) -> Tensor:
    """Per entry, the inner product of its token's row and its latent's decoder row."""
    size = (code.n_tokens, code.d_sae)
    pattern = torch.sparse_csr_tensor(code.offsets, code.latents, code.values, size, check_invariants=False)
    return torch.sparse.sampled_addmm(pattern, rows, W_dec.T, beta=0.0).values()


def _guess_threshold(x_centred: Tensor, encoder: Encoder, k: int) -> float:
    """A value that somewhat more than k pre-activations per token exceed; 0 when guessing would not pay."""
    n_rows, d_sae = len(x_centred), encoder.W.shape[1]
    if n_rows < 4 * SAMPLE_ROWS:
        return 0.0
    pre = encoder.pre(x_centred[:: n_rows // SAMPLE_ROWS])
    rank = min(round(1.25 * k * len(pre)), pre.numel())
    return (
        float(pre.flatten().kthvalue(pre.numel() - rank + 1).values.clamp_min(0.0)) if rank < len(pre) * d_sae else 0.0
    )


def _above(x_centred: Tensor, encoder: Encoder, threshold: float) -> tuple[Tensor, Tensor]:
    """Flat index (token * d_sae + latent), ascending, and value of every pre-activation above `threshold`."""
    flats: list[Tensor] = []
    values: list[Tensor] = []
    start = 0
    for pre in encoder.chunks(x_centred):
        flat = (pre > threshold).flatten().nonzero().squeeze(1)
        values.append(pre.flatten()[flat])
        flats.append(flat + start)
        start += pre.numel()
    return torch.cat(flats), torch.cat(values)


def _exactly_largest(values: Tensor, n: int) -> Tensor:
    """Mask of the n largest values; of those equal to the smallest kept one, the first in order."""
    cut = values.kthvalue(len(values) - n + 1).values
    kept = values > cut
    tied = (values == cut).nonzero().squeeze(1)
    kept[tied[: n - int(kept.sum())]] = True
    return kept


def _ragged(latents: Tensor, values: Tensor, d_sae: int) -> SparseCode:
    """The positive entries of a rectangular choice [tokens k]."""
    n_tokens, k = latents.shape
    positive = (values > 0).flatten().nonzero().squeeze(1)
    return _code(positive // k, latents.flatten()[positive], values.flatten()[positive], n_tokens, d_sae)


def _code(tokens: Tensor, latents: Tensor, values: Tensor, n_tokens: int, d_sae: int) -> SparseCode:
    offsets = _offsets(torch.bincount(tokens, minlength=n_tokens))
    return SparseCode(offsets, tokens, latents, values, d_sae)


def _offsets(counts: Tensor) -> Tensor:
    return torch.nn.functional.pad(counts.cumsum(0), (1, 0))
