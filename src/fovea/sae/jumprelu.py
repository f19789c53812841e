"""JumpReLU: a latent fires where its pre-activation exceeds a threshold of its own, which is learned.

    x --(- pre_bias, W_enc, b_enc)--> pre --(pre where pre > threshold, else 0)--> latents --(W_dec, b_dec)--> x_hat

Objective: mse + (L0 / target_l0 - 1)^2 + a pull on dead latents. Thresholds get their gradient from a straight-through
estimate: the average over pre-activations within bandwidth / 2 of the threshold.

Source: Rajamanoharan et al. 2024 (arXiv 2407.14435); quadratic penalty as in its appendix; pre-activation loss from
Anthropic, Circuits Updates January 2025. Where we differ: the threshold is trained directly, not its logarithm, and
starts where a normal distribution gives the target L0. Adam moves a number by about lr per step whatever its size: a
logarithm that starts small would not cross the scale of pre-activations in a run of some hundred steps, and a direct
threshold only if it moves THRESHOLD_GAIN times as fast as the weights. Files may also hold thresholds that have no
logarithm (0, and below after a gated SAE is stacked). `after_step` keeps them from going below 0.
"""

import copy
from collections.abc import Mapping
from statistics import NormalDist
from typing import Any, ClassVar, Literal, NamedTuple

import torch
from jaxtyping import Bool, Float, Int
from pydantic import NonNegativeFloat, PositiveFloat
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from fovea.errors import ConfigError
from fovea.sae.active import Active, active, differentiable
from fovea.sae.base import SAE, Elementwise, LossTerms, SAEConfig, StepResult, StepState, Weights
from fovea.sae.encoder import trained_pre
from fovea.sae.sparse import ByLatent, part_of, per_entry, watch
from fovea.sae.terms import dead_pre, mse, target_l0

THRESHOLD_GAIN = 8.0
"The trained number is threshold / 8. A power of 2, so the threshold itself is exact."


class JumpReLUConfig(SAEConfig):
    """Settings of a JumpReLU SAE."""

    starts_from: ClassVar[tuple[str, ...]] = ("jumprelu", "standard", "gated")

    kind: Literal["jumprelu"] = "jumprelu"
    target_l0: PositiveFloat
    "Latents that should fire per token, mean over tokens."
    l0_weight: PositiveFloat = 4.0
    "Weight of (L0 / target_l0 - 1)^2 in units of d_in, the squared norm of a target of unit variance."
    bandwidth: PositiveFloat = 0.5
    "Width of the window in which a threshold receives gradient, in (scaled) units of pre."
    threshold_init: PositiveFloat | None = None
    "Thresholds at the start, in (scaled) units of pre; None: what target_l0 of d_sae standard normal values exceed."
    dead_weight: NonNegativeFloat = 3e-6
    "Weight of the pre-activation loss on dead latents."
    decoder_norm: Literal["unit", "free"] = "unit"
    "Hold decoder rows at length 1, or not."

    @property
    def label(self) -> str:
        """Like l0_20."""
        return f"l0_{self.target_l0:g}"

    def from_weights(self, weights: Weights) -> "JumpReLUSAE":
        """A JumpReLU SAE with these weights and thresholds at `threshold_init`."""
        sae = JumpReLUSAE(weights, self)
        sae.set_tensors({"threshold": torch.full((sae.d_sae,), self.first_threshold(sae.d_sae))})
        return sae

    def first_threshold(self, d_sae: int) -> float:
        """Where all thresholds start: near their place if x is scaled to unit variance.

        Raises:
            ConfigError: target_l0 is not below the width.
        """
        if self.target_l0 >= d_sae:
            raise ConfigError(f"sae.target_l0 = {self.target_l0:g} must be below d_sae = {d_sae}; lower it")
        if self.threshold_init is not None:
            return self.threshold_init
        return max(NormalDist().inv_cdf(1.0 - self.target_l0 / d_sae), 0.1)


class Rebuilt(NamedTuple):
    """What both paths of the loss give, of this rank's tokens and latents."""

    x_hat: Float[Tensor, "tokens d_in"]
    l0: Float[Tensor, ""]
    fired: Bool[Tensor, " d_sae"]
    dead: Float[Tensor, ""] | None
    "The pull on dead latents, not yet weighted; None if no rank has any."


