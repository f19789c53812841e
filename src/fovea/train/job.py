"""One SAE in training: the only code that changes it.

batch -> the method's rows and target -> loss -> gradient -> Adam on fp32 weights -> firing counts
"""

import copy
import math
import time
from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import torch
from jaxtyping import Float
from pydantic import Field, PositiveFloat, PositiveInt
from torch import Tensor

from fovea.config import Config
from fovea.errors import FoveaError
from fovea.methods.base import Batch, Method, choose_rows
from fovea.ranks import ALONE_MESH, Mesh
from fovea.sae.base import SAE, StepResult, StepState
from fovea.sae.spread import joined, keep_latents, latent_axis, own_part, with_all_latents
from fovea.train.firing import Firing
from fovea.train.pooling import Pooled, pool_later
from fovea.train.schedules import LearningRateConfig, learning_rate, warmup

EXPLODED = 1000.0
"A loss so many times that of the first step is no longer training; penalties that warm up stay far below it."
KEEP_EVERY = 50
"Steps between copies of the weights, taken when a step's loss has shown them to be good."


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
    "Activations per step, over all ranks."


class StepLog(NamedTuple):
    """What one step did, for logging; changing nothing."""

    terms: dict[str, float]
    l0: float
    n_dead: int


class DivergedError(FoveaError):
    """A job's loss is NaN, infinite or far above the one that it began with."""


class Stopped(NamedTuple):
    """Why a job ended before the others. Its weights are the last ones kept: those that `step_kept` began with."""

    step: int
    "The step whose loss was refused, from 0."
    step_kept: int
    reason: str


