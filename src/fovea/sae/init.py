"""Start a domain SAE from the general one: same latents, other training form.

    g (a file, raw units) --unfold_scale--> scaled units --> the architecture's class, with g's biases

| to \\ from    | standard | jumprelu, batch_topk | gated  | topk |
| relu         | exact    |                      |        |      |
| gated        | exact    | exact                | exact  |      |
| jumprelu     | exact    | exact                | exact  |      |
| batch_topk   | k rules  | k rules              |        | k rules |
| topk         | k rules  | k rules              |        | exact for equal k |

exact: the start computes what g does. k rules: same pre-activations, but the k largest fire and g's thresholds do not.
"""

from typing import get_args

from torch import Tensor

from fovea.errors import SAEError
from fovea.sae.architectures import ArchitectureConfig
from fovea.sae.base import SAE, SAEConfig
from fovea.sae.folding import unfold_scale
from fovea.sae.gated import GatedSAE
from fovea.sae.jumprelu import JumpReLUSAE


def start_from_general(config: SAEConfig, general: SAE, *, scale_in: float, scale_out: float | None = None) -> SAE:
    """An SAE of the configured architecture with g's weights, in the scaled units of training. g is unchanged.

    Args:
        scale_out: Scale of the target; the same as `scale_in` unless given.

    Raises:
        SAEError: g's architecture cannot become this one, or the configured width is not g's.
        ConfigError: k exceeds g's width.
    """
    form = unfold_scale(general, scale_in=scale_in, scale_out=scale_in if scale_out is None else scale_out)
    _check(config, form)
    sae = config.from_weights(form.weights)
    sae.set_tensors(_encoder_tensors(sae, form))
    return sae


def _encoder_tensors(sae: SAE, form: SAE) -> dict[str, Tensor]:
    """What `sae`'s encoder takes from `form`, beyond the shared weights."""
    if isinstance(form, GatedSAE) and isinstance(sae, GatedSAE):
        return {name: form.tensors()[name] for name in ("b_gate", "b_mag", "r_mag")}
    if isinstance(sae, GatedSAE):
        rule = form.elementwise()
        return {"b_mag": rule.b_enc, "b_gate": rule.b_enc - rule.threshold.clamp_min(0.0)}
    if isinstance(sae, JumpReLUSAE):
        rule = form.elementwise()
        return {"W_enc": rule.W_enc, "b_enc": rule.b_enc, "threshold": rule.threshold.clamp_min(0.0)}
    return {"b_enc": form.tensors()["b_enc"]}


def _check(config: SAEConfig, general: SAE) -> None:
    kind, allowed = type(config).model_fields["kind"].default, config.starts_from
    if general.file_architecture not in allowed:
        raise SAEError(
            f"an SAE of architecture {general.file_architecture!r} cannot be trained further as {kind!r}; "
            f"{kind!r} can start from {', '.join(allowed) or 'none'}, "
            f"and this one can become {', '.join(_targets(general))}"
        )
    if config.d_sae is None and config.expansion is None:
        return
    if config.width(general.d_in) != general.d_sae:
        raise SAEError(
            f"the job asks for {config.width(general.d_in)} latents, but the general SAE that it starts from has "
            f"{general.d_sae}; remove sae.d_sae and sae.expansion"
        )


def _targets(general: SAE) -> list[str]:
    configs: tuple[type[SAEConfig], ...] = get_args(get_args(ArchitectureConfig)[0])
    able = [config for config in configs if general.file_architecture in config.starts_from]
    return [str(config.model_fields["kind"].default) for config in able]
