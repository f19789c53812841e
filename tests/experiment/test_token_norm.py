"""A g that normalises every token is patched in and subtracted in the units of x."""

import pytest
import torch

from fovea.errors import SAEError
from fovea.experiment.measure import _in_units_of_x
from fovea.sae.folding import unfold_scale
from fovea.sae.frozen import FrozenSAE
from fovea.sae.stack import stack
from tests.sae.formats.golden import READ, X, load

NORMALISING = [case for case in READ if load(case).sae.token_norm != "none"]


@pytest.mark.parametrize("case", NORMALISING)
def test_what_evaluation_patches_in_is_g_of_x(case: str) -> None:
    sae = load(case).sae
    made = _in_units_of_x(FrozenSAE(sae))(X)
    torch.testing.assert_close(made.x_hat, sae(X), rtol=1e-5, atol=1e-5)
    assert torch.equal(made.l0_general, (sae.encode(X) > 0).sum(dim=1))
    assert not torch.allclose(made.x_hat, sae.decode(sae.encode(X)))


def test_it_is_neither_stacked_nor_trained_further() -> None:
    sae, other = load("sae_lens/v6-standard-layer_norm").sae, load("sae_lens/v6-standard").sae
    for blocks in ((sae, other), (other, sae)):
        with pytest.raises(SAEError, match="normalises every token .* cannot be stacked"):
            stack(*blocks)
    with pytest.raises(SAEError, match="cannot be trained further"):
        unfold_scale(sae, scale_in=2.0, scale_out=2.0)
