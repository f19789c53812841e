"""What a latent writes and what is near it, against plain float64 sums, for every family of lm."""

import copy
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from fovea.features.files import LinkLists
from fovea.features.links import Unembedding, nearest
from fovea.lm.model import LM
from tests.lm import tiny

N = 6
FINAL_NORM = {
    "gpt2": "ln_f",
    "gpt_neox_parallel": "final_layer_norm",
    "gpt_neox_sequential": "final_layer_norm",
    "phi": "final_layernorm",
}
"Where a family keeps it, if not in `norm`."
SUBTRACTS_MEAN = {"gpt2", "gpt_neox_parallel", "gpt_neox_sequential", "phi", "cohere"}
ADDS_ONE = {"gemma2", "gemma3"}
"Families whose norm multiplies by 1 + weight."


def made(family: str, *, tied: bool) -> LM:
    """The tiny LM of a family, its unembedding the embedding or a matrix of its own."""
    model = tiny.FAMILIES[family]()
    config: Any = copy.deepcopy(model.config)
    config.tie_word_embeddings = tied
    return LM(tiny.seeded(type(model)(config), seed=3), tiny.tokenizer(), name=f"{family}, {tied=}")


def rows(n: int = 40) -> Tensor:
    """Decoder rows with a common part, so that subtracting the mean matters."""
    return torch.randn(n, tiny.D_MODEL, generator=torch.Generator().manual_seed(7)) + 0.8


def final_norm(family: str, lm: LM) -> Any:
    return getattr(lm.model.base_model, FINAL_NORM.get(family, "norm"))


def unembedding(lm: LM) -> Any:
    return lm.model.get_output_embeddings()


def by_formula(family: str, lm: LM, W_dec: Tensor) -> Tensor:
    """[d_sae d_vocab] W_U (w * d) in float64, from the weights by their names."""
    weight = final_norm(family, lm).weight.double()
    d = W_dec.double()
    d = d - d.mean(dim=1, keepdim=True) if family in SUBTRACTS_MEAN else d
    return (d * (weight + 1 if family in ADDS_ONE else weight)) @ unembedding(lm).weight.double().T


def check(found: LinkLists, expected: Tensor, *, sign: float) -> None:
    """`found` are the N largest of sign x expected, in order."""
    best = (sign * expected).topk(N, dim=1)
    np.testing.assert_allclose(found.values, sign * best.values.numpy(), rtol=1e-4, atol=1e-5)
    at_ids = expected.gather(1, torch.from_numpy(found.ids)).numpy()
    np.testing.assert_allclose(at_ids, found.values, rtol=1e-4, atol=1e-5)
    assert all(len(set(ids)) == N for ids in found.ids.tolist())


@pytest.mark.parametrize("tied", [True, False], ids=["tied", "untied"])
@pytest.mark.parametrize("family", tiny.FAMILIES)
@torch.no_grad()
def test_promoted_and_suppressed_tokens_are_those_of_the_formula_in_float64(family: str, tied: bool) -> None:
    lm = made(family, tied=tied)
    embedding: Any = lm.model.get_input_embeddings()
    assert torch.equal(unembedding(lm).weight, embedding.weight) == tied
    promoted, suppressed = Unembedding(lm, n_tokens=tiny.D_VOCAB).extremes(rows(), n=N)
    expected = by_formula(family, lm, rows())
    check(promoted, expected, sign=1)
    check(suppressed, expected, sign=-1)


@pytest.mark.parametrize("family", tiny.FAMILIES)
@torch.no_grad()
def test_the_order_is_that_of_the_models_own_head_on_the_direction_alone(family: str) -> None:
    """The odd part of what norm, head, soft cap and scale make of d: the division by the length is one factor a row."""
    lm = made(family, tied=False)
    norm, head = (copy.deepcopy(module).double() for module in (final_norm(family, lm), unembedding(lm)))
    found, _ = Unembedding(lm, n_tokens=tiny.D_VOCAB).extremes(rows(), n=N)
    d = rows().double()
    written = (head(norm(d)) - head(norm(-d))) / 2
    written = written / written.norm(dim=1, keepdim=True)
    at_ids = written.gather(1, torch.from_numpy(found.ids))
    np.testing.assert_allclose(at_ids, written.topk(N, dim=1).values, rtol=1e-4)


