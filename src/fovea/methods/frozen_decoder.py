"""Frozen decoder: `direct` with random decoder directions that training may not move. A control, not a contender.

An SAE worth having must beat it: random dictionaries with a trained encoder come close on many metrics.

Source: arXiv 2602.14111 (frozen random decoders as a sanity check).
"""

from typing import Literal

from fovea.methods.base import Method, Setting
from fovea.sae.architectures import ArchitectureConfig
from fovea.sae.base import SAE


class FrozenDecoder(Method):
    """The control: encoder and biases learn, the decoder stays random."""

    kind: Literal["frozen_decoder"] = "frozen_decoder"

    @property
    def family(self) -> str:
        return "control"

    @property
    def frozen(self) -> frozenset[str]:
        return frozenset({"W_dec"})

    def start(self, architecture: ArchitectureConfig, setting: Setting) -> SAE:
        """Random weights; the bias starts at the mean of x."""
        sae = architecture.build(setting.d_in, generator=setting.generator)
        sae.set_output_bias(setting.mean * setting.scale_in)
        return sae