class JumpReLUSAE(SAE):
    """Sparse autoencoder with one threshold per latent; also the inference form of batch_topk and of stacks.

    Args:
        config: Settings of the loss; None for an SAE that is only used.
    """

    file_architecture = "jumprelu"
    latent_tensors = ("b_enc", "threshold")

    def __init__(self, weights: Weights, config: JumpReLUConfig | None = None) -> None:
        super().__init__(weights, unit_decoder=config is not None and config.decoder_norm == "unit")
        self.config = config
        self.b_enc = nn.Parameter(self.W_enc.new_zeros(self.d_sae))
        self.scaled_threshold = nn.Parameter(self.W_enc.new_zeros(self.d_sae))

    @property
    def threshold(self) -> Float[Tensor, " d_sae"]:
        """What each pre-activation must exceed."""
        return self.scaled_threshold * THRESHOLD_GAIN

    def tensors(self) -> dict[str, Tensor]:
        """As in the base class, with the threshold in place of what is trained for it."""
        tensors = super().tensors()
        return tensors | {"threshold": tensors.pop("scaled_threshold") * THRESHOLD_GAIN}

    def set_tensors(self, tensors: Mapping[str, Tensor]) -> None:
        """As in the base class, with the threshold in place of what is trained for it."""
        threshold = tensors.get("threshold")
        own = {} if threshold is None else {"scaled_threshold": threshold / THRESHOLD_GAIN}
        super().set_tensors({name: tensor for name, tensor in tensors.items() if name != "threshold"} | own)

    def encode(self, x: Float[Tensor, "*batch {self.d_in}"]) -> Float[Tensor, "*batch {self.d_sae}"]:
        """Latents of x: pre-activations above their thresholds, and above 0."""
        pre = self.centred(x) @ self.W_enc + self.b_enc
        return torch.where(pre > self.threshold.clamp_min(0.0), pre, 0.0)

    def loss(
        self, x: Float[Tensor, "tokens {self.d_in}"], target: Float[Tensor, "tokens {self.d_in}"], state: StepState
    ) -> StepResult:
        """mse + target L0 + pre-activation loss on dead latents."""
        config = self.config
        assert config is not None, "an SAE loaded for inference has no objective; build it from a JumpReLUConfig"
        # Thresholds take their gradient from the window below them too. Rounding may not lose its edge.
        floor = (self.threshold - config.bandwidth / 2) - 1e-6 * (self.threshold.abs() + config.bandwidth)
        few = active(self, x, self.b_enc, floor=floor, compute_dtype=config.compute_dtype)
        dead = state.dead.nonzero().squeeze(1) if config.dead_weight else None
        mesh, b_dec = state.mesh, state.mesh.once(self.b_dec)
        dead = None if dead is None or not mesh.latents.any(len(dead) > 0) else dead
        if few is None:
            rebuilt = self._by_products(x, dead, b_dec=b_dec, config=config)
        else:
            rebuilt = self._by_entries(few, dead, b_dec=b_dec, config=config)
        x_hat = mesh.whole(rebuilt.x_hat)
        weight = state.sparsity_scale * config.l0_weight * self.d_in
        terms = {"mse": mse(x_hat, target), "l0": weight * target_l0(mesh.pooled(rebuilt.l0), config.target_l0)}
        if rebuilt.dead is not None:
            terms["dead"] = config.dead_weight * mesh.whole(rebuilt.dead)
        return StepResult(LossTerms(terms), rebuilt.fired, rebuilt.l0.detach(), x_hat.detach(), {})

    def _by_products(
        self,
        x: Float[Tensor, "tokens {self.d_in}"],
        dead: Int[Tensor, " d_dead"] | None,
        *,
        b_dec: Float[Tensor, " d_in"],
        config: JumpReLUConfig,
    ) -> "Rebuilt":
        """Dense: the reference, and faster while many latents fire."""
        pre = trained_pre(self, x, self.b_enc, compute_dtype=config.compute_dtype)
        latents: Tensor = _JumpReLU.apply(pre, self.threshold, config.bandwidth)
        steps: Tensor = _Step.apply(pre, self.threshold, config.bandwidth)
        term = None
        if dead is not None:
            term = dead_pre(pre[:, dead], self.threshold[dead], torch.linalg.vector_norm(self.W_dec[dead], dim=1))
        fired = (latents.detach() > 0).any(dim=0)
        return Rebuilt(latents @ self.W_dec + b_dec, steps.sum() / len(x), fired, term)

    def _by_entries(
        self,
        few: Active,
        dead: Int[Tensor, " d_dead"] | None,
        *,
        b_dec: Float[Tensor, " d_in"],
        config: JumpReLUConfig,
    ) -> "Rebuilt":
        """On the pre-activations that fire, and on those that lie in the window below their threshold, alone."""
        threshold = self.threshold.detach().index_select(0, few.code.latents)
        fires = few.code.values > threshold.clamp_min(0.0)
        firing = differentiable(self, part_of(few.code, fires), x_centred=few.x_centred, b_enc=self.b_enc)
        below, width = ByLatent(part_of(few.code, ~fires)), config.bandwidth
        values, silent = below.code.values, per_entry(self.threshold, below)
        latents: Tensor = _JumpReLU.apply(firing.pre, firing.of_latent(self.threshold), width)
        x_hat = firing.rebuild(latents, self.W_dec, b_dec)
        x_hat = watch(x_hat, _JumpReLU.apply(values, silent, width), code=below.code, W_dec=self.W_dec)
        steps: Tensor = _Step.apply(firing.pre, firing.of_latent(self.threshold), width)
        l0 = firing.mean_sum(steps) + _Step.apply(values, silent, width).sum() / firing.code.n_tokens
        term = None if dead is None else self._pull(firing, dead)
        return Rebuilt(x_hat, l0, firing.code.counts() > 0, term)

    def _pull(self, firing: Active, dead: Int[Tensor, " d_dead"]) -> Float[Tensor, ""]:
        """`dead_pre` without the matrix of pre-activations.

        The sum of threshold - pre over all tokens needs only the sum of x; the few entries that fire, for which
        ReLU(threshold - pre) is 0, are put right one by one.
        """
        n, x_centred = firing.code.n_tokens, firing.x_centred
        moved = 0.0 if self.pre_bias is None else n * (self.pre_bias.detach() - self.pre_bias)
        x_sum = x_centred.sum(dim=0) + moved  # its value, with the gradient of a tied pre-bias
        W_enc = self.W_enc.T.index_select(0, dead)
        below = n * (self.threshold - self.b_enc).index_select(0, dead) - W_enc @ x_sum
        norms = torch.linalg.vector_norm(self.W_dec.index_select(0, dead), dim=1)
        of_all = torch.zeros_like(self.b_enc).index_copy(0, dead, norms)
        gap = firing.of_latent(self.threshold) - firing.pre
        return (torch.dot(below, norms) + torch.dot(gap.relu() - gap, firing.of_latent(of_all))) / n

    @torch.no_grad()
    def after_step(self, result: StepResult) -> None:
        """Keep thresholds at 0 or above."""
        del result
        self.scaled_threshold.clamp_min_(0.0)

    def inference_form(self) -> "JumpReLUSAE":
        """A copy: training and inference are the same."""
        return copy.deepcopy(self).requires_grad_(False)

    def elementwise(self) -> Elementwise:
        """The rule itself."""
        return Elementwise(self.W_enc.detach(), self.b_enc.detach(), self.threshold.detach())


