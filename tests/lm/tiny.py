"""Tiny random language models of every supported family, and a tokenizer, built from configs: nothing is fetched.

FAMILIES   name -> function that builds the model;  `lm(name)` -> LM with seeded weights, 3 layers, 97 tokens
"""

from collections.abc import Callable
from functools import cache
from typing import Any

import torch
import transformers as hf
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from tokenizers.pre_tokenizers import Whitespace
from tokenizers.processors import TemplateProcessing

from fovea.lm.model import LM

D_VOCAB = 97
N_LAYERS = 3
D_MODEL = 24

_SIZES: dict[str, Any] = {
    "vocab_size": D_VOCAB,
    "hidden_size": D_MODEL,
    "num_hidden_layers": N_LAYERS,
    "num_attention_heads": 4,
    "intermediate_size": 40,
    "max_position_embeddings": 64,
    "bos_token_id": 1,
    "eos_token_id": 2,
    "pad_token_id": 0,
}
_GROUPED = _SIZES | {"num_key_value_heads": 2, "head_dim": 6}
_GEMMA = _GROUPED | {"sliding_window": 4, "query_pre_attn_scalar": 6}


def _gpt_neox(*, parallel: bool) -> hf.PreTrainedModel:
    return hf.GPTNeoXForCausalLM(hf.GPTNeoXConfig(**_SIZES, use_parallel_residual=parallel))


def _gpt2() -> hf.PreTrainedModel:
    sizes = {"n_embd": D_MODEL, "n_layer": N_LAYERS, "n_head": 4, "n_positions": 64, "vocab_size": D_VOCAB}
    return hf.GPT2LMHeadModel(hf.GPT2Config(**sizes, bos_token_id=1, eos_token_id=2))


def _gemma2() -> hf.PreTrainedModel:
    # Caps so low that tiny random activations reach them.
    config = hf.Gemma2Config(**_GEMMA, attn_logit_softcapping=0.5, final_logit_softcapping=0.5)
    return hf.Gemma2ForCausalLM(config)


def _gemma3() -> hf.PreTrainedModel:
    kinds = ["sliding_attention", "full_attention", "sliding_attention"]
    return hf.Gemma3ForCausalLM(hf.Gemma3TextConfig(**_GEMMA, layer_types=kinds))


FAMILIES: dict[str, Callable[[], hf.PreTrainedModel]] = {
    "llama": lambda: hf.LlamaForCausalLM(hf.LlamaConfig(**_GROUPED)),
    "mistral": lambda: hf.MistralForCausalLM(hf.MistralConfig(**_GROUPED, sliding_window=4)),
    "qwen2": lambda: hf.Qwen2ForCausalLM(hf.Qwen2Config(**_GROUPED)),
    "qwen3": lambda: hf.Qwen3ForCausalLM(hf.Qwen3Config(**_GROUPED)),
    "gpt2": _gpt2,
    "gpt_neox_parallel": lambda: _gpt_neox(parallel=True),
    "gpt_neox_sequential": lambda: _gpt_neox(parallel=False),
    "gemma2": _gemma2,
    "gemma3": _gemma3,
    "olmo2": lambda: hf.Olmo2ForCausalLM(hf.Olmo2Config(**_SIZES)),
    "phi": lambda: hf.PhiForCausalLM(hf.PhiConfig(**_SIZES | {"num_attention_heads": 3})),
    "cohere": lambda: hf.CohereForCausalLM(hf.CohereConfig(**_SIZES, logit_scale=0.25)),
}

PARALLEL = {"gpt_neox_parallel", "phi", "cohere"}


def seeded(model: hf.PreTrainedModel, *, seed: int = 0, dtype: torch.dtype = torch.float32) -> hf.PreTrainedModel:
    """`model` with every weight drawn from its own generator, so that norms and biases are not trivial."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.copy_(torch.randn(parameter.shape, generator=generator) * 0.2)
    model.tie_weights()
    return model.to(dtype)


def tokenizer(*, adds_bos: bool = False) -> hf.PreTrainedTokenizerFast:
    """Words w3, w4, ... after the special tokens <pad> <bos> <eos>."""
    words = ["<pad>", "<bos>", "<eos>", *(f"w{i}" for i in range(3, D_VOCAB))]
    raw = Tokenizer(WordLevel({word: i for i, word in enumerate(words)}, unk_token="<pad>"))
    raw.pre_tokenizer = Whitespace()
    if adds_bos:
        raw.post_processor = TemplateProcessing(single="<bos> $A", special_tokens=[("<bos>", 1)])
    return hf.PreTrainedTokenizerFast(
        tokenizer_object=raw, bos_token="<bos>", eos_token="<eos>", pad_token="<pad>", model_max_length=64
    )


@cache
def lm(family: str, *, dtype: torch.dtype = torch.float32) -> LM:
    """The tiny LM of that family and dtype, shared by all tests: nobody may change its weights."""
    return LM(seeded(FAMILIES[family](), dtype=dtype), tokenizer(), name=f"tiny {family}")


def tokens(*, batch: int = 2, pos: int = 11, seed: int = 0) -> torch.Tensor:
    """Random token ids [batch pos] without special tokens."""
    return torch.randint(3, D_VOCAB, (batch, pos), generator=torch.Generator().manual_seed(seed))
