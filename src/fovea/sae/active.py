"""The latents above a floor of their own as a differentiable code: how relu, gated and jumprelu compute when few fire.

x --(pre_bias, encoder)--> pre --(above floor)--> code, pre of its entries --(the architecture)--> values --> x_hat
"""

from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

from fovea.sae.base import SAE, ComputeDtype
from fovea.sae.encoder import Encoder
from fovea.sae.select import select_above
from fovea.sae.sparse import ByLatent, Parts, SparseCode, entry_pre, per_entry, rebuild


class Active(NamedTuple):
    """Entries above the floor, and what an objective does with them."""

    x_centred: Float[Tensor, "tokens d_in"]
    code: SparseCode
    pre: Float[Tensor, " entries"]
    "With gradients for the encoder and a tied pre-bias."
    by_latent: ByLatent

    def of_latent(self, vector: Float[Tensor, " d_sae"]) -> Float[Tensor, " entries"]:
        """What `vector` holds for the latent of each entry."""
        return per_entry(vector, self.by_latent)

    def rebuild(
        self, values: Float[Tensor, " entries"], W_dec: Float[Tensor, "d_sae d_in"], b_dec: Float[Tensor, " d_in"]
    ) -> Float[Tensor, "tokens d_in"]:
        """The reconstruction that these values of the entries give."""
        return rebuild(self.by_latent, values, W_dec, b_dec=b_dec)

    def mean_sum(self, values: Float[Tensor, " entries"]) -> Float[Tensor, ""]:
        """Sum of values, mean over tokens."""
        return values.sum() / self.code.n_tokens

    def n_fired(self, values: Float[Tensor, " entries"]) -> Float[Tensor, " d_sae"]:
        """Tokens on which the value of each latent is above zero."""
        return self.by_latent.sums((values.detach() > 0).float())


def active(
    sae: SAE,
    x: Float[Tensor, "tokens d_in"],
    b_enc: Float[Tensor, " d_sae"],
    *,
    floor: Float[Tensor, " d_sae"],
    compute_dtype: ComputeDtype,
) -> Active | None:
    """The entries with (x - pre_bias) W_enc + b_enc above `floor`; None where they are too many to gain from."""
    with torch.no_grad():
        x_centred = sae.centred(x)
        code = select_above(x_centred, Encoder(sae.W_enc.detach(), b_enc.detach(), compute_dtype), floor.detach())
    return None if code is None else differentiable(sae, code, x_centred=x_centred, b_enc=b_enc)


def differentiable(
    sae: SAE, code: SparseCode, *, x_centred: Float[Tensor, "tokens d_in"], b_enc: Float[Tensor, " d_sae"]
) -> Active:
    """A code of pre-activations with their gradients."""
    by_latent = ByLatent(code)
    parts = Parts(sae.W_enc, b_enc, sae.W_dec, sae.pre_bias)
    return Active(x_centred, code, entry_pre(by_latent, x_centred, parts), by_latent)
