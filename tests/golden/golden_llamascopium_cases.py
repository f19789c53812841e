"""Golden SAEs of llamascopium: every activation function and normalisation of a plain SAE."""

from pathlib import Path
from typing import Any

import torch
from llamascopium.models.sae import SAEConfig, SparseAutoEncoder
from make_formats import D_IN, D_SAE, HOOK, SCALE, K, case, probe, truth, weights
from torch import Tensor


def written(folder: Path, **settings: Any) -> dict[str, Tensor]:
    """Saved by save_pretrained, read by from_local, used as its trainer and evaluator use it."""
    config = SAEConfig(
        hook_point_in=HOOK, hook_point_out=HOOK, d_model=D_IN, expansion_factor=D_SAE / D_IN, top_k=K, **settings
    )
    sae = SparseAutoEncoder.from_config(config)
    ours = weights()
    for theirs, name in {"W_E": "W_enc", "W_D": "W_dec", "b_E": "b_enc", "b_D": "b_dec"}.items():
        if theirs in dict(sae.named_parameters()):
            sae.get_parameter(theirs).copy_(ours[name])
    if config.act_fn == "jumprelu":
        sae.activation_function.log_jumprelu_threshold.copy_(ours["threshold"].log())
    if config.norm_activation == "dataset-wise":
        sae.set_dataset_average_activation_norm({HOOK: D_IN**0.5 / SCALE})
    sae.save_pretrained(folder)
    config.save_hyperparameters(folder)
    loaded = SparseAutoEncoder.from_local(str(folder))
    batch, factors = loaded.normalize_activations({HOOK: probe()}, return_scale_factor=True)
    latents = loaded.encode(batch[HOOK])
    x_hat = loaded.denormalize_activations({HOOK: loaded.decode(latents)}, factors)[HOOK]
    found = truth(latents, x_hat)
    if config.act_fn == "topk" and config.sparsity_include_decoder_norm:
        # ours are measured along decoder rows of length 1; these along the rows as they are
        found["latents"] = found["latents"] * torch.linalg.vector_norm(loaded.W_D, dim=1)
    return found


for _act in ("relu", "jumprelu", "topk"):
    for _norm in ("dataset-wise", "token-wise", "inference"):
        for _by_length in (True, False):
            _name = f"{_act}-{_norm}" + ("-by_length" if _by_length else "")
            case("llamascopium", _name)(
                lambda folder, act=_act, norm=_norm, by_length=_by_length: written(
                    folder, act_fn=act, norm_activation=norm, sparsity_include_decoder_norm=by_length
                )
            )
case("llamascopium", "relu-no_decoder_bias")(
    lambda folder: written(folder, act_fn="relu", norm_activation="inference", use_decoder_bias=False)
)
case("llamascopium", "batchtopk")(lambda folder: written(folder, act_fn="batchtopk", norm_activation="inference"))
