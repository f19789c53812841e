"""Workloads on activations that lie in memory: fovea's step, the dense reference, and the products that bound them.

Each has the shape of fovea.bench.protocol.Prepare: task --> (unit, results).
"""

from typing import Any

import torch
from torch import Tensor

from fovea.bench.material import Rows
from fovea.bench.protocol import Results, Unit
from fovea.bench.reference import DenseTopK
from fovea.methods.base import Batch, Setting
from fovea.methods.direct import Direct
from fovea.sae.architectures import ArchitectureConfig
from fovea.sae.base import SAE, ComputeDtype
from fovea.sae.batch_topk import BatchTopKConfig
from fovea.sae.gated import GatedConfig
from fovea.sae.jumprelu import JumpReLUConfig
from fovea.sae.topk import TopKConfig
from fovea.train.job import Job, JobSpec, OptimiserConfig

_L1 = 4.0
MATMUL_SIZES = {"cpu": 2048, "cuda": 8192}
"Of the square products that are the peak of a device."
SAMPLE_ROWS = 256
_ENDLESS = 1_000_000
"Steps of a timed job: its learning rate never decays within it."


def architecture(kind: str, *, d_sae: int, k: int, compute_dtype: ComputeDtype = "float32") -> ArchitectureConfig:
    """Settings of an SAE of `kind` with about `k` active latents per token."""
    match kind:
        case "topk":
            return TopKConfig(d_sae=d_sae, k=k, compute_dtype=compute_dtype)
        case "batch_topk":
            return BatchTopKConfig(d_sae=d_sae, k=k, compute_dtype=compute_dtype)
        case "jumprelu":
            return JumpReLUConfig(d_sae=d_sae, target_l0=k, compute_dtype=compute_dtype)
        case "gated":
            return GatedConfig(d_sae=d_sae, l1=_L1, compute_dtype=compute_dtype)
        case _:
            raise ValueError(f"architecture {kind!r} is not benchmarked; choose topk, batch_topk, jumprelu or gated")


def make_job(task: dict[str, Any], mean: Tensor, *, seed: int = 0, n_steps: int = _ENDLESS) -> Job:
    """A direct job on rows that are scaled already."""
    made = architecture(task["arch"], d_sae=task["d_sae"], k=task["k"], compute_dtype=task.get("dtype", "float32"))
    setting = Setting(len(mean), None, mean.cpu(), 1.0, torch.Generator().manual_seed(seed))
    sae = Direct().start(made, setting).to(task.get("device", "cpu"))
    spec = JobSpec(
        name=f"{made.kind}-{seed}",
        domain="bench",
        method=Direct(),
        architecture=made.kind,
        label=made.label,
        seed=seed,
        optimiser=OptimiserConfig(),
        scale_in=1.0,
        scale_out=1.0,
        n_steps=n_steps,
        batch_size=task["batch_size"],
    )
    return Job(spec, sae)


def batch_of(x: Tensor) -> Batch:
    """Rows of D alone, without g."""
    return Batch(x, None, torch.ones(len(x), dtype=torch.bool))


def step(task: dict[str, Any]) -> tuple[Unit, Results]:
    """`n` jobs, each stepping on every batch, through the public Job.step; `dead_share` of the latents held dead."""
    rows = Rows(task["data"], task["batch_size"], task.get("device", "cpu"))
    jobs = [make_job(task, rows.mean, seed=seed) for seed in range(task.get("n", 1))]
    if "gate_l0" in task:
        for job in jobs:
            close_gates(job.sae, rows.x[:SAMPLE_ROWS], task["gate_l0"])
    n_dead = _n_dead(task)

    def unit() -> int:
        batch = batch_of(rows.batch())
        for job in jobs:
            hold_dead(job.firing.tokens_since_fired, n_dead, job.firing.dead_after_tokens)
            job.step(batch)
        return len(batch.x)

    def results() -> dict[str, Any]:
        return {"n_dead": jobs[0].n_dead, "steps": jobs[0].step_index, "l0": jobs[0].n_active / jobs[0].n_tokens}

    return unit, results


