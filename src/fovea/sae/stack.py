"""The general SAE and a domain SAE on its residual as one wider SAE, exactly.

    W_enc = [W_g | W_s]   W_dec = [D_g ; D_s]   b_dec = c_g + c_s   threshold = [t_g | t_s]
    b_enc = b_j + (P - p_j) W_j for block j, where P is the pre-bias of the whole

Encoders with one rule per latent (relu, jumprelu, thresholded batch_topk, gated) become one jumprelu SAE, which every
reader of the SAELens layout knows. Where latents compete (topk), each block keeps its k: fovea.sae.blocks. Where both
subtract the same pre-bias, P is that and the biases are copied; otherwise the shift is summed in float64.

Source: the algebra of concatenated encoders.
"""

from typing import NamedTuple

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from fovea.errors import SAEError
from fovea.sae.base import SAE, BlockRule, PreBias, Weights
from fovea.sae.blocks import BlocksSAE
from fovea.sae.jumprelu import JumpReLUSAE
from fovea.sae.token_norm import inward

MAX_RELATIVE_ERROR = 1e-5
"Largest |difference| / |reconstruction| of a token."

ROUNDING = 1e-5
"A pre-activation this close to its threshold, relative to the product it is the sum of, may round to either side."

ROWS_AT_ONCE = 256
"Tokens whose pre-activations are held in float64 at a time."


class StackCheck(NamedTuple):
    """What a comparison of a stack with its two blocks found."""

    n_tokens: int
    max_relative_error: float
    n_flips: int
    "Latents that fire in one and not in the other, and not for rounding."
    n_ties: int
    "Latents that do so within rounding of their threshold; their tokens are left out of the error."


@torch.no_grad()
def stack(general: SAE, domain: SAE) -> JumpReLUSAE | BlocksSAE:
    """One SAE whose reconstruction is general(x) + domain(x); general's latents come first. Both in raw units.

    Raises:
        SAEError: the widths differ, or one of them normalises every token.
    """
    for sae in (general, domain):
        if sae.token_norm != "none":
            raise SAEError(
                f"an SAE that normalises every token ({sae.token_norm}) cannot be stacked: the scale of its output "
                "differs from token to token; export the two SAEs apart"
            )
    if general.d_in != domain.d_in:
        raise SAEError(
            f"the general SAE reads width {general.d_in} and the domain SAE width {domain.d_in}; "
            "stack SAEs of the same hook point"
        )
    rules = (general.block_rule(), domain.block_rule())
    b_dec = general.b_dec.detach() + domain.b_dec.detach()
    pre_bias = _shared_pre_bias(general, domain, b_dec)
    weights = Weights(
        torch.cat([rule.W_enc for rule in rules], dim=1),
        torch.cat([general.W_dec.detach(), domain.W_dec.detach()]),
        b_dec,
        pre_bias,
    )
    blocks = rules[0].blocks + rules[1].blocks
    competes = any(block.k is not None for block in blocks)
    stacked = BlocksSAE(weights, blocks) if competes else JumpReLUSAE(weights)
    moved = [
        _shifted(rule.b_enc, rule.W_enc, stacked.input_bias(), sae.input_bias())
        for rule, sae in zip(rules, (general, domain), strict=True)
    ]
    stacked.set_tensors({"b_enc": torch.cat(moved), "threshold": torch.cat([rule.threshold for rule in rules])})
    return stacked.requires_grad_(False)


@torch.no_grad()
def verify_stack(general: SAE, domain: SAE, stacked: SAE, *, probe_x: Float[Tensor, "tokens d_in"]) -> StackCheck:
    """How a stack and its blocks differ on `probe_x`.

    Raises:
        SAEError: the relative error of a token exceeds MAX_RELATIVE_ERROR, or a latent flips for more than rounding.
    """
    apart = torch.cat([general.encode(probe_x), domain.encode(probe_x)], dim=1)
    together = stacked.encode(probe_x)
    differ = (apart > 0) != (together > 0)
    ties = within_rounding(stacked, probe_x, differ)
    n_flips = int((differ & ~ties).sum())
    y, y_hat = general(probe_x) + domain(probe_x), stacked(probe_x)
    clean = ~differ.any(dim=1)
    relative = (y_hat - y).norm(dim=1) / y.norm(dim=1).clamp_min(1e-30)
    worst = float(relative[clean].max()) if bool(clean.any()) else 0.0
    check = StackCheck(len(probe_x), worst, n_flips, int(ties.sum()))
    if n_flips or not worst <= MAX_RELATIVE_ERROR:
        raise SAEError(
            f"the stack is not the sum of its blocks: relative error {worst:.1e} (allowed {MAX_RELATIVE_ERROR:.0e}), "
            f"{n_flips} flipped latents (allowed 0) on {len(probe_x)} tokens; check that both are in raw units of the "
            "same hook point"
        )
    return check


