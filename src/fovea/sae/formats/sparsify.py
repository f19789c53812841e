"""sparsify (EleutherAI, eai-sparsify): a folder per hook point with cfg.json and sae.safetensors.

    encoder.weight [d_sae d_in]   encoder.bias   W_dec [d_sae d_in]   b_dec

    latents = TopK(ReLU((x - b_dec) encoder.weight^T + encoder.bias));   x_hat = latents W_dec + b_dec

The file above, RUN/config.json, names the lm. The hook point is the folder's name: a module below the lm's base model,
whose output is read. A name such as layers.3 does not say which of an lm's spellings it is.

Source: eai-sparsify 1.3.3, sparse_coder.py and fused_encoder.py. W_dec has latents as rows already.
"""

import re
from pathlib import Path
from typing import Any

from torch import Tensor

from fovea.errors import SAEError
from fovea.sae.base import SAE
from fovea.sae.files import SAEMetadata
from fovea.sae.formats.guard import found, read_json
from fovea.sae.formats.plain import (
    Plain,
    cfg_of,
    check_claims,
    matrix,
    own_metadata,
    refuse_other_tensors,
    text_or_none,
)
from fovea.sae.formats.tensors import read_safetensors

WEIGHTS, CFG, RUN_CONFIG = "sae.safetensors", "cfg.json", "config.json"

_TENSORS = {"encoder.weight", "encoder.bias", "W_dec", "b_dec"}
_SITES = {"": "resid_post", "mlp": "mlp_out", "self_attn": "attn_out", "attention": "attn_out", "attn": "attn_out"}
_HOOK_POINT = re.compile(r"(?:(?:model|gpt_neox|transformer)\.)?(?:layers|h)\.(?P<layer>\d+)(?:\.(?P<site>\w+))?")


def is_layout(folder: Path) -> bool:
    """Whether the files are those of sparsify."""
    return found(folder, WEIGHTS) is not None


def read(folder: Path) -> Plain:
    """An SAE of sparsify.

    Raises:
        SAEError: a file is damaged, implausible or missing; it is a transcoder, or latents are chosen by groups.
    """
    weights, described = found(folder, WEIGHTS), found(folder, CFG)
    if weights is None or described is None:
        raise SAEError(f"{folder} needs both {CFG} and {WEIGHTS}; download or write the SAE again")
    cfg = read_json(described)
    raw = read_safetensors(weights)
    if cfg.get("transcode") or cfg.get("skip_connection") or "W_skip" in raw:
        raise SAEError(f"{folder} is a transcoder: it does not rebuild what it reads; choose an autoencoder")
    if cfg.get("activation", "topk") != "topk" or cfg.get("signed"):
        chosen = "signed latents" if cfg.get("signed") else f"activation {cfg['activation']!r:.50}"
        raise SAEError(
            f"{folder} has {chosen}, for which there is no architecture here; only topk of positive latents is read"
        )
    refuse_other_tensors(raw, _TENSORS, where=str(folder))
    encoder = matrix(raw, "encoder.weight", where=str(folder))
    n_latents = cfg.get("num_latents") or None
    check_claims(
        {"d_in": (cfg.get("d_in"), encoder.shape[1]), "num_latents": (n_latents, encoder.shape[0])}, where=str(folder)
    )
    tensors = {
        "W_enc": encoder.T,
        "W_dec": raw.get("W_dec"),
        "b_enc": raw.get("encoder.bias"),
        "b_dec": raw.get("b_dec"),
    }
    here = {name: tensor for name, tensor in tensors.items() if tensor is not None}
    return Plain(
        cfg_of("topk", pre_bias=True, k=cfg.get("k")),
        here,
        own_metadata(cfg, _metadata(folder), where=str(described)),
        (),
    )


def contents(sae: SAE, metadata: SAEMetadata, *, where: str) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """What `sae` is in sparsify: the tensors of sae.safetensors and cfg.json.

    Raises:
        SAEError: it is no topk SAE, or its pre-bias is not its output bias.
    """
    form = sae.inference_form()
    settings = form.file_settings()
    if form.file_architecture != "topk" or form.token_norm != "none":
        raise SAEError(
            f"{where} is {form.file_architecture}, but sparsify holds topk SAEs of raw activations only; export it in "
            "the "
            "saelens or dictionary_learning layout"
        )
    if not form.pre_bias_is_tied:
        raise SAEError(
            f"{where} subtracts something else than its output bias from x, but sparsify always subtracts b_dec; "
            "export "
            "it in the saelens layout"
        )
    named = form.tensors()
    tensors = {
        "encoder.weight": named["W_enc"].T,
        "encoder.bias": named["b_enc"],
        "W_dec": named["W_dec"],
        "b_dec": named["b_dec"],
    }
    cfg = {
        "activation": "topk",
        "expansion_factor": max(1, form.d_sae // form.d_in),
        "normalize_decoder": False,
        "num_latents": form.d_sae,
        "k": settings["k"],
        "multi_topk": False,
        "skip_connection": False,
        "transcode": False,
        "d_in": form.d_in,
        "fovea": metadata.model_dump(mode="json", exclude_none=True),
    }
    return tensors, cfg


def _metadata(folder: Path) -> SAEMetadata:
    """What the folder's name and the run's description say."""
    above = found(folder.absolute().parent, RUN_CONFIG)
    run = {} if above is None else read_json(above)
    name = folder.absolute().name
    place = _HOOK_POINT.fullmatch(name)
    site = _SITES.get(place["site"] or "") if place else None
    return SAEMetadata(
        model_name=text_or_none(run.get("model")),
        hook_name=f"blocks.{int(place['layer'])}.hook_{site}" if place and site else None,
        context_size=run.get("ctx_len") if isinstance(run.get("ctx_len"), int) else None,
        other={"hookpoint": name} if place else {},
    )
