"""One SAE in one folder, in the SAELens v6 layout, so that sae_lens loads it as it is.

    FOLDER/sae_weights.safetensors   W_enc W_dec b_dec and the architecture's own tensors
    FOLDER/fovea.safetensors         only where the pre-bias is a vector of its own: that vector, and biases without it
    FOLDER/cfg.json                  architecture, shapes, conventions, metadata; written last, it marks a whole folder

batch_topk is written as jumprelu with its threshold repeated. A pre-bias of its own, which SAELens has no place for, is
folded into the encoder biases in float64; our reader takes the unfolded ones from beside them.

Source: SAELens 6.54.12, saes/sae.py and loading/pretrained_sae_loaders.py.
"""

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal, NamedTuple

import torch
from pydantic import Field, ValidationError
from torch import Tensor

from fovea.atomic import write_json
from fovea.config import Config
from fovea.errors import ModelError, SAEError, UnknownReferenceError
from fovea.lm.hookpoint import HookPoint
from fovea.sae.architectures import FILE_FORMS
from fovea.sae.base import SAE, PreBias, Weights
from fovea.sae.formats.guard import found, read_json
from fovea.sae.formats.tensors import read_safetensors
from fovea.sae.token_norm import TOKEN_NORMS
from fovea.tensorfile import write_tensors

SAE_LENS_VERSION = "6.54.12"
"The release whose layout this is; older than 6 (or absent) would make sae_lens rewrite the file as a legacy one."

CFG, WEIGHTS, OWN_BIASES = "cfg.json", "sae_weights.safetensors", "fovea.safetensors"

_STORAGE = {"float32": torch.float32, "float16": torch.float16, "bfloat16": torch.bfloat16}


class SAEMetadata(Config):
    """Where an SAE belongs and where it came from; None where a file does not say."""

    model_name: str | None = None
    "Reference of the lm."
    hook_name: str | None = None
    "Hook point, TransformerLens spelling."
    hf_hook_name: str | None = None
    "Hook point, Hugging Face module path."
    prepend_bos: bool | None = None
    context_size: int | None = None
    training_architecture: str | None = None
    "What it was trained as, where that differs from what the file holds (batch_topk)."
    fovea: dict[str, Any] = Field(default_factory=dict)
    "Our own: job, ledger, blocks of a stack."
    other: dict[str, Any] = Field(default_factory=dict)
    "Keys of other writers, kept."


class LoadedSAE(NamedTuple):
    """An SAE from a file and what the file says about it."""

    sae: SAE
    metadata: SAEMetadata
    reference: str


def save_sae(
    sae: SAE,
    folder: Path,
    *,
    metadata: SAEMetadata,
    storage_dtype: Literal["float32", "float16", "bfloat16"] = "float32",
) -> None:
    """Write the inference form of `sae` to `folder`, replacing an SAE that is there.

    Args:
        storage_dtype: Precision of the two matrices in the file; the rest is float32, and so is all that is loaded.

    Raises:
        SAEError: a weight is NaN or infinite.
        OSError: the disk is full or not writable; the folder then holds no cfg.json, so it is not taken for an SAE.
    """
    form = sae.inference_form()
    _round_matrices(form, _STORAGE[storage_dtype])
    tensors = form.tensors()
    _check_finite(tensors, str(folder))
    for name in (CFG, WEIGHTS, OWN_BIASES):
        (folder / name).unlink(missing_ok=True)
    if form.frozen_pre_bias is not None:
        write_tensors(folder / OWN_BIASES, {name: tensors[name] for name in ("pre_bias", *form.biases_at(form.b_dec))})
        tensors |= form.biases_at(torch.zeros_like(form.b_dec))
        del tensors["pre_bias"]
    stored = {name: _stored(name, tensor, _STORAGE[storage_dtype]) for name, tensor in tensors.items()}
    write_tensors(folder / WEIGHTS, stored)
    write_json(folder / CFG, _cfg(form, metadata))


def read_sae(folder: Path) -> LoadedSAE:
    """The SAE in a folder of the SAELens v6 layout, float32 on the CPU, not trainable.

    Raises:
        UnknownReferenceError: there is no such folder, or no cfg.json in it.
        SAEError: a file is missing or damaged, a key or tensor is missing, of the wrong shape, NaN or infinite, or the
            architecture or a convention is not supported.
    """
    cfg = read_cfg(folder)
    sae = assemble(cfg, read_weights(folder), where=str(folder))
    return LoadedSAE(sae, read_metadata(cfg, folder), str(folder))


def load_sae(reference: str | Path) -> LoadedSAE:
    """The SAE that a reference names: a folder, saelens:RELEASE/ID, hf:OWNER/REPO/PATH or bundled:NAME.

    Raises:
        UnknownReferenceError: the reference does not resolve.
        SAEError: what it resolves to cannot be used.
    """
    from fovea.sae import references

    return references.load(str(reference))


