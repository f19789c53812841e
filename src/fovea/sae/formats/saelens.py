"""SAELens, from version 3 to today: cfg.json + sae_weights.safetensors.

    6       cfg.json names architecture and conventions, metadata has its own table
    3 to 5  one flat table; activation_fn_str topk names the architecture; hook_point was hook_name's old spelling
    checkpoints of training: batchtopk and matryoshka_batchtopk with topk_threshold; activation_scaler.json beside them

Converted: batchtopk -> jumprelu with its threshold repeated; ranking by decoder lengths -> lengths folded in; scaled
activations -> scale folded in, where the scale is in the folder. Refused: transcoders, signed latents, sequence models.

Source: SAELens 6.54.12, loading/pretrained_sae_loaders.py (handle_pre_6_0_config) and saes/.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from fovea.errors import SAEError
from fovea.sae.files import CFG, WEIGHTS, SAEMetadata, is_version_6, read_cfg, read_metadata, read_weights
from fovea.sae.formats.guard import found, read_json
from fovea.sae.formats.plain import (
    Plain,
    check_claims,
    check_shapes,
    matrix,
    scalar,
    section,
    text_or_none,
    units_of_decoder,
    whole_or_none,
)

SCALER = "activation_scaler.json"

REFUSED = {
    "transcoder": "it does not rebuild what it reads",
    "skip_transcoder": "it does not rebuild what it reads",
    "jumprelu_transcoder": "it does not rebuild what it reads",
    "jumprelu_skip_transcoder": "it does not rebuild what it reads",
    "abstopk": "its latents may be negative",
    "matching_pursuit": "its latents are found one after another, not by one encoder",
    "temporal": "it reads tokens together, not each by itself",
}
"""Architectures of SAELens that have no equivalent here, and why."""

_BATCH = ("batchtopk", "matryoshka_batchtopk")
_TRAINED = {"batchtopk": "batch_topk", "matryoshka_batchtopk": "matryoshka"}


def is_layout(folder: Path) -> bool:
    """Whether the files are those of SAELens (and of fovea)."""
    return found(folder, CFG) is not None and found(folder, WEIGHTS) is not None


def read(folder: Path) -> Plain:
    """An SAE of SAELens 3 or later, or of fovea.

    Raises:
        SAEError: a file is damaged, implausible or missing, or the architecture or a convention is not supported.
    """
    cfg = read_cfg(folder)
    version = section(cfg, "metadata").get("sae_lens_version") or cfg.get("sae_lens_version")
    old = not is_version_6(version)
    metadata = _old_metadata(cfg) if old else read_metadata(cfg, folder)
    scaler = found(folder, SCALER)
    tensors = read_weights(folder)
    d_in, d_sae = matrix(tensors, "W_enc", where=str(folder)).shape
    check_claims({"d_in": (cfg.get("d_in"), d_in), "d_sae": (cfg.get("d_sae"), d_sae)}, where=str(folder))
    plain = converted(_modern(cfg) if old else cfg, tensors, where=str(folder))
    if scaler is not None:
        plain = _scaled(plain, read_json(scaler), where=str(folder))
    notes = (f"the layout of SAELens {version or 'before 6'!s:.20} is read as version 6 does",) if old else ()
    trained = _TRAINED.get(str(cfg.get("architecture")))
    if trained is not None:
        metadata = metadata.model_copy(update={"training_architecture": trained})
    return plain._replace(metadata=metadata, converted=notes + plain.converted)


def converted(cfg: Mapping[str, Any], tensors: dict[str, Tensor], *, where: str) -> Plain:
    """Settings and tensors of version 6, training forms too, as an inference form.

    Raises:
        SAEError: the architecture or a convention has no equivalent here.
    """
    kind = cfg.get("architecture")
    if isinstance(kind, str) and kind in REFUSED:
        raise SAEError(f"{where} is of architecture {kind!r}, which is not read: {REFUSED[kind]}; choose another SAE")
    if cfg.get("reshape_activations", "none") == "hook_z":
        raise SAEError(
            f"{where}: reshape_activations = 'hook_z' is not supported: it reads the outputs of attention heads "
            "before they "
            "are joined, a place that fovea has no hook point for; choose an SAE of attn_out"
        )
    if "finetuning_scaling_factor" in tensors or "scaling_factor" in tensors:
        factors = tensors.get("finetuning_scaling_factor", tensors.get("scaling_factor"))
        if factors is None or not torch.allclose(factors, torch.ones_like(factors)):
            raise SAEError(
                f"{where} has a finetuning_scaling_factor, which SAELens 6 reads no more; multiply the rows of W_dec "
                "by it "
                "and remove it"
            )
    notes: list[str] = []
    tensors, settings = dict(tensors), dict(cfg)
    if settings.get("rescale_acts_by_decoder_norm") is True and kind in ("topk", *_BATCH):
        tensors = units_of_decoder(tensors, "b_enc", where=where)
        notes.append("latents are ranked by decoder lengths, which are folded into the weights")
        settings["rescale_acts_by_decoder_norm"] = False
    if kind in _BATCH:
        threshold = scalar(tensors, "topk_threshold", where=where)
        tensors["threshold"] = torch.full((matrix(tensors, "W_enc", where=where).shape[1],), threshold)
        settings |= {"architecture": "jumprelu"}
        notes.append(f"its one threshold {threshold:.6g} is repeated for every latent, as SAELens does for inference")
    return Plain(settings, tensors, SAEMetadata(), tuple(notes))


def _scaled(plain: Plain, scaler: dict[str, Any], *, where: str) -> Plain:
    """The scale of training, which SAELens keeps beside a checkpoint, folded in as SAELens does at the end."""
    scale = scaler.get("scaling_factor")
    if plain.cfg.get("normalize_activations") != "expected_average_only_in" or scale is None:
        return plain
    if not isinstance(scale, int | float) or not 0 < scale < 1e30:
        raise SAEError(
            f"{where}: scaling_factor = {scale!r:.50} in {SCALER} is not a positive number; save the SAE again"
        )
    tensors = plain.tensors
    check_shapes(tensors, where=where)
    folded = {
        "W_enc": (tensors["W_enc"].double() * scale).float(),
        "W_dec": (tensors["W_dec"].double() / scale).float(),
        "b_dec": (tensors["b_dec"].double() / scale).float(),
    }
    note = f"x was multiplied by {scale:.6g} in training; folded into the weights"
    return plain._replace(
        cfg={**plain.cfg, "normalize_activations": "none"},
        tensors={**tensors, **folded},
        converted=(*plain.converted, note),
    )


def _modern(cfg: Mapping[str, Any]) -> dict[str, Any]:
    """A flat table of versions 3 to 5 in the words of version 6."""
    arguments = section(cfg, "activation_fn_kwargs")
    function = cfg.get("activation_fn_str", cfg.get("activation_fn", "relu"))
    architecture = cfg.get("architecture", "standard")
    modern: dict[str, Any] = {
        "architecture": architecture,
        "apply_b_dec_to_input": cfg.get("apply_b_dec_to_input", True),
        "normalize_activations": _old_norm(cfg.get("normalize_activations")),
        "reshape_activations": cfg.get(
            "reshape_activations", "hook_z" if "hook_z" in str(_first(cfg, "hook_name", "hook_point")) else "none"
        ),
    }
    if function == "topk" and arguments.get("k") is not None:
        modern |= {"architecture": "topk", "k": arguments["k"]}
    return {**modern, **{name: cfg[name] for name in ("k", "d_in", "d_sae") if name in cfg and name not in modern}}


def _old_norm(value: object) -> object:
    """Once a yes or no, then a word, and sometimes null."""
    if isinstance(value, bool):
        return "expected_average_only_in" if value else "none"
    return "none" if value is None else value


def _old_metadata(cfg: Mapping[str, Any]) -> SAEMetadata:
    told = {**cfg, **section(cfg, "metadata")}
    said = {"neuronpedia_id", "dataset_path", "sae_lens_training_version", "seqpos_slice", "hook_head_index"}
    bos = told.get("prepend_bos", True)
    return SAEMetadata(
        model_name=text_or_none(told.get("model_name")),
        hook_name=text_or_none(_first(told, "hook_name", "hook_point")),
        prepend_bos=bos if isinstance(bos, bool) else None,
        context_size=whole_or_none(told.get("context_size")),
        other={name: told[name] for name in sorted(said) if told.get(name) is not None},
    )


def _first(table: Mapping[str, Any], *names: str) -> Any:
    return next((table[name] for name in names if table.get(name) is not None), None)
