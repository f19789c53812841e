"""Gemma Scope 1 (params.npz) and 2 (params.safetensors + config.json): JumpReLU without a pre-bias, raw units.

    1: W_enc b_enc W_dec b_dec threshold, no description: lm and hook point are in the path of the release
    2: w_enc b_enc w_dec b_dec threshold; config.json names the lm and the module; transcoders are refused

Source: the releases google/gemma-scope-* and google/gemma-scope-2-*; SAELens 6.54.12 reads them alike.
"""

import re
from pathlib import Path

from torch import Tensor

from fovea.errors import SAEError
from fovea.sae.files import SAEMetadata
from fovea.sae.formats.guard import found, read_json
from fovea.sae.formats.plain import Plain, cfg_of, check_claims, matrix, refuse_other_tensors, text_or_none
from fovea.sae.formats.tensors import read_npz, read_safetensors

NPZ, WEIGHTS, CONFIG = "params.npz", "params.safetensors", "config.json"

_NAMES = {"W_enc", "W_dec", "b_enc", "b_dec", "threshold"}
_SITES_1 = {"res": "hook_resid_post", "mlp": "hook_mlp_out", "att": "attn.hook_z"}
_SITES_2 = {"resid_post": "hook_resid_post", "attn_out": "attn.hook_z", "mlp_out": "hook_mlp_out"}


def is_1(folder: Path) -> bool:
    """Whether the files are those of Gemma Scope 1."""
    return found(folder, NPZ) is not None


def is_2(folder: Path) -> bool:
    """Whether the files are those of Gemma Scope 2."""
    return found(folder, WEIGHTS) is not None


def read_1(folder: Path) -> Plain:
    """An SAE of Gemma Scope 1.

    Raises:
        SAEError: the file is damaged or implausible, or holds another kind of SAE.
    """
    path = found(folder, NPZ)
    if path is None:
        raise SAEError(f"{folder} holds no {NPZ}; give a folder such as layer_20/width_16k/average_l0_71")
    tensors = _renamed(read_npz(path), where=str(path))
    place = str(folder.absolute()).replace("--", "/")
    model = re.search(r"gemma-scope-(\d+b(?:-it)?)-", place)
    site = re.search(r"gemma-scope-\d+b(?:-it)?-[a-z]+-(res|mlp|att)(?![a-z])", place)
    layer = re.search(r"layer_(\d+)(?=/|$)", place)
    hook = f"blocks.{int(layer[1])}.{_SITES_1[site[1]]}" if layer and site else None
    metadata = SAEMetadata(
        model_name=f"google/gemma-2-{model[1]}" if model else None,
        hook_name=hook,
        hf_hook_name=f"model.layers.{int(layer[1])}" if layer and hook and hook.endswith("resid_post") else None,
        prepend_bos=True,
        context_size=1024,
    )
    how = ("lm and hook point are taken from the path",) if hook else ("the path names no lm or hook point",)
    return Plain(cfg_of("jumprelu", pre_bias=False), tensors, metadata, how)


def read_2(folder: Path) -> Plain:
    """An SAE of Gemma Scope 2.

    Raises:
        SAEError: as `read_1`; or it is a transcoder.
    """
    weights, described = found(folder, WEIGHTS), found(folder, CONFIG)
    if weights is None:
        raise SAEError(f"{folder} holds no {WEIGHTS}; give a folder such as resid_post/layer_12_width_16k_l0_medium")
    said = {} if described is None else read_json(described)
    raw = read_safetensors(weights)
    point_in, point_out = (text_or_none(said.get(f"hf_hook_point_{end}")) for end in ("in", "out"))
    if "affine_skip_connection" in raw or (point_in and point_out and point_in != point_out):
        raise SAEError(
            f"{folder} is a transcoder (from {point_in} to {point_out}): it does not rebuild what it reads; choose an "
            "SAE of resid_post, mlp_out or attn_out"
        )
    if said.get("architecture", "jump_relu") != "jump_relu":
        raise SAEError(f"{folder}: architecture {said['architecture']!r:.100} is unknown; only jump_relu is read")
    tensors = _renamed(raw, where=str(weights))
    d_in, d_sae = tensors["W_enc"].shape
    check_claims({"width": (said.get("width"), d_sae), "d_in": (said.get("d_in"), d_in)}, where=str(folder))
    place = str(folder.absolute())
    site = next((name for name in _SITES_2 if name in place or name in str(point_in)), None)
    layer = re.search(r"layer_(\d+)", place) or re.search(r"layers\.(\d+)", point_in or "")
    name = text_or_none(said.get("model_name"))
    metadata = SAEMetadata(
        model_name=None if name is None else _model(name),
        hook_name=f"blocks.{int(layer[1])}.{_SITES_2[site]}" if layer and site else None,
        hf_hook_name=point_in,
        prepend_bos=True,
        context_size=1024,
    )
    return Plain(cfg_of("jumprelu", pre_bias=False), tensors, metadata, ())


def _model(name: str) -> str:
    """The Hub's id of a model as the configs of Gemma Scope 2 name it."""
    name = name.removeprefix("google/").replace("-v3", "-3")
    return f"google/{name.removesuffix('-pt') if '270m' in name else name}"


def _renamed(raw: dict[str, Tensor], *, where: str) -> dict[str, Tensor]:
    """Tensors by SAELens name; releases spell the matrices w_enc and w_dec."""
    tensors = {f"W_{name[2:]}" if name in ("w_enc", "w_dec") else name: tensor for name, tensor in raw.items()}
    refuse_other_tensors(tensors, _NAMES, where=where)
    matrix(tensors, "W_enc", where=where)
    matrix(tensors, "W_dec", where=where)
    return tensors
