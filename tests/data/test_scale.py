"""The input scale against its definition in float64."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from fovea.data.scale import InputScale
from fovea.errors import CorpusError


@settings(max_examples=30, deadline=None)
@given(n=st.integers(2, 40), d_in=st.integers(1, 9), size=st.floats(0.01, 1e4), seed=st.integers(0, 99))
def test_scaled_rows_are_centred_and_have_mean_norm_sqrt_d_in(n, d_in, size, seed):
    x = torch.randn(n, d_in, generator=torch.Generator().manual_seed(seed)) * size + 3 * size
    fitted = InputScale.fit(x)
    scaled = fitted.apply(x).double()
    assert scaled.norm(dim=1).mean().item() == pytest.approx(d_in**0.5, rel=1e-4)
    assert scaled.mean(dim=0).abs().max().item() < 1e-4
    torch.testing.assert_close(fitted.undo(fitted.apply(x)), x, rtol=1e-5, atol=1e-5 * size)


def test_sums_are_in_float64():
    x = torch.full((20_000, 1), 4096.1)
    x[0] = 0.0
    mean = x.double().mean(dim=0)
    assert InputScale.fit(x).mean.item() == pytest.approx(mean.item(), rel=1e-7)


def test_rows_without_a_scale_are_refused():
    with pytest.raises(CorpusError, match="there is none"):
        InputScale.fit(torch.zeros(0, 3))
    with pytest.raises(CorpusError, match="all 5 rows"):
        InputScale.fit(torch.ones(5, 3))