@torch.no_grad()
def test_a_soft_cap_and_a_scale_of_the_logits_are_left_out_and_change_no_order() -> None:
    text = " ".join((Path(__file__).parents[2] / "docs" / "features.md").read_text().split())
    assert "a soft cap and a constant factor of the logits are left out too" in text
    for family in ("gemma2", "cohere"):
        lm = made(family, tied=False)
        found, _ = Unembedding(lm, n_tokens=tiny.D_VOCAB).extremes(rows(), n=N)
        plain = by_formula(family, lm, rows())
        config: Any = lm.model.config
        # A small step along d, so that the cap still tells logits apart.
        step = 0.01
        cap = config.final_logit_softcapping if family == "gemma2" else None
        shown = cap * torch.tanh(step * plain / cap) if cap else step * plain * config.logit_scale
        assert not np.allclose(shown.max() / step, found.values.max(), rtol=1e-3), "it changes the values"
        at_ids = shown.gather(1, torch.from_numpy(found.ids))
        assert (at_ids.diff(dim=1) <= 0).all()
        np.testing.assert_allclose(at_ids, shown.topk(N, dim=1).values, rtol=1e-4)


def test_a_vocabulary_of_several_blocks_and_rows_of_several_blocks_hide_nothing(monkeypatch: Any) -> None:
    """Ties too: equal logits come in the order of their ids."""
    monkeypatch.setattr("fovea.features.links._TOKENS", 20)
    monkeypatch.setattr("fovea.features.links._ROWS", 7)
    monkeypatch.setattr("fovea.features.links._RUN", 4)
    lm = made("llama", tied=False)
    W_dec = rows(30)
    promoted, suppressed = Unembedding(lm, n_tokens=tiny.D_VOCAB).extremes(W_dec, n=N)
    expected = by_formula("llama", lm, W_dec)
    check(promoted, expected, sign=1)
    check(suppressed, expected, sign=-1)
    zero, _ = Unembedding(lm, n_tokens=tiny.D_VOCAB).extremes(torch.zeros(1, tiny.D_MODEL), n=N)
    assert zero.values.tolist() == [[0.0] * N]


def test_tokens_beyond_the_tokenizers_are_not_shown() -> None:
    """A model may pad its unembedding to a round number of rows that no token has."""
    lm = made("llama", tied=False)
    promoted, suppressed = Unembedding(lm, n_tokens=50).extremes(rows(), n=N)
    assert max(promoted.ids.max(), suppressed.ids.max()) < 50
    check(promoted, by_formula("llama", lm, rows())[:, :50], sign=1)


@pytest.mark.parametrize("n_latents", [1, 3, 300])
def test_the_nearest_latents_are_those_of_all_cosines_in_float64(n_latents: int) -> None:
    W_dec = torch.randn(n_latents, 8, generator=torch.Generator().manual_seed(1)) * torch.linspace(1, 50, 8)
    if n_latents > 2:
        W_dec[2] = 0
    found = nearest(W_dec, n=4)
    plain = W_dec.double().numpy()
    lengths = np.linalg.norm(plain, axis=1)
    for own in range(n_latents):
        others = [i for i in range(n_latents) if i != own]
        cosines = {i: plain[own] @ plain[i] / max(lengths[own] * lengths[i], 1e-300) for i in others}
        best = sorted(cosines.values(), reverse=True)[:4]
        if n_latents > 2 and own == 2:
            assert (found.ids[own] == -1).all(), "a row of length 0 is near to none"
            continue
        np.testing.assert_allclose(found.values[own], best, atol=1e-6)
        np.testing.assert_allclose([cosines[i] for i in found.ids[own].tolist()], best, atol=1e-6)
