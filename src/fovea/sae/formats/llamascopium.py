"""llamascopium, before that lm-saes (OpenMOSS): Llama Scope and its successors.

    now           config.json + sae_weights.safetensors: W_E [d_in d_sae] b_E W_D [d_sae d_in] b_D,
                  activation_function.log_jumprelu_threshold, dataset_average_activation_norm.HOOK
    R1-Distill    config.json + sae_weights.safetensors: encoder.weight [d_sae d_in] .. log_jumprelu_threshold
    Llama Scope   hyperparams.json + checkpoints/final.safetensors: encoder.weight [d_sae d_in] .., one threshold

No pre-bias. Conventions, all converted:
    norm_activation    dataset-wise: x * sqrt(d_in) / (mean length of x), folded in
                       token-wise: each token to length sqrt(d_in); inference: folded in already
                       batch-wise: what fires depends on the batch; refused
    sparsity_include_decoder_norm: a latent fires where pre * |decoder row| passes; its value stays pre

Source: llamascopium 2.0.0b34, models/sae.py and models/sparse_dictionary.py; SAELens 6.54.12 for Llama Scope's files.
"""

import math
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from fovea.errors import SAEError
from fovea.sae.files import SAEMetadata
from fovea.sae.formats.guard import found, read_json
from fovea.sae.formats.plain import (
    Plain,
    cfg_of,
    check_claims,
    check_shapes,
    matrix,
    refuse_other_tensors,
    row_lengths,
    scalar,
    section,
    text_or_none,
    units_of_decoder,
    vector,
    whole_or_none,
)
from fovea.sae.formats.tensors import read_safetensors

CONFIG, OLD_CONFIG, WEIGHTS = "config.json", "hyperparams.json", "sae_weights.safetensors"

_WEIGHT_FILES = (WEIGHTS, "checkpoints/pruned.safetensors", "checkpoints/final.safetensors")
_LOG_THRESHOLD = ("activation_function.log_jumprelu_threshold", "log_jumprelu_threshold")
_NORM = "dataset_average_activation_norm."


def is_layout(folder: Path) -> bool:
    """Whether the files are those of llamascopium or Llama Scope."""
    return found(folder, CONFIG, OLD_CONFIG) is not None and found(folder, *_WEIGHT_FILES) is not None


def read(folder: Path) -> Plain:
    """An SAE of llamascopium or Llama Scope.

    Raises:
        SAEError: a file is damaged, implausible or missing; it is no SAE; a convention has no equivalent here.
    """
    described, weights = found(folder, CONFIG, OLD_CONFIG), found(folder, *_WEIGHT_FILES)
    if described is None or weights is None:
        raise SAEError(f"{folder} needs {CONFIG} or {OLD_CONFIG}, and {WEIGHTS}; download or write the SAE again")
    said, raw, where = read_json(described), read_safetensors(weights), str(folder)
    _refuse(said, raw, where)
    tensors = _named(raw, where)
    check_shapes(tensors, "b_enc", where=where)
    d_in, d_sae = tensors["W_enc"].shape
    expansion = said.get("expansion_factor")
    if isinstance(expansion, int | float) and not d_sae <= d_in * expansion < d_sae + 1:
        check_claims({"expansion_factor": (expansion, d_sae / d_in)}, where=where)
    check_claims({"d_model": (said.get("d_model"), d_in), "d_sae": (said.get("d_sae"), d_sae)}, where=where)
    scale_in, scale_out, notes = _scales(said, raw, d_in, where)
    plain = _with_activation(said, raw, tensors, scale_in=scale_in, where=where)
    folded = {
        **plain.tensors,
        "W_enc": (plain.tensors["W_enc"].double() * scale_in).float(),
        "W_dec": (plain.tensors["W_dec"].double() / scale_out).float(),
        "b_dec": (plain.tensors["b_dec"].double() / scale_out).float(),
    }
    cfg = plain.cfg
    if said.get("norm_activation") == "token-wise":
        cfg = cfg | {"normalize_activations": "constant_norm_rescale"}
    return Plain(cfg, folded, _metadata(said), notes + plain.converted)


def _refuse(said: dict[str, Any], raw: dict[str, Tensor], where: str) -> None:
    """What cannot be an SAE here."""
    kind = said.get("sae_type", "sae")
    if kind != "sae":
        raise SAEError(
            f"{where} is a {kind!r:.50}, not an SAE: it does not rebuild what it reads; choose one of sae_type sae"
        )
    if said.get("use_glu_encoder") or any("glu" in name for name in raw):
        raise SAEError(f"{where} has a gated-linear encoder (use_glu_encoder), for which there is no architecture here")
    point_in, point_out = said.get("hook_point_in"), said.get("hook_point_out")
    if point_in and point_out and point_in != point_out:
        raise SAEError(
            f"{where} is a transcoder (from {point_in!r:.100} to {point_out!r:.100}): it does not rebuild what it reads"
        )


