"""Gated SAE: one path decides whether a latent fires, another how strongly; both share W_enc.

    x --(- pre_bias, W_enc)--> product --(+ b_gate)----------------> gate       fires where above 0
                                     \\--(* exp(r_mag), + b_mag)---> magnitude  ReLU
    latents = ReLU(magnitude) where the gate fires --(W_dec, b_dec)--> x_hat

Objective: mse + l1 * sum of ReLU(gate) + mse of the reconstruction that ReLU(gate) gives through a frozen decoder. The
last term is what trains the gate, through which mse has no gradient.

Source: Rajamanoharan et al. 2024 (arXiv 2404.16014), section 3. Options: free decoder rows, whose lengths then enter
the L1 term, and an auxiliary decoder that is not frozen, reproduce the code of Drori 2024 (a fork of SAELens).
"""

import copy
from typing import ClassVar, Literal, NamedTuple

import torch
from jaxtyping import Float, Num
from pydantic import NonNegativeFloat, PositiveFloat
from torch import Tensor, nn

from fovea.sae import native
from fovea.sae.active import Active, active
from fovea.sae.base import SAE, Elementwise, LossTerms, SAEConfig, StepResult, StepState, Weights
from fovea.sae.encoder import trained_pre
from fovea.sae.select import only_dense
from fovea.sae.terms import l1, mse


class GatedConfig(SAEConfig):
    """Settings of a gated SAE."""

    starts_from: ClassVar[tuple[str, ...]] = ("gated", "standard", "jumprelu")

    kind: Literal["gated"] = "gated"
    l1: NonNegativeFloat
    "Weight of the L1 term on the gate, for inputs and targets of mean squared norm d_in."
    decoder_norm: Literal["unit", "free"] = "unit"
    "Hold decoder rows at length 1, or not."
    init_norm: PositiveFloat = 0.1
    "Length of free decoder rows at the start."
    detach_aux_decoder: bool = True
    "The auxiliary reconstruction does not move the decoder (the paper); False: it does (the seed's code, SAELens)."

    @property
    def label(self) -> str:
        """Like l1_4."""
        return f"l1_{self.l1:g}"

    @property
    def decoder_init_norm(self) -> float:
        """Length of decoder rows at the start."""
        return self.init_norm if self.decoder_norm == "free" else 1.0

    def from_weights(self, weights: Weights) -> "GatedSAE":
        """A gated SAE with these weights, both paths alike."""
        return GatedSAE(weights, self)


class Rebuilt(NamedTuple):
    """What both paths of the loss give, of this rank's latents."""

    x_hat: Float[Tensor, "tokens d_in"]
    x_hat_of_gate: Float[Tensor, "tokens d_in"]
    "What ReLU(gate) rebuilds."
    penalty: Float[Tensor, ""]
    n_fired: Num[Tensor, " d_sae"]
    "Tokens on which each latent fires."


