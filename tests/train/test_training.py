"""Invariants of training, on the whole state: what must not matter does not."""

from pathlib import Path

import pytest
import torch

from fovea.errors import RunError
from fovea.methods.direct import Direct
from fovea.methods.finetune import Finetune
from fovea.methods.mix import Mix
from fovea.methods.ssae import SSAE
from fovea.sae.base import StepState
from fovea.sae.batch_topk import BatchTopKConfig
from fovea.sae.files import LoadedSAE, SAEMetadata, load_sae, save_sae
from fovea.sae.frozen import FrozenSAE
from fovea.sae.gated import GatedConfig
from fovea.sae.jumprelu import JumpReLUConfig
from fovea.sae.relu import ReLUConfig
from fovea.sae.topk import TopKConfig
from fovea.train.checkpoint import latest_checkpoint, save_checkpoint
from fovea.train.job import DivergedError, Job
from fovea.train.loop import train
from fovea.train.schedules import LearningRateConfig, learning_rate, warmup
from tests.train.made_jobs import BATCH, make_job, make_stream
from tests.train.planted import D_IN, planted

ARCHITECTURES = [
    BatchTopKConfig(d_sae=32, k=4),
    TopKConfig(d_sae=32, k=4),
    GatedConfig(d_sae=32, l1=0.5),
    ReLUConfig(d_sae=32, l1=0.5),
    JumpReLUConfig(d_sae=32, target_l0=4),
]


@pytest.fixture
def general(tmp_path: Path) -> LoadedSAE:
    """An untrained g on disk and back."""
    sae = BatchTopKConfig(d_sae=48, k=4).build(D_IN, generator=torch.Generator().manual_seed(7))
    sae.set_output_bias(planted().mean)
    with torch.no_grad():
        sae.threshold_sum.fill_(0.4)
        sae.threshold_weight.fill_(1.0)
    save_sae(sae, tmp_path / "g", metadata=SAEMetadata(hook_name="blocks.0.hook_resid_post"))
    return load_sae(str(tmp_path / "g"))


def trained_state(job: Job) -> dict[str, torch.Tensor]:
    """All of a job's state but the seconds it took."""
    state = job.state_dict()
    return {**state, "counters": state["counters"][:3]}


def assert_same(a: Job, b: Job) -> None:
    torch.testing.assert_close(trained_state(a), trained_state(b), rtol=0, atol=0)


@pytest.mark.parametrize("architecture", ARCHITECTURES, ids=lambda a: a.kind)
def test_a_job_trains_the_same_alone_and_in_company(architecture, general):
    alone = make_job(architecture=architecture)
    together = make_job(architecture=architecture)
    others = [
        make_job("ssae", method=SSAE(), general=general, architecture=BatchTopKConfig(d_sae=16, k=2)),
        make_job("other seed", architecture=architecture, seed=1),
    ]
    frozen = FrozenSAE(general.sae)
    train([alone], make_stream(planted()), n_steps=20)
    train([others[0], together, others[1]], make_stream(planted(), frozen=frozen), n_steps=20)
    assert_same(alone, together)


@pytest.mark.parametrize("architecture", ARCHITECTURES, ids=lambda a: a.kind)
def test_a_split_run_equals_a_straight_one_through_its_checkpoint(architecture, tmp_path):
    straight, first, second = (make_job(architecture=architecture) for _ in range(3))
    train([straight], make_stream(planted()), n_steps=20)
    stream = make_stream(planted())
    train([first], stream, n_steps=7)
    save_checkpoint(tmp_path, 7, jobs=[first], stream=stream)
    train([second], make_stream(planted()), n_steps=20, checkpoints=tmp_path)
    assert_same(straight, second)


def test_neither_observing_nor_checkpointing_changes_what_is_trained(tmp_path):
    plain, watched = make_job(), make_job()
    seen: list[int] = []
    train([plain], make_stream(planted()), n_steps=20)
    train(
        [watched],
        make_stream(planted()),
        n_steps=20,
        checkpoints=tmp_path,
        checkpoint_seconds=0.0,
        observe=lambda step, _: seen.append(step),
    )
    assert seen == list(range(20))
    assert_same(plain, watched)


def test_g_is_bit_identical_before_and_after(general):
    frozen = FrozenSAE(general.sae)
    before = {name: tensor.clone() for name, tensor in general.sae.state_dict().items()}
    jobs = [
        make_job("finetune", method=Finetune(), general=general, architecture=BatchTopKConfig(k=4)),
        make_job("ssae", method=SSAE(), general=general),
    ]
    train(jobs, make_stream(planted(), frozen=frozen), n_steps=20)
    torch.testing.assert_close(dict(general.sae.state_dict()), before, rtol=0, atol=0)
    assert not torch.equal(jobs[0].sae.W_dec, general.sae.W_dec), "finetune must have moved its own copy"


