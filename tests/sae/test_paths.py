"""The fast path of every architecture against its dense reference: values, every term's gradients, and the choice."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from fovea.sae import select
from fovea.sae.base import SAE, StepResult
from fovea.sae.encoder import Encoder
from fovea.sae.select import dense_reference, select_above, top_of_rows
from fovea.sae.sparse import true_positions
from tests.sae.cases import BIASES, CONFIGS, D_SAE, build, generator, rows, state


@pytest.fixture(autouse=True)
def always_sparse(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(select, "SPARSE_UP_TO", 1.0)


def gradients(sae: SAE, term: Tensor) -> dict[str, Tensor]:
    found = torch.autograd.grad(term, list(sae.parameters()), retain_graph=True, allow_unused=True)
    named = zip(sae.named_parameters(), found, strict=True)
    return {name: torch.zeros_like(parameter) if got is None else got for (name, parameter), got in named}


def assert_equal_results(sae: SAE, fast: StepResult, dense: StepResult) -> None:
    assert torch.equal(fast.fired, dense.fired)
    torch.testing.assert_close(fast.l0, dense.l0)
    torch.testing.assert_close(fast.x_hat, dense.x_hat, rtol=1e-5, atol=1e-5)
    assert fast.terms.terms.keys() == dense.terms.terms.keys()
    for key, term in dense.terms.terms.items():
        torch.testing.assert_close(fast.terms.terms[key], term, rtol=1e-5, atol=1e-6)
        expected = gradients(sae, term)
        for name, ours in gradients(sae, fast.terms.terms[key]).items():
            scale = expected[name].abs().max().item()
            torch.testing.assert_close(ours, expected[name], rtol=1e-5, atol=2e-5 * scale + 1e-9, msg=f"{key} {name}")


@pytest.mark.parametrize("bias", BIASES)
@pytest.mark.parametrize("n_dead", [0, 6, D_SAE])
@pytest.mark.parametrize("name", CONFIGS)
def test_every_term_has_the_dense_value_and_gradients(name: str, n_dead: int, bias: str) -> None:
    sae, x, now = build(name, bias), rows(), state(n_dead=n_dead, sparsity_scale=0.6)
    fast = sae.loss(x, x.flip(1) * 0.7, now)
    with dense_reference():
        dense = sae.loss(x, x.flip(1) * 0.7, now)
    assert_equal_results(sae, fast, dense)


@pytest.mark.parametrize("name", CONFIGS)
def test_a_batch_on_which_nothing_fires_has_the_dense_gradients(name: str) -> None:
    sae, x = build(name), rows()
    bias = "b_gate" if "gated" in name else "b_enc"
    sae.set_tensors({bias: torch.full((D_SAE,), -1e3)})
    fast = sae.loss(x, x, state(n_dead=6))
    with dense_reference():
        dense = sae.loss(x, x, state(n_dead=6))
    assert fast.l0 == 0
    assert_equal_results(sae, fast, dense)


@pytest.mark.parametrize("name", CONFIGS)
def test_the_fast_path_rounds_the_encoder_product_to_bfloat16_too(name: str) -> None:
    config = CONFIGS[name].model_copy(update={"compute_dtype": "bfloat16"})
    sae, x = config.build(12, generator=generator()), rows()
    fast = sae.loss(x, x, state())
    with dense_reference():
        dense = sae.loss(x, x, state())
    torch.testing.assert_close(fast.terms.total, dense.terms.total, rtol=2e-3, atol=0)
    assert abs(fast.l0 - dense.l0) <= 0.01 * dense.l0
    for ours in gradients(sae, fast.terms.total).values():
        assert ours.dtype == torch.float32


def test_the_dense_path_is_taken_where_many_fire(monkeypatch: pytest.MonkeyPatch) -> None:
    pre = torch.randn(300, 80, generator=generator())
    encoder, floor = Encoder(pre, torch.zeros(80), "float32"), torch.zeros(80)
    assert select_above(torch.eye(300), encoder, floor) is not None
    monkeypatch.setattr(select, "SPARSE_UP_TO", 0.4)
    assert select_above(torch.eye(300), encoder, floor) is None
    code = select_above(torch.eye(300), encoder, floor + 1.0)
    assert code is not None
    assert torch.equal(code.dense(), torch.where(pre > 1.0, pre, 0.0))


@pytest.mark.parametrize(("width", "k"), [(4096, 32), (1152, 32), (512, 32), (300, 32), (40, 40), (4100, 3), (9, 1)])
def test_the_largest_of_each_row_are_those_of_torch(width: int, k: int) -> None:
    pre = torch.randn(37, width, generator=generator())
    top, right = top_of_rows(pre, k), pre.topk(k, dim=1)
    assert torch.equal(top.values.sort(dim=1, descending=True).values, right.values)
    assert torch.equal(top.indices.sort(dim=1).values, right.indices.sort(dim=1).values)
    assert torch.equal(pre.gather(1, top.indices), top.values)


@given(seed=st.integers(0, 2**31), levels=st.integers(1, 30), k=st.integers(1, 9))
@settings(max_examples=40, deadline=None)
def test_the_largest_of_each_row_are_k_different_columns_whatever_is_equal(seed: int, levels: int, k: int) -> None:
    pre = torch.randint(levels, (5, 1152), generator=generator(seed)).float()
    top = top_of_rows(pre, k)
    assert torch.equal(top.values.sort(dim=1, descending=True).values, pre.topk(k, dim=1).values)
    assert torch.equal(pre.gather(1, top.indices), top.values)
    assert all(len(row.unique()) == k for row in top.indices)


@given(seed=st.integers(0, 2**31), n=st.integers(0, 30), width=st.integers(1, 20), share=st.floats(0, 1))
@settings(max_examples=60, deadline=None)
def test_positions_are_those_of_nonzero(seed: int, n: int, width: int, share: float) -> None:
    mask = torch.rand(n, width, generator=generator(seed)) < share
    assert torch.equal(true_positions(mask), mask.flatten().nonzero().squeeze(1))
