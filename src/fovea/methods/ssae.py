"""SSAE: a small SAE rebuilds what g leaves over; the two reconstructions add.

    x --SAE--> x_hat against x - g(x);   evaluation scores g(x) + x_hat

The encoder reads x, not the residual, through g's own (frozen) pre-bias, and the SAE has no output bias: so g and the
SAE together are exactly one wider SAE. With `silence`, part of the rows are general text with target 0.

Source: Drori 2024, "Domain-specific SAEs", method 3; silence: its repository's `control_mixture`, with g attached.
"""

from typing import Literal

import torch
from jaxtyping import Float
from pydantic import Field
from torch import Tensor

from fovea.methods.base import Batch, Method, Setting, need_general
from fovea.sae.architectures import ArchitectureConfig
from fovea.sae.base import SAE


class SSAE(Method):
    """A specialised SAE on the residual of g."""

    kind: Literal["ssae"] = "ssae"
    silence: float = Field(default=0.0, ge=0.0, lt=1.0)
    "Share of the rows that are general text with target 0: teaches the SAE to be silent there."

    @property
    def label(self) -> str:
        return f"ssae_silence{self.silence:g}" if self.silence else "ssae"

    @property
    def reads_general(self) -> bool:
        return True

    @property
    def adds_general(self) -> bool:
        return True

    @property
    def general_share(self) -> float:
        return self.silence

    def start(self, architecture: ArchitectureConfig, setting: Setting) -> SAE:
        """Random weights, g's pre-bias, no output bias."""
        general = need_general(setting, self.kind)
        pre_bias = general.sae.input_bias() * setting.scale_in
        return architecture.build(setting.d_in, generator=setting.generator, pre_bias=pre_bias, output_bias=False)

    def target(self, batch: Batch) -> Float[Tensor, "tokens d_in"]:
        """x - g(x) on the domain, both fp32 before the subtraction; 0 on general rows."""
        assert batch.x_general is not None, "the stream must carry g(x) for a method that reads it"
        residual = batch.x - batch.x_general
        return torch.where(batch.is_domain.to(residual.device)[:, None], residual, 0.0)

    def combine(
        self, x_general: Float[Tensor, "*batch d_in"] | None, x_hat: Float[Tensor, "*batch d_in"]
    ) -> Float[Tensor, "*batch d_in"]:
        assert x_general is not None, "evaluation must carry g(x) for a method that adds to it"
        return x_general + x_hat
