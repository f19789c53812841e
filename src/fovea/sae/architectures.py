"""The union of architectures, one line each, and the classes that files hold."""

from collections.abc import Callable, Mapping
from typing import Annotated, Any

from pydantic import Field

from fovea.sae.base import SAE, Weights
from fovea.sae.batch_topk import BatchTopKConfig
from fovea.sae.blocks import ARCHITECTURE, BlocksSAE, read_blocks
from fovea.sae.gated import GatedConfig, GatedSAE
from fovea.sae.jumprelu import JumpReLUConfig, JumpReLUSAE
from fovea.sae.relu import ReLUConfig, ReLUSAE
from fovea.sae.topk import TopKConfig, TopKSAE

ArchitectureConfig = Annotated[
    BatchTopKConfig  # k per token on average over a batch; a threshold at inference
    | TopKConfig  # k per token
    | GatedConfig  # gate and magnitude paths, L1 on the gate
    | ReLUConfig  # L1
    | JumpReLUConfig,  # learned thresholds, L0 set by a target
    Field(discriminator="kind"),
]

FILE_FORMS: Mapping[str, Callable[[Weights, Mapping[str, Any]], SAE]] = {
    "standard": lambda weights, _: ReLUSAE(weights),
    "gated": lambda weights, _: GatedSAE(weights),
    "jumprelu": lambda weights, _: JumpReLUSAE(weights),
    "topk": lambda weights, cfg: TopKSAE(weights, TopKConfig(k=cfg["k"])),
    ARCHITECTURE: lambda weights, cfg: BlocksSAE(
        weights, read_blocks(cfg, weights.W_enc.shape[1], where="a stack of blocks")
    ),
}
"""What `architecture` in cfg.json stands for: weights and the whole cfg to an SAE."""
