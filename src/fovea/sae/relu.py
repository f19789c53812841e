"""ReLU ("standard") SAE with an L1 penalty.

    x --(- pre_bias, W_enc, b_enc)--> pre --(ReLU)--> latents --(W_dec, b_dec)--> x_hat

Objective: mse + l1 * sum of latents times decoder row lengths. Decoder rows are free: their length is in the penalty.

Source: Anthropic, Circuits Updates April 2024 (there without a pre-bias; ours is tied to b_dec, as in SAELens, unless
the SAE is built otherwise).
"""

import copy
from typing import ClassVar, Literal

import torch
from jaxtyping import Float
from pydantic import NonNegativeFloat, PositiveFloat
from torch import Tensor, nn

from fovea.sae.active import active
from fovea.sae.base import SAE, Elementwise, LossTerms, SAEConfig, StepResult, StepState, Weights
from fovea.sae.encoder import trained_pre
from fovea.sae.terms import l1, mse


class ReLUConfig(SAEConfig):
    """Settings of a ReLU SAE."""

    starts_from: ClassVar[tuple[str, ...]] = ("standard",)

    kind: Literal["relu"] = "relu"
    l1: NonNegativeFloat
    "Weight of the L1 term, for inputs and targets of mean squared norm d_in."
    decoder_norm: Literal["unit", "free"] = "free"
    "Hold decoder rows at length 1, or not."
    init_norm: PositiveFloat = 0.1
    "Length of free decoder rows at the start."

    @property
    def label(self) -> str:
        """Like l1_4."""
        return f"l1_{self.l1:g}"

    @property
    def decoder_init_norm(self) -> float:
        """Length of decoder rows at the start."""
        return self.init_norm if self.decoder_norm == "free" else 1.0

    def from_weights(self, weights: Weights) -> "ReLUSAE":
        """A ReLU SAE with these weights."""
        return ReLUSAE(weights, self)


class ReLUSAE(SAE):
    """Sparse autoencoder with ReLU latents.

    Args:
        config: Settings of the loss; None for an SAE that is only used.
    """

    file_architecture = "standard"
    latent_tensors = ("b_enc",)

    def __init__(self, weights: Weights, config: ReLUConfig | None = None) -> None:
        super().__init__(weights, unit_decoder=config is not None and config.decoder_norm == "unit")
        self.config = config
        self.b_enc = nn.Parameter(self.W_enc.new_zeros(self.d_sae))

    def encode(self, x: Float[Tensor, "*batch {self.d_in}"]) -> Float[Tensor, "*batch {self.d_sae}"]:
        """Latents of x: positive pre-activations."""
        return (self.centred(x) @ self.W_enc + self.b_enc).relu()

    def loss(
        self, x: Float[Tensor, "tokens {self.d_in}"], target: Float[Tensor, "tokens {self.d_in}"], state: StepState
    ) -> StepResult:
        """mse + L1."""
        config = self.config
        assert config is not None, "an SAE loaded for inference has no objective; build it from a ReLUConfig"
        mesh, b_dec = state.mesh, state.mesh.once(self.b_dec)
        norms = None if self.unit_decoder else torch.linalg.vector_norm(self.W_dec, dim=1)
        few = active(self, x, self.b_enc, floor=torch.zeros_like(self.b_enc), compute_dtype=config.compute_dtype)
        if few is None:
            latents = trained_pre(self, x, self.b_enc, compute_dtype=config.compute_dtype).relu()
            x_hat = latents @ self.W_dec + b_dec
            penalty, n_fired = l1(latents, norms), (latents.detach() > 0).sum(dim=0)
        else:
            x_hat = few.rebuild(few.pre, self.W_dec, b_dec)
            penalty = few.mean_sum(few.pre if norms is None else few.pre * few.of_latent(norms))
            n_fired = few.code.counts()
        x_hat = mesh.whole(x_hat)
        terms = {"mse": mse(x_hat, target)}
        if config.l1:
            terms["l1"] = state.sparsity_scale * config.l1 * mesh.whole(penalty)
        return StepResult(LossTerms(terms), n_fired > 0, n_fired.sum() / len(x), x_hat.detach(), {})

    def inference_form(self) -> "ReLUSAE":
        """A copy: training and inference are the same."""
        return copy.deepcopy(self).requires_grad_(False)

    def elementwise(self) -> Elementwise:
        """Thresholds of 0."""
        return Elementwise(self.W_enc.detach(), self.b_enc.detach(), torch.zeros_like(self.b_enc))
