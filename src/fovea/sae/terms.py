"""The pieces that objectives are made of: pure functions of tensors, float32, one scalar each.

All squared errors are sums over d_in and means over tokens, in the (scaled) units of the target.
"""

from typing import Any

import torch
from jaxtyping import Bool, Float
from torch import Tensor
from torch.autograd.function import once_differentiable

AUX_WEIGHT = 1 / 32
"Weight of AuxK against mse (arXiv 2406.04093, section A.2)."


def mse(x_hat: Float[Tensor, "tokens d_in"], target: Float[Tensor, "tokens d_in"]) -> Float[Tensor, ""]:
    """Squared error, summed over d_in, mean over tokens. No gradient for the target."""
    term: Tensor = _MSE.apply(x_hat, target)
    return term


def l1(latents: Float[Tensor, "tokens d_sae"], decoder_norm: Float[Tensor, " d_sae"] | None) -> Float[Tensor, ""]:
    """Sum of latents, each times the length of its decoder row (None: all 1), mean over tokens.

    Source: Anthropic, Circuits Updates April 2024.
    """
    per_latent = latents.mean(dim=0)
    return per_latent.sum() if decoder_norm is None else torch.dot(per_latent, decoder_norm)


def target_l0(l0: Float[Tensor, ""], target: float) -> Float[Tensor, ""]:
    """(l0 / target - 1)^2: zero at the target, so the knob is the L0 itself.

    Source: Rajamanoharan et al. 2024 (arXiv 2407.14435), appendix. Here l0 is the mean over the batch, as in
    dictionary_learning, so tokens may differ; SAELens holds every token to the target.
    """
    return (l0 / target - 1.0).square()


def dead_pre(
    pre: Float[Tensor, "tokens d_dead"], threshold: Float[Tensor, " d_dead"], weight: Float[Tensor, " d_dead"]
) -> Float[Tensor, ""]:
    """How far the pre-activations of dead latents stay below their thresholds, summed, mean over tokens.

    Args:
        weight: Length of each decoder row.

    Source: Anthropic, Circuits Updates January 2025 (pre-activation loss).
    """
    return torch.dot((threshold - pre).relu().mean(dim=0), weight)


def l0(active: Bool[Tensor, "tokens d_sae"]) -> Float[Tensor, ""]:
    """Active latents per token, mean over tokens."""
    return active.sum(dim=1).float().mean()


class _MSE(torch.autograd.Function):
    """One pass over the error each way, and nothing held but the error."""

    @staticmethod
    def forward(ctx: Any, x_hat: Tensor, target: Tensor) -> Tensor:
        error = x_hat - target
        ctx.save_for_backward(error)
        return torch.linalg.vector_norm(error, dim=1).square_().mean()

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grad_outputs: Tensor) -> tuple[Tensor | None, ...]:  # pyright: ignore[reportIncompatibleMethodOverride]
        (error,) = ctx.saved_tensors
        return error * (grad_outputs[0] * (2.0 / len(error))), None
