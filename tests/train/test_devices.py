"""A step runs on the device of its SAE, and nothing of it is made elsewhere by accident.

There is no second device here. Once, the SAE stays on the CPU and the default device is moved away from it; once, the
SAE lies on a simulated one (tests/elsewhere.py). Either way, what is made in the wrong place stops the step.
"""

import pytest
import torch

from fovea.sae.architectures import ArchitectureConfig
from fovea.sae.batch_topk import BatchTopKConfig
from fovea.sae.gated import GatedConfig
from fovea.sae.jumprelu import JumpReLUConfig
from fovea.sae.relu import ReLUConfig
from fovea.sae.topk import TopKConfig
from fovea.train.job import Job
from tests.elsewhere import ELSEWHERE, elsewhere
from tests.train.made_jobs import make_job, make_stream
from tests.train.planted import planted

ARCHITECTURES: list[ArchitectureConfig] = [
    BatchTopKConfig(d_sae=256, k=4),
    TopKConfig(d_sae=256, k=4),
    GatedConfig(d_sae=256, l1=0.5),
    ReLUConfig(d_sae=256, l1=0.5),
    JumpReLUConfig(d_sae=256, target_l0=4),
]


@pytest.mark.parametrize("share_dead", [0.0, 0.02, 1.0])
@pytest.mark.parametrize("sparse_up_to", [-1.0, 1.0])
@pytest.mark.parametrize("architecture", ARCHITECTURES, ids=lambda a: a.kind)
def test_a_step_stays_on_the_device_of_the_sae(architecture, sparse_up_to, share_dead, monkeypatch):
    monkeypatch.setattr("fovea.sae.select.SPARSE_UP_TO", sparse_up_to)
    monkeypatch.setattr("fovea.sae.auxk.DENSE_UP_TO", 1)
    job, batch = make_job(architecture=architecture), make_stream(planted()).next()
    with torch.device("meta"):
        for _ in range(2):
            job.firing.tokens_since_fired[: round(share_dead * 256)] = 10**9
            log = job.step(batch)
        saved = job.state_dict()
        job.load_state_dict(saved)
        job.step(batch)
    assert log.l0 > 0
    assert {tensor.device.type for tensor in saved.values()} == {"cpu"}


@pytest.mark.parametrize("share_dead", [0.0, 0.02, 1.0])
@pytest.mark.parametrize("sparse_up_to", [-1.0, 1.0])
@pytest.mark.parametrize("architecture", ARCHITECTURES, ids=lambda a: a.kind)
def test_a_step_on_another_device_is_the_step_on_the_cpu(architecture, sparse_up_to, share_dead, monkeypatch):
    monkeypatch.setattr("fovea.sae.select.SPARSE_UP_TO", sparse_up_to)
    monkeypatch.setattr("fovea.sae.auxk.DENSE_UP_TO", 1)
    here, away = make_job(architecture=architecture), make_job(architecture=architecture)
    batch = make_stream(planted()).next()
    here.firing.tokens_since_fired[: round(share_dead * 256)] = 10**9
    with elsewhere():
        away = Job(away.spec, away.sae.to(ELSEWHERE))
        away.load_state_dict(here.state_dict())
        logs = [away.step(batch._replace(x=batch.x.to(ELSEWHERE))) for _ in range(2)]
        again = make_job(architecture=architecture)
        again.load_state_dict({name: tensor.cpu() for name, tensor in away.state_dict().items()})
        assert away.whole_sae().W_enc.device.type == "cpu"
        assert away.sae.W_enc.device == away.firing.dead.device == ELSEWHERE
    for log in logs:
        assert log.terms == pytest.approx(here.step(batch).terms, rel=1e-5)
    assert logs[-1].n_dead == here.n_dead == again.n_dead
    for name, tensor in here.state_dict().items():
        if name != "counters":
            torch.testing.assert_close(again.state_dict()[name], tensor, rtol=1e-4, atol=1e-5, msg=name)


def test_tensors_of_two_devices_that_meet_stop_the_step():
    with elsewhere():
        job = make_job()
        job = Job(job.spec, job.sae.to(ELSEWHERE))
        far, near = torch.ones(3, device=ELSEWHERE), torch.ones(3)
        with pytest.raises(RuntimeError, match="same device"):
            far + near
        with pytest.raises(TypeError, match="copy it to the CPU first"):
            far.numpy()
        assert (far + near.sum()).cpu().tolist() == [4.0] * 3
        job.firing.tokens_since_fired = job.firing.tokens_since_fired.cpu()
        with pytest.raises(RuntimeError, match="same device"):
            job.step(make_stream(planted()).next())


def test_what_is_made_without_saying_where_would_stop_it():
    with torch.device("meta"):
        elsewhere = torch.zeros(3)
    with pytest.raises(RuntimeError, match="meta"):
        torch.ones(3) + elsewhere
