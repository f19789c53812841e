"""Each workload in miniature, in this process; the dense reference against the job that it stands beside."""

import pytest
import torch

from fovea.bench import owngroups, passes, steps
from fovea.bench.config import StepConfig
from fovea.bench.driver import Measured, Round, Variant
from fovea.bench.material import Rows, activations
from fovea.bench.reference import DenseTopK
from fovea.train.job import Job

STEP = StepConfig(synthetic=True, d_in=16, n_rows=600, k=4, batch_size=64)


@pytest.fixture
def data(tmp_path, monkeypatch) -> str:
    monkeypatch.setenv("FOVEA_CACHE", str(tmp_path))
    return str(activations(STEP, None))


def task_of(data: str, **changes) -> dict:
    return {"arch": "topk", "d_sae": 32, "k": 4, "batch_size": 64, "data": data, **changes}


def test_rows_are_scaled_and_repeat_after_the_last_whole_batch(data):
    rows = Rows(data, 64)
    assert rows.x.shape == (600, 16)
    assert (rows.x - rows.mean).norm(dim=1).mean() == pytest.approx(4.0, rel=1e-4)
    batches = [rows.batch() for _ in range(10)]
    assert torch.equal(batches[0], batches[9])
    assert not torch.equal(batches[0], batches[8])


@pytest.mark.parametrize("arch", ["topk", "batch_topk", "jumprelu", "gated"])
def test_every_architecture_steps(data, arch):
    unit, results = steps.step(task_of(data, arch=arch, n=2))
    assert [unit() for _ in range(3)] == [64, 64, 64]
    assert results()["steps"] == 3


@pytest.mark.parametrize(("share", "terms"), [(0.0, {"mse"}), (0.5, {"mse", "auxk"})])
def test_dead_latents_are_held_dead_so_that_auxk_works(data, monkeypatch, share, terms):
    logs = []
    step = Job.step
    monkeypatch.setattr(Job, "step", lambda job, batch: logs.append(step(job, batch)))
    unit, _ = steps.step(task_of(data, dead_share=share))
    for _ in range(3):
        unit()
    assert [set(log.terms) for log in logs] == [terms] * 3


def test_an_unknown_architecture_is_refused(data):
    with pytest.raises(ValueError, match="choose topk"):
        steps.step(task_of(data, arch="other"))


@pytest.mark.parametrize("kind", [steps.dense_step, steps.encoder_product])
def test_the_references_step(data, kind):
    unit, _ = kind(task_of(data))
    assert [unit(), unit()] == [64, 64]


def test_the_dense_reference_is_the_job(data):
    """Same start, same rows, many latents dead: weights agree to fp32 rounding."""
    rows = Rows(data, 64)
    job = steps.make_job(task_of(data, d_sae=96), rows.mean, n_steps=40)
    settings = job.spec.optimiser.model_copy(update={"dead_after_tokens": 128})
    job.firing.dead_after_tokens = 128
    plain = DenseTopK(job.sae, k=4, optimiser=settings, n_steps=40)
    had_dead = False
    for _ in range(20):
        x = rows.batch()
        job.step(steps.batch_of(x))
        plain.step(x)
        had_dead |= job.n_dead > 0
    assert had_dead
    for name, weight in (
        ("W_enc", plain.W_enc),
        ("W_dec", plain.W_dec),
        ("b_enc", plain.b_enc),
        ("b_dec", plain.b_dec),
    ):
        torch.testing.assert_close(job.sae.tensors()[name], weight.detach(), rtol=1e-3, atol=1e-4)


def test_quality_is_measured_on_rows_that_were_not_trained_on(data):
    found = []
    for dense in (False, True):
        unit, results = steps.quality(task_of(data, seed=1, n_steps=30, n_heldout=100, dense=dense))
        assert unit() == 30 * 64
        found.append(results())
    ours, theirs = found
    assert 0 < ours["fvu"] < 1
    assert 0 < ours["l0"] <= 4
    assert ours["fvu"] == pytest.approx(theirs["fvu"], rel=1e-3)
    assert ours["l0"] == pytest.approx(theirs["l0"], rel=1e-3)


def test_the_quality_guard_fails_where_a_way_is_worse():
    def made(name: str, fvu: float) -> Measured:
        return Measured(Variant(name, "fovea", {}), [Round(1, 1, 1, None)], 1, {"fvu": fvu, "l0": 4.0}, None)

    measured = [made("fovea seed 0", 0.2), made("fovea seed 1", 0.204), made("fovea bf16 seed 0", 0.21)]
    measured += [made("dense reference seed 0", 0.2), made("dense reference seed 1", 0.2039)]
    numbers = owngroups.quality_numbers([measured])
    assert numbers["fovea"]["holds"]
    assert numbers["fovea"]["within_seed_spread"]
    assert not numbers["fovea bf16"]["holds"]
    assert numbers["fovea bf16"]["fvu_difference"] == pytest.approx(0.04, rel=0.1)


def test_a_long_stream_goes_through(data):
    del data
    task = {"arch": "topk", "d_in": 16, "d_sae": 8, "k": 2, "batch_size": 4096, "n_rows": 20_000}
    unit, _ = passes.memory(task)
    assert unit() == 4 * 4096
