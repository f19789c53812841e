"""Planted truth: every architecture finds the directions that the data were made of."""

import pytest
import torch
from torch import Tensor

from fovea.sae.base import SAEConfig
from fovea.sae.batch_topk import BatchTopKConfig
from fovea.sae.gated import GatedConfig
from fovea.sae.jumprelu import JumpReLUConfig
from fovea.sae.relu import ReLUConfig
from fovea.sae.topk import TopKConfig
from tests.sae.cases import generator, train

pytestmark = pytest.mark.slow

D_MODEL, N_DIRECTIONS, N_ACTIVE = 24, 30, 2.5


def planted() -> tuple[Tensor, Tensor]:
    """The directions, and rows that are sparse positive sums of them, scaled so that their mean norm is sqrt(d_in)."""
    source = generator(5)
    directions = torch.nn.functional.normalize(torch.randn(N_DIRECTIONS, D_MODEL, generator=source), dim=1)
    active = torch.rand(6000, N_DIRECTIONS, generator=source) < N_ACTIVE / N_DIRECTIONS
    x = (active * (0.5 + torch.rand(6000, N_DIRECTIONS, generator=source))) @ directions
    x = x + 0.02 * torch.randn(x.shape, generator=source) + torch.randn(D_MODEL, generator=source)
    return directions, x * D_MODEL**0.5 / (x - x.mean(dim=0)).norm(dim=1).mean()


@pytest.mark.parametrize(
    "config",
    [
        BatchTopKConfig(d_sae=40, k=3),
        TopKConfig(d_sae=40, k=3),
        GatedConfig(d_sae=40, l1=4.0),
        ReLUConfig(d_sae=40, l1=1.0),
        JumpReLUConfig(d_sae=40, target_l0=3),
    ],
    ids=lambda config: config.kind,
)
def test_planted_directions_are_recovered(config: SAEConfig) -> None:
    directions, x = planted()
    sae = config.build(D_MODEL, generator=generator())
    sae.set_output_bias(x.mean(dim=0))
    train(sae, x, x, n_steps=400, lr=5e-3, batch_size=256)
    rows = torch.nn.functional.normalize(sae.W_dec.detach(), dim=1)
    found = (directions @ rows.T).max(dim=1).values
    fvu = (sae(x) - x).square().sum() / (x - x.mean(dim=0)).square().sum()
    assert found.mean() > 0.9, f"mean max cosine {found.mean():.3f}"
    assert fvu < 0.15, f"fvu {fvu:.3f}"