class _JumpReLU(torch.autograd.Function):
    """pre * 1[pre > threshold]; d/d threshold = -threshold / bandwidth * 1[|pre - threshold| < bandwidth / 2]."""

    @staticmethod
    def forward(ctx: Any, pre: Tensor, threshold: Tensor, bandwidth: float) -> Tensor:
        latents = torch.where(pre > threshold.clamp_min(0.0), pre, 0.0)
        ctx.save_for_backward(pre, threshold, latents)
        ctx.bandwidth = bandwidth
        return latents

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grad_outputs: Tensor) -> tuple[Tensor | None, ...]:  # pyright: ignore[reportIncompatibleMethodOverride]
        (d_latents,) = grad_outputs
        pre, threshold, latents = ctx.saved_tensors
        near = (pre - threshold).abs() < ctx.bandwidth / 2
        d_threshold = -(threshold / ctx.bandwidth) * (d_latents * near).sum_to_size(threshold.shape)
        return d_latents * (latents > 0), d_threshold, None


class _Step(torch.autograd.Function):
    """1[pre > threshold]; d/d threshold = -1 / bandwidth * 1[|pre - threshold| < bandwidth / 2], none for pre."""

    @staticmethod
    def forward(ctx: Any, pre: Tensor, threshold: Tensor, bandwidth: float) -> Tensor:
        ctx.save_for_backward(pre, threshold)
        ctx.bandwidth = bandwidth
        return (pre > threshold.clamp_min(0.0)).to(pre.dtype)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grad_outputs: Tensor) -> tuple[Tensor | None, ...]:  # pyright: ignore[reportIncompatibleMethodOverride]
        (d_steps,) = grad_outputs
        pre, threshold = ctx.saved_tensors
        near = (pre - threshold).abs() < ctx.bandwidth / 2
        return None, -(d_steps * near).sum_to_size(threshold.shape) / ctx.bandwidth, None
