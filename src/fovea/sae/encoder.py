"""The encoder product, by itself: the one dense part of every architecture.

    x_centred --(W_enc, b_enc)--> pre

W_enc is [d_in, d_sae] but lies in memory as its transpose, a row per latent: the product is as fast, and what a step
does per latent, as a gradient of few entries, reads and writes whole rows.

In training its gradient skips the usual product back to x: x is data, and the pre-bias needs only a vector,
-(sum of d pre over tokens) W_enc^T. That saves a third of the dense work.
"""

from collections.abc import Iterator
from typing import Any, NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor
from torch.autograd.function import FunctionCtx, once_differentiable

from fovea.sae.base import SAE, ComputeDtype

CHUNK_ELEMENTS = 1 << 21
"Pre-activations held at once, so that they stay in the processor's cache (8 MB)."

CHUNK_ROWS = 1024
"Rows held at once even where they do not: a product over fewer spends its time on packing W_enc (an eighth at 9,216)."

WIDEST_CHUNK = 1 << 24
"Pre-activations held at once at most (64 MB)."


WIDEST_ON_GPU = 1 << 26
"Pre-activations held at once on a GPU (256 MB): it waits for its work to be launched more than for memory."


class Encoder(NamedTuple):
    """A frozen view of an encoder: no gradient flows through it."""

    W: Float[Tensor, "d_in d_sae"]
    b: Float[Tensor, " d_sae"]
    compute_dtype: ComputeDtype

    def pre(self, x_centred: Float[Tensor, "tokens d_in"]) -> Float[Tensor, "tokens d_sae"]:
        """x_centred W + b in float32, whatever the precision of the product."""
        return _product(x_centred, self.W, self.b, self.compute_dtype)

    def products(self, x_centred: Float[Tensor, "tokens d_in"]) -> Iterator[Float[Tensor, "rows d_sae"]]:
        """x_centred W of consecutive rows, a chunk at a time; the next chunk overwrites the one before.

        Without b: a product that begins with it first writes a copy of b a row, as large as itself.
        """
        d_sae = self.W.shape[1]
        rows = max(64, CHUNK_ELEMENTS // d_sae, min(CHUNK_ROWS, WIDEST_CHUNK // d_sae))
        rows = min(len(x_centred), max(64, WIDEST_ON_GPU // d_sae) if x_centred.is_cuda else rows)
        held = x_centred.new_empty(rows, d_sae)
        W = self.W if self.compute_dtype == "float32" else self.W.bfloat16()
        for part in x_centred.split(max(rows, 1)):
            if self.compute_dtype == "float32":
                yield torch.mm(part, W, out=held[: len(part)])
            else:
                yield held[: len(part)].copy_(part.bfloat16() @ W)

    def chunks(self, x_centred: Float[Tensor, "tokens d_in"]) -> Iterator[Float[Tensor, "rows d_sae"]]:
        """The pre-activations of consecutive rows, in the chunks of `products`."""
        for product in self.products(x_centred):
            yield product.add_(self.b)


def trained_pre(
    sae: SAE, x: Float[Tensor, "tokens d_in"], b_enc: Float[Tensor, " d_sae"], *, compute_dtype: ComputeDtype
) -> Float[Tensor, "tokens d_sae"]:
    """(x - pre_bias) W_enc + b_enc with gradients for the weights and a tied pre-bias, none for x."""
    with torch.no_grad():
        x_centred = sae.centred(x)
    return trained_product(x_centred, sae.W_enc, b_enc, pre_bias=sae.pre_bias, compute_dtype=compute_dtype)


def trained_product(
    x_centred: Float[Tensor, "tokens d_in"],
    W_enc: Float[Tensor, "d_in latents"],
    b_enc: Float[Tensor, " latents"],
    *,
    pre_bias: Float[Tensor, " d_in"] | None,
    compute_dtype: ComputeDtype,
) -> Float[Tensor, "tokens latents"]:
    """x_centred W_enc + b_enc, with the gradient of the pre-bias that was subtracted to centre x; none for x."""
    pre = _product(x_centred.detach(), W_enc.detach(), b_enc.detach(), compute_dtype)
    return known_product(pre, x_centred, W_enc=W_enc, b_enc=b_enc, pre_bias=pre_bias)


def known_product(
    pre: Float[Tensor, "tokens latents"],
    x_centred: Float[Tensor, "tokens d_in"],
    *,
    W_enc: Float[Tensor, "d_in latents"],
    b_enc: Float[Tensor, " latents"],
    pre_bias: Float[Tensor, " d_in"] | None,
) -> Float[Tensor, "tokens latents"]:
    """`trained_product` where its value is at hand; `pre` is returned, with gradients."""
    with_gradient: Tensor = _TrainedProduct.apply(pre, x_centred, pre_bias, W_enc, b_enc)
    return with_gradient


class _TrainedProduct(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: FunctionCtx,
        pre: Tensor,
        x_centred: Tensor,
        pre_bias: Tensor | None,
        W_enc: Tensor,
        b_enc: Tensor,
    ) -> Tensor:
        del pre_bias, b_enc
        ctx.save_for_backward(x_centred, W_enc)
        return pre.view_as(pre)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grad_outputs: Tensor) -> tuple[Tensor | None, ...]:  # pyright: ignore[reportIncompatibleMethodOverride]
        (d_pre,) = grad_outputs
        x_centred, W_enc = ctx.saved_tensors
        d_b = d_pre.sum(dim=0)
        d_W = (d_pre.T @ x_centred).T if ctx.needs_input_grad[3] else None
        d_pre_bias = -(W_enc @ d_b) if ctx.needs_input_grad[2] else None
        return None, None, d_pre_bias, d_W, d_b


def _product(x_centred: Tensor, W: Tensor, b: Tensor, compute_dtype: ComputeDtype) -> Tensor:
    if compute_dtype == "float32":
        return torch.addmm(b, x_centred, W)
    return (x_centred.bfloat16() @ W.bfloat16()).float() + b
