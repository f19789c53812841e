"""BatchTopK: the tokens * k largest pre-activations of a batch fire in training, those above a threshold at inference.

    x --(- pre_bias, W_enc, b_enc)--> pre --(ReLU, keep tokens * k largest | keep > threshold)--> latents --> x_hat

Source: Bussmann et al. 2024 (arXiv 2412.06410). The threshold is a moving average of the smallest kept activation. We
correct it for its start at zero (as Adam does), so short runs are right too, and average over about 20 steps, not
1,000: one batch already pins that quantile to about 1%, and a longer memory would lag behind the weights.
Decoder rows stay at length 1. Saved as jumprelu.
"""

from functools import partial
from typing import ClassVar, Literal

import torch
from jaxtyping import Float
from pydantic import Field, NonNegativeFloat, PositiveInt
from torch import Tensor, nn

from fovea.ranks import ALONE_MESH, Mesh
from fovea.sae.auxk import Objective, competition, step
from fovea.sae.base import SAE, Elementwise, SAEConfig, StepResult, StepState, Weights
from fovea.sae.encoder import Encoder
from fovea.sae.exchange import batch_topk
from fovea.sae.jumprelu import JumpReLUSAE
from fovea.sae.select import Dead, Selection, select_batch_topk
from fovea.sae.terms import AUX_WEIGHT
from fovea.sae.topk import check_k


class BatchTopKConfig(SAEConfig):
    """Settings of a BatchTopK SAE."""

    starts_from: ClassVar[tuple[str, ...]] = ("jumprelu", "standard", "topk")

    kind: Literal["batch_topk"] = "batch_topk"
    k: PositiveInt
    "Latents that fire per token, mean over a batch."
    aux_weight: NonNegativeFloat = AUX_WEIGHT
    "Weight of AuxK, which revives dead latents."
    threshold_decay: float = Field(default=0.95, ge=0.0, lt=1.0)
    "Decay per step of the average that becomes the threshold."

    @property
    def label(self) -> str:
        """Like k16."""
        return f"k{self.k}"

    def from_weights(self, weights: Weights) -> "BatchTopKSAE":
        """A BatchTopK SAE with these weights and no threshold yet."""
        return BatchTopKSAE(weights, self)


class BatchTopKSAE(SAE):
    """Sparse autoencoder whose tokens * k largest positive pre-activations fire in a batch.

    Raises:
        ConfigError: k exceeds the number of latents.
    """

    file_architecture = "jumprelu"
    latent_tensors = ("b_enc",)

    threshold_sum: Tensor
    threshold_weight: Tensor

    def __init__(self, weights: Weights, config: BatchTopKConfig) -> None:
        super().__init__(weights, unit_decoder=True)
        check_k(config.k, self.d_sae)
        self.config, self.k = config, config.k
        self.b_enc = nn.Parameter(self.W_enc.new_zeros(self.d_sae))
        self.register_buffer("threshold_sum", self.W_enc.new_zeros((), dtype=torch.float64))
        self.register_buffer("threshold_weight", self.W_enc.new_zeros((), dtype=torch.float64))

    @property
    def threshold(self) -> Float[Tensor, ""]:
        """What a pre-activation must exceed at inference; 0 before the first step."""
        return (self.threshold_sum / self.threshold_weight.clamp_min(1e-300)).float()

    def encode(self, x: Float[Tensor, "*batch {self.d_in}"]) -> Float[Tensor, "*batch {self.d_sae}"]:
        """Latents of x: pre-activations above the threshold. A token's latents do not depend on the batch."""
        pre = self.centred(x) @ self.W_enc + self.b_enc
        return torch.where(pre > self.threshold, pre, 0.0)

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
        """The latents that compete and win, in the batch of all ranks."""

        def select(k: int, dead: Dead | None) -> Selection:
            return select_batch_topk(x_centred, encoder, k, dead=dead)

        return batch_topk(select, self.k, mesh, dead=dead)

    @torch.no_grad()
    def after_step(self, result: StepResult) -> None:
        """Average the smallest kept activation into the threshold; a batch that kept nothing says nothing."""
        smallest, decay = result.observed["smallest_kept"].double(), self.config.threshold_decay
        # Chosen where the numbers lie: asking which it is would wait for the device.
        is_none = smallest.isnan()
        for total, new in ((self.threshold_sum, smallest), (self.threshold_weight, torch.ones_like(smallest))):
            total.copy_(torch.where(is_none, total, decay * total + (1 - decay) * new))

    @torch.no_grad()
    def inference_form(self) -> JumpReLUSAE:
        """The same latents as jumprelu, with the threshold repeated for every latent."""
        sae = JumpReLUSAE(self.weights)
        sae.set_tensors({"b_enc": self.b_enc, "threshold": self.threshold.expand(self.d_sae)})
        return sae.requires_grad_(False)

    def elementwise(self) -> Elementwise:
        """The inference rule: one threshold for all latents."""
        return self.inference_form().elementwise()
