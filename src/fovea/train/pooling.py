"""A step's results put together over the ranks, in one exchange: [gradients, fired, terms, total, l0] summed as one.

Where latents are spread, that exchange is among the ranks with the same latents; a second, small one, [gradient of
b_dec, l0], is among those with the same tokens.

Every term is a mean over tokens, and every rank has equally many, so means of the ranks' gradients are the gradient.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn

from fovea.ranks import Mesh, Ranks
from fovea.sae.base import StepResult


class Pooled(NamedTuple):
    """What one step came to on all ranks; the gradients are in the parameters."""

    numbers: Float[Tensor, " terms_plus_2"]
    "Each term, their total and the L0, in one tensor: one transfer."
    fired: Bool[Tensor, " d_sae"]
    observed: Mapping[str, Tensor]


def pool_later(
    result: StepResult,
    total: Float[Tensor, ""],
    *,
    parameters: Sequence[nn.Parameter],
    shared: Sequence[nn.Parameter],
    mesh: Mesh,
) -> Callable[[], Pooled]:
    """Start the exchange; what comes back waits for it, puts the mean gradients in place and gives the rest.

    Args:
        total: The sum of the result's terms, already differentiated.
        shared: Those of the parameters that ranks with other latents hold too.
    """
    numbers = torch.stack([*result.terms.terms.values(), total, result.l0]).detach()
    if mesh.world.size == 1:
        whole = Pooled(numbers, result.fired, result.observed)
        return lambda: whole
    for parameter in shared if mesh.latents.size > 1 else ():
        if parameter.grad is None:  # another rank trains it
            parameter.grad = torch.zeros_like(parameter)
    grads = [_rows(parameter.grad, parameter) for parameter in parameters if parameter.grad is not None]
    parts = [*grads, result.fired, numbers]
    summed = mesh.tokens.sum_later(torch.cat([part.reshape(-1).float() for part in parts]))
    observed = {name: _smallest(value, mesh) for name, value in result.observed.items()}

    def wait() -> Pooled:
        *means, fired, numbers = summed().div_(mesh.tokens.size).split([part.numel() for part in parts])
        for grad, mean in zip(grads, means, strict=True):
            grad.copy_(mean.view_as(grad))
        l0 = _over_latents(numbers[-1:], [p.grad for p in shared if p.grad is not None], mesh.latents)
        return Pooled(torch.cat([numbers[:-1], l0]), fired > 0, observed)

    return wait


def _rows(grad: Tensor, parameter: nn.Parameter) -> Tensor:
    """A gradient as its parameter lies in memory, which is alike on all ranks: W_enc by latent."""
    return grad.T if parameter.dim() == 2 and not parameter.is_contiguous() else grad


def _over_latents(l0: Tensor, grads: Sequence[Tensor], latents: Ranks) -> Tensor:
    """l0 summed over the ranks with other latents; so, in place, are the gradients of what they hold in common."""
    if latents.size == 1:
        return l0
    summed = latents.sum(torch.cat([l0, *(grad.flatten() for grad in grads)]))
    l0, *wholes = summed.split([1, *(grad.numel() for grad in grads)])
    for grad, whole in zip(grads, wholes, strict=True):
        grad.copy_(whole.view_as(grad))
    return l0


def _smallest(value: Float[Tensor, ""], mesh: Mesh) -> Float[Tensor, ""]:
    """The smallest over all ranks; NaN where none has one."""
    least = mesh.world.least(value.detach().nan_to_num(nan=torch.inf)[None])[0]
    return torch.where(least.isinf(), torch.nan, least)
