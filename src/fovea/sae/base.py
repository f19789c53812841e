"""What every sparse autoencoder is: weights, an inference form, and a loss that the trainer steps on.

    x --(- pre_bias, W_enc, biases)--> pre --(activation function)--> latents --(W_dec, b_dec)--> x_hat

Training: result = sae.loss(x, target, state); result.terms.total.backward(); sae.project_decoder_gradient();
optimizer.step(); sae.normalise_decoder(); sae.after_step(result). `loss` changes nothing.

Shapes: tokens = activation vectors, d_in = width of the hooked site, d_sae = number of latents.
Pre-bias: "tied" is b_dec itself (SAELens: apply_b_dec_to_input), a tensor is a frozen vector of its own, "none" is 0.
"""

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, Literal, NamedTuple

import torch
from jaxtyping import Bool, Float
from pydantic import PositiveFloat, PositiveInt, model_validator
from torch import Tensor, nn

from fovea.config import Config
from fovea.errors import ConfigError, SAEError
from fovea.ranks import ALONE_MESH, Mesh
from fovea.sae.token_norm import TokenNorm, inward, outward

PreBias = Literal["tied", "none"] | Tensor
"What is subtracted from x before the encoder: b_dec, nothing, or this frozen vector."

ComputeDtype = Literal["float32", "bfloat16"]
"Precision of the encoder product alone; weights, decoder, gradients and sums stay float32."


@dataclass(frozen=True)
class LossTerms:
    """Weighted terms of one step. `total` is their sum, so what is logged is what is trained."""

    terms: Mapping[str, Float[Tensor, ""]]

    @property
    def total(self) -> Float[Tensor, ""]:
        """Sum of all terms: the number whose gradient is taken."""
        return torch.stack(list(self.terms.values())).sum()


class StepState(NamedTuple):
    """What the trainer knows and the loss needs."""

    sparsity_scale: float
    "Warm-up factor of the sparsity terms, between 0 and 1."
    dead: Bool[Tensor, " d_sae"]
    "Latents that have not fired for dead_after_tokens."
    mesh: Mesh = ALONE_MESH
    "Who has the other tokens of the batch and the other latents."


class StepResult(NamedTuple):
    """What one step is made of, on this rank's tokens and latents. Nothing here but `terms` is trained."""

    terms: LossTerms
    fired: Bool[Tensor, " d_sae"]
    "Latents that fired on at least one token of the batch."
    l0: Float[Tensor, ""]
    "Latents that fired per token, mean over the batch."
    x_hat: Float[Tensor, "tokens d_in"]
    "The reconstruction of `target`, detached."
    observed: Mapping[str, Tensor]
    "Quantities that `after_step` folds into buffers; of several ranks' the smallest, NaN being none."


class Weights(NamedTuple):
    """The weights that every architecture has; biases of the encoder start at zero."""

    W_enc: Float[Tensor, "d_in d_sae"]
    W_dec: Float[Tensor, "d_sae d_in"]
    b_dec: Float[Tensor, " d_in"] | None
    "None: no output bias, now or later."
    pre_bias: PreBias


class Elementwise(NamedTuple):
    """An encoder as one rule per latent: relu(u) where u = (x - pre_bias) W + b exceeds threshold, else 0."""

    W_enc: Float[Tensor, "d_in d_sae"]
    b_enc: Float[Tensor, " d_sae"]
    threshold: Float[Tensor, " d_sae"]


class Block(NamedTuple):
    """Consecutive latents with one rule: the k largest fire, or, where k is None, those above their threshold."""

    size: int
    k: int | None


class BlockRule(NamedTuple):
    """An encoder as blocks of latents; thresholds are 0 where a block has k."""

    W_enc: Float[Tensor, "d_in d_sae"]
    b_enc: Float[Tensor, " d_sae"]
    threshold: Float[Tensor, " d_sae"]
    blocks: tuple[Block, ...]


