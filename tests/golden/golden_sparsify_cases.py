"""Golden SAEs of sparsify, and a transcoder that must be refused."""

import json
from pathlib import Path

import torch
from make_formats import D_IN, D_SAE, MODEL, K, case, probe, truth, weights
from sparsify import SparseCoder, SparseCoderConfig
from torch import Tensor


def written(folder: Path, hookpoint: str, **settings: object) -> dict[str, Tensor]:
    """Saved by save_to_disk in a run's folder, read by load_from_disk."""
    coder = SparseCoder(D_IN, SparseCoderConfig(k=K, **settings))
    ours = weights()
    coder.encoder.weight.copy_(ours["W_enc"].T)
    coder.encoder.bias.copy_(ours["b_enc"])
    coder.W_dec.copy_(ours["W_dec"])
    coder.b_dec.copy_(ours["b_dec"])
    coder.save_to_disk(folder / hookpoint)
    (folder / "config.json").write_text(json.dumps({"model": MODEL, "ctx_len": 128, "hookpoints": [hookpoint]}))
    loaded = SparseCoder.load_from_disk(folder / hookpoint)
    top, indices, _ = loaded.encode(probe())
    latents = torch.zeros(len(probe()), D_SAE).scatter(-1, indices, top)
    return truth(latents, loaded(probe()).sae_out)


case("sparsify", "layers.3")(lambda folder: written(folder, "layers.3", num_latents=D_SAE))
case("sparsify", "h.3.mlp")(lambda folder: written(folder, "h.3.mlp", expansion_factor=D_SAE // D_IN))
case("sparsify", "transcoder")(lambda folder: written(folder, "layers.3.mlp", num_latents=D_SAE, transcode=True))
