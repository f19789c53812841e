"""Golden SAEs of SAELens: every architecture, the layouts of versions 3 to 6, and releases that it reads."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import sae_lens
import sae_lens.loading.pretrained_sae_loaders as loaders
from make_formats import D_IN, D_SAE, HOOK, MODEL, SCALE, K, case, probe, truth, weights
from safetensors.torch import save_file
from torch import Tensor

NAMES = {"standard": "Standard", "gated": "Gated", "jumprelu": "JumpReLU", "topk": "TopK"}
SHARED = ("W_enc", "W_dec", "b_dec")
OWN = {"gated": ("b_gate", "b_mag", "r_mag"), "jumprelu": ("b_enc", "threshold")}


def own_tensors(kind: str) -> dict[str, Tensor]:
    """The weights of one architecture."""
    return {name: weights()[name].contiguous() for name in (*SHARED, *OWN.get(kind, ("b_enc",)))}


def loaded_truth(folder: Path) -> dict[str, Tensor]:
    """What SAELens computes with the files in `folder`."""
    sae = sae_lens.SAE.load_from_disk(str(folder))
    return truth(sae.encode(probe()), sae(probe()))


def written(folder: Path, kind: str, **settings: Any) -> dict[str, Tensor]:
    """An inference SAE, saved by SAELens 6."""
    config = getattr(sae_lens, f"{NAMES[kind]}SAEConfig")(d_in=D_IN, d_sae=D_SAE, **settings)
    config.metadata.model_name, config.metadata.hook_name, config.metadata.prepend_bos = MODEL, HOOK, True
    config.metadata.context_size = 128
    config.metadata.sae_lens_version = sae_lens.__version__
    sae = getattr(sae_lens, f"{NAMES[kind]}SAE")(config)
    sae.load_state_dict(own_tensors(kind))
    sae.save_model(folder)
    return loaded_truth(folder)


for _kind in NAMES:
    _k = {"k": K} if _kind == "topk" else {}
    for _bias in (True, False):
        _name = f"v6-{_kind}" + ("" if _bias else "-no_pre_bias")
        case("sae_lens", _name)(
            lambda folder, kind=_kind, k=_k, bias=_bias: written(folder, kind, apply_b_dec_to_input=bias, **k)
        )
    for _norm in ("layer_norm", "constant_norm_rescale"):
        case("sae_lens", f"v6-{_kind}-{_norm}")(
            lambda folder, kind=_kind, k=_k, norm=_norm: written(folder, kind, normalize_activations=norm, **k)
        )
case("sae_lens", "v6-topk-rescaled")(lambda folder: written(folder, "topk", k=K, rescale_acts_by_decoder_norm=True))


def trained(folder: Path, kind: str, *, inference: bool, **settings: Any) -> dict[str, Tensor]:
    """A training SAE, saved as SAELens saves it: for inference, or as a checkpoint."""
    names = {"batchtopk": "BatchTopK", "matryoshka_batchtopk": "MatryoshkaBatchTopK"} | NAMES
    config = getattr(sae_lens, f"{names[kind]}TrainingSAEConfig")(d_in=D_IN, d_sae=D_SAE, **settings)
    config.metadata.hook_name, config.metadata.sae_lens_version = HOOK, sae_lens.__version__
    sae = getattr(sae_lens, f"{names[kind]}TrainingSAE")(config)
    for name, tensor in own_tensors(kind).items():
        if name in dict(sae.named_parameters()):
            sae.get_parameter(name).copy_(tensor)
    if "log_threshold" in dict(sae.named_parameters()):
        sae.log_threshold.copy_(weights()["threshold"].log())
    if "topk_threshold" in dict(sae.named_buffers()):
        sae.topk_threshold.fill_(0.8)
    if inference:
        sae.save_inference_model(folder)
        return loaded_truth(folder)
    sae.save_inference_model(folder / "inference")
    found = loaded_truth(folder / "inference")
    for path in (folder / "inference").iterdir():
        path.unlink()
    (folder / "inference").rmdir()
    sae.save_model(folder)
    return found


for _kind, _settings in {
    "standard": {},
    "gated": {},
    "jumprelu": {},
    "topk": {"k": K},
    "batchtopk": {"k": K},
    "matryoshka_batchtopk": {"k": K, "matryoshka_widths": [8, D_SAE]},
}.items():
    case("sae_lens", f"trained-{_kind}")(
        lambda folder, kind=_kind, settings=_settings: trained(folder, kind, inference=True, **settings)
    )
    if "batch" in _kind:
        for _rescale in (True, False):
            case("sae_lens", f"checkpoint-{_kind}" + ("-rescaled" if _rescale else ""))(
                lambda folder, kind=_kind, settings=_settings, rescale=_rescale: trained(
                    folder, kind, inference=False, rescale_acts_by_decoder_norm=rescale, **settings
                )
            )


def flat(folder: Path, kind: str, **settings: Any) -> dict[str, Tensor]:
    """The flat cfg.json of versions 3 to 5, read by SAELens 6 as legacy."""
    cfg = {
        "d_in": D_IN,
        "d_sae": D_SAE,
        "dtype": "float32",
        "device": "cpu",
        "model_name": MODEL,
        "hook_name": HOOK,
        "hook_layer": 3,
        "hook_head_index": None,
        "prepend_bos": True,
        "dataset_path": "monology/pile-uncopyrighted",
        "context_size": 128,
        "normalize_activations": "none",
        "activation_fn_str": "relu",
        "activation_fn_kwargs": {},
        "apply_b_dec_to_input": True,
        "finetuning_scaling_factor": False,
        **settings,
    }
    (folder / "cfg.json").write_text(json.dumps({key: value for key, value in cfg.items() if value is not ...}))
    save_file(own_tensors(kind), folder / "sae_weights.safetensors")
    return loaded_truth(folder)


for _name, (_kind, _settings) in {
    "v5-standard": ("standard", {"architecture": "standard", "sae_lens_training_version": "5.3.0"}),
    "v5-gated": ("gated", {"architecture": "gated"}),
    "v5-jumprelu": ("jumprelu", {"architecture": "jumprelu", "apply_b_dec_to_input": False}),
    "v4-topk": ("topk", {"architecture": "standard", "activation_fn_str": "topk", "activation_fn_kwargs": {"k": K}}),
    "v3-standard": ("standard", {"hook_name": ..., "hook_point": HOOK, "normalize_activations": False}),
}.items():
    case("sae_lens", _name)(lambda folder, kind=_kind, settings=_settings: flat(folder, kind, **settings))


def through(loader: Any, folder: Path, place: Path, inside: str, **overrides: Any) -> dict[str, Tensor]:
    """What SAELens's loader of a release computes from files that lie in `place`."""
    real = loaders.hf_hub_download
    repository = place.relative_to(folder).parts[0].replace("--", "/")

    def local(repo_id: str, filename: str, subfolder: str | None = None, **_: object) -> str:
        assert repo_id == repository
        return str(folder / repository.replace("/", "--") / (subfolder or "") / filename)

    loaders.hf_hub_download = local
    try:
        cfg, state, _ = loader(repository, inside, "cpu", False, {"device": "cpu", "dtype": "float32", **overrides})
    finally:
        loaders.hf_hub_download = real
    cfg = loaders.handle_config_defaulting(cfg)
    sae_class, config_class = loaders.get_sae_class(cfg["architecture"]), None
    del config_class
    sae = sae_class[0](sae_class[1].from_dict(cfg))
    sae.load_state_dict(state)
    factor = SCALE if sae.cfg.normalize_activations == "expected_average_only_in" else None
    if factor is not None:
        sae.fold_activation_norm_scaling_factor(factor)
    return truth(sae.encode(probe()), sae(probe()))


