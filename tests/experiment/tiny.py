"""A whole experiment in miniature: a random two-layer Llama with a word tokenizer on disk, two corpora, a g."""

import json
import random
from pathlib import Path
from typing import Any

import torch

from fovea.sae.batch_topk import BatchTopKConfig
from fovea.sae.files import SAEMetadata, save_sae
from tests.lm import tiny

HOOK_POINT = "blocks.1.hook_resid_post"


def save_lm(folder: Path) -> Path:
    """The tiny Llama and its tokenizer as a Hugging Face folder."""
    tiny.seeded(tiny.FAMILIES["llama"]()).save_pretrained(folder)
    tiny.tokenizer().save_pretrained(folder)
    return folder


def save_corpus(path: Path, *, words: range, n_documents: int = 120, seed: int = 0) -> Path:
    """Documents of random words from `words`; the domain uses others than general text."""
    draw = random.Random(seed)
    lines = [
        json.dumps({"text": " ".join(f"w{draw.choice(words)}" for _ in range(draw.randint(20, 60)))})
        for _ in range(n_documents)
    ]
    path.write_text("\n".join(lines) + "\n")
    return path


def save_general(folder: Path, *, d_in: int = tiny.D_MODEL, hook_point: str = HOOK_POINT, model: str = "tiny") -> Path:
    """An untrained BatchTopK g with a threshold."""
    sae = BatchTopKConfig(d_sae=64, k=4).build(d_in, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        sae.threshold_sum.fill_(0.5)
        sae.threshold_weight.fill_(1.0)
    save_sae(sae, folder, metadata=SAEMetadata(model_name=model, hook_name=hook_point))
    return folder


def experiment(folder: Path, **changes: Any) -> dict[str, Any]:
    """Raw tables of the experiment; files are made in `folder` on the first call."""
    lm = folder / "lm"
    if not lm.exists():
        save_lm(lm)
        save_corpus(folder / "domain.jsonl", words=range(3, 40), seed=1)
        save_corpus(folder / "general.jsonl", words=range(30, 97), seed=2)
        save_general(folder / "g", model=str(lm))
    tables: dict[str, Any] = {
        "name": "tiny",
        "lm": {"model": str(lm), "hook_point": HOOK_POINT, "dtype": "float32"},
        "text": {"context_size": 16, "contexts_per_batch": 8, "contexts_per_chunk": 16, "heldout_fraction": 0.2},
        "general": {"corpus": str(folder / "general.jsonl"), "sae": str(folder / "g")},
        "domain": [{"name": "words", "corpus": str(folder / "domain.jsonl")}],
        "train": {"n_tokens": 6400, "batch_size": 128, "buffer_rows": 512, "checkpoint_seconds": 0.2},
        "job": [
            {"method": {"kind": "direct"}, "sae": {"kind": "batch_topk", "expansion": 2, "k": [2, 4, 8]}},
            {"method": {"kind": "finetune"}, "sae": {"kind": "batch_topk", "k": [2, 4, 8]}},
            {
                "method": {"kind": "ssae", "silence": 0.25},
                "sae": {"kind": "batch_topk", "expansion": 2, "k": [1, 2, 4]},
            },
            {"method": {"kind": "mix"}, "sae": {"kind": "topk", "expansion": 2, "k": 4}},
        ],
        "controls": {"k": 4},
        "evaluate": {
            "heldout_tokens": 512,
            "train_tokens": 256,
            "general_tokens": 512,
            "density_tokens": 800,
            "n_resamples": 100,
        },
        "features": {"tokens": 800},
    }
    return {**tables, **changes}
