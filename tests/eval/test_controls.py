"""Control dictionaries: the L0 that was asked for, unit rows before the gain, and the gain that least squares gives."""

import pytest
import torch

from fovea.errors import ConfigError
from fovea.eval.controls import ControlKind, control, control_name, directions, output_gain
from fovea.eval.novelty import unit_rows


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def activations() -> torch.Tensor:
    """Rows far from 0 that vary in 3 of 12 directions most."""
    return torch.randn(500, 12, generator=generator(7)) * torch.tensor([5.0, 5.0, 5.0, *[0.5] * 9]) + 20


@pytest.mark.parametrize("kind", ["random", "moment"])
@pytest.mark.parametrize("k", [0.5, 3, 7])
def test_the_mean_l0_on_the_calibration_rows_is_k(kind: ControlKind, k: float):
    x = activations()
    sae = control(kind, x, d_sae=40, k=k, generator=generator())
    assert (sae.encode(x) > 0).sum().item() == round(k * len(x))


@pytest.mark.parametrize("kind", ["random", "moment"])
def test_the_encoder_is_the_decoder_transposed_and_the_bias_the_mean(kind: ControlKind):
    x = activations()
    sae = control(kind, x, d_sae=40, k=3, generator=generator())
    torch.testing.assert_close(sae.W_enc.norm(dim=0), torch.ones(40))
    torch.testing.assert_close(sae.W_enc.T, unit_rows(sae.W_dec))
    torch.testing.assert_close(sae.b_dec.data, x.mean(dim=0))
    assert sae.pre_bias_is_tied


def test_the_gain_is_the_least_squares_one():
    x = activations()
    sae = control("random", x, d_sae=40, k=3, generator=generator())
    assert output_gain(sae, x) == pytest.approx(1.0, abs=1e-5)
    error = (x - sae(x)).square().sum()
    for scale in (0.99, 1.01):
        assert (x - sae.b_dec - scale * (sae(x) - sae.b_dec)).square().sum() > error


def test_a_control_explains_some_variance_and_moment_matching_helps():
    x = activations()
    total = (x - x.mean(dim=0)).square().sum()
    kinds: tuple[ControlKind, ...] = ("random", "moment")
    fvu = [
        ((x - control(kind, x, d_sae=60, k=6, generator=generator())(x)).square().sum() / total).item()
        for kind in kinds
    ]
    assert fvu[1] < fvu[0] < 1.0


def test_equal_seeds_give_equal_controls():
    one, two = (directions("moment", activations(), d_sae=10, generator=generator(3)) for _ in range(2))
    torch.testing.assert_close(one, two, rtol=0, atol=0)


@pytest.mark.parametrize("k", [0, 39])
def test_a_k_out_of_reach_says_what_is_allowed(k: float):
    with pytest.raises(ConfigError, match=r"controls\.k = .* choose k in that range or raise controls\.expansion"):
        control("random", activations(), d_sae=40, k=k, generator=generator())


def test_controls_are_named_like_jobs():
    assert control_name("random", 40) == "control-random-k40"
    assert control_name("moment", 2.5) == "control-moment-k2.5"
