"""The objective that topk and batch_topk share: mse of the chosen latents, and AuxK for the dead ones.

    code  --> x_hat --> mse against target
    dead  --> e_hat --> AUX_WEIGHT * mse against target - x_hat (detached)

Source: Gao et al. 2024 (arXiv 2406.04093), section A.2. The error is the target's, so an SSAE's dead latents
fit what is left of the residual, not of x.
"""

from typing import NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor

from fovea.ranks import Ranks
from fovea.sae.base import SAE, ComputeDtype, LossTerms, StepResult, StepState
from fovea.sae.encoder import Encoder, trained_product
from fovea.sae.exchange import no_code, topk
from fovea.sae.sparse import Parts, SparseCode, dense_reconstruct, reconstruct, select_dead
from fovea.sae.terms import mse

DENSE_UP_TO = 6
"AuxK takes dense products while no more than so many times k_aux latents are dead (measured on two CPUs)."


class Competition(NamedTuple):
    """The encoder side of an SAE whose latents compete, ready for selection."""

    x_centred: Float[Tensor, "tokens d_in"]
    encoder: Encoder
    parts: Parts


def competition(
    sae: SAE, b_enc: Float[Tensor, " d_sae"], x: Float[Tensor, "tokens d_in"], *, compute_dtype: ComputeDtype
) -> Competition:
    """What selection and the loss of one batch read."""
    encoder = Encoder(sae.W_enc.detach(), b_enc.detach(), compute_dtype)
    with torch.no_grad():
        x_centred = sae.centred(x)
    return Competition(x_centred, encoder, Parts(sae.W_enc, b_enc, sae.W_dec, sae.pre_bias))


class Objective(NamedTuple):
    """Settings of the loss."""

    aux_weight: float
    "Weight of AuxK; 0 leaves it out."
    dense: bool = False
    "Take the slow reference path."


def step(
    sae: SAE,
    code: SparseCode,
    at: Competition,
    *,
    target: Float[Tensor, "tokens d_in"],
    state: StepState,
    how: Objective,
) -> StepResult:
    """mse and AuxK of one batch, given which latents are active."""
    rebuild = dense_reconstruct if how.dense else reconstruct
    x_hat = state.mesh.whole(rebuild(code, at.x_centred, at.parts)) + state.mesh.once(sae.b_dec)
    terms = {"mse": mse(x_hat, target)}
    dead = state.dead.nonzero().squeeze(1)
    if how.aux_weight and state.mesh.latents.any(len(dead) > 0):
        k_aux = max(1, sae.d_in // 2)
        apart = state.mesh.latents
        error_hat = _from_dead(at, dead, k_aux, how) if apart.size == 1 else _from_all_dead(at, dead, k_aux, apart)
        terms["auxk"] = how.aux_weight * mse(state.mesh.whole(error_hat), (target - x_hat).detach())
    counts = code.counts()
    smallest = code.values.min() if len(code.values) else code.values.new_tensor(float("nan"))
    return StepResult(
        LossTerms(terms),
        fired=counts > 0,
        l0=counts.sum() / code.n_tokens,
        x_hat=x_hat.detach(),
        observed={"smallest_kept": smallest},
    )


def _from_all_dead(
    at: Competition, dead: Int[Tensor, " d_dead"], k_aux: int, latents: Ranks
) -> Float[Tensor, "tokens d_in"]:
    """This rank's part of what the k_aux largest of the dead latents of all ranks would add."""

    def select(n: int) -> SparseCode:
        if not len(dead):
            return no_code(len(at.x_centred), at.encoder.W.shape[1])
        return select_dead(at.x_centred, at.encoder, dead, k_aux=n)

    code = topk(select, k_aux, latents, d_own=len(dead))
    return reconstruct(code, at.x_centred, at.parts)


def _from_dead(
    at: Competition, dead: Int[Tensor, " d_dead"], k_aux: int, how: Objective
) -> Float[Tensor, "tokens d_in"]:
    """What the k_aux largest positive pre-activations of dead latents on each token would add to the reconstruction.

    Few dead latents are nearly all chosen, so dense products are cheaper; many are not.
    """
    if how.dense or len(dead) > DENSE_UP_TO * k_aux:
        code = select_dead(at.x_centred, at.encoder, dead, k_aux=min(k_aux, len(dead)))
        return (dense_reconstruct if how.dense else reconstruct)(code, at.x_centred, at.parts)
    W_enc, b_enc = at.parts.W_enc.index_select(1, dead), at.parts.b_enc[dead]
    dtype = at.encoder.compute_dtype
    latents = trained_product(at.x_centred, W_enc, b_enc, pre_bias=at.parts.pre_bias, compute_dtype=dtype).relu()
    if len(dead) > k_aux:
        cut = latents.detach().topk(k_aux, dim=1, sorted=False).values.amin(dim=1, keepdim=True)
        latents = torch.where(latents >= cut, latents, 0.0)
    return latents @ at.parts.W_dec.index_select(0, dead)