def test_equal_steps_mean_equal_tokens_whatever_the_rows(general):
    methods = [Direct(), Mix(domain_share=0.25), SSAE(silence=0.5), Finetune()]
    jobs = [
        make_job(
            str(i), method=method, general=general, architecture=BatchTopKConfig(d_sae=None if i == 3 else 32, k=4)
        )
        for i, method in enumerate(methods)
    ]
    stream = make_stream(planted(), frozen=FrozenSAE(general.sae), n_general=192)
    train(jobs, stream, n_steps=5)
    assert [job.n_tokens for job in jobs] == [5 * BATCH] * 4


def test_row_order_of_the_sources_is_irrelevant_to_the_target(general):
    stream = make_stream(planted(), frozen=FrozenSAE(general.sae), n_general=BATCH)
    batch = stream.next()
    order = torch.randperm(len(batch.x), generator=torch.Generator().manual_seed(0))
    shuffled = type(batch)(batch.x[order], batch.x_general[order], batch.is_domain[order])
    method = SSAE(silence=0.5)
    torch.testing.assert_close(method.target(batch)[order], method.target(shuffled), rtol=0, atol=0)
    assert (method.target(batch)[~batch.is_domain] == 0).all()


def test_frozen_parts_of_a_finetune_do_not_move(general):
    job = make_job(method=Finetune(freeze=("encoder", "biases")), general=general, architecture=BatchTopKConfig(k=4))
    before = {name: tensor.clone() for name, tensor in job.sae.named_parameters()}
    train([job], make_stream(planted()), n_steps=10)
    moved = {name for name, tensor in job.sae.named_parameters() if not torch.equal(tensor, before[name])}
    assert moved == {"W_dec"}


def test_small_learning_rates_move_every_kind_of_weight(general):
    job = make_job(method=Finetune(), general=general, architecture=BatchTopKConfig(k=4), lr=1e-4)
    before = {name: tensor.clone() for name, tensor in job.sae.named_parameters()}
    train([job], make_stream(planted()), n_steps=20)
    for name, tensor in job.sae.named_parameters():
        assert (tensor - before[name]).abs().max() > 1e-5, f"{name} stood still"


def test_a_loss_that_is_not_a_number_stops_with_the_weights_of_the_last_good_step():
    job = make_job()
    batch = make_stream(planted()).next()
    job.step(batch)
    before = {name: tensor.clone() for name, tensor in job.sae.state_dict().items()}
    broken = batch._replace(x=batch.x.clone().index_fill_(0, torch.tensor([3]), float("nan")))
    with pytest.raises(DivergedError, match="lower its learning rate"):
        job.step(broken)
    torch.testing.assert_close(dict(job.sae.state_dict()), before, rtol=0, atol=0)


def all_state(jobs):
    """The jobs' state but the clock."""
    state = {(job.spec.name, name): tensor.clone() for job in jobs for name, tensor in job.state_dict().items()}
    for job in jobs:
        state[job.spec.name, "counters"][3] = 0.0
    return state


def healthy_and_wild(general):
    """Two jobs that train well, and between them one whose steps are a million times too long."""
    wild = make_job("wild", method=Finetune(), general=general, architecture=BatchTopKConfig(k=4), lr=1e3)
    return [make_job("a"), wild, make_job("b", architecture=JumpReLUConfig(d_sae=32, target_l0=4))]


def test_a_job_that_explodes_stops_alone_and_leaves_the_others_their_bytes(general, caplog):
    jobs = healthy_and_wild(general)
    began = {name: tensor.clone() for name, tensor in jobs[1].sae.state_dict().items()}
    train(jobs, make_stream(planted()), n_steps=20)
    stopped = jobs[1].stopped
    assert stopped is not None
    assert 0 < stopped.step < 20
    assert stopped.step_kept == 0
    assert "lower its learning rate (1000)" in stopped.reason
    assert "the others go on" in caplog.text
    torch.testing.assert_close(dict(jobs[1].sae.state_dict()), began, rtol=0, atol=0)
    alone = [make_job("a"), make_job("b", architecture=JumpReLUConfig(d_sae=32, target_l0=4))]
    train(alone, make_stream(planted()), n_steps=20)
    torch.testing.assert_close(all_state([jobs[0], jobs[2]]), all_state(alone), rtol=0, atol=0)


def test_a_stopped_job_stays_stopped_when_the_training_is_resumed(general, tmp_path):
    straight = healthy_and_wild(general)
    train(straight, make_stream(planted()), n_steps=20)
    first, stream = healthy_and_wild(general), make_stream(planted())
    train(first, stream, n_steps=15)
    assert first[1].stopped is not None
    save_checkpoint(tmp_path, 15, jobs=first, stream=stream)
    resumed = healthy_and_wild(general)
    train(resumed, make_stream(planted()), n_steps=20, checkpoints=tmp_path)
    assert [job.stopped for job in resumed] == [job.stopped for job in straight]
    torch.testing.assert_close(all_state(resumed), all_state(straight), rtol=0, atol=0)


