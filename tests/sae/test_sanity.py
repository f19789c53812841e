"""The figure that tells a misread general SAE: its conventions are mutated, and the warning names what was changed."""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from fovea.sae.base import SAE, Weights
from fovea.sae.relu import ReLUSAE
from fovea.sae.sanity import Sanity, sanity
from tests.sae.cases import generator

D_IN, N = 16, 512


def exact(*, pre_bias: str = "tied", mean: float = 3.0) -> tuple[SAE, Tensor]:
    """An SAE that rebuilds its x exactly (each direction and its opposite), and such x, of uneven lengths."""
    x = torch.randn(N, D_IN, generator=generator(1)) * torch.linspace(0.5, 2.0, N)[:, None] + mean
    b_dec = torch.full((D_IN,), mean)
    eye = torch.eye(D_IN)
    sae = ReLUSAE(Weights(torch.cat([eye, -eye], dim=1), torch.cat([eye, -eye]), b_dec, pre_bias))  # pyright: ignore
    return sae.requires_grad_(False), x


def test_an_sae_that_rebuilds_is_not_suspicious() -> None:
    found = sanity(*exact())
    assert found.fvu < 1e-9
    assert found.warning is None


def forget_pre_bias(sae: SAE) -> None:
    sae.pre_bias_is_tied = False


@pytest.mark.parametrize(("change", "named"), [(forget_pre_bias, "b_dec is subtracted from x before the encoder")])
def test_a_misread_convention_is_named(change: Callable[[SAE], None], named: str) -> None:
    sae, x = exact(mean=3.0)
    change(sae)
    found = sanity(sae, x)
    assert found.fvu > 0.5
    assert found.other == named
    assert found.warning is not None
    assert named in found.warning


@pytest.mark.parametrize(
    ("norm", "named"),
    [
        ("layer_norm", "every token is brought to mean 0 and deviation 1"),
        ("constant_norm_rescale", "every token is brought to length sqrt(d_in)"),
    ],
)
def test_a_token_norm_that_the_file_does_not_state_is_named(norm: str, named: str) -> None:
    sae, x = exact(mean=0.0)
    x = x * 100.0
    # trained on tokens of one length: what is larger is cut off
    sae.set_tensors({"b_enc": torch.full((2 * D_IN,), 0.02)})
    sae.W_enc.clamp_(-1.0, 1.0)
    sae.b_dec.fill_(0.0)
    capped = Capped(sae)
    capped.token_norm = norm  # pyright: ignore
    truth = sanity(capped, x)
    assert truth.fvu < 0.1
    capped.token_norm = "none"
    found = sanity(capped, x)
    assert found.fvu > 0.5
    assert found.warning is not None
    assert named in found.warning or "brought to" in found.other


class Capped(ReLUSAE):
    """A ReLU SAE whose latents saturate, so that the scale of x matters."""

    def __init__(self, sae: SAE) -> None:
        super().__init__(sae.weights)
        self.requires_grad_(False)

    def encode(self, x: Tensor) -> Tensor:
        return super().encode(x).clamp_max(4.0)


def test_a_wrong_place_is_told_apart_from_a_misread_file() -> None:
    sae, _ = exact()
    sae.set_tensors({"W_dec": sae.W_dec.flip(0)})
    found = sanity(sae, exact()[1])
    assert found.warning is not None
    assert "check that lm, hook point and layer" in found.warning


def test_numbers_that_are_none_do_not_hide_the_rest() -> None:
    assert Sanity(0.4, "x", 0.0).warning is None
    assert "0.90 of the variance" in (Sanity(0.9, "x", 0.1).warning or "")