@case("sae_lens", "gemma_scope_1")
def gemma_scope_1(folder: Path) -> dict[str, Tensor]:
    """params.npz in the folders of a release."""
    place = folder / "google--gemma-scope-2b-pt-res" / "layer_20" / "width_16k" / "average_l0_71"
    place.mkdir(parents=True)
    arrays: Mapping[str, Any] = {name: tensor.numpy() for name, tensor in own_tensors("jumprelu").items()}
    np.savez(place / "params.npz", **arrays)
    inside = "layer_20/width_16k/average_l0_71"
    return through(loaders.gemma_2_sae_huggingface_loader, folder, place, inside, d_in=D_IN, d_sae=D_SAE)


@case("sae_lens", "gemma_scope_2")
def gemma_scope_2(folder: Path) -> dict[str, Tensor]:
    """params.safetensors and config.json."""
    inside = "resid_post/layer_12_width_16k_l0_medium"
    place = folder / "google--gemma-scope-2-270m-pt" / inside
    place.mkdir(parents=True)
    named = {name.lower() if name.startswith("W_") else name: t for name, t in own_tensors("jumprelu").items()}
    save_file(named, place / "params.safetensors")
    said = {"architecture": "jump_relu", "model_name": "gemma-v3-270m-pt", "hf_hook_point_in": "model.layers.12.output"}
    (place / "config.json").write_text(json.dumps(said))
    loaders.get_safetensors_tensor_shapes = lambda *_: {name: list(t.shape) for name, t in named.items()}
    return through(loaders.gemma_3_sae_huggingface_loader, folder, place, inside)


@case("sae_lens", "llama_scope")
def llama_scope(folder: Path) -> dict[str, Tensor]:
    """hyperparams.json and checkpoints/final.safetensors."""
    inside = "Llama3_1-8B-Base-L15R-8x"
    place = folder / "fnlp--Llama3_1-8B-Base-LXR-8x" / inside
    (place / "checkpoints").mkdir(parents=True)
    tensors = own_tensors("standard")
    named = {
        "encoder.weight": tensors["W_enc"].T.contiguous(),
        "decoder.weight": tensors["W_dec"].T.contiguous(),
        "encoder.bias": tensors["b_enc"],
        "decoder.bias": tensors["b_dec"],
    }
    save_file(named, place / "checkpoints" / "final.safetensors")
    length = D_IN**0.5 / SCALE
    said = {
        "hook_point_in": "blocks.15.hook_resid_post",
        "hook_point_out": "blocks.15.hook_resid_post",
        "d_model": D_IN,
        "d_sae": D_SAE,
        "expansion_factor": D_SAE // D_IN,
        "norm_activation": "dataset-wise",
        "sparsity_include_decoder_norm": False,
        "act_fn": "jumprelu",
        "jump_relu_threshold": 0.9,
        "dataset_average_activation_norm": {"in": length, "out": length},
    }
    (place / "hyperparams.json").write_text(json.dumps(said))
    return through(loaders.llama_scope_sae_huggingface_loader, folder, place, inside)
