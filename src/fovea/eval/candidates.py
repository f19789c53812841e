"""What is patched into the lm: a candidate turns activations into a reconstruction and says how many latents it used.

EvalBatch(x, g(x) at most once) --candidate.reconstruct--> Reconstruction(x_hat, l0_general, l0_domain)
"""

from collections.abc import Callable
from functools import cached_property
from typing import NamedTuple, Protocol, runtime_checkable

import torch
from jaxtyping import Float, Int64
from torch import Tensor

GENERAL, ZERO, MEAN = "g", "zero", "mean"
"Names of the candidates that every evaluation holds: g alone (where there is a g), zero ablation, mean ablation."


class Reconstruction(NamedTuple):
    """x_hat and the number of active latents (above zero) per token, by block."""

    x_hat: Float[Tensor, "tokens d_in"]
    l0_general: Int64[Tensor, " tokens"]
    l0_domain: Int64[Tensor, " tokens"]


class EvalBatch:
    """Kept activations of one batch, in fp32, with g's reconstruction of them computed when first asked for."""

    def __init__(
        self, x: Float[Tensor, "tokens d_in"], reconstruct_general: Callable[[Tensor], Reconstruction] | None
    ) -> None:
        self.x = x
        self._reconstruct_general = reconstruct_general

    @cached_property
    def general(self) -> Reconstruction:
        """What g makes of x; shared by all candidates."""
        assert self._reconstruct_general is not None, "a candidate reads g(x), but the evaluation has no general SAE"
        return self._reconstruct_general(self.x)


@runtime_checkable
class Candidate(Protocol):
    """A named way to rebuild x."""

    @property
    def name(self) -> str:
        """The job's name, unique in an evaluation."""
        ...

    def reconstruct(self, batch: EvalBatch) -> Reconstruction:
        """The reconstruction that replaces x, row by row: a row's result does not depend on the others."""
        ...


@runtime_checkable
class Dictionary(Protocol):
    """The part of an SAE that evaluation needs."""

    def encode(self, x: Float[Tensor, "tokens d_in"]) -> Float[Tensor, "tokens d_sae"]:
        """Latents in inference form; a latent is active where it is above zero."""
        ...

    def decode(self, latents: Float[Tensor, "tokens d_sae"]) -> Float[Tensor, "tokens d_in"]:
        """x_hat."""
        ...


def n_active(latents: Float[Tensor, "tokens d_sae"]) -> Int64[Tensor, " tokens"]:
    """Number of latents above zero in each row; exact zeros are never counted."""
    return (latents > 0).sum(dim=-1)


def general_reconstruction(sae: Dictionary) -> Callable[[Tensor], Reconstruction]:
    """`sae` as g: its active latents count as the general block."""

    def reconstruct(x: Float[Tensor, "tokens d_in"]) -> Reconstruction:
        latents = sae.encode(x)
        l0 = n_active(latents)
        return Reconstruction(sae.decode(latents), l0, torch.zeros_like(l0))

    return reconstruct


class GeneralAlone:
    """g(x)."""

    name = GENERAL

    def reconstruct(self, batch: EvalBatch) -> Reconstruction:
        return batch.general


class Ablation:
    """One constant vector in place of every activation: zero ablation or mean ablation."""

    def __init__(self, name: str, value: Float[Tensor, " d_in"]) -> None:
        self.name, self.value = name, value

    def reconstruct(self, batch: EvalBatch) -> Reconstruction:
        none = torch.zeros(len(batch.x), dtype=torch.int64, device=batch.x.device)
        return Reconstruction(self.value.to(batch.x).expand_as(batch.x), none, none)


class Alone:
    """S(x): an SAE that rebuilds x by itself."""

    def __init__(self, name: str, sae: Dictionary) -> None:
        self.name, self.sae = name, sae

    def reconstruct(self, batch: EvalBatch) -> Reconstruction:
        latents = self.sae.encode(batch.x)
        l0 = n_active(latents)
        return Reconstruction(self.sae.decode(latents), torch.zeros_like(l0), l0)


@runtime_checkable
class Combination(Protocol):
    """The part of a method that evaluation needs (fovea.methods.base.Method)."""

    @property
    def adds_general(self) -> bool:
        """True if g's latents are active next to the SAE's own, so that L0 is their sum."""
        ...

    def combine(
        self, x_general: Float[Tensor, "tokens d_in"] | None, x_hat: Float[Tensor, "tokens d_in"]
    ) -> Float[Tensor, "tokens d_in"]:
        """The reconstruction of x that evaluation scores."""
        ...


class Trained:
    """What a method makes of its SAE and g: S(x), g(x) + S(x), ..."""

    def __init__(self, name: str, sae: Dictionary, method: Combination) -> None:
        self.name, self.sae, self.method = name, sae, method

    def reconstruct(self, batch: EvalBatch) -> Reconstruction:
        latents = self.sae.encode(batch.x)
        l0 = n_active(latents)
        adds = self.method.adds_general
        x_hat = self.method.combine(batch.general.x_hat if adds else None, self.sae.decode(latents))
        return Reconstruction(x_hat, batch.general.l0_general if adds else torch.zeros_like(l0), l0)
