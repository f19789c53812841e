"""Rounding of activations: its error has the stated bound, is measured, and is part of what a chunk is."""

import pytest
import torch

from fovea.data.precision import dtype_of, fvu, pack, unpack


def _x(n: int = 200) -> torch.Tensor:
    x = torch.randn(n, 16, generator=torch.Generator().manual_seed(0))
    x[:, 3] *= 500.0  # a massive dimension must not cost the others their digits
    x[7] *= 40.0
    return x


def test_exact_is_exact():
    x = _x()
    assert torch.equal(unpack(pack(x, "exact")), x)


def test_bfloat16_loses_at_most_two_to_the_minus_eight_of_each_number():
    x = _x()
    assert ((unpack(pack(x, "bfloat16")) - x).abs() <= x.abs() * 2**-8).all()
    assert not torch.equal(unpack(pack(x, "bfloat16")), x)


def test_int8_is_within_half_a_step_of_its_row_and_column_scale():
    x = _x()
    packed = pack(x, "int8")
    assert packed["x"].dtype == torch.int8
    step = packed["rows"] * packed["columns"]
    assert ((unpack(packed) - x).abs() <= step / 2 * 1.0001).all()
    others = [column for column in range(16) if column != 3]
    plain = (x / x.abs().amax() * 127).round() * x.abs().amax() / 127
    assert fvu(x[:, others], unpack(packed)[:, others]) < 0.001 < 0.1 < fvu(x[:, others], plain[:, others])


@pytest.mark.parametrize("x", [torch.zeros(5, 4), torch.zeros(0, 4)])
def test_nothing_stays_nothing(x: torch.Tensor):
    assert torch.equal(unpack(pack(x, "int8")), x)
    assert fvu(x, x) is None


@pytest.mark.parametrize("precision", ["exact", "bfloat16", "int8"])
def test_the_stated_dtype_holds_what_is_unpacked(precision: str):
    x = unpack(pack(_x(), precision))
    assert torch.equal(x.to(dtype_of(precision, dtype=torch.float32)).float(), x)


def test_fvu_is_the_share_of_variance_that_is_lost():
    x = torch.tensor([[0.0], [2.0]])
    assert fvu(x, x) == 0.0
    assert fvu(x, torch.ones(2, 1)) == 1.0
    assert fvu(x, torch.tensor([[0.0], [1.0]])) == 0.5