def assemble(cfg: Mapping[str, Any], tensors: Mapping[str, Tensor], *, where: str) -> SAE:
    """An SAE from the contents of cfg.json and the tensors; a tensor "pre_bias" is a pre-bias of its own.

    Raises:
        SAEError: something is missing, of the wrong shape, NaN or infinite, or not supported.
    """
    _check_conventions(cfg, where)
    _check_finite(tensors, where)
    d_in, d_sae = cfg["d_in"], cfg["d_sae"]
    if 0 in (d_in, d_sae):
        raise SAEError(f"{where}: an SAE with d_in = {d_in} and d_sae = {d_sae} reads or finds nothing; choose another")
    shapes = {"W_enc": (d_in, d_sae), "W_dec": (d_sae, d_in), "b_dec": (d_in,)}
    _check_shapes(tensors, shapes, where)
    if cfg["architecture"] == "topk" and cfg["k"] > d_sae:
        raise SAEError(
            f"{where}: k = {cfg['k']} is more than its {d_sae} latents; one of the two belongs to another SAE"
        )
    pre_bias: PreBias = "tied" if cfg["apply_b_dec_to_input"] else "none"
    if "pre_bias" in tensors:
        pre_bias = tensors["pre_bias"]
    # An SAE whose output is added to another's was built without an output bias; its b_dec is exactly zero.
    b_dec = None if isinstance(pre_bias, Tensor) and not tensors["b_dec"].any() else tensors["b_dec"]
    sae = FILE_FORMS[cfg["architecture"]](Weights(tensors["W_enc"], tensors["W_dec"], b_dec, pre_bias), cfg)
    own = sae.tensors().keys() - {"W_enc", "W_dec", "b_dec", "pre_bias"}
    _check_shapes(tensors, {name: (d_sae,) for name in sorted(own)}, where)
    sae.set_tensors({name: tensors[name] for name in own})
    sae.token_norm = cfg.get("normalize_activations", "none")
    return sae.requires_grad_(False)


def check_fits(loaded: LoadedSAE, *, lm_name: str, d_model: int, hook_point: str) -> None:
    """Refuse an SAE that does not read this hook point of this lm. What the file does not say is not held against it.

    Raises:
        SAEError: the width differs, or the file names another hook point.
    """
    if loaded.sae.d_in != d_model:
        raise SAEError(
            f"SAE {loaded.reference!r} reads vectors of width {loaded.sae.d_in}, but {lm_name!r} has width {d_model}; "
            f"choose an SAE trained on that model"
        )
    named = loaded.metadata.hook_name or loaded.metadata.hf_hook_name
    if named is None:
        return
    try:
        same = HookPoint.parse(named) == HookPoint.parse(hook_point)
    except ModelError:
        same = named == hook_point
    if not same:
        raise SAEError(
            f"SAE {loaded.reference!r} is for hook point {named!r}, but the experiment reads {hook_point!r}; "
            f"set lm.hook_point to {named!r} or choose another SAE"
        )


def fingerprint(sae: SAE) -> str:
    """SHA-256 of the inference form, hexadecimal: equal for an SAE and what is read back from its float32 file."""
    form = sae.inference_form()
    settings = json.dumps(form.file_settings(), sort_keys=True)
    norm = "" if form.token_norm == "none" else f" {form.token_norm}"
    digest = hashlib.sha256(f"{form.file_architecture} {settings} {form.pre_bias_is_tied}{norm}".encode())
    for name, tensor in sorted(form.tensors().items()):
        digest.update(f"{name} {tuple(tensor.shape)}".encode())
        digest.update(tensor.detach().float().contiguous().cpu().numpy().tobytes())
    return digest.hexdigest()


def _cfg(form: SAE, metadata: SAEMetadata) -> dict[str, Any]:
    said = metadata.model_dump(mode="json", exclude={"fovea", "other"}, exclude_none=True)
    return {
        "architecture": form.file_architecture,
        "d_in": form.d_in,
        "d_sae": form.d_sae,
        "dtype": "float32",
        "device": "cpu",
        "apply_b_dec_to_input": form.pre_bias_is_tied,
        "normalize_activations": form.token_norm,
        "reshape_activations": "none",
        **form.file_settings(),
        "metadata": {"sae_lens_version": SAE_LENS_VERSION, **metadata.other, **said, "fovea": metadata.fovea},
    }


def read_cfg(folder: Path) -> dict[str, Any]:
    """What cfg.json in `folder` says.

    Raises:
        UnknownReferenceError: there is none.
        SAEError: it is not plausible, or no json object.
    """
    path = found(folder, CFG)
    if path is None:
        raise UnknownReferenceError(
            f"{str(folder)!r} holds no {CFG}, so it is not an SAE; give a folder with {CFG} and {WEIGHTS}"
        )
    return read_json(path)


