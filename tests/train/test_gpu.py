"""On a real GPU: the kernels against float64, each architecture's steps against the processor's, whole runs twice.

Nothing here runs where torch sees no GPU. There: `python -m pytest tests/train/test_gpu.py`.
"""

import sys
from pathlib import Path

import pytest
import torch

from fovea.methods.base import Batch
from fovea.sae import kernels
from fovea.sae.architectures import ArchitectureConfig
from fovea.sae.batch_topk import BatchTopKConfig
from fovea.sae.encoder import Encoder
from fovea.sae.gated import GatedConfig
from fovea.sae.jumprelu import JumpReLUConfig
from fovea.sae.relu import ReLUConfig
from fovea.sae.select import select_batch_topk, select_topk
from fovea.sae.sparse import sparse_code
from fovea.sae.topk import TopKConfig
from fovea.train.job import Job
from tests.train.made_jobs import make_job
from tests.train.planted import D_IN

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="torch sees no GPU")
ARCHITECTURES: tuple[ArchitectureConfig, ...] = (
    TopKConfig(d_sae=256, k=8),
    BatchTopKConfig(d_sae=256, k=8),
    JumpReLUConfig(d_sae=256, target_l0=8),
    GatedConfig(d_sae=256, l1=1.0),
    ReLUConfig(d_sae=256, l1=1.0),
)


def off(found: torch.Tensor, truth: torch.Tensor) -> float:
    """Relative distance, in float64."""
    found, truth = found.cpu().double(), truth.cpu().double()
    return float((found - truth).norm() / truth.norm())


@pytest.mark.parametrize(("d_in", "d_sae"), [(7, 21), (576, 1152), (576, 9216), (2304, 4096)])
def test_kernels_give_what_float64_gives(d_in: int, d_sae: int):
    source = torch.Generator("cuda").manual_seed(d_sae)
    dense = torch.rand(1000, d_sae, device="cuda", generator=source)
    dense *= dense < 0.05
    code, W = sparse_code(dense), torch.randn(d_sae, d_in, device="cuda", generator=source)
    rows = torch.randn(1000, d_in, device="cuda", generator=source)
    assert kernels.usable(rows)
    decoded = kernels.gather(code.offsets, code.latents, code.values, rows=W)
    inner = kernels.sampled_product(code.tokens, code.latents, left_rows=rows, right_rows=W)
    assert off(decoded, dense.double() @ W.double()) < 1e-6
    assert off(inner, (rows.double() @ W.double().T)[code.tokens, code.latents]) < 1e-6
    again = kernels.gather(code.offsets, code.latents, code.values, rows=W)
    assert torch.equal(decoded, again)


@pytest.mark.parametrize(("width", "k"), [(33, 4), (1152, 32), (9216, 32), (40_000, 64)])
def test_the_largest_are_those_that_a_sort_finds(width: int, k: int):
    source = torch.Generator("cuda").manual_seed(width)
    W, x = (torch.randn(size, device="cuda", generator=source) for size in ((16, width), (500, 16)))
    encoder = Encoder(W, torch.linspace(-1, 1, width, device="cuda"), "float32")
    pre, n_kept = encoder.pre(x).relu(), 500 * k
    wanted = pre.flatten().topk(n_kept).values
    found = select_topk(x, encoder, k).code, select_batch_topk(x, encoder, k).code
    torch.testing.assert_close(found[0].dense().topk(k, dim=1).values, pre.topk(k, dim=1).values)
    torch.testing.assert_close(found[1].values.sort(descending=True).values, wanted[wanted > 0])
    for code in found:
        assert torch.equal(code.offsets, sparse_code(code.dense()).offsets)


def trained(job: Job, *, device: str, n_steps: int = 12) -> list[float]:
    """Losses of steps on the same rows."""
    source, losses = torch.Generator().manual_seed(5), list[float]()
    for _ in range(n_steps):
        x = torch.randn(512, D_IN, generator=source).to(device)
        losses.append(sum(job.step(Batch(x, None, torch.ones(512, dtype=torch.bool))).terms.values()))
    return losses


def on(device: str, architecture: ArchitectureConfig, *, dead: int) -> Job:
    """A job whose SAE lies on `device`, `dead` of its latents counted as dead."""
    made = make_job(architecture=architecture)
    job = Job(made.spec, made.sae.to(device))
    job.firing.tokens_since_fired[:dead] = job.firing.dead_after_tokens
    return job


@pytest.mark.parametrize("dead", [0, 100])
@pytest.mark.parametrize("architecture", ARCHITECTURES, ids=lambda made: made.kind)
def test_steps_are_those_of_the_processor_and_repeat(architecture: ArchitectureConfig, dead: int):
    jobs = [on(device, architecture, dead=dead) for device in ("cpu", "cuda", "cuda")]
    losses = [trained(job, device=str(job.device)) for job in jobs]
    assert losses[1] == pytest.approx(losses[0], rel=2e-3)
    assert losses[1] == losses[2]
    near, far, again = (job.sae.state_dict() for job in jobs)
    for name, tensor in near.items():
        assert torch.equal(far[name], again[name]), name
        assert off(far[name], tensor) < 0.02 or float(tensor.norm()) == 0, name


@pytest.mark.parametrize("architecture", ARCHITECTURES, ids=lambda made: made.kind)
def test_products_in_bf16_stay_near_those_in_fp32(architecture: ArchitectureConfig):
    exact, rounded = architecture, architecture.model_copy(update={"compute_dtype": "bfloat16"})
    losses = [trained(on("cuda", each, dead=0), device="cuda") for each in (exact, rounded)]
    assert losses[1] == pytest.approx(losses[0], rel=0.02)


@pytest.mark.slow
@pytest.mark.parametrize("device", ["cuda", "cuda:0"])
def test_a_whole_run_ends_twice_in_the_same_bytes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, device: str):
    from tests.experiment.nursery import result_hash
    from tests.experiment.test_devices import config_with, run

    monkeypatch.setitem(sys.modules, "vl_convert", None)
    for name in ("first", "again"):
        run(config_with(tmp_path, lm=device, device=device), tmp_path / name)
    assert result_hash(tmp_path / "first") == result_hash(tmp_path / "again")
