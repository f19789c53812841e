"""The bundled model through load_lm: real text, stop and resume to the bit."""

import pytest
import torch

from fovea.errors import FoveaError
from fovea.lm.hookpoint import SITES, HookPoint
from fovea.lm.load import load_lm
from fovea.lm.model import LM

pytestmark = pytest.mark.slow
TEXT = "The heart pumps blood through the body. It has four chambers, and its valves keep the blood from flowing back."


@pytest.fixture(scope="module")
def lm() -> LM:
    try:
        return load_lm("bundled:smollm2-135m-instruct")
    except FoveaError as error:
        pytest.skip(f"the bundled model cannot be had here: {error}")


@pytest.fixture(scope="module")
def tokens(lm: LM) -> torch.Tensor:
    return torch.tensor([lm.tokenizer(TEXT)["input_ids"]])


def test_facts(lm):
    assert (lm.d_model, lm.n_layers, lm.d_vocab, lm.context_size) == (576, 30, 49152, 8192)
    assert (lm.bos_id, lm.separator_id, lm.adds_bos) == (1, 2, False)
    assert {0, 1, 2} <= lm.special_ids
    assert len(lm.special_ids) < 30
    assert len(lm.fingerprint) == 64


@pytest.mark.parametrize("site", SITES)
def test_stopping_and_resuming_equals_the_full_forward_to_the_bit(lm, tokens, site):
    with torch.no_grad():
        expected = lm.model(tokens, use_cache=False).logits[0].float()
    prefix = lm.prefix(tokens, HookPoint(14, site))
    assert torch.equal(lm.logits(lm.resume(prefix, prefix.x)[0]), expected)


def test_it_predicts_the_text_and_not_if_layer_14_is_zeroed(lm, tokens):
    prefix = lm.prefix(tokens, HookPoint(14, "resid_post"))
    loss, loss_zero = (
        torch.nn.functional.cross_entropy(lm.logits(lm.resume(prefix, x)[0])[:-1], tokens[0, 1:])
        for x in (prefix.x, torch.zeros_like(prefix.x))
    )
    assert loss < 4
    assert loss_zero > 8


def test_the_first_token_has_the_massive_norm_that_filters_must_drop(lm, tokens):
    norms = lm.activations(tokens, HookPoint(14, "resid_post"))[0].norm(dim=-1)
    assert norms[0] > 10 * norms[1:].max()
