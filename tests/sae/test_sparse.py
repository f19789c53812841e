"""The fast path against plain definitions: the same choice of latents, the same outputs, the same gradients."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from fovea.sae import select
from fovea.sae.encoder import Encoder
from fovea.sae.select import select_batch_topk, select_topk
from fovea.sae.sparse import Parts, SparseCode, dense_reconstruct, reconstruct, sparse_code
from tests.sae.cases import generator


def plain_encoder(pre: Tensor) -> Encoder:
    """An encoder whose pre-activations of the identity's rows are the rows of `pre`."""
    return Encoder(pre, torch.zeros(pre.shape[1]), "float32")


def batch_topk_by_definition(pre: Tensor, k: int) -> Tensor:
    """Latents by sorting the whole batch: value first, then position."""
    flat = pre.flatten()
    order = torch.sort(-flat.double(), stable=True).indices[: k * len(pre)]
    return torch.zeros_like(flat).scatter(0, order, flat[order].relu()).view_as(pre)


@pytest.mark.parametrize("chunk_elements", [1 << 21, 700])
@pytest.mark.parametrize(("n", "d_sae", "k"), [(50, 30, 3), (64, 20, 20), (1, 9, 2), (3000, 24, 4)])
def test_batch_topk_keeps_exactly_the_largest(
    n: int, d_sae: int, k: int, chunk_elements: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("fovea.sae.encoder.CHUNK_ELEMENTS", chunk_elements)
    pre = torch.randn(n, d_sae, generator=generator())
    code = select_batch_topk(torch.eye(n), plain_encoder(pre), k).code
    assert torch.equal(code.dense(), batch_topk_by_definition(pre, k))
    assert code.n_tokens == n


@given(seed=st.integers(0, 2**31), n=st.integers(1, 40), d_sae=st.integers(1, 12), levels=st.integers(1, 4))
@settings(max_examples=60, deadline=None)
def test_batch_topk_resolves_ties_by_position(seed: int, n: int, d_sae: int, levels: int) -> None:
    pre = torch.randint(-1, levels, (n, d_sae), generator=generator(seed)).float()
    k = 1 + seed % d_sae
    assert torch.equal(
        select_batch_topk(torch.eye(n), plain_encoder(pre), k).code.dense(), batch_topk_by_definition(pre, k)
    )


def test_a_wrong_guess_costs_time_and_not_the_result(monkeypatch: pytest.MonkeyPatch) -> None:
    pre = torch.randn(2000, 16, generator=generator())
    right = batch_topk_by_definition(pre, 3)
    for guess in (0.0, 0.5, 1e9, float(pre.flatten().kthvalue(pre.numel() - 6000).values)):
        monkeypatch.setattr(select, "_guess_threshold", lambda *_, guess=guess: torch.tensor(guess))
        assert torch.equal(select_batch_topk(torch.eye(2000), plain_encoder(pre), 3).code.dense(), right)


def test_the_sample_is_of_rows_that_are_not_alike() -> None:
    pre = torch.randn(4096, 64, generator=generator())
    pre[::16] *= 5.0
    code = select_batch_topk(torch.eye(4096), plain_encoder(pre), 4).code
    assert torch.equal(code.dense(), batch_topk_by_definition(pre, 4))


@pytest.mark.parametrize("k", [1, 4, 30])
def test_topk_keeps_the_k_largest_of_each_token(k: int) -> None:
    pre = torch.randn(200, 30, generator=generator())
    top = pre.topk(k, dim=1)
    right = torch.zeros_like(pre).scatter(1, top.indices, top.values.relu())
    code = select_topk(torch.eye(200), plain_encoder(pre), k).code
    assert torch.equal(code.dense(), right)
    assert (code.values > 0).all()
    assert torch.equal(sparse_code(right).dense(), right)


def test_tokens_without_an_active_latent_are_rebuilt_as_zero() -> None:
    pre = -torch.rand(5, 7, generator=generator()) - 0.1
    code = select_topk(torch.eye(5), plain_encoder(pre), 2).code
    assert len(code.values) == 0
    parts = Parts(
        pre.clone().requires_grad_(), torch.zeros(7, requires_grad=True), torch.randn(7, 5).requires_grad_(), None
    )
    x_hat = reconstruct(code, torch.eye(5), parts)
    assert not x_hat.any()
    x_hat.sum().backward()
    assert parts.W_dec.grad is not None
    assert not parts.W_dec.grad.any()


def random_parts(seed: int, *, d_in: int, d_sae: int, dtype: torch.dtype, tied: bool) -> Parts:
    source = generator(seed)

    def leaf(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=source, dtype=torch.float64).to(dtype).requires_grad_()

    return Parts(leaf(d_in, d_sae), leaf(d_sae), leaf(d_sae, d_in), leaf(d_in) if tied else None)


def gradients(function: object, code: SparseCode, x: Tensor, parts: Parts) -> list[Tensor]:
    leaves = [leaf for leaf in parts if leaf is not None]
    centred = (x if parts.pre_bias is None else x - parts.pre_bias).detach()
    x_hat = function(code, centred, parts)  # pyright: ignore[reportCallIssue]
    weight = torch.linspace(-1.0, 1.0, x_hat.numel(), dtype=x_hat.dtype).view_as(x_hat)
    return [x_hat.detach(), *torch.autograd.grad((x_hat * weight).square().sum(), leaves)]


@pytest.mark.parametrize("tied", [True, False])
@pytest.mark.parametrize(("n", "d_sae", "k"), [(40, 30, 3), (300, 8, 8), (2000, 64, 5)])
def test_fast_and_dense_paths_agree_and_both_with_float64(n: int, d_sae: int, k: int, tied: bool) -> None:
    x = torch.randn(n, 6, generator=generator(1))
    parts = random_parts(2, d_in=6, d_sae=d_sae, dtype=torch.float32, tied=tied)
    exact = random_parts(2, d_in=6, d_sae=d_sae, dtype=torch.float64, tied=tied)
    centred = (x if parts.pre_bias is None else x - parts.pre_bias).detach()
    code = select_batch_topk(centred, Encoder(parts.W_enc.detach(), parts.b_enc.detach(), "float32"), k).code
    fast, dense = gradients(reconstruct, code, x, parts), gradients(dense_reconstruct, code, x, parts)
    oracle = gradients(dense_reconstruct, code._replace(values=code.values.double()), x.double(), exact)
    for ours, reference, truth in zip(fast, dense, oracle, strict=True):
        scale = truth.abs().max().item()
        torch.testing.assert_close(ours, reference, rtol=1e-5, atol=1e-5 * scale)
        torch.testing.assert_close(ours.double(), truth, rtol=1e-5, atol=1e-5 * scale)


def test_the_fast_path_is_deterministic() -> None:
    x = torch.randn(500, 6, generator=generator(1))
    parts = random_parts(2, d_in=6, d_sae=30, dtype=torch.float32, tied=True)
    assert parts.pre_bias is not None
    encoder = Encoder(parts.W_enc.detach(), parts.b_enc.detach(), "float32")
    code = select_batch_topk((x - parts.pre_bias).detach(), encoder, 4).code
    first, second = (gradients(reconstruct, code, x, parts) for _ in range(2))
    torch.testing.assert_close(first, second, rtol=0, atol=0)


def test_the_fast_gradient_refuses_a_second_derivative() -> None:
    parts = random_parts(2, d_in=3, d_sae=5, dtype=torch.float32, tied=False)
    x_hat = reconstruct(sparse_code(torch.eye(5)), torch.zeros(5, 3), parts)
    (gradient,) = torch.autograd.grad(x_hat.square().sum(), parts.W_dec, create_graph=True)
    with pytest.raises(RuntimeError, match="once_differentiable"):
        gradient.sum().backward()


def test_the_ragged_code_is_ordered_by_token_and_names_a_latent_once() -> None:
    pre = torch.randn(70, 20, generator=generator())
    for code in (
        select_topk(torch.eye(70), plain_encoder(pre), 4).code,
        select_batch_topk(torch.eye(70), plain_encoder(pre), 4).code,
    ):
        flat = code.tokens * code.d_sae + code.latents
        assert (code.tokens.diff() >= 0).all()
        assert len(flat.unique()) == len(flat)
        assert torch.equal(code.offsets[1:] - code.offsets[:-1], torch.bincount(code.tokens, minlength=70))
        assert torch.equal(code.counts(), (code.dense() > 0).sum(dim=0))
