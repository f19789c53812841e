"""The latents of one SAE spread over several ranks: which part of each weight is whose.

    W_enc [d_in d_sae], W_dec [d_sae d_in], biases and thresholds [d_sae]  --cut along the latents--> a rank's own
    b_dec [d_in], a frozen pre-bias, running averages                      --held whole by every rank

A rank's part is an SAE of its own with fewer latents, and so is trained; the loss adds the parts up (fovea.ranks.Mesh).
"""

import copy

import torch
from torch import Tensor, nn

from fovea.errors import ConfigError
from fovea.ranks import Ranks
from fovea.sae.base import SAE

_WHOLE = frozenset({"b_dec", "frozen_pre_bias", "threshold_sum", "threshold_weight"})


def latent_axis(name: str) -> int | None:
    """The axis of a weight or buffer of an SAE that runs over latents; None if it has none."""
    return None if name in _WHOLE else int(name == "W_enc")


def own_part(tensor: Tensor, axis: int | None, latents: Ranks) -> Tensor:
    """This rank's part of a whole tensor."""
    if axis is None or latents.size == 1:
        return tensor
    return tensor.chunk(latents.size, dim=axis)[latents.rank]


def joined(part: Tensor, axis: int | None, latents: Ranks) -> Tensor:
    """The whole tensor; every rank must ask."""
    return part if axis is None or latents.size == 1 else torch.cat(list(latents.gather(part)), dim=axis)


def keep_latents(sae: SAE, latents: Ranks) -> None:
    """Cut an SAE down to this rank's latents, in place.

    Raises:
        ConfigError: the ranks do not divide its width.
    """
    if sae.d_sae % latents.size:
        raise ConfigError(
            f"train.latent_shards = {latents.size} does not divide an SAE of {sae.d_sae} latents; change its width"
        )
    if latents.size > 1:
        _resize(sae, {name: own_part(p.detach(), latent_axis(name), latents) for name, p in sae.named_parameters()})


def with_all_latents(sae: SAE, latents: Ranks) -> SAE:
    """An SAE with the latents of all ranks; every rank must ask."""
    if latents.size == 1:
        return sae
    whole = copy.deepcopy(sae)
    _resize(whole, {name: joined(p.detach(), latent_axis(name), latents) for name, p in sae.named_parameters()})
    return whole


def _resize(sae: SAE, tensors: dict[str, Tensor]) -> None:
    for name, tensor in tensors.items():
        is_trained = sae.get_parameter(name).requires_grad
        latent_major = tensor.T.clone(memory_format=torch.contiguous_format).T if name == "W_enc" else tensor.clone()
        sae.register_parameter(name, nn.Parameter(latent_major, is_trained))
    sae.d_sae = sae.W_enc.shape[1]