def _named(raw: dict[str, Tensor], where: str) -> dict[str, Tensor]:
    """Tensors by SAELens name."""
    known = {"W_E", "b_E", "W_D", "b_D", "encoder.weight", "encoder.bias", "decoder.weight", "decoder.bias"}
    norms = {name for name in raw if name.startswith(_NORM)}
    refuse_other_tensors(raw, known | norms | set(_LOG_THRESHOLD), where=where)
    if "W_E" in raw:
        W_enc, W_dec = matrix(raw, "W_E", where=where), matrix(raw, "W_D", where=where)
        b_enc, b_dec = vector(raw, "b_E", where=where), raw.get("b_D")
    else:
        W_enc, W_dec = matrix(raw, "encoder.weight", where=where).T, matrix(raw, "decoder.weight", where=where).T
        b_enc, b_dec = vector(raw, "encoder.bias", where=where), raw.get("decoder.bias")
    return {
        "W_enc": W_enc,
        "W_dec": W_dec,
        "b_enc": b_enc,
        "b_dec": torch.zeros(len(W_enc)) if b_dec is None else b_dec,
    }


def _scales(
    said: dict[str, Any], raw: dict[str, Tensor], d_in: int, where: str
) -> tuple[float, float, tuple[str, ...]]:
    """What x and the target are multiplied by before the SAE, and a note about it."""
    how = said.get("norm_activation", "dataset-wise")
    if how in ("inference", "token-wise"):
        return 1.0, 1.0, ()
    if how != "dataset-wise":
        raise SAEError(
            f"{where}: norm_activation = {how!r:.50} makes a token depend on its batch; only dataset-wise, token-wise "
            "and "
            "inference are read: fold it with llamascopium (standardize_parameters_of_dataset_norm)"
        )
    norms = section(said, "dataset_average_activation_norm")
    point = text_or_none(said.get("hook_point_in")) or ""
    name = f"{_NORM}{point}"
    lengths = (
        [scalar(raw, name, where=where)] * 2 if name in raw else [norms.get("in"), norms.get("out", norms.get("in"))]
    )
    scales = [math.sqrt(d_in) / n for n in lengths if isinstance(n, int | float) and 0 < n < math.inf]
    if len(scales) != 2:
        raise SAEError(
            f"{where} was trained on scaled activations (norm_activation dataset-wise), but the mean length of x is "
            "not "
            "in it; save it with llamascopium's save_pretrained(fold_activation_scale=True)"
        )
    note = f"x was multiplied by {scales[0]:.6g} in training (mean length to sqrt(d_in)); folded into the weights"
    return scales[0], scales[1], (note,)


def _with_activation(
    said: dict[str, Any], raw: dict[str, Tensor], tensors: dict[str, Tensor], *, scale_in: float, where: str
) -> Plain:
    """Architecture, thresholds and what fires, in the units of training."""
    kind = said.get("act_fn", "relu")
    by_length = bool(said.get("sparsity_include_decoder_norm", True))
    lengths = row_lengths(tensors) if by_length else torch.ones(tensors["W_enc"].shape[1], dtype=torch.float64)
    none = SAEMetadata()
    if isinstance(kind, str) and kind.lower() == "relu":
        return Plain(cfg_of("standard", pre_bias=False), tensors, none, ())
    if isinstance(kind, str) and kind.lower() == "jumprelu":
        logs = next((name for name in _LOG_THRESHOLD if name in raw), None)
        one = said.get("jump_relu_threshold")
        if logs is not None:
            threshold = vector(raw, logs, where=where).double().exp()
        elif isinstance(one, int | float):
            threshold = torch.full_like(lengths, float(one) * scale_in)  # Llama Scope states it in units of x
        else:
            raise SAEError(f"{where}: act_fn is jumprelu, but no threshold is there; download the SAE again")
        check_claims({"thresholds": (len(threshold), len(lengths))}, where=where)
        notes = ("thresholds were divided by the lengths of decoder rows",) if by_length else ()
        return Plain(
            cfg_of("jumprelu", pre_bias=False), {**tensors, "threshold": (threshold / lengths).float()}, none, notes
        )
    if kind == "topk":
        cfg = cfg_of("topk", pre_bias=False, k=whole_or_none(said.get("top_k")))
        if not by_length:
            return Plain(cfg, tensors, none, ())
        note = "latents are ranked, and here also measured, along decoder rows of length 1"
        return Plain(cfg, units_of_decoder(tensors, "b_enc", where=where), none, (note,))
    raise SAEError(
        f"{where}: act_fn = {kind!r:.50} has no inference form of its own (what fires depends on the batch); convert "
        "it to "
        "jumprelu with llamascopium (topk_to_jumprelu_conversion)"
    )


def _metadata(said: dict[str, Any]) -> SAEMetadata:
    return SAEMetadata(
        model_name=text_or_none(said.get("model_name")),
        hook_name=text_or_none(said.get("hook_point_in")),
    )