def _shared_pre_bias(general: SAE, domain: SAE, b_dec: Tensor) -> PreBias:
    """The pre-bias of the whole: the blocks' own where they agree, else the one that moves general's biases least."""
    ours, theirs = general.input_bias(), domain.input_bias()
    if torch.equal(ours, b_dec) and (general.pre_bias_is_tied or torch.equal(ours, theirs)):
        return "tied" if bool(ours.any()) else "none"
    if torch.equal(ours, theirs):
        return ours if bool(ours.any()) else "none"
    if general.pre_bias_is_tied:
        return "tied"
    return ours if bool(ours.any()) else "none"


def _shifted(b_enc: Tensor, W_enc: Tensor, new: Tensor, old: Tensor) -> Tensor:
    """Biases for pre-bias `new` that give the pre-activations which `b_enc` gives for `old`."""
    if torch.equal(new, old):
        return b_enc
    return (b_enc.double() + (new.double() - old.double()) @ W_enc.double()).float()


def within_rounding(
    stacked: SAE, x: Float[Tensor, "tokens d_in"], differ: Bool[Tensor, "tokens d_sae"]
) -> Bool[Tensor, "tokens d_sae"]:
    """Which of the latents in `differ` have a pre-activation that float32 cannot tell from what decides on it."""
    ties = torch.zeros_like(differ)
    if not bool(differ.any()):
        return ties
    tokens, latents = differ.nonzero(as_tuple=True)
    rule = stacked.block_rule()
    centred = inward(x[tokens], stacked.token_norm).double() - stacked.input_bias().double()
    columns, b_enc = rule.W_enc[:, latents].T.double(), rule.b_enc[latents].double()
    edge = _edges(stacked, rule, x, differ)
    gap = ((centred * columns).sum(dim=1) + b_enc - edge).abs()
    scale = centred.norm(dim=1) * columns.norm(dim=1) + b_enc.abs() + edge
    ties[tokens, latents] = gap <= ROUNDING * scale
    return ties


def _edges(stacked: SAE, rule: BlockRule, x: Tensor, differ: Tensor) -> Float[Tensor, " differing"]:
    """What each differing latent must exceed: its threshold, or midway between the last that fires and the next."""
    tokens, latents = differ.nonzero(as_tuple=True)
    edges = rule.threshold[latents].double().clamp_min(0.0)
    start = 0
    for block in rule.blocks:
        stop = start + block.size
        own = (latents >= start) & (latents < stop)
        if block.k is not None and bool(own.any()):
            which, place = tokens[own].unique(return_inverse=True)
            parts = [_cut(stacked, rule, x[some], slice(start, stop), block.k) for some in which.split(ROWS_AT_ONCE)]
            edges[own] = torch.cat(parts)[place]
        start = stop
    return edges


def _cut(stacked: SAE, rule: BlockRule, x: Tensor, latents: slice, k: int) -> Float[Tensor, " tokens"]:
    """Midway between the k-th and the next pre-activation of a block, 0 where that is lower."""
    centred = inward(x, stacked.token_norm).double() - stacked.input_bias().double()
    pre = centred @ rule.W_enc[:, latents].double() + rule.b_enc[latents].double()
    top = pre.topk(min(k + 1, pre.shape[1]), dim=1).values
    lowest = top[:, -2:].mean(dim=1) if top.shape[1] > k else torch.zeros(len(x), dtype=pre.dtype)
    return lowest.clamp_min(0.0)