class SAE(nn.Module, ABC):
    """Sparse autoencoder with float32 weights.

    Args:
        weights: Initial values, copied.
        unit_decoder: Decoder rows are held at length 1 during training.

    Raises:
        SAEError: shapes do not fit each other.
    """

    file_architecture: ClassVar[str]
    "Name of the inference form in cfg.json."
    latent_tensors: ClassVar[tuple[str, ...]]
    "Per-latent tensors in units of pre: they scale with x, as biases do."

    b_dec: Tensor
    frozen_pre_bias: Tensor | None
    token_norm: TokenNorm = "none"
    "What is done to every token before it is read and undone after; only SAEs of other libraries have one."

    def __init__(self, weights: Weights, *, unit_decoder: bool) -> None:
        super().__init__()
        self.d_in, self.d_sae = weights.W_enc.shape
        _check_shapes(weights)
        self.unit_decoder = unit_decoder
        self.W_enc = nn.Parameter(_copy(weights.W_enc.T).T)  # latent-major in memory: fovea.sae.encoder
        self.W_dec = nn.Parameter(_copy(weights.W_dec))
        self.has_output_bias = weights.b_dec is not None
        if weights.b_dec is None:
            self.register_buffer("b_dec", torch.zeros(self.d_in, device=weights.W_enc.device))
        else:
            self.register_parameter("b_dec", nn.Parameter(_copy(weights.b_dec)))
        self.pre_bias_is_tied = isinstance(weights.pre_bias, str) and weights.pre_bias == "tied"
        frozen = _copy(weights.pre_bias) if isinstance(weights.pre_bias, Tensor) else None
        self.register_buffer("frozen_pre_bias", frozen)

    @property
    def pre_bias(self) -> Float[Tensor, " d_in"] | None:
        """What the encoder subtracts from x; None where nothing is."""
        return self.b_dec if self.pre_bias_is_tied else self.frozen_pre_bias

    def input_bias(self) -> Float[Tensor, " d_in"]:
        """What the encoder subtracts from x, detached; zeros where nothing is."""
        return torch.zeros_like(self.b_dec) if self.pre_bias is None else self.pre_bias.detach()

    @property
    def weights(self) -> Weights:
        """The shared weights, detached: enough to build another SAE with."""
        b_dec = self.b_dec.detach() if self.has_output_bias else None
        absent: PreBias = "tied" if self.pre_bias_is_tied else "none"
        pre_bias = absent if self.frozen_pre_bias is None else self.frozen_pre_bias
        return Weights(self.W_enc.detach(), self.W_dec.detach(), b_dec, pre_bias)

    @abstractmethod
    def encode(self, x: Float[Tensor, "*batch {self.d_in}"]) -> Float[Tensor, "*batch {self.d_sae}"]:
        """Latents of x in the inference form: never negative."""

    def decode(self, latents: Float[Tensor, "*batch {self.d_sae}"]) -> Float[Tensor, "*batch {self.d_in}"]:
        """Reconstruction x_hat, in the SAE's own units: those of x unless it has a `token_norm`."""
        return latents @ self.W_dec + self.b_dec

    def restore(
        self, x: Float[Tensor, "*batch {self.d_in}"], x_hat: Float[Tensor, "*batch {self.d_in}"]
    ) -> Float[Tensor, "*batch {self.d_in}"]:
        """What `decode` made of the latents of x, in the units of x."""
        return outward(x, x_hat, self.token_norm)

    def forward(self, x: Float[Tensor, "*batch {self.d_in}"]) -> Float[Tensor, "*batch {self.d_in}"]:
        """Reconstruction of x in the inference form."""
        return self.restore(x, self.decode(self.encode(x)))

    @abstractmethod
    def loss(
        self, x: Float[Tensor, "tokens {self.d_in}"], target: Float[Tensor, "tokens {self.d_in}"], state: StepState
    ) -> StepResult:
        """One step of the training form: terms whose sum is trained, and what happened. Changes nothing."""

    def after_step(self, result: StepResult) -> None:
        """Fold what a step observed into buffers, once per step. Most architectures have none."""
        del result

    @abstractmethod
    def inference_form(self) -> "SAE":
        """A detached copy that saves and loads as it is: same latents as `encode`, no training state."""

    @abstractmethod
    def elementwise(self) -> Elementwise:
        """The encoder as one threshold rule per latent, which is what stacks into a jumprelu SAE.

        Raises:
            SAEError: latents compete with each other, so no such rule exists.
        """

    def block_rule(self) -> BlockRule:
        """The encoder as blocks, which every architecture has: one without competition unless it says otherwise."""
        return BlockRule(*self.elementwise(), (Block(self.d_sae, None),))

    def file_settings(self) -> dict[str, Any]:
        """Keys of cfg.json that only this architecture has."""
        return {}

    def tensors(self) -> dict[str, Tensor]:
        """The trained weights by SAELens name, detached, and "pre_bias" where it is a vector of its own."""
        tensors = {name: parameter.detach() for name, parameter in self.named_parameters()} | {
            "b_dec": self.b_dec.detach()
        }
        return tensors if self.frozen_pre_bias is None else tensors | {"pre_bias": self.frozen_pre_bias}

    @torch.no_grad()
    def set_tensors(self, tensors: Mapping[str, Tensor]) -> None:
        """Copy values into trained weights, by SAELens name."""
        for name, tensor in tensors.items():
            self.get_parameter(name).copy_(tensor)

    def centred(self, x: Float[Tensor, "*batch {self.d_in}"]) -> Float[Tensor, "*batch {self.d_in}"]:
        """x as the encoder's matrix meets it: normalised if the SAE does that, without the pre-bias."""
        x = inward(x, self.token_norm)
        return x if self.pre_bias is None else x - self.pre_bias

    @torch.no_grad()
    def biases_at(self, pre_bias: Float[Tensor, " d_in"]) -> dict[str, Float[Tensor, " d_sae"]]:
        """Encoder biases that give the same latents when `pre_bias` is subtracted instead; summed in float64."""
        shift = (pre_bias.double() - self.input_bias().double()) @ self.W_enc.double()
        return {"b_enc": (self.tensors()["b_enc"].double() + shift).float()}

    @torch.no_grad()
    def set_output_bias(self, value: Float[Tensor, " {self.d_in}"]) -> None:
        """Start b_dec at `value`, usually the mean of the (scaled) target; a tied pre-bias moves with it.

        Raises:
            SAEError: the SAE has no output bias.
        """
        if not self.has_output_bias:
            raise SAEError("set_output_bias on an SAE built with output_bias=False; build it with output_bias=True")
        self.b_dec.copy_(value)

    @torch.no_grad()
    def project_decoder_gradient(self) -> None:
        """Take out of the decoder's gradient what would only change a row's length. Nothing for free decoders."""
        if self.unit_decoder and self.W_dec.grad is not None:
            along = torch.linalg.vecdot(self.W_dec.grad, self.W_dec)
            self.W_dec.grad.addcmul_(along[:, None], self.W_dec, value=-1.0)

    @torch.no_grad()
    def normalise_decoder(self) -> None:
        """Bring decoder rows back to length 1. Nothing for free decoders."""
        if self.unit_decoder:
            self.W_dec.div_(torch.linalg.vector_norm(self.W_dec, dim=1, keepdim=True).clamp_min_(1e-12))


