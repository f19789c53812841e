"""What some SAEs do to every token before they read it, and undo after they have rebuilt it.

    layer_norm              x -> (x - mean) / (std + 1e-5);        x_hat -> x_hat * std + mean
    constant_norm_rescale   x -> x * sqrt(d_in) / |x|;              x_hat -> x_hat * |x| / sqrt(d_in)

The scale differs from token to token, so unlike the scale of a data set it cannot be folded into weights: such an SAE
cannot be stacked, and its decoder's output has no units of x by itself.

Source: SAELens 6.54.12, saes/sae.py (names too); Gao et al. 2024 (arXiv 2406.04093), appendix A, for layer_norm.
"""

from typing import Literal, NamedTuple, get_args

import torch
from jaxtyping import Float
from torch import Tensor

TokenNorm = Literal["none", "layer_norm", "constant_norm_rescale"]

TOKEN_NORMS: tuple[TokenNorm, ...] = get_args(TokenNorm)

EPS = 1e-5
"Added to the standard deviation; what is undone is the deviation alone, as in the sources."


class Frame(NamedTuple):
    """x_in = (x - shift) / divisor, and x = x_in * factor + shift on the way back; divisor may be factor + EPS."""

    shift: Float[Tensor, "*batch 1"]
    divisor: Float[Tensor, "*batch 1"]
    factor: Float[Tensor, "*batch 1"]


def inward(x: Float[Tensor, "*batch d_in"], norm: TokenNorm) -> Float[Tensor, "*batch d_in"]:
    """x as the SAE reads it."""
    if norm == "none":
        return x
    frame = _frame(x, norm)
    return (x - frame.shift) / frame.divisor


def outward(
    x: Float[Tensor, "*batch d_in"], x_hat: Float[Tensor, "*batch d_in"], norm: TokenNorm
) -> Float[Tensor, "*batch d_in"]:
    """The SAE's output `x_hat` in the units of the x that it came from."""
    if norm == "none":
        return x_hat
    frame = _frame(x, norm)
    return x_hat * frame.factor + frame.shift


def _frame(x: Tensor, norm: TokenNorm) -> Frame:
    if norm == "layer_norm":
        shift = x.mean(dim=-1, keepdim=True)
        std = (x - shift).std(dim=-1, keepdim=True)
        return Frame(shift, std + EPS, std)
    length = torch.linalg.vector_norm(x, dim=-1, keepdim=True).clamp_min(1e-30) / x.shape[-1] ** 0.5
    return Frame(torch.zeros_like(length), length, length)
