"""TopK: the k largest pre-activations of each token fire.

    x --(- pre_bias, W_enc, b_enc)--> pre --(ReLU, keep k largest)--> latents --(W_dec, b_dec)--> x_hat

Source: Gao et al. 2024 (arXiv 2406.04093), sections 2.2-2.3, AuxK in A.2. Decoder rows stay at length 1.
"""

import copy
from functools import partial
from typing import Any, ClassVar, Literal

import torch
from jaxtyping import Float
from pydantic import NonNegativeFloat, PositiveInt
from torch import Tensor, nn

from fovea.errors import ConfigError, SAEError
from fovea.ranks import ALONE_MESH, Mesh
from fovea.sae.auxk import Objective, competition, step
from fovea.sae.base import SAE, Block, BlockRule, Elementwise, SAEConfig, StepResult, StepState, Weights
from fovea.sae.encoder import Encoder
from fovea.sae.exchange import topk
from fovea.sae.select import Dead, Selection, select_topk
from fovea.sae.terms import AUX_WEIGHT


class TopKConfig(SAEConfig):
    """Settings of a TopK SAE."""

    starts_from: ClassVar[tuple[str, ...]] = ("topk", "jumprelu", "standard")

    kind: Literal["topk"] = "topk"
    k: PositiveInt
    "Latents that may fire per token."
    aux_weight: NonNegativeFloat = AUX_WEIGHT
    "Weight of AuxK, which revives dead latents."

    @property
    def label(self) -> str:
        """Like k16."""
        return f"k{self.k}"

    def from_weights(self, weights: Weights) -> "TopKSAE":
        """A TopK SAE with these weights."""
        return TopKSAE(weights, self)


class TopKSAE(SAE):
    """Sparse autoencoder whose k largest positive pre-activations fire on each token.

    Raises:
        ConfigError: k exceeds the number of latents.
    """

    file_architecture = "topk"
    latent_tensors = ("b_enc",)

    def __init__(self, weights: Weights, config: TopKConfig) -> None:
        super().__init__(weights, unit_decoder=True)
        check_k(config.k, self.d_sae)
        self.config, self.k = config, config.k
        self.b_enc = nn.Parameter(self.W_enc.new_zeros(self.d_sae))

    def encode(self, x: Float[Tensor, "*batch {self.d_in}"]) -> Float[Tensor, "*batch {self.d_sae}"]:
        """Latents of x: at most k above zero in each row."""
        pre = self.centred(x) @ self.W_enc + self.b_enc
        top = pre.topk(self.k, dim=-1)
        return torch.zeros_like(pre).scatter(-1, top.indices, top.values.relu())

    def loss(
        self, x: Float[Tensor, "tokens {self.d_in}"], target: Float[Tensor, "tokens {self.d_in}"], state: StepState
    ) -> StepResult:
        """mse + AuxK."""
        at = competition(self, self.b_enc, x, compute_dtype=self.config.compute_dtype)
        select = partial(self.select, mesh=state.mesh)
        return step(self, select, at, target=target, state=state, how=Objective(self.config.aux_weight))

    def select(
        self,
        x_centred: Float[Tensor, "tokens d_in"],
        encoder: Encoder,
        dead: Dead | None,
        *,
        mesh: Mesh = ALONE_MESH,
    ) -> Selection:
        """The latents that compete and win, against those of other ranks too."""
        found = select_topk(x_centred, encoder, min(self.k, self.d_sae), dead=dead)
        return found._replace(code=topk(found.code, self.k, mesh.latents))

    def inference_form(self) -> "TopKSAE":
        """A copy: training and inference are the same."""
        return copy.deepcopy(self).requires_grad_(False)

    def file_settings(self) -> dict[str, Any]:
        """k, and that ranking ignores decoder lengths (they are 1)."""
        return {"k": self.k, "rescale_acts_by_decoder_norm": False}

    def elementwise(self) -> Elementwise:
        """Does not exist: latents compete for k places."""
        raise SAEError(
            f"this SAE is topk with k = {self.k} per token: its latents compete, so they have no thresholds of their "
            "own; use batch_topk, jumprelu, gated or relu instead"
        )

    def block_rule(self) -> BlockRule:
        """One block of k."""
        b_enc = self.b_enc.detach()
        return BlockRule(self.W_enc.detach(), b_enc, torch.zeros_like(b_enc), (Block(self.d_sae, self.k),))


def check_k(k: int, d_sae: int) -> None:
    """Refuse a k that exceeds the width.

    Raises:
        ConfigError: k > d_sae.
    """
    if k > d_sae:
        raise ConfigError(f"sae.k = {k}, but it must lie between 1 and d_sae = {d_sae}; lower k or raise sae.d_sae")
