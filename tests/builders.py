"""What several parts' tests build: a tiny lm with a real byte-level tokenizer, text, and a tokenised corpus.

text(seed) --> sentences          tiny_lm() --> LM(random 2-layer Llama, BPE trained on that text)
tokenised(folder, lm, texts=...) --> TokenisedCorpus
"""

import json
import random
from collections.abc import Iterable
from functools import cache
from pathlib import Path

import torch
from tokenizers import Tokenizer
from tokenizers.decoders import ByteLevel as ByteLevelDecoder
from tokenizers.models import BPE
from tokenizers.pre_tokenizers import ByteLevel
from tokenizers.processors import TemplateProcessing
from tokenizers.trainers import BpeTrainer
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from fovea.data.tokens import CorpusConfig, PackingConfig, TokenisedCorpus, build_tokens
from fovea.lm.model import LM

EOS, BOS = "<|im_end|>", "<|im_start|>"
D_MODEL = 16
_D_VOCAB = 400
_WORDS = [
    "the",
    "a",
    "cell",
    "enzyme",
    "binds",
    "to",
    "protein",
    "membrane",
    "and",
    "gene",
    "regulates",
    "growth",
    "of",
    "tissue",
    "in",
    "water",
    "light",
    "energy",
    "number",
    "proof",
    "follows",
    "from",
    "lemma",
    "war",
    "treaty",
    "king",
    "signed",
    "river",
    "market",
    "code",
    "loop",
    "returns",
    "value",
    "error",
]


def text(seed: int, *, n_words: int = 60) -> str:
    """Sentences of random words; equal seeds give equal text."""
    draw = random.Random(seed)
    return " ".join(draw.choice(_WORDS) for _ in range(n_words)).capitalize() + "."


def texts(n: int, *, seed: int = 0, n_words: int = 60) -> list[str]:
    """`n` different texts."""
    return [text(seed * 1_000_003 + index, n_words=n_words) for index in range(n)]


def tokenizer(*, adds_bos: bool = False) -> PreTrainedTokenizerFast:
    """Byte-level BPE that splits digits off, as SmolLM2's; <|im_end|> is id 0 and EOS, <|im_start|> is 1 and BOS."""
    return PreTrainedTokenizerFast(tokenizer_object=Tokenizer.from_str(_bpe(adds_bos)), eos_token=EOS, bos_token=BOS)


def tiny_lm(*, seed: int = 0, adds_bos: bool = False, dtype: torch.dtype = torch.float32) -> LM:
    """A 2-layer Llama with seeded random weights; equal arguments give equal weights."""
    config = LlamaConfig(
        vocab_size=_D_VOCAB,
        hidden_size=D_MODEL,
        intermediate_size=32,
        num_hidden_layers=2,
        num_attention_heads=2,
        num_key_value_heads=1,
        max_position_embeddings=256,
        eos_token_id=0,
        bos_token_id=1,
        pad_token_id=0,
    )
    model = LlamaForCausalLM(config)
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.copy_(torch.randn(parameter.shape, generator=generator) * 0.3)
    return LM(model.to(dtype), tokenizer(adds_bos=adds_bos), name=f"tiny-{seed}")


def write_jsonl(path: Path, documents: Iterable[str]) -> Path:
    """A jsonl file with the field "text"."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps({"text": document}, ensure_ascii=False) + "\n" for document in documents))
    return path


def tokenised(folder: Path, lm: LM, *, documents: Iterable[str], context_size: int = 16) -> TokenisedCorpus:
    """`documents` written, split (a quarter held out) and packed below `folder`."""
    source = write_jsonl(folder.with_name(folder.name + ".jsonl"), documents)
    config = CorpusConfig(reference=str(source), heldout_fraction=0.25)
    return build_tokens(config, lm, folder=folder, packing=PackingConfig(context_size=context_size))


@cache
def _bpe(adds_bos: bool) -> str:
    raw = Tokenizer(BPE())
    raw.pre_tokenizer = ByteLevel(add_prefix_space=False)
    raw.decoder = ByteLevelDecoder()
    trainer = BpeTrainer(
        vocab_size=_D_VOCAB,
        special_tokens=[EOS, BOS],
        initial_alphabet=sorted(ByteLevel.alphabet()),
        show_progress=False,
    )
    raw.train_from_iterator(texts(50), trainer)
    if adds_bos:
        raw.post_processor = TemplateProcessing(single=f"{BOS} $A", special_tokens=[(BOS, 1)])
    return raw.to_str()
