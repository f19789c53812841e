"""Mix: train on D and general text together.

    x from D and from general text, at a ratio  --SAE--> x_hat against x

Source: Anthropic, Circuits Updates September 2024 (oversampling a domain); the post left the comparison open.
"""

from typing import Literal

from pydantic import Field

from fovea.methods.base import Method, Setting, need_general
from fovea.sae.architectures import ArchitectureConfig
from fovea.sae.base import SAE
from fovea.sae.init import start_from_general


class Mix(Method):
    """An SAE on a mixture of domain and general text."""

    kind: Literal["mix"] = "mix"
    domain_share: float = Field(default=0.5, gt=0.0, lt=1.0)
    "Share of the rows that come from D; the rest are general text."
    start_at: Literal["random", "general"] = "random"
    "Start from random weights at the architecture's width, or from g at g's width."

    @property
    def label(self) -> str:
        suffix = "_from_g" if self.start_at == "general" else ""
        return f"mix{self.domain_share:g}{suffix}"

    @property
    def general_share(self) -> float:
        return 1.0 - self.domain_share

    def start(self, architecture: ArchitectureConfig, setting: Setting) -> SAE:
        """Random weights with the bias at the mean of x, or g."""
        if self.start_at == "general":
            return start_from_general(architecture, need_general(setting, self.kind).sae, scale_in=setting.scale_in)
        sae = architecture.build(setting.d_in, generator=setting.generator)
        sae.set_output_bias(setting.mean * setting.scale_in)
        return sae
