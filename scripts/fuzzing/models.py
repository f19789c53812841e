"""Language models: config, tokenizer, weights in one file or by an index."""

import json
from pathlib import Path

import torch
from scripts.fuzzing.mutations import Files
from scripts.fuzzing.reader import Reader, files_of
from tests.experiment.tiny import save_lm

from fovea.lm.load import load_lm


def folders(folder: Path) -> dict[str, Files]:
    """A tiny Llama, and the same with its weights named by an index."""
    whole = files_of(save_lm(folder / "whole"))
    shards = dict(whole)
    shards["model-00001-of-00001.safetensors"] = weights = shards.pop("model.safetensors")
    header = json.loads(weights[8 : 8 + int.from_bytes(weights[:8], "little")])
    names = [name for name in header if name != "__metadata__"]
    index = {"metadata": {}, "weight_map": dict.fromkeys(names, "model-00001-of-00001.safetensors")}
    shards["model.safetensors.index.json"] = json.dumps(index).encode()
    return {"whole": whole, "shards": shards}


def read(folder: Path, seed: str) -> None:  # noqa: ARG001
    """Load it, hash it, tokenise, and run it on three tokens."""
    lm = load_lm(str(folder), dtype="float32")
    _ = lm.fingerprint, lm.special_ids, lm.adds_bos
    lm.tokenizer("w3 w4")
    from fovea.lm.hookpoint import HookPoint

    lm.activations(torch.tensor([[3, 4, 5]]), HookPoint(lm.n_layers - 1, "resid_post"))


MODELS = Reader("lm", folders, read, share=1)
