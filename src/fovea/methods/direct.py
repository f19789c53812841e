"""Direct: throw g away and train a small SAE on D.

    x --SAE--> x_hat against x

Source: Drori 2024, "Domain-specific SAEs", method 2.
"""

from typing import Literal

from fovea.methods.base import Method, Setting
from fovea.sae.architectures import ArchitectureConfig
from fovea.sae.base import SAE


class Direct(Method):
    """A small SAE from scratch on the domain."""

    kind: Literal["direct"] = "direct"

    def start(self, architecture: ArchitectureConfig, setting: Setting) -> SAE:
        """Random weights; the bias starts at the mean of x."""
        sae = architecture.build(setting.d_in, generator=setting.generator)
        sae.set_output_bias(setting.mean * setting.scale_in)
        return sae