def read_weights(folder: Path) -> dict[str, Tensor]:
    """The tensors in `folder`, float32; those of an SAE with a pre-bias of its own replace the folded ones.

    Raises:
        SAEError: the file is missing, damaged or implausible.
    """
    weights, own = found(folder, WEIGHTS), found(folder, OWN_BIASES)
    if weights is None:
        raise SAEError(f"{folder / WEIGHTS} is missing beside {CFG}; write or download the SAE again")
    return read_safetensors(weights) | ({} if own is None else read_safetensors(own))


def read_metadata(cfg: Mapping[str, Any], folder: Path) -> SAEMetadata:
    """What a cfg.json of version 6 says of the SAE's place and origin.

    Raises:
        SAEError: another version wrote it, or something is of the wrong type.
    """
    said: Any = cfg.get("metadata", {})
    if not isinstance(said, dict):
        raise SAEError(f"{folder / CFG} has metadata of the wrong type: {type(said).__name__}; it must be an object")
    if not is_version_6(said.get("sae_lens_version")):
        raise SAEError(
            f"{folder / CFG} says sae_lens_version {str(said.get('sae_lens_version', 'none'))[:100]!r}, but the layout "
            "is that of 6.0 and later; load it with a current sae_lens and save it again"
        )
    known = set(SAEMetadata.model_fields) - {"other"}
    other = {key: value for key, value in said.items() if key not in known | {"sae_lens_version"}}
    try:
        return SAEMetadata(**{key: said[key] for key in known if key in said}, other=other)
    except ValidationError as error:
        raise SAEError(f"{folder / CFG} has metadata of the wrong type: {error}; correct it") from None


def is_version_6(version: object) -> bool:
    """Whether a file of this sae_lens_version has the layout of 6.0 and later."""
    major = str(version).partition(".")[0]
    return major.isdecimal() and len(major) < 4 and int(major) >= 6


_ALLOWED: Mapping[str, tuple[Any, ...]] = {
    "architecture": tuple(FILE_FORMS),
    "normalize_activations": TOKEN_NORMS,
    "reshape_activations": ("none",),
    "rescale_acts_by_decoder_norm": (False,),
    "apply_b_dec_to_input": (True, False),
}
_DEFAULTS: Mapping[str, Any] = {
    "normalize_activations": "none",
    "reshape_activations": "none",
    "rescale_acts_by_decoder_norm": False,
}


def _check_conventions(cfg: Mapping[str, Any], where: str) -> None:
    for key in ("architecture", "d_in", "d_sae", "apply_b_dec_to_input"):
        if key not in cfg:
            raise SAEError(f"{where}: {CFG} has no {key!r}; write it as sae_lens 6 does")
    for key, allowed in _ALLOWED.items():
        value = {**_DEFAULTS, **cfg}.get(key)
        if value not in allowed:
            raise SAEError(
                f"{where}: {key} = {value!r:.100} is not supported, only {', '.join(map(repr, allowed))}; fold it "
                "into the "
                "weights with sae_lens (fold_W_dec_norm, fold_activation_norm_scaling_factor) or choose another SAE"
            )
    k = cfg.get("k")
    if cfg["architecture"] == "topk" and (not isinstance(k, int) or isinstance(k, bool) or k < 1):
        raise SAEError(f"{where}: architecture topk needs a whole number k above 0, but {CFG} has {k!r:.100}; add it")


def _check_shapes(tensors: Mapping[str, Tensor], shapes: Mapping[str, tuple[int, ...]], where: str) -> None:
    for name, shape in shapes.items():
        if name not in tensors:
            raise SAEError(
                f"{where}: tensor {name!r} is missing, found {', '.join(sorted(tensors))}; save the SAE again"
            )
        if tuple(tensors[name].shape) != shape:
            raise SAEError(
                f"{where}: tensor {name!r} has shape {tuple(tensors[name].shape)}, but {CFG} makes it {shape}; "
                "one of the two belongs to another SAE"
            )


def _check_finite(tensors: Mapping[str, Tensor], where: str) -> None:
    for name, tensor in tensors.items():
        n_bad = int((~tensor.isfinite()).sum())
        if n_bad:
            raise SAEError(
                f"{where}: tensor {name!r} holds {n_bad} values that are NaN or infinite; train the SAE again"
            )


@torch.no_grad()
def _round_matrices(form: SAE, dtype: torch.dtype) -> None:
    """Round W_enc and W_dec to `dtype`, before anything is folded with them."""
    for matrix in (form.W_enc, form.W_dec):
        matrix.copy_(matrix.to(dtype))


def _stored(name: str, tensor: Tensor, dtype: torch.dtype) -> Tensor:
    return tensor.to(dtype) if name in ("W_enc", "W_dec") else tensor.float()