class SAEConfig(Config, ABC):
    """Base of the architecture settings. The width is `d_sae` or `expansion`; neither where a job starts from g."""

    starts_from: ClassVar[tuple[str, ...]] = ()
    "Architectures of files from which training may start (fovea.sae.init); none unless said."

    d_sae: PositiveInt | None = None
    "Number of latents."
    expansion: PositiveFloat | None = None
    "Number of latents as a multiple of d_in."
    compute_dtype: ComputeDtype = "float32"
    "Precision of the encoder product; bfloat16 only pays where the processor multiplies in it."

    @model_validator(mode="after")
    def _one_width(self) -> "SAEConfig":
        if self.d_sae is not None and self.expansion is not None:
            raise ValueError(f"d_sae = {self.d_sae} and expansion = {self.expansion} both set the width; remove one")
        return self

    @property
    @abstractmethod
    def label(self) -> str:
        """The sparsity as a part of the job name, like k16."""

    @abstractmethod
    def from_weights(self, weights: Weights) -> SAE:
        """An SAE of this architecture with these weights and zero encoder biases.

        Raises:
            ConfigError: a setting does not fit the width.
        """

    @property
    def decoder_init_norm(self) -> float:
        """Length of decoder rows at the start."""
        return 1.0

    def width(self, d_in: int) -> int:
        """Number of latents of an SAE on `d_in` inputs.

        Raises:
            ConfigError: neither d_sae nor expansion is set, or the width comes to 0.
        """
        if self.d_sae is not None:
            return self.d_sae
        if self.expansion is None:
            raise ConfigError(
                "sae.d_sae and sae.expansion are both missing; set one (only a start from g needs neither)"
            )
        width = round(self.expansion * d_in)
        if width < 1:
            raise ConfigError(f"sae.expansion = {self.expansion} gives {width} latents for d_in = {d_in}; raise it")
        return width

    def build(
        self, d_in: int, *, generator: torch.Generator, pre_bias: PreBias = "tied", output_bias: bool = True
    ) -> SAE:
        """A new SAE: random decoder directions, encoder their transpose, all biases zero.

        Args:
            pre_bias: "tied" to b_dec, "none", or a frozen vector in the units of training.
            output_bias: False fixes b_dec at zero, for an SAE whose output is added to another's.

        Raises:
            ConfigError: the width is missing, or a setting does not fit it.
        """
        directions = torch.randn(self.width(d_in), d_in, generator=generator)
        W_dec = nn.functional.normalize(directions, dim=1) * self.decoder_init_norm
        b_dec = torch.zeros(d_in) if output_bias else None
        absent: PreBias = "none" if isinstance(pre_bias, str) and not output_bias else pre_bias
        return self.from_weights(Weights(W_dec.T, W_dec, b_dec, absent))


def _copy(tensor: Tensor) -> Tensor:
    return tensor.detach().to(torch.float32).clone(memory_format=torch.contiguous_format)


def _check_shapes(weights: Weights) -> None:
    d_in, d_sae = weights.W_enc.shape
    wanted = {"W_dec": (weights.W_dec, (d_sae, d_in)), "b_dec": (weights.b_dec, (d_in,))}
    if isinstance(weights.pre_bias, Tensor):
        wanted["pre_bias"] = (weights.pre_bias, (d_in,))
    for name, (tensor, shape) in wanted.items():
        if tensor is not None and tensor.shape != shape:
            raise SAEError(f"{name} has shape {tuple(tensor.shape)}, but W_enc [{d_in}, {d_sae}] needs {shape}")
