"""The general SAE: it reads, it rebuilds, it does not move."""

import pytest
import torch
from torch import nn

from fovea.sae.frozen import FrozenSAE
from tests.sae.cases import BIASES, CONFIGS, D_IN, D_SAE, build, rows, train


@pytest.mark.parametrize("name", CONFIGS)
@pytest.mark.parametrize("bias", BIASES)
def test_a_frozen_sae_rebuilds_as_its_inference_form(name: str, bias: str) -> None:
    sae, x = build(name, bias), rows()
    frozen = FrozenSAE(sae)
    torch.testing.assert_close(frozen.reconstruct(x), sae(x).detach(), rtol=1e-5, atol=1e-5)
    assert torch.equal(frozen.encode(x), sae.encode(x))
    torch.testing.assert_close(frozen.decode(frozen.encode(x)), sae(x).detach(), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("name", ["jumprelu", "topk"])
def test_chunks_change_nothing(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    frozen, x = FrozenSAE(build(name)), rows()
    whole = frozen.reconstruct(x)
    monkeypatch.setattr("fovea.sae.frozen.CHUNK_ELEMENTS", 70 * D_SAE)
    torch.testing.assert_close(frozen.reconstruct(x), whole, rtol=1e-6, atol=1e-6)
    latents = torch.cat([code.dense() for code in frozen.codes(x)])
    assert latents.shape == (len(x), D_SAE)
    torch.testing.assert_close(latents, frozen.encode(x), rtol=1e-6, atol=1e-6)


def test_no_tokens_give_no_rows() -> None:
    assert FrozenSAE(build("jumprelu")).reconstruct(rows()[:0]).shape == (0, D_IN)


def test_nothing_that_happens_around_it_moves_it() -> None:
    sae, x = build("batch_topk"), rows()
    frozen = FrozenSAE(sae)
    before = frozen.fingerprint()
    other = build("topk", "own")
    train(other, x, x - frozen.reconstruct(x), n_steps=3)
    train(sae, x, x, n_steps=3)
    assert frozen.fingerprint() == before
    assert FrozenSAE(sae).fingerprint() != before


def test_a_module_that_holds_it_does_not_list_its_weights() -> None:
    holder = nn.Linear(2, 2)
    holder.general = FrozenSAE(build("relu"))  # pyright: ignore[reportAttributeAccessIssue]
    assert {name for name, _ in holder.named_parameters()} == {"weight", "bias"}
    assert not FrozenSAE(build("relu")).reconstruct(rows().requires_grad_()).requires_grad
