"""Dictionaries that know nothing: every comparison carries them, because a score means little that they reach too.

    random:  decoder rows uniform on the sphere            moment:  decoder rows from a Gaussian with x's covariance
    W_enc = W_dec^T, b_dec = mean x, pre-bias tied, one threshold for the wanted mean L0, one least-squares output gain

No gradient is taken. What is fitted on the calibration rows: the mean, the covariance (moment), threshold and gain.
"""

from typing import Literal

import numpy as np
import torch
from jaxtyping import Float, Float32
from torch import Tensor

from fovea.errors import ConfigError
from fovea.eval.novelty import gaussian_like, unit_rows
from fovea.sae.base import Weights
from fovea.sae.jumprelu import JumpReLUSAE

ControlKind = Literal["random", "moment"]
_ROWS = 1024
"Rows at a time where sums over latents are taken."


def control_name(kind: ControlKind, k: int | float) -> str:
    """Job name of a control, like control-random-k40."""
    return f"control-{kind}-k{k:g}"


def control(
    kind: ControlKind, x: Float[Tensor, "tokens d_in"], *, d_sae: int, k: int | float, generator: torch.Generator
) -> JumpReLUSAE:
    """A control dictionary whose mean L0 on the calibration rows `x` is k (to within ties and rounding).

    Raises:
        ConfigError: no threshold above 0 gives that L0: a direction is positive on about half the tokens.
    """
    x = x.float().cpu()
    b_dec = x.double().mean(dim=0).float()
    W_dec = directions(kind, x, d_sae=d_sae, generator=generator)
    sae = JumpReLUSAE(Weights(W_dec.T, W_dec, b_dec, "tied")).requires_grad_(False)
    sae.set_tensors({"threshold": torch.full((d_sae,), threshold_for(sae, x, k=k))})
    sae.W_dec.mul_(output_gain(sae, x))
    return sae


def directions(
    kind: ControlKind, x: Float[Tensor, "tokens d_in"], *, d_sae: int, generator: torch.Generator
) -> Float32[Tensor, "d_sae d_in"]:
    """d_sae unit rows, drawn without looking at x ("random") or from its covariance ("moment")."""
    if kind == "random":
        return unit_rows(torch.randn(d_sae, x.shape[1], generator=generator))
    return unit_rows(gaussian_like(x - x.mean(dim=0), n_rows=d_sae, generator=generator))


def threshold_for(sae: JumpReLUSAE, x: Float[Tensor, "tokens d_in"], *, k: int | float) -> float:
    """The threshold that round(k x tokens) of all pre-activations exceed: halfway between two neighbouring ones.

    Raises:
        ConfigError: that threshold would not be above 0.
    """
    pre = (sae.centred(x) @ sae.W_enc + sae.b_enc).flatten().numpy()
    n_firing, n_positive = round(k * len(x)), int((pre > 0).sum())
    if not 0 < n_firing < n_positive:
        raise ConfigError(
            f"controls.k = {k:g}, but one threshold gives these {sae.d_sae} latents a mean L0 above 0 and below "
            f"{n_positive / len(x):.4g}; choose k in that range or raise controls.expansion"
        )
    ranks = [len(pre) - n_firing - 1, len(pre) - n_firing]
    silent, firing = np.partition(pre, ranks)[ranks]
    middle = np.float32((np.float64(silent) + np.float64(firing)) / 2)
    return float(middle if middle < firing else silent)


def output_gain(sae: JumpReLUSAE, x: Float[Tensor, "tokens d_in"]) -> float:
    """The a that minimises |x - b_dec - a (x_hat - b_dec)|^2 summed over the rows."""
    along, length = 0.0, 0.0
    for rows in x.split(_ROWS):
        made = (sae.encode(rows) @ sae.W_dec).double()
        along += (made * sae.centred(rows).double()).sum().item()
        length += made.square().sum().item()
    return along / length
