"""From the scaled units of training to raw units, and back.

    training:  SAE(scale_in * x) rebuilds scale_out * target
    raw:       fold_scale(SAE)(x) rebuilds target, latents measured along decoder rows of length 1

ReLU and thresholds are homogeneous: dividing biases and thresholds by scale_in divides latents by scale_in. Multiplying
a latent's encoder column, biases and threshold by the length n of its decoder row, and dividing the row by n, changes
no reconstruction. topk ranks its latents against each other, so there n is one number for all.

Source: SAELens fold_activation_norm_scaling_factor and fold_W_dec_norm; llamascopium folds in and out apart, as here.
"""

import torch
from jaxtyping import Float
from torch import Tensor

from fovea.errors import SAEError
from fovea.sae.base import SAE


@torch.no_grad()
def fold_scale(sae: SAE, *, scale_in: float, scale_out: float, pre_bias: Float[Tensor, " d_in"] | None = None) -> SAE:
    """The inference form of `sae` in raw units, decoder rows of length 1 (rows of length 0 stay); `sae` is unchanged.

    Args:
        pre_bias: The frozen pre-bias in raw units, if the caller has it: then it is exactly this, not a rounding away.

    Raises:
        SAEError: a scale is not positive, the pre-bias is tied to b_dec and the two scales differ, or the SAE scales
            every token by itself.
    """
    if sae.token_norm != "none":
        raise SAEError(
            f"this SAE normalises every token ({sae.token_norm}), so no one scale can be folded into it and it cannot "
            "be "
            "trained further; train a new SAE beside it (method ssae or direct)"
        )
    if not (scale_in > 0 and scale_out > 0):
        raise SAEError(f"scale_in = {scale_in} and scale_out = {scale_out} must both be above 0; measure them again")
    if sae.pre_bias_is_tied and scale_in != scale_out:
        raise SAEError(
            f"scale_in = {scale_in} differs from scale_out = {scale_out}, but the pre-bias is tied to b_dec, which has "
            "one unit only; use one scale, or build the SAE with pre_bias='none' or a vector"
        )
    folded = sae.inference_form()
    ratio = scale_in / scale_out
    n = ratio * _row_lengths(folded)
    folded.W_enc.copy_(folded.W_enc.double() * n)
    folded.W_dec.copy_(folded.W_dec.double() * (ratio / n)[:, None])
    tensors = folded.tensors()
    folded.set_tensors({name: tensors[name].double() * (n / scale_in) for name in folded.latent_tensors})
    folded.b_dec.copy_(folded.b_dec.double() / scale_out)
    if folded.frozen_pre_bias is not None:
        raw = folded.frozen_pre_bias.double() / scale_in if pre_bias is None else pre_bias
        folded.frozen_pre_bias.copy_(raw)
    return folded


def unfold_scale(sae: SAE, *, scale_in: float, scale_out: float) -> SAE:
    """The inverse of `fold_scale`: the inference form in the units of training, decoder rows of length 1.

    Raises:
        SAEError: as `fold_scale`.
    """
    if not (scale_in > 0 and scale_out > 0):
        raise SAEError(f"scale_in = {scale_in} and scale_out = {scale_out} must both be above 0; measure them again")
    return fold_scale(sae, scale_in=1.0 / scale_in, scale_out=1.0 / scale_out)


def _row_lengths(sae: SAE) -> Float[Tensor, " d_sae"]:
    """What each decoder row is divided by, float64: its length, or 1 where that is 0 or where latents compete."""
    norms = torch.linalg.vector_norm(sae.W_dec.double(), dim=1)
    if sae.file_architecture == "topk":
        return torch.ones_like(norms)
    return torch.where(norms > 0, norms, torch.ones_like(norms))