class GatedSAE(SAE):
    """Sparse autoencoder with separate gate and magnitude.

    Args:
        config: Settings of the loss; None for an SAE that is only used.
    """

    file_architecture = "gated"
    latent_tensors = ("b_gate", "b_mag")

    def __init__(self, weights: Weights, config: GatedConfig | None = None) -> None:
        super().__init__(weights, unit_decoder=config is not None and config.decoder_norm == "unit")
        self.config = config
        self.b_gate = nn.Parameter(self.W_enc.new_zeros(self.d_sae))
        self.b_mag = nn.Parameter(self.W_enc.new_zeros(self.d_sae))
        self.r_mag = nn.Parameter(self.W_enc.new_zeros(self.d_sae))

    def encode(self, x: Float[Tensor, "*batch {self.d_in}"]) -> Float[Tensor, "*batch {self.d_sae}"]:
        """Latents of x: magnitudes where the gate is above 0."""
        product = self.centred(x) @ self.W_enc
        return self._magnitude(product, product + self.b_gate)

    def loss(
        self, x: Float[Tensor, "tokens {self.d_in}"], target: Float[Tensor, "tokens {self.d_in}"], state: StepState
    ) -> StepResult:
        """mse + L1 on the gate + auxiliary mse through the gate."""
        config = self.config
        assert config is not None, "an SAE loaded for inference has no objective; build it from a GatedConfig"
        norms = None if self.unit_decoder else torch.linalg.vector_norm(self.W_dec, dim=1)
        no_bias = torch.zeros_like(self.b_gate)
        few = active(self, x, no_bias, floor=-self.b_gate, compute_dtype=config.compute_dtype)
        mesh, b_dec = state.mesh, state.mesh.once(self.b_dec)
        if few is None:
            rebuilt = self._by_products(x, norms, b_dec=b_dec, config=config)
        else:
            rebuilt = self._by_entries(few, norms, b_dec=b_dec, config=config)
        x_hat = mesh.whole(rebuilt.x_hat)
        terms = {"mse": mse(x_hat, target)}
        if config.l1:
            terms["l1"] = state.sparsity_scale * config.l1 * mesh.whole(rebuilt.penalty)
        terms["aux"] = mse(mesh.whole(rebuilt.x_hat_of_gate), target)
        n_fired = rebuilt.n_fired
        return StepResult(LossTerms(terms), n_fired > 0, n_fired.sum() / len(x), x_hat.detach(), {})

    def _by_products(
        self,
        x: Float[Tensor, "tokens {self.d_in}"],
        norms: Float[Tensor, " d_sae"] | None,
        *,
        b_dec: Float[Tensor, " d_in"],
        config: GatedConfig,
    ) -> "Rebuilt":
        """Dense: the reference, and faster while many gates are open."""
        product = trained_pre(self, x, torch.zeros_like(self.b_gate), compute_dtype=config.compute_dtype)
        W_aux, b_aux = self._aux_decoder(b_dec, config)
        if native.usable(product) and not only_dense():
            found = native.gates(product, self.b_gate, self.r_mag.exp(), b_mag=self.b_mag)
            x_hat, x_hat_of_gate = found.latents @ self.W_dec + b_dec, found.open @ W_aux + b_aux
            penalty = found.sum_open if norms is None else found.sum_open * norms
            return Rebuilt(x_hat, x_hat_of_gate, penalty.sum() / len(x), found.n_fired)
        gate = product + self.b_gate
        latents, open_gate = self._magnitude(product, gate), gate.relu()
        return Rebuilt(
            latents @ self.W_dec + b_dec,
            open_gate @ W_aux + b_aux,
            l1(open_gate, norms),
            (latents.detach() > 0).sum(dim=0),
        )

    def _by_entries(
        self,
        few: Active,
        norms: Float[Tensor, " d_sae"] | None,
        *,
        b_dec: Float[Tensor, " d_in"],
        config: GatedConfig,
    ) -> "Rebuilt":
        """On the open gates alone."""
        open_gate = few.pre + few.of_latent(self.b_gate)
        latents = (few.pre * few.of_latent(self.r_mag.exp()) + few.of_latent(self.b_mag)).relu()
        return Rebuilt(
            few.rebuild(latents, self.W_dec, b_dec),
            few.rebuild(open_gate, *self._aux_decoder(b_dec, config)),
            few.mean_sum(open_gate if norms is None else open_gate * few.of_latent(norms)),
            few.n_fired(latents),
        )

    def _aux_decoder(self, b_dec: Tensor, config: GatedConfig) -> tuple[Tensor, Tensor]:
        return (self.W_dec.detach(), b_dec.detach()) if config.detach_aux_decoder else (self.W_dec, b_dec)

    def inference_form(self) -> "GatedSAE":
        """A copy: training and inference are the same."""
        return copy.deepcopy(self).requires_grad_(False)

    @torch.no_grad()
    def elementwise(self) -> Elementwise:
        """The gate fires where magnitude > b_mag - exp(r_mag) b_gate, so that is the threshold (it may be negative)."""
        gain = self.r_mag.double().exp()
        W = (self.W_enc.double() * gain).float()
        return Elementwise(W, self.b_mag.detach(), (self.b_mag.double() - gain * self.b_gate.double()).float())

    @torch.no_grad()
    def biases_at(self, pre_bias: Float[Tensor, " d_in"]) -> dict[str, Float[Tensor, " d_sae"]]:
        """Encoder biases that give the same latents when `pre_bias` is subtracted instead; summed in float64."""
        shift = (pre_bias.double() - self.input_bias().double()) @ self.W_enc.double()
        b_mag = self.b_mag.double() + shift * self.r_mag.double().exp()
        return {"b_gate": (self.b_gate.double() + shift).float(), "b_mag": b_mag.float()}

    def _magnitude(self, product: Tensor, gate: Tensor) -> Tensor:
        return torch.where(gate > 0, (product * self.r_mag.exp() + self.b_mag).relu(), 0.0)