class Job:
    """One SAE, its optimiser and its counts.

    Args:
        mesh: The ranks that train it; each steps on its own tokens, and all end in the same weights.
    """

    def __init__(self, spec: JobSpec, sae: SAE, mesh: Mesh = ALONE_MESH) -> None:
        self.spec, self.sae, self.mesh = spec, sae, mesh
        keep_latents(sae, mesh.latents)
        trained = [p for name, p in sae.named_parameters() if name not in spec.method.frozen and p.requires_grad]
        for name, parameter in sae.named_parameters():
            parameter.requires_grad_(parameter.requires_grad and name not in spec.method.frozen)
        self.parameters = trained
        self._shared = [p for name, p in sae.named_parameters() if p.requires_grad and latent_axis(name) is None]
        self.optimiser = torch.optim.Adam(trained, lr=spec.optimiser.lr.peak, betas=(0.9, 0.999), fused=True)
        self.device = sae.W_enc.device
        "Where the SAE lies: its optimiser, counts and batches lie there too."
        self.firing = Firing(sae.d_sae, dead_after_tokens=spec.optimiser.dead_after_tokens, device=self.device)
        self.step_index = 0
        self.n_tokens = 0
        self.n_active = 0.0
        "Sum over tokens of the latents that fired."
        self.seconds = 0.0
        self.first_loss = 0.0
        self.kept: dict[str, Tensor] = {}
        "The SAE as it was at step `step_kept`, beside it: a copy to the CPU takes longer than a step."
        self.step_kept = 0
        self.stopped: Stopped | None = None

    def step(self, batch: Batch) -> StepLog:
        """Learn from one batch.

        Raises:
            DivergedError: the loss is not a number or has exploded; the weights are those before the step.
        """
        return self.begin(batch)()

    def begin(self, batch: Batch) -> Callable[[], StepLog]:
        """The first half of `step`: the gradient, on its way to the other ranks; call what comes back for the rest."""
        began = time.perf_counter()
        spec = self.spec
        n_warmup = round(spec.optimiser.sparsity_warmup_fraction * spec.n_steps)
        state = StepState(warmup(self.step_index, n_warmup), self.firing.dead, self.mesh)
        result = self.sae.loss(*self._scaled(batch), state)
        self.optimiser.zero_grad(set_to_none=True)
        total = result.terms.total
        total.backward()
        pooled = pool_later(result, total, parameters=self.parameters, shared=self._shared, mesh=self.mesh)
        self.seconds += time.perf_counter() - began
        return partial(self._finish, result, pooled)

    def _scaled(self, batch: Batch) -> tuple[Tensor, Tensor]:
        """The job's rows of x and of its target, scaled; the same tensor where they are equal."""
        spec = self.spec
        n_rows = spec.batch_size // self.mesh.tokens.size
        rows = choose_rows(batch.is_domain, n_rows, spec.method.general_share, n_shards=batch.n_shards)
        chosen = None if len(rows) == len(batch.x) else rows.to(batch.x.device)

        def scaled(values: Tensor, scale: float) -> Tensor:
            own = values if chosen is None else values[chosen]
            own = own.to(self.device)
            return own if scale == 1.0 else own * scale

        x, target = scaled(batch.x, spec.scale_in), spec.method.target(batch)
        rebuilds_x = target is batch.x and spec.scale_out == spec.scale_in
        return x, x if rebuilds_x else scaled(target, spec.scale_out)

    def _finish(self, result: StepResult, pooled: Callable[[], Pooled]) -> StepLog:
        began = time.perf_counter()
        spec, whole = self.spec, pooled()
        n_dead = self.firing.n_dead_after(whole.fired, spec.batch_size)
        # One wait for the device: all that is logged, in one transfer, before any weight changes.
        *terms, loss, l0, n_own_dead = torch.cat([whole.numbers, n_dead[None].to(whole.numbers.dtype)]).tolist()
        self._check(loss)
        if self.step_index % KEEP_EVERY == 0:
            self._keep()
        self._descend()
        self.sae.after_step(result._replace(observed=whole.observed))
        self.firing.update(whole.fired, spec.batch_size)
        self.step_index += 1
        self.n_tokens += spec.batch_size
        self.n_active += l0 * spec.batch_size
        n_all_dead = self.mesh.latents.total(int(n_own_dead))
        self.seconds += time.perf_counter() - began
        return StepLog(dict(zip(result.terms.terms, terms, strict=True)), l0, n_all_dead)

    def _check(self, loss: float) -> None:
        """Nothing, if the loss is one to learn from."""
        if self.step_index == 0:
            self.first_loss = loss
        if math.isfinite(loss) and loss <= EXPLODED * max(self.first_loss, torch.finfo(torch.float32).tiny):
            return
        began = f", {loss / self.first_loss:.3g} times the first" if math.isfinite(loss) and self.first_loss else ""
        raise DivergedError(
            f"job {self.spec.name!r}: the loss is {loss:.4g} at step {self.step_index}{began}; lower its learning rate "
            f"({self.spec.optimiser.lr.peak:g}) and start in a new folder, or look for outliers in the activations"
        )

    def _keep(self) -> None:
        for name, tensor in self.sae.state_dict().items():
            self.kept[name] = tensor.detach().clone()
        self.step_kept = self.step_index

    def stop(self, reason: str) -> None:
        """End this job here with the last weights kept; one that never had a good step keeps those it began with."""
        if self.kept:
            self.sae.load_state_dict(self.kept)
        self.stopped = Stopped(self.step_index, self.step_kept, reason)

    def end(self) -> str | None:
        """Why the job has diverged in its last step, whose result no loss has shown; None if it has not."""
        n_bad = sum(int((~tensor.isfinite()).sum()) for tensor in self.sae.state_dict().values())
        if self.stopped is not None or not self.mesh.world.total(n_bad):
            return None
        reason = (
            f"job {self.spec.name!r}: weights are NaN or infinite after the last step; lower its learning rate "
            f"({self.spec.optimiser.lr.peak:g}) and start in a new folder"
        )
        self.stop(reason)
        return reason

    def _descend(self) -> None:
        rate = learning_rate(self.spec.optimiser.lr, self.step_index, self.spec.n_steps)
        for group in self.optimiser.param_groups:
            group["lr"] = rate
        if "W_dec" not in self.spec.method.frozen:
            self.sae.project_decoder_gradient()
        # Adam divides the gradients while it reads them: clipping needs no pass of its own.
        scale = (self._gradient_norm() / self.spec.optimiser.clip_norm).clamp_min(1.0)
        self.optimiser.grad_scale = scale  # pyright: ignore[reportAttributeAccessIssue]
        self.optimiser.step()
        if "W_dec" not in self.spec.method.frozen:
            self.sae.normalise_decoder()

    def _gradient_norm(self) -> Float[Tensor, ""]:
        """Length of the gradient over the latents of all ranks; weights that they share count once."""
        latents = self.mesh.latents
        if latents.size == 1:
            return torch.nn.utils.get_total_norm([p.grad for p in self.parameters if p.grad is not None])
        shared = set() if latents.is_first else {id(parameter) for parameter in self._shared}
        counted = [p.grad for p in self.parameters if p.grad is not None and id(p) not in shared]
        return latents.sum(torch.nn.utils.get_total_norm(counted).square()[None])[0].sqrt()

    @property
    def n_dead(self) -> int:
        """Dead latents, those of other ranks too."""
        return self.mesh.latents.total(int(self.firing.dead.sum()))

    def whole_sae(self) -> SAE:
        """A copy of the SAE with the latents of all ranks, on the CPU; every rank must ask."""
        return copy.deepcopy(with_all_latents(self.sae, self.mesh.latents)).cpu()

    def state_dict(self) -> dict[str, Tensor]:
        """Everything `step` changes, as named tensors: resuming from it equals never having stopped.

        The tensors are whole, whatever part of the latents this rank holds; every rank must ask.
        """
        tensors = {f"sae.{name}": tensor for name, tensor in self.sae.state_dict().items()}
        tensors |= {f"firing.{name}": tensor for name, tensor in self.firing.state_dict().items()}
        for index, values in self.optimiser.state_dict()["state"].items():
            tensors |= {f"adam.{index}.{name}": value for name, value in values.items()}
        tensors |= {f"kept.{name}": tensor for name, tensor in self.kept.items()}
        counters = [self.step_index, self.n_tokens, self.n_active, self.seconds, self.first_loss, self.step_kept]
        tensors["counters"] = torch.tensor(counters, dtype=torch.float64, device="cpu")
        return {name: joined(tensor, self._axis(name), self.mesh.latents) for name, tensor in tensors.items()}

    def load_state_dict(self, tensors: dict[str, Tensor]) -> None:
        """Continue from what `state_dict` returned, on any mesh."""
        tensors = {name: own_part(tensor, self._axis(name), self.mesh.latents) for name, tensor in tensors.items()}
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
        self.kept = {name: tensor.to(self.device) for name, tensor in _under("kept.", tensors).items()}
        step_index, n_tokens, self.n_active, self.seconds, self.first_loss, step_kept = tensors["counters"].tolist()
        self.step_index, self.n_tokens, self.step_kept = int(step_index), int(n_tokens), int(step_kept)

    def _axis(self, name: str) -> int | None:
        """The axis of a tensor of `state_dict` that runs over latents."""
        kind, _, rest = name.partition(".")
        if kind == "adam":
            index, key = rest.split(".", 1)
            names = [name for name, parameter in self.sae.named_parameters() if parameter.requires_grad]
            return None if key == "step" else latent_axis(names[int(index)])
        return {"sae": latent_axis(rest), "kept": latent_axis(rest), "firing": 0}.get(kind)


def _under(prefix: str, tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    return {name.removeprefix(prefix): tensor for name, tensor in tensors.items() if name.startswith(prefix)}
