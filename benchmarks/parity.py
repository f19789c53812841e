"""Does the fast path train the SAE that the dense fp32 reference trains? Prints FVU and L0 of both, seed by seed.

python benchmarks/parity.py RUN/calibration/DOMAIN.safetensors [STEPS [D_SAE]]     exits 1 if one differs too much

The rows are real activations that every run keeps (`make demo` makes such a run). Three seeds of every architecture,
the same batches for both paths, held-out rows at the end. The bar: the means over the seeds differ by no more than 0.5%
or, where that is more, by no more than the seeds of the reference differ among themselves.
"""

import statistics
import sys
from pathlib import Path
from typing import NamedTuple

import torch
from safetensors.torch import load_file
from torch import Tensor

ROOT = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(ROOT), str(ROOT / "src")]

from benchmarks.step_profile import made_job_spec  # noqa: E402

from fovea.methods.base import Batch  # noqa: E402
from fovea.sae.base import SAEConfig  # noqa: E402
from fovea.sae.batch_topk import BatchTopKConfig  # noqa: E402
from fovea.sae.gated import GatedConfig  # noqa: E402
from fovea.sae.jumprelu import JumpReLUConfig  # noqa: E402
from fovea.sae.relu import ReLUConfig  # noqa: E402
from fovea.sae.select import dense_reference  # noqa: E402
from fovea.sae.topk import TopKConfig  # noqa: E402
from fovea.train.job import Job  # noqa: E402

BATCH, N_HELDOUT, SEEDS, TOLERANCE = 1024, 2048, (0, 1, 2), 0.005


class Quality(NamedTuple):
    """Of one SAE on held-out rows."""

    fvu: float
    l0: float


def trained(config: SAEConfig, x: Tensor, *, seed: int, n_steps: int) -> Quality:
    """Train on all rows but the last, measure on those."""
    source = torch.Generator().manual_seed(seed)
    sae = config.build(x.shape[1], generator=source)
    sae.set_output_bias(x.mean(dim=0))
    job = Job(made_job_spec(config, n_steps=n_steps, batch_size=BATCH, dead_after_tokens=20_000), sae)
    known, heldout = x[:-N_HELDOUT], x[-N_HELDOUT:]
    for _ in range(n_steps):
        rows = torch.randint(len(known), (BATCH,), generator=source)
        job.step(Batch(known[rows], None, torch.ones(BATCH, dtype=torch.bool)))
    with torch.no_grad():
        latents = sae.encode(heldout)
        error = (heldout - sae.decode(latents)).double().square().sum()
    variance = (heldout - heldout.mean(dim=0)).double().square().sum()
    return Quality(float(error / variance), float((latents > 0).sum() / N_HELDOUT))


def main() -> None:
    """Both paths, every architecture, three seeds."""
    x = load_file(sys.argv[1])["rows"].float()
    n_steps = int(sys.argv[2]) if len(sys.argv) > 2 else 150
    d_sae = int(sys.argv[3]) if len(sys.argv) > 3 else 1152
    x = x[torch.randperm(len(x), generator=torch.Generator().manual_seed(0))]
    x = x * (x.shape[1] ** 0.5 / x.norm(dim=1).mean())
    configs = [
        TopKConfig(d_sae=d_sae, k=32),
        BatchTopKConfig(d_sae=d_sae, k=32),
        JumpReLUConfig(d_sae=d_sae, target_l0=32),
        GatedConfig(d_sae=d_sae, l1=4.0),
        ReLUConfig(d_sae=d_sae, l1=4.0),
    ]
    failed = False
    print(f"{'architecture':<14}{'':<6}{'fast':>30}{'dense':>30}{'differ':>10}{'seeds':>9}")
    for config in configs:
        fast = [trained(config, x, seed=seed, n_steps=n_steps) for seed in SEEDS]
        with dense_reference():
            dense = [trained(config, x, seed=seed, n_steps=n_steps) for seed in SEEDS]
        for name in Quality._fields:
            ours, theirs = ([getattr(each, name) for each in found] for found in (fast, dense))
            middle = statistics.mean(theirs)
            differ, spread = abs(statistics.mean(ours) / middle - 1), (max(theirs) - min(theirs)) / middle
            failed |= differ > max(TOLERANCE, spread)
            shown = ("".join(f"{value:>10.4f}" for value in values) for values in (ours, theirs))
            print(
                f"{str(config.model_dump()['kind']):<14}{name:<6}{''.join(shown)}{differ:>10.2%}{spread:>9.2%}",
                flush=True,
            )
    sys.exit(1 if failed else 0)


if __name__ == "__main__":
    main()
