"""delphi's cache of latents and its explanations, written from a run and read by delphi's own loader.

    python examples/delphi_cache.py RUN JOB OUT

Writes OUT/latents/HOOKPOINT/FIRST_LAST.safetensors (locations, activations, tokens) with config.json, and
OUT/explanations/HOOKPOINT_latentN.txt, here the tokens that N fires on most. Then, where delphi is installed, shows
that its LatentDataset finds every firing. Tested with eai-delphi 0.1.3.

How far it goes: delphi.explainers and delphi.scorers import vllm, which needs its own build of torch, so no explainer
and no scorer runs here. An explanation is the json string that they read from the .txt file.
"""

import importlib.util
import json
import sys
from pathlib import Path

import torch
from safetensors.torch import save_file
from torch import Tensor

from fovea.lm.load import load_lm
from handover import Job, arguments

N_SPLITS, N_EXPLAINED, N_TOKENS_NAMED = 5, 20, 5


def write_cache(folder: Path, latents: Tensor, tokens: Tensor, *, model_name: str) -> None:
    """Write what delphi's LatentCache writes (save_splits, save_config).

    Args:
        latents: [contexts positions d_sae].
        tokens: [contexts positions].
    """
    folder.mkdir(parents=True)
    edges = torch.linspace(0, latents.shape[-1], N_SPLITS + 1).long().tolist()
    for start, stop in zip(edges[:-1], edges[1:], strict=True):
        part = latents[..., start:stop]
        whole = torch.uint16 if max(len(part), stop - start) < 2**16 else torch.uint32
        found = {
            "locations": part.nonzero().to(whole).contiguous(),
            "activations": part[part != 0].half(),
            "tokens": tokens,
        }
        save_file(found, folder / f"{start}_{stop - 1}.safetensors")
    config = {
        "dataset_repo": "held-out text of the run",
        "dataset_split": "heldout",
        "dataset_name": "",
        "dataset_column": "text",
        "batch_size": len(tokens),
        "cache_ctx_len": tokens.shape[1],
        "n_tokens": tokens.numel(),
        "n_splits": N_SPLITS,
        "model_name": model_name,
    }
    (folder / "config.json").write_text(json.dumps(config, indent=4))


def write_explanations(folder: Path, latents: Tensor, names: list[str], *, hookpoint: str) -> None:
    """Write one .txt for each of the latents that fire most.

    Args:
        latents: [tokens d_sae].
        names: The tokens' text.
    """
    folder.mkdir(parents=True)
    explained = (latents > 0).sum(0).topk(min(N_EXPLAINED, latents.shape[1])).indices.tolist()
    for index in explained:
        strongest = latents[:, index].argsort(descending=True)[: int((latents[:, index] > 0).sum())]
        told = "Fires most on " + ", ".join(list(dict.fromkeys(repr(names[i]) for i in strongest))[:N_TOKENS_NAMED])
        (folder / f"{hookpoint}_latent{index}.txt").write_text(json.dumps(told))


def read_with_delphi(out: Path, latents: Tensor) -> None:
    """Print what delphi finds in the folder; end with status 1 where that is not what was written."""
    import orjson
    from delphi.config import ConstructorConfig, SamplerConfig
    from delphi.latents import LatentDataset

    settings = ConstructorConfig(example_ctx_len=min(32, latents.shape[1]), min_examples=5, n_non_activating=5)
    sampler = SamplerConfig(n_examples_train=5, n_examples_test=5, n_quantiles=5)
    dataset = LatentDataset(out / "latents", sampler, settings)
    read = torch.zeros_like(latents)
    for buffer in dataset.buffers:
        locations, activations, _ = buffer.load()
        read[tuple(locations.T)] = activations.float()
    n_flips = int(((read > 0) != (latents.half() > 0)).sum())
    difference = float((read - latents).abs().max() / latents.max())
    records = list(dataset)
    texts = [out / "explanations" / f"{record.latent}.txt" for record in records]
    told = [str(orjson.loads(path.read_bytes())) for path in texts if path.exists()]
    print(
        f"delphi reads {int((read > 0).sum()):,} firings: {n_flips} differ; activations (half) within {difference:.0e}"
    )
    print(f"delphi makes records of {len(records):,} latents with at least 5 examples; {len(told)} have an explanation")
    print("  e.g.", *told[:1])
    if n_flips or difference > 1e-3 or not told:
        sys.exit("delphi does not read what was written")


def main(job: Job, out: Path) -> None:
    """Write the folder, then read it."""
    lm = load_lm(str(job.lm_folder), dtype="float32")
    tokens = job.tokens(32)
    x = lm.activations(tokens, job.hook_point)
    norm = x.norm(dim=-1, keepdim=True)
    latents = job.code(x).latents.masked_fill(norm > 10 * norm.median(), 0.0)
    hookpoint = job.hook_point.hugging_face()
    write_cache(out / "latents" / hookpoint, latents, tokens, model_name=str(job.lm_folder))
    names = [lm.tokenizer.decode([i]) for i in tokens.flatten().tolist()]
    write_explanations(out / "explanations", latents.flatten(0, 1), names, hookpoint=hookpoint)
    print(f"{out}: {int((latents > 0).sum()):,} firings on {tokens.numel():,} tokens in {N_SPLITS} files")
    if importlib.util.find_spec("delphi") is None:
        print("delphi is not installed, so only our side was run")
    else:
        read_with_delphi(out, latents)


if __name__ == "__main__":
    main(*arguments(__doc__))
