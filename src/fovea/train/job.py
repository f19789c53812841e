"""One SAE in training: the only code that changes it.

batch -> the method's rows and target -> loss -> gradient -> Adam on fp32 weights -> firing counts
"""

import math
import time
from typing import Any, NamedTuple

import torch
from pydantic import Field, PositiveFloat, PositiveInt
from torch import Tensor

from fovea.config import Config
from fovea.errors import FoveaError
from fovea.methods.base import Batch, Method, choose_rows
from fovea.sae.base import SAE, StepState
from fovea.train.firing import Firing
from fovea.train.schedules import LearningRateConfig, learning_rate, warmup


class OptimiserConfig(Config):
    """How a job steps."""

    lr: LearningRateConfig = LearningRateConfig()
    sparsity_warmup_fraction: float = Field(default=0.05, ge=0.0, le=1.0)
    "Share of the steps over which a sparsity penalty rises to its full weight."
    clip_norm: PositiveFloat = 1.0
    "Largest gradient norm over all parameters of the SAE; longer gradients are shortened to it."
    dead_after_tokens: PositiveInt = 100_000
    "A latent that has not fired on so many tokens is dead, and the auxiliary term works on it."


class JobSpec(NamedTuple):
    """What identifies a job and fixes its course."""

    name: str
    domain: str
    method: Method
    architecture: str
    label: str
    seed: int
    optimiser: OptimiserConfig
    scale_in: float
    scale_out: float
    "The SAE sees scale_in * x and rebuilds scale_out * target; both are folded into the weights at the end."
    n_steps: int
    batch_size: int


class StepLog(NamedTuple):
    """What one step did, for logging; changing nothing."""

    terms: dict[str, float]
    l0: float
    n_dead: int


class NonFiniteLossError(FoveaError):
    """A job's loss is NaN or infinite."""


class Job:
    """One SAE, its optimiser and its counts."""

    def __init__(self, spec: JobSpec, sae: SAE) -> None:
        self.spec, self.sae = spec, sae
        trained = [p for name, p in sae.named_parameters() if name not in spec.method.frozen and p.requires_grad]
        for name, parameter in sae.named_parameters():
            parameter.requires_grad_(parameter.requires_grad and name not in spec.method.frozen)
        self.parameters = trained
        self.optimiser = torch.optim.Adam(trained, lr=spec.optimiser.lr.peak, betas=(0.9, 0.999), fused=True)
        self.device = sae.W_enc.device
        "Where the SAE lies: its optimiser, counts and batches lie there too."
        self.firing = Firing(sae.d_sae, dead_after_tokens=spec.optimiser.dead_after_tokens, device=self.device)
        self.step_index = 0
        self.n_tokens = 0
        self.n_active = 0.0
        "Sum over tokens of the latents that fired."
        self.seconds = 0.0

    def step(self, batch: Batch) -> StepLog:
        """Learn from one batch.

        Raises:
            NonFiniteLossError: the loss is not a number; the weights are those before the step.
        """
        began = time.perf_counter()
        spec = self.spec
        rows = choose_rows(batch.is_domain, spec.batch_size, spec.method.general_share)
        whole = len(rows) == len(batch.x)
        x, target = (batch.x, spec.method.target(batch)) if whole else (batch.x[rows], spec.method.target(batch)[rows])
        n_warmup = round(spec.optimiser.sparsity_warmup_fraction * spec.n_steps)
        state = StepState(sparsity_scale=warmup(self.step_index, n_warmup), dead=self.firing.dead)
        x, target = x.to(self.device), target.to(self.device)
        result = self.sae.loss(x * spec.scale_in, target * spec.scale_out, state)
        total = result.terms.total
        # One wait for the device per step: all that is logged, in one transfer, before anything changes.
        numbers = torch.stack([*result.terms.terms.values(), total, result.l0]).tolist()
        *terms, loss, l0 = numbers
        if not math.isfinite(loss):
            raise NonFiniteLossError(
                f"job {spec.name!r}: the loss is {loss} at step {self.step_index}; lower its learning rate "
                f"({spec.optimiser.lr.peak:g}) and start in a new folder, or look for outliers in the activations"
            )
        self._descend(total)
        self.sae.after_step(result)
        self.firing.update(result.fired, len(rows))
        self.step_index += 1
        self.n_tokens += len(rows)
        self.n_active += l0 * len(rows)
        self.seconds += time.perf_counter() - began
        return StepLog(dict(zip(result.terms.terms, terms, strict=True)), l0, self.n_dead)

    def _descend(self, total: Tensor) -> None:
        rate = learning_rate(self.spec.optimiser.lr, self.step_index, self.spec.n_steps)
        for group in self.optimiser.param_groups:
            group["lr"] = rate
        self.optimiser.zero_grad(set_to_none=True)
        total.backward()
        if "W_dec" not in self.spec.method.frozen:
            self.sae.project_decoder_gradient()
        # Adam divides the gradients while it reads them: clipping needs no pass of its own.
        norm = torch.nn.utils.get_total_norm([p.grad for p in self.parameters if p.grad is not None])
        self.optimiser.grad_scale = (norm / self.spec.optimiser.clip_norm).clamp_min(1.0)  # pyright: ignore[reportAttributeAccessIssue]
        self.optimiser.step()
        if "W_dec" not in self.spec.method.frozen:
            self.sae.normalise_decoder()

    @property
    def n_dead(self) -> int:
        return int(self.firing.dead.sum())

    def state_dict(self) -> dict[str, Tensor]:
        """Everything `step` changes, as named tensors: resuming from it equals never having stopped."""
        tensors = {f"sae.{name}": tensor for name, tensor in self.sae.state_dict().items()}
        tensors |= {f"firing.{name}": tensor for name, tensor in self.firing.state_dict().items()}
        for index, values in self.optimiser.state_dict()["state"].items():
            tensors |= {f"adam.{index}.{name}": value for name, value in values.items()}
        counters = [self.step_index, self.n_tokens, self.n_active, self.seconds]
        tensors["counters"] = torch.tensor(counters, dtype=torch.float64, device="cpu")
        return tensors

    def load_state_dict(self, tensors: dict[str, Tensor]) -> None:
        """Continue from what `state_dict` returned."""
        self.sae.load_state_dict(_under("sae.", tensors))
        self.firing.load_state_dict(_under("firing.", tensors))
        state: dict[int, dict[str, Any]] = {}
        for name, tensor in _under("adam.", tensors).items():
            index, key = name.split(".", 1)
            parameter = self.parameters[int(index)]
            # The fused step walks weights and moments side by side, so they must lie in memory alike.
            alike = torch.empty_like(parameter).copy_(tensor) if tensor.shape == parameter.shape else tensor
            state.setdefault(int(index), {})[key] = alike
        self.optimiser.load_state_dict({"state": state, "param_groups": self.optimiser.state_dict()["param_groups"]})
        step_index, n_tokens, self.n_active, self.seconds = tensors["counters"].tolist()
        self.step_index, self.n_tokens = int(step_index), int(n_tokens)


def _under(prefix: str, tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    return {name.removeprefix(prefix): tensor for name, tensor in tensors.items() if name.startswith(prefix)}
