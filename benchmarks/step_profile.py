"""A whole training step against its encoder product alone, and where the rest goes. Prints microseconds per token.

python benchmarks/step_profile.py [ROUNDS] [D_SAE ...]     variants alternate in one process; the least of ROUNDS counts

Processor time of one thread, so that other work on the machine matters little. The allocator is set from outside:
MALLOC_MMAP_MAX_=0 MALLOC_TRIM_THRESHOLD_=17179869184 MALLOC_TOP_PAD_=268435456 keeps freed memory.
Activations are made: rank falls off, latents are heavy-tailed, 48 of 4,096 directions a token. One untimed step first.
"""

import sys
import time
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path

import torch
from torch import Tensor

ROOT = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(ROOT / "src")]

from fovea.methods.base import Batch  # noqa: E402
from fovea.methods.direct import Direct  # noqa: E402
from fovea.sae.base import SAEConfig  # noqa: E402
from fovea.sae.batch_topk import BatchTopKConfig  # noqa: E402
from fovea.sae.encoder import Encoder  # noqa: E402
from fovea.sae.gated import GatedConfig  # noqa: E402
from fovea.sae.jumprelu import JumpReLUConfig  # noqa: E402
from fovea.sae.relu import ReLUConfig  # noqa: E402
from fovea.sae.select import dense_reference, select_topk  # noqa: E402
from fovea.sae.topk import TopKConfig  # noqa: E402
from fovea.train.job import Job, JobSpec, OptimiserConfig  # noqa: E402

D_IN, BATCH, K = 576, 4096, 32


def made_activations(n_tokens: int) -> Tensor:
    """Vectors of mean norm sqrt(d_in) with a mean, a falling spectrum and heavy tails."""
    source = torch.Generator().manual_seed(0)
    basis = torch.linalg.qr(torch.randn(D_IN, D_IN, generator=source)).Q
    spectrum = (1.0 + torch.arange(D_IN)) ** -0.5
    directions = torch.nn.functional.normalize(torch.randn(4096, D_IN, generator=source) * spectrum @ basis, dim=1)
    share = 1.0 / (1 + torch.arange(4096))
    chosen = torch.multinomial(share, 48 * n_tokens, replacement=True, generator=source).view(n_tokens, 48)
    size = 0.3 + torch.empty(n_tokens, 48).exponential_(generator=source)
    x = torch.nn.functional.embedding_bag(chosen, directions, per_sample_weights=size, mode="sum")
    x = x + torch.randn(D_IN, generator=source) + 0.05 * torch.randn(n_tokens, D_IN, generator=source)
    return x * (D_IN**0.5 / x.norm(dim=1).mean())


def made_job_spec(config: SAEConfig, *, n_steps: int, batch_size: int, dead_after_tokens: int) -> JobSpec:
    """A job on unscaled rows of one domain."""
    optimiser = OptimiserConfig(dead_after_tokens=dead_after_tokens)
    return JobSpec("job", "made", Direct(), config.label, "", 0, optimiser, 1.0, 1.0, n_steps, batch_size)


def make_job(config: SAEConfig, x: Tensor, *, share_dead: float = 0.0) -> Job:
    """A job whose SAE fires on about K latents a token; a share of them counts as dead for good."""
    sae = config.build(D_IN, generator=torch.Generator().manual_seed(0))
    sae.set_output_bias(x.mean(dim=0))
    with torch.no_grad():
        pre = (x[:256] - x.mean(dim=0)) @ sae.W_enc
        height = pre.flatten().kthvalue(pre.numel() - 256 * K).values
    if isinstance(config, ReLUConfig | GatedConfig):
        name = "b_enc" if isinstance(config, ReLUConfig) else "b_gate"
        sae.set_tensors({name: (-height).expand(sae.d_sae)})
    if isinstance(config, JumpReLUConfig):
        sae.set_tensors({"threshold": height.expand(sae.d_sae)})
    job = Job(made_job_spec(config, n_steps=10**6, batch_size=BATCH, dead_after_tokens=10**9), sae)
    job.firing.tokens_since_fired[: int(share_dead * sae.d_sae)] = 2 * 10**9
    return job


class Variant:
    """Something to time, and the least processor time it took."""

    def __init__(self, run: Callable[[], object], within: Callable[[], AbstractContextManager[None]] = nullcontext):
        self.run, self.within, self.least = run, within, float("inf")

    def once(self, *, timed: bool) -> None:
        with self.within():
            began = time.process_time()
            self.run()
            took = time.process_time() - began
        self.least = min(self.least, took) if timed else self.least


def stepper(job: Job, batch: Batch, *, share_dead: float = 0.0) -> Callable[[], object]:
    """A step of the job; what was dead stays so."""

    def run() -> None:
        job.firing.tokens_since_fired[: int(share_dead * job.sae.d_sae)] = 2 * 10**9
        job.step(batch)

    return run


def variants(d_sae: int, x: Tensor) -> dict[str, Variant]:
    """The encoder alone, with selection, and whole steps."""
    batch = Batch(x, None, torch.ones(len(x), dtype=torch.bool))
    job = make_job(TopKConfig(d_sae=d_sae, k=K), x)
    sae, centred = job.sae, x - x.mean(dim=0)

    def encoder() -> Encoder:
        return Encoder(sae.W_enc.detach(), sae.get_parameter("b_enc").detach(), "float32")

    found = {
        "encoder product": Variant(lambda: [None for _ in encoder().chunks(centred)]),
        "encoder product + top k": Variant(lambda: select_topk(centred, encoder(), K)),
        "topk": Variant(stepper(job, batch)),
        "topk, dense reference": Variant(stepper(make_job(job_config(job), x), batch), dense_reference),
    }
    for share in (0.1, 0.5):
        dead = make_job(TopKConfig(d_sae=d_sae, k=K), x, share_dead=share)
        found[f"topk, {share:.0%} dead"] = Variant(stepper(dead, batch, share_dead=share))
    others: dict[str, SAEConfig] = {
        "batch_topk": BatchTopKConfig(d_sae=d_sae, k=K),
        "jumprelu": JumpReLUConfig(d_sae=d_sae, target_l0=K),
        "gated": GatedConfig(d_sae=d_sae, l1=1.0),
        "relu": ReLUConfig(d_sae=d_sae, l1=1.0),
    }
    for name, config in others.items():
        found[name] = Variant(stepper(make_job(config, x), batch))
        found[f"{name}, dense reference"] = Variant(stepper(make_job(config, x), batch), dense_reference)
    return found


def job_config(job: Job) -> SAEConfig:
    """The settings of the job's SAE."""
    config = job.sae.config
    assert isinstance(config, SAEConfig)
    return config


def main() -> None:
    """Alternate the variants of each width."""
    torch.set_num_threads(1)
    n_rounds = int(sys.argv[1]) if len(sys.argv) > 1 else 5
    x = made_activations(BATCH)
    for d_sae in [int(width) for width in sys.argv[2:]] or [1152, 9216]:
        found = variants(d_sae, x)
        for round_index in range(n_rounds + 1):
            for variant in found.values():
                variant.once(timed=round_index > 0)
        floor = found["encoder product"].least
        print(f"\nd_sae {d_sae:<28}us/token   encoder's share")
        for name, variant in found.items():
            print(f"{name:<32}{1e6 * variant.least / BATCH:>9.1f}{floor / variant.least:>17.0%}", flush=True)


if __name__ == "__main__":
    main()
