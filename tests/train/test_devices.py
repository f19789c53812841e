"""Nothing of a step is made on the default device by accident.

There is no second device here, so the SAE stays on the CPU and the default device is moved away from it, to one whose
tensors cannot meet those of the CPU: whatever is made without saying where stops the step.
"""

import pytest
import torch

from fovea.sae.architectures import ArchitectureConfig
from fovea.sae.batch_topk import BatchTopKConfig
from fovea.sae.gated import GatedConfig
from fovea.sae.jumprelu import JumpReLUConfig
from fovea.sae.relu import ReLUConfig
from fovea.sae.topk import TopKConfig
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


def test_what_is_made_without_saying_where_would_stop_it():
    with torch.device("meta"):
        elsewhere = torch.zeros(3)
    with pytest.raises(RuntimeError, match="meta"):
        torch.ones(3) + elsewhere