def test_what_is_kept_of_a_job_is_a_state_that_its_loss_has_shown_to_be_good(monkeypatch):
    monkeypatch.setattr("fovea.train.job.KEEP_EVERY", 4)
    job, stream = make_job(), make_stream(planted())
    states = []
    for _ in range(7):
        states.append({name: tensor.clone() for name, tensor in job.sae.state_dict().items()})
        job.step(stream.next())
    job.stop("asked to")
    assert (job.stopped.step, job.stopped.step_kept) == (7, 4)
    torch.testing.assert_close(dict(job.sae.state_dict()), states[4], rtol=0, atol=0)


def test_weights_that_the_last_step_has_spoilt_are_not_kept(monkeypatch, caplog):
    descend = Job._descend

    def spoil_at_last(job):
        descend(job)
        if job.step_index == 19 and job.spec.name == "wild":
            job.sae.W_enc.data[0, 0] = float("nan")

    monkeypatch.setattr(Job, "_descend", spoil_at_last)
    jobs = [make_job("a"), make_job("wild")]
    train(jobs, make_stream(planted()), n_steps=20)
    assert jobs[0].stopped is None
    assert (jobs[1].stopped.step, jobs[1].stopped.step_kept) == (20, 0)
    assert "after the last step" in caplog.text
    assert all(tensor.isfinite().all() for tensor in jobs[1].sae.state_dict().values())


def test_training_ends_when_no_job_is_left(general):
    jobs, steps = [healthy_and_wild(general)[1]], []
    train(jobs, make_stream(planted()), n_steps=20, observe=lambda step, logs: steps.append((step, logs)))
    assert steps[-1] == (jobs[0].stopped.step, [None])
    assert len(steps) < 20


@pytest.mark.parametrize("clip_norm", [1.0, 1e6])
@pytest.mark.parametrize("architecture", ARCHITECTURES, ids=lambda a: a.kind)
def test_a_step_is_that_of_adam_on_clipped_gradients(architecture, clip_norm):
    job, plain = make_job(architecture=architecture), make_job(architecture=architecture).sae
    job.spec = job.spec._replace(optimiser=job.spec.optimiser.model_copy(update={"clip_norm": clip_norm}))
    adam = torch.optim.Adam(plain.parameters(), lr=1.0, fused=False, foreach=False)
    stream = make_stream(planted())
    for step in range(8):
        batch = stream.next()
        result = plain.loss(
            batch.x * job.spec.scale_in, batch.x * job.spec.scale_out, StepState(warmup(step, 1), job.firing.dead)
        )
        adam.param_groups[0]["lr"] = learning_rate(job.spec.optimiser.lr, step, job.spec.n_steps)
        adam.zero_grad()
        result.terms.total.backward()
        plain.project_decoder_gradient()
        norm = torch.nn.utils.clip_grad_norm_(plain.parameters(), clip_norm)
        assert (norm > 2 * clip_norm) == (clip_norm == 1.0), "the test shows nothing"
        adam.step()
        plain.normalise_decoder()
        plain.after_step(result)
        job.step(batch)
    for name, tensor in plain.named_parameters():
        torch.testing.assert_close(job.sae.get_parameter(name), tensor, rtol=1e-4, atol=2e-5, msg=name)
        ours, right = (each.state[key] for each, key in ((job.optimiser, job.sae.get_parameter(name)), (adam, tensor)))
        scale = right["exp_avg"].abs().max().item()
        torch.testing.assert_close(ours["exp_avg"], right["exp_avg"], rtol=1e-3, atol=1e-3 * scale, msg=name)


def test_a_damaged_checkpoint_is_said_and_not_used(tmp_path):
    job, stream = make_job(), make_stream(planted())
    train([job], stream, n_steps=3)
    path = save_checkpoint(tmp_path, 3, jobs=[job], stream=stream)
    (path / "tensors.safetensors").write_bytes(b"short")
    with pytest.raises(RunError, match="damaged"):
        train([make_job()], make_stream(planted()), n_steps=20, checkpoints=tmp_path)


def test_a_half_written_checkpoint_does_not_count(tmp_path):
    (tmp_path / ".step-00000009.partial").mkdir()
    assert latest_checkpoint(tmp_path) is None


def test_the_learning_rate_rises_stays_and_falls_to_its_final_value():
    config = LearningRateConfig(peak=1.0, warmup_steps=4, decay_fraction=0.5)
    rates = [learning_rate(config, step, 20) for step in range(20)]
    assert rates[:5] == pytest.approx([0.2, 0.4, 0.6, 0.8, 1.0])
    assert rates[9] == 1.0
    assert rates[10] == 1.0
    assert rates[19] == pytest.approx(0.1)
    assert warmup(0, 0) == 1.0
    assert [warmup(step, 1) for step in range(3)] == [0.5, 1.0, 1.0]
