"""One small SAE of every architecture, and data to step it on."""

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

from fovea.sae.base import SAE, PreBias, SAEConfig, StepResult, StepState
from fovea.sae.batch_topk import BatchTopKConfig
from fovea.sae.gated import GatedConfig
from fovea.sae.jumprelu import JumpReLUConfig
from fovea.sae.relu import ReLUConfig
from fovea.sae.topk import TopKConfig

D_IN, D_SAE, N_TOKENS = 12, 40, 300

CONFIGS: dict[str, SAEConfig] = {
    "batch_topk": BatchTopKConfig(d_sae=D_SAE, k=5),
    "topk": TopKConfig(d_sae=D_SAE, k=5),
    "gated": GatedConfig(d_sae=D_SAE, l1=0.5),
    "gated_free": GatedConfig(d_sae=D_SAE, l1=0.5, decoder_norm="free", init_norm=0.3, detach_aux_decoder=False),
    "relu": ReLUConfig(d_sae=D_SAE, l1=0.5),
    "relu_unit": ReLUConfig(d_sae=D_SAE, l1=0.5, decoder_norm="unit"),
    "jumprelu": JumpReLUConfig(d_sae=D_SAE, target_l0=5, dead_weight=0.1),
    "jumprelu_free": JumpReLUConfig(d_sae=D_SAE, target_l0=5, dead_weight=0.1, decoder_norm="free"),
}
ELEMENTWISE = sorted(CONFIGS.keys() - {"topk"})


class Bias(NamedTuple):
    """A convention of the biases."""

    pre_bias: Callable[[], PreBias]
    output_bias: bool


BIASES = {
    "tied": Bias(lambda: "tied", output_bias=True),
    "own": Bias(lambda: torch.linspace(-2.0, 3.0, D_IN), output_bias=False),
    "own_with_output": Bias(lambda: torch.linspace(-2.0, 3.0, D_IN), output_bias=True),
    "none": Bias(lambda: "none", output_bias=True),
}


def generator(seed: int = 0) -> torch.Generator:
    """A generator of its own."""
    return torch.Generator().manual_seed(seed)


def rows(n: int = N_TOKENS, *, d_in: int = D_IN, seed: int = 1) -> Tensor:
    """Activation vectors with a mean far from zero."""
    return torch.randn(n, d_in, generator=generator(seed)) + torch.linspace(-1.0, 2.0, d_in)


def build(name: str, bias: str = "tied", *, seed: int = 0) -> SAE:
    """An SAE with biases and row lengths that are not the initial ones, so that nothing cancels by accident."""
    convention = BIASES[bias]
    sae = CONFIGS[name].build(
        D_IN, generator=generator(seed), pre_bias=convention.pre_bias(), output_bias=convention.output_bias
    )
    source = generator(seed + 100)
    with torch.no_grad():
        for key, parameter in sae.named_parameters():
            if key not in ("W_enc", "W_dec"):
                parameter.add_(torch.randn(parameter.shape, generator=source) * 0.2)
        if not sae.unit_decoder:
            sae.W_dec.mul_(torch.rand(D_SAE, 1, generator=source) + 0.5)
    sae.after_step(loss(sae))
    return sae


def state(*, n_dead: int = 0, sparsity_scale: float = 1.0, d_sae: int = D_SAE) -> StepState:
    """What a trainer would say; the last `n_dead` latents are dead."""
    return StepState(sparsity_scale, torch.arange(d_sae) >= d_sae - n_dead)


def loss(sae: SAE, x: Tensor | None = None, *, n_dead: int = 0) -> StepResult:
    """The training form on fixed rows; the target is not x."""
    x = rows() if x is None else x
    target = x.flip(1) * 0.7
    return sae.loss(x, target, state(n_dead=n_dead, d_sae=sae.d_sae))


def train(sae: SAE, x: Tensor, target: Tensor, *, n_steps: int, lr: float = 3e-3, batch_size: int = 512) -> StepResult:
    """A plain training loop, as the trainer's; a latent silent for 20 steps is dead."""
    optimiser = torch.optim.Adam(sae.parameters(), lr=lr, fused=True)
    source, silent = generator(7), torch.zeros(sae.d_sae, dtype=torch.long)
    result = None
    for step in range(n_steps):
        for group in optimiser.param_groups:
            group["lr"] = lr * min(1.0, 5 * (1 - step / n_steps))
        chosen = torch.randint(len(x), (batch_size,), generator=source)
        warm = min(1.0, step / (0.05 * n_steps))
        result = sae.loss(x[chosen], target[chosen], StepState(warm, silent > 20))
        optimiser.zero_grad()
        result.terms.total.backward()
        sae.project_decoder_gradient()
        optimiser.step()
        sae.normalise_decoder()
        sae.after_step(result)
        silent = torch.where(result.fired, 0, silent + 1)
    assert result is not None
    return result
