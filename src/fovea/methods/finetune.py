"""Finetune: go on training g itself, on D only.

    x --SAE, started as g--> x_hat against x

Source: Drori 2024, "Domain-specific SAEs", method 1 (learning rate 1e-4 there, no sparsity warm-up). Weights are
fp32 here: in bf16 a step of that size rounds away, which is a likely reason why the post saw encoders stand still.
"""

from typing import Literal

from pydantic import Field

from fovea.methods.base import Method, Setting, need_general
from fovea.sae.architectures import ArchitectureConfig
from fovea.sae.base import SAE
from fovea.sae.init import start_from_general

_PARAMETERS = {
    "encoder": {"W_enc"},
    "decoder": {"W_dec"},
    "biases": {"b_enc", "b_dec", "b_gate", "b_mag", "r_mag", "scaled_threshold"},
}


class Finetune(Method):
    """The general SAE, trained further on the domain."""

    kind: Literal["finetune"] = "finetune"
    freeze: tuple[Literal["encoder", "decoder", "biases"], ...] = Field(default=(), max_length=2)
    "Parts of g that keep their values; not all three, which would leave nothing to train."

    @property
    def label(self) -> str:
        return "_frozen_".join(["finetune", *self.freeze]) if self.freeze else "finetune"

    @property
    def frozen(self) -> frozenset[str]:
        return frozenset().union(*(_PARAMETERS[part] for part in self.freeze))

    def start(self, architecture: ArchitectureConfig, setting: Setting) -> SAE:
        """g in the training form of `architecture`; the width is g's."""
        general = need_general(setting, self.kind)
        return start_from_general(architecture, general.sae, scale_in=setting.scale_in)
