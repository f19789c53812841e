"""Structures: what is not known to add attention and mlp to the stream is refused, whatever its modules are called."""

import pytest
import transformers as hf

from fovea.errors import ModelError
from fovea.lm.structure import STRUCTURES, dissect
from lm import tiny

SIZES = {"vocab_size": 97, "hidden_size": 24, "num_hidden_layers": 2, "num_attention_heads": 4}


def test_an_unknown_architecture_is_refused_with_the_supported_ones():
    model = hf.BertLMHeadModel(hf.BertConfig(**SIZES, intermediate_size=40, is_decoder=True))
    with pytest.raises(ModelError) as caught:
        dissect(model)
    assert "BertLMHeadModel is not supported" in str(caught.value)
    assert all(structure.name in str(caught.value) for structure in STRUCTURES)


def test_a_layer_with_llamas_modules_that_scales_what_it_adds_is_refused():
    config = hf.GraniteConfig(**SIZES, intermediate_size=40, residual_multiplier=0.22)
    with pytest.raises(ModelError, match="scales or gates what a layer adds"):
        dissect(tiny.seeded(hf.GraniteForCausalLM(config)))


def test_gpt2_with_cross_attention_is_refused():
    config = hf.GPT2Config(n_embd=24, n_layer=2, n_head=4, vocab_size=97, add_cross_attention=True)
    with pytest.raises(ModelError, match="is not supported"):
        dissect(hf.GPT2LMHeadModel(config))


@pytest.mark.parametrize("family", tiny.FAMILIES)
def test_resid_mid_exists_exactly_where_the_residual_is_sequential(family):
    layers = dissect(tiny.seeded(tiny.FAMILIES[family]())).layers
    assert len(layers) == tiny.N_LAYERS
    assert all((parts.mid is None) == (family in tiny.PARALLEL) for parts in layers)
