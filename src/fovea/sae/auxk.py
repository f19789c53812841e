"""The objective that topk and batch_topk share: mse of the chosen latents, and AuxK for the dead ones.

    code  --> x_hat --> mse against target
    dead  --> e_hat --> AUX_WEIGHT * mse against target - x_hat (detached)

Source: Gao et al. 2024 (arXiv 2406.04093), section A.2. The error is the target's, so an SSAE's dead latents
fit what is left of the residual, not of x.
"""

from collections.abc import Callable
from typing import NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor

from fovea.ranks import Mesh
from fovea.sae import native
from fovea.sae.base import SAE, ComputeDtype, LossTerms, StepResult, StepState
from fovea.sae.encoder import Encoder, known_product
from fovea.sae.exchange import no_code, topk
from fovea.sae.select import Dead, Selection, only_dense, top_of_rows
from fovea.sae.sparse import ByLatent, Parts, SparseCode, dense_reconstruct, entry_pre, join, rebuild, squared_errors
from fovea.sae.terms import mse

DENSE_UP_TO = 6
"AuxK takes dense products while no more than so many times k_aux latents are dead (measured on two CPUs)."

Select = Callable[[Float[Tensor, "tokens d_in"], Encoder, Dead | None], Selection]
"How an architecture chooses latents."


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
    select: Select,
    at: Competition,
    *,
    target: Float[Tensor, "tokens d_in"],
    state: StepState,
    how: Objective,
) -> StepResult:
    """mse and AuxK of one batch."""
    how = how._replace(dense=how.dense or only_dense())
    dead, mesh = state.dead.nonzero().squeeze(1), state.mesh
    ask = _ask(sae, dead, how, mesh)
    with torch.no_grad():
        code, of_dead = select(at.x_centred, at.encoder, ask)
        if mesh.latents.size > 1:
            of_dead = _of_all_dead(of_dead, code, how, k_aux=k_aux_for(sae.d_in), mesh=mesh)
    if how.dense or mesh.latents.size > 1 or not native.usable(target):
        x_hat, error_hat = (_dense_rebuilt if how.dense else _rebuilt)(at, code, of_dead, dead, mesh.once(sae.b_dec))
        x_hat = mesh.whole(x_hat)
        squared = mse(x_hat, target)
        of_error = None if error_hat is None else mse(mesh.whole(error_hat), target - x_hat.detach())
    else:
        x_hat, squared, of_error = _at_once(at, code, of_dead, dead, at_output=(sae.b_dec, target))
    terms = {"mse": squared}
    if of_error is not None:
        terms["auxk"] = how.aux_weight * of_error
    counts = code.counts()
    smallest = code.values.min() if len(code.values) else code.values.new_tensor(float("nan"))
    return StepResult(
        LossTerms(terms),
        fired=counts > 0,
        l0=counts.sum() / code.n_tokens,
        x_hat=x_hat.detach(),
        observed={"smallest_kept": smallest},
    )


def _ask(sae: SAE, dead: Int[Tensor, " d_dead"], how: Objective, mesh: Mesh) -> Dead | None:
    """The k_aux largest positive pre-activations of dead latents on each token rebuild the error.

    Few dead latents are nearly all chosen, so dense products are cheaper; many are not. Ranks with other latents
    compare theirs, so each brings a code.
    """
    if not (how.aux_weight and len(dead)):
        return None
    k_aux = min(k_aux_for(sae.d_in), len(dead))
    as_code = how.dense or mesh.latents.size > 1 or len(dead) > DENSE_UP_TO * k_aux
    return Dead(dead, k_aux if as_code else None)


def _of_all_dead(
    own: SparseCode | Tensor | None, code: SparseCode, how: Objective, *, k_aux: int, mesh: Mesh
) -> SparseCode | None:
    """This rank's part of the k_aux largest of the dead latents of all ranks; None where no rank has any."""
    assert not isinstance(own, Tensor), "asked for as a code"
    if not (how.aux_weight and mesh.latents.any(own is not None)):
        return None
    return topk(no_code(code) if own is None else own, k_aux, mesh.latents)


def k_aux_for(d_in: int) -> int:
    """Dead latents that may rebuild the error of a token."""
    return max(1, d_in // 2)


def _rebuilt(
    at: Competition, code: SparseCode, of_dead: SparseCode | Tensor | None, dead: Tensor, b_dec: Tensor
) -> tuple[Tensor, Tensor | None]:
    """x_hat and e_hat; where both come from codes, from one, so that each weight gradient is gathered once."""
    n = code.n_tokens
    whole = join(code, of_dead) if isinstance(of_dead, SparseCode) else code
    by_latent = ByLatent(whole)
    values = entry_pre(by_latent, at.x_centred, at.parts)
    if isinstance(of_dead, SparseCode):
        both = rebuild(by_latent, values, at.parts.W_dec, b_dec=None)
        return both[:n] + b_dec, both[n:]
    x_hat = rebuild(by_latent, values, at.parts.W_dec, b_dec=b_dec)
    return x_hat, None if of_dead is None else _from_few_dead(at, of_dead, dead)


def _at_once(
    at: Competition,
    code: SparseCode,
    of_dead: SparseCode | Tensor | None,
    dead: Tensor,
    *,
    at_output: tuple[Tensor, Tensor],
) -> tuple[Tensor, Tensor, Tensor | None]:
    """x_hat, its mse and that of e_hat: what `_rebuilt` and `mse` give, in one pass. `at_output`: b_dec and target."""
    b_dec, target = at_output
    by_latent = ByLatent(join(code, of_dead) if isinstance(of_dead, SparseCode) else code)
    values = entry_pre(by_latent, at.x_centred, at.parts)
    squares, x_hat = squared_errors(by_latent, values, at.parts.W_dec, b_dec=b_dec, target=target)
    squared, *of_error = (part.mean() for part in squares.split(len(target)))
    if isinstance(of_dead, Tensor):
        return x_hat, squared, mse(_from_few_dead(at, of_dead, dead), target - x_hat)
    return x_hat, squared, of_error[0] if of_error else None


def _from_few_dead(
    at: Competition, pre: Float[Tensor, "tokens d_dead"], dead: Int[Tensor, " d_dead"]
) -> Float[Tensor, "tokens d_in"]:
    """What dead latents would add to the reconstruction, by dense products with their weights alone."""
    k_aux = k_aux_for(at.x_centred.shape[1])
    kept = pre > 0
    if len(dead) > k_aux:
        kept &= pre >= top_of_rows(pre, k_aux).values.amin(dim=1, keepdim=True)
    W_enc, b_enc = at.parts.W_enc.T.index_select(0, dead).T, at.parts.b_enc.index_select(0, dead)
    latents = torch.where(
        kept, known_product(pre, at.x_centred, W_enc=W_enc, b_enc=b_enc, pre_bias=at.parts.pre_bias), 0.0
    )
    return latents @ at.parts.W_dec.index_select(0, dead)


def _dense_rebuilt(
    at: Competition, code: SparseCode, of_dead: SparseCode | Tensor | None, dead: Tensor, b_dec: Tensor
) -> tuple[Tensor, Tensor | None]:
    """The reference of `_rebuilt`."""
    del dead
    x_hat = dense_reconstruct(code, at.x_centred, at.parts) + b_dec
    if of_dead is None:
        return x_hat, None
    assert isinstance(of_dead, SparseCode)
    return x_hat, dense_reconstruct(of_dead, at.x_centred, at.parts)
