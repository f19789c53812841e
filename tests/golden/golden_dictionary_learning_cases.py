"""Golden SAEs of dictionary_learning: every class that its load_dictionary reads."""

import json
from pathlib import Path
from typing import Any

import torch
from dictionary_learning.dictionary import AutoEncoder, AutoEncoderNew, GatedAutoEncoder, JumpReluAutoEncoder
from dictionary_learning.trainers.batch_top_k import BatchTopKSAE
from dictionary_learning.trainers.matryoshka_batch_top_k import MatryoshkaBatchTopKSAE
from dictionary_learning.trainers.top_k import AutoEncoderTopK
from dictionary_learning.utils import load_dictionary
from make_formats import D_IN, D_SAE, MODEL, K, case, probe, truth, weights
from torch import Tensor

THRESHOLD = 0.8
GROUPS = [8, 16]

MAKE: dict[str, Any] = {
    "AutoEncoder": lambda: AutoEncoder(D_IN, D_SAE),
    "AutoEncoderNew": lambda: AutoEncoderNew(D_IN, D_SAE),
    "GatedAutoEncoder": lambda: GatedAutoEncoder(D_IN, D_SAE),
    "AutoEncoderTopK": lambda: AutoEncoderTopK(D_IN, D_SAE, K),
    "BatchTopKSAE": lambda: BatchTopKSAE(D_IN, D_SAE, K),
    "MatryoshkaBatchTopKSAE": lambda: MatryoshkaBatchTopKSAE(D_IN, D_SAE, K, GROUPS),
    "JumpReluAutoEncoder": lambda: JumpReluAutoEncoder(D_IN, D_SAE),
}


def values(kind: str) -> dict[str, Tensor]:
    """Our weights by the names of a class."""
    ours = weights()
    shared = {"W_enc": ours["W_enc"], "W_dec": ours["W_dec"], "b_enc": ours["b_enc"], "b_dec": ours["b_dec"]}
    linear = {
        "encoder.weight": ours["W_enc"].T,
        "decoder.weight": ours["W_dec"].T,
        "encoder.bias": ours["b_enc"],
        "bias": ours["b_dec"],
        "decoder.bias": ours["b_dec"],
        "decoder_bias": ours["b_dec"],
        "gate_bias": ours["b_gate"],
        "mag_bias": ours["b_mag"],
        "r_mag": ours["r_mag"],
    }
    threshold = ours["threshold"] if kind == "JumpReluAutoEncoder" else torch.tensor(THRESHOLD)
    return {**shared, **linear, "threshold": threshold}


def written(folder: Path, kind: str, threshold: float | None = None) -> dict[str, Tensor]:
    """Saved as trainSAE saves it, read as load_dictionary reads it."""
    made = MAKE[kind]()
    for name, tensor in made.state_dict().items():
        if name in values(kind):
            tensor.copy_(values(kind)[name])
    if threshold is not None:
        made.threshold.fill_(threshold)
    torch.save({name: tensor.cpu() for name, tensor in made.state_dict().items()}, folder / "ae.pt")
    trainer = {
        "dict_class": kind,
        "activation_dim": D_IN,
        "dict_size": D_SAE,
        "lm_name": MODEL,
        "layer": 3,
        "submodule_name": "resid_post_layer_3",
        **({"k": K} if "TopK" in kind else {}),
    }
    config = {"trainer": trainer, "buffer": {"d_submodule": D_IN, "io": "out", "ctx_len": 128}}
    (folder / "config.json").write_text(json.dumps(config, indent=4))
    loaded, _ = load_dictionary(str(folder), "cpu")
    return truth(loaded.encode(probe()), loaded(probe()))


for _kind in MAKE:
    case("dictionary_learning", _kind)(lambda folder, kind=_kind: written(folder, kind))
case("dictionary_learning", "BatchTopKSAE-no_threshold")(lambda folder: written(folder, "BatchTopKSAE", -1.0))