@torch.no_grad()
def close_gates(sae: SAE, x: Tensor, l0: int) -> None:
    """Shift a gated SAE's gates so that about `l0` are open on each row of x, as late in training."""
    gate = sae.centred(x) @ sae.W_enc
    height = gate.flatten().kthvalue(gate.numel() - l0 * len(x)).values
    sae.set_tensors({"b_gate": (-height).expand(sae.d_sae)})


def hold_dead(tokens_since_fired: Tensor, n_dead: int, dead_after: int) -> None:
    """Make the first `n_dead` latents dead and the others alive, however many steps were timed before."""
    tokens_since_fired[:n_dead] = dead_after
    tokens_since_fired[n_dead:] = 0


def _n_dead(task: dict[str, Any]) -> int:
    return round(task.get("dead_share", 0.0) * task["d_sae"])


def dense_step(task: dict[str, Any]) -> tuple[Unit, Results]:
    """The dense TopK reference."""
    rows = Rows(task["data"], task["batch_size"], task.get("device", "cpu"))
    settings = OptimiserConfig()
    trained = DenseTopK(make_job(task, rows.mean).sae, k=task["k"], optimiser=settings, n_steps=_ENDLESS)
    n_dead = _n_dead(task)

    def unit() -> int:
        x = rows.batch()
        hold_dead(trained.tokens_since_fired, n_dead, settings.dead_after_tokens)
        trained.step(x)
        return len(x)

    return unit, dict


def encoder_product(task: dict[str, Any]) -> tuple[Unit, Results]:
    """x W + b alone: what no step with a dense encoder can be faster than."""
    rows = Rows(task["data"], task["batch_size"], task.get("device", "cpu"))
    dtype = torch.bfloat16 if task.get("dtype") == "bfloat16" else torch.float32
    with torch.device(task.get("device", "cpu")):
        W, b = torch.randn(rows.d_in, task["d_sae"], dtype=dtype), torch.zeros(task["d_sae"], dtype=dtype)
        pre = torch.empty(task["batch_size"], task["d_sae"], dtype=dtype)

    def unit() -> int:
        x = rows.batch()
        torch.addmm(b, x.to(dtype), W, out=pre)
        return len(x)

    return unit, dict


def matmul(task: dict[str, Any]) -> tuple[Unit, Results]:
    """Products of square matrices, one "token" each: the peak that fractions are of."""
    device = task.get("device", "cpu")
    size = task.get("size", MATMUL_SIZES[device])
    dtype = torch.bfloat16 if task.get("dtype") == "bfloat16" else torch.float32
    a, b = (torch.randn(size, size, dtype=dtype, device=device) for _ in range(2))
    product = torch.empty(size, size, dtype=dtype, device=device)

    def unit() -> int:
        torch.mm(a, b, out=product)
        return 1

    return unit, dict


def matmul_flops(size: int = MATMUL_SIZES["cpu"]) -> float:
    """FLOPs of one product."""
    return 2.0 * size**3


def quality(task: dict[str, Any]) -> tuple[Unit, Results]:
    """Train to the end on all rows but the last `n_heldout`, then measure FVU and L0 on those."""
    rows = Rows(task["data"], task["batch_size"], task.get("device", "cpu"))
    heldout = rows.x[-task["n_heldout"] :]
    rows.x = rows.x[: -task["n_heldout"]]
    n_steps = task["n_steps"]
    job = make_job(task, rows.mean, seed=task["seed"], n_steps=n_steps)
    plain = DenseTopK(job.sae, k=task["k"], optimiser=job.spec.optimiser, n_steps=n_steps) if task["dense"] else None

    def unit() -> int:
        for _ in range(n_steps):
            x = rows.batch()
            if plain is None:
                job.step(batch_of(x))
            else:
                plain.step(x)
        return n_steps * task["batch_size"]

    @torch.no_grad()
    def results() -> dict[str, Any]:
        if plain is None:
            form = job.sae.inference_form()
            latents = form.encode(heldout)
            x_hat = form.decode(latents)
        else:
            x_hat, latents = plain.reconstruct(heldout)
        error, spread = (heldout - x_hat).double(), (heldout - heldout.mean(dim=0)).double()
        fvu = error.square().sum() / spread.square().sum()
        return {"fvu": float(fvu), "l0": float((latents > 0).sum(dim=1).double().mean())}

    return unit, results
