"""The encoder product, by itself: the one dense part of every architecture.

    x_centred --(W_enc, b_enc)--> pre

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


class Encoder(NamedTuple):
    """A frozen view of an encoder: no gradient flows through it."""

    W: Float[Tensor, "d_in d_sae"]
    b: Float[Tensor, " d_sae"]
    compute_dtype: ComputeDtype

    def pre(self, x_centred: Float[Tensor, "tokens d_in"]) -> Float[Tensor, "tokens d_sae"]:
        """x_centred W + b in float32, whatever the precision of the product."""
        return _product(x_centred, self.W, self.b, self.compute_dtype)

    def chunks(self, x_centred: Float[Tensor, "tokens d_in"]) -> Iterator[Float[Tensor, "rows d_sae"]]:
        """The pre-activations of consecutive rows, few enough at a time to stay in cache."""
        rows = max(64, CHUNK_ELEMENTS // self.W.shape[1])
        return (self.pre(part) for part in x_centred.split(rows))


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
    pre: Tensor = _TrainedProduct.apply(x_centred, pre_bias, W_enc, b_enc, compute_dtype)
    return pre


class _TrainedProduct(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: FunctionCtx,
        x_centred: Tensor,
        pre_bias: Tensor | None,
        W_enc: Tensor,
        b_enc: Tensor,
        compute_dtype: ComputeDtype,
    ) -> Tensor:
        del pre_bias
        ctx.save_for_backward(x_centred, W_enc)
        return _product(x_centred, W_enc, b_enc, compute_dtype)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grad_outputs: Tensor) -> tuple[Tensor | None, ...]:  # pyright: ignore[reportIncompatibleMethodOverride]
        (d_pre,) = grad_outputs
        x_centred, W_enc = ctx.saved_tensors
        d_b = d_pre.sum(dim=0)
        d_W = x_centred.T @ d_pre if ctx.needs_input_grad[2] else None
        d_pre_bias = -(W_enc @ d_b) if ctx.needs_input_grad[1] else None
        return None, d_pre_bias, d_W, d_b, None


def _product(x_centred: Tensor, W: Tensor, b: Tensor, compute_dtype: ComputeDtype) -> Tensor:
    if compute_dtype == "float32":
        return torch.addmm(b, x_centred, W)
    return (x_centred.bfloat16() @ W.bfloat16()).float() + b
