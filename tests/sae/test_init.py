"""Starts from the general SAE."""

import pytest
import torch

from fovea.errors import ConfigError, SAEError
from fovea.sae.base import SAEConfig
from fovea.sae.batch_topk import BatchTopKConfig
from fovea.sae.files import fingerprint
from fovea.sae.folding import fold_scale
from fovea.sae.gated import GatedConfig
from fovea.sae.init import start_from_general
from fovea.sae.jumprelu import JumpReLUConfig
from fovea.sae.relu import ReLUConfig
from fovea.sae.topk import TopKConfig
from tests.sae.cases import BIASES, D_IN, D_SAE, build, loss, rows

TARGETS: dict[str, SAEConfig] = {
    "relu": ReLUConfig(l1=1.0),
    "gated": GatedConfig(l1=1.0),
    "jumprelu": JumpReLUConfig(target_l0=4),
    "batch_topk": BatchTopKConfig(k=4),
    "topk": TopKConfig(k=5),
}
EXACT = [
    ("relu", "relu"),
    ("relu", "gated"),
    ("relu", "jumprelu"),
    ("gated", "gated"),
    ("gated", "jumprelu"),
    ("jumprelu", "jumprelu"),
    ("jumprelu", "gated"),
    ("batch_topk", "jumprelu"),
    ("batch_topk", "gated"),
    ("topk", "topk"),
]
K_RULES = [("jumprelu", "batch_topk"), ("batch_topk", "batch_topk"), ("batch_topk", "topk"), ("relu", "topk")]


@pytest.mark.parametrize("bias", BIASES)
@pytest.mark.parametrize(("source", "target"), EXACT)
def test_an_exact_start_computes_what_g_does(source: str, target: str, bias: str) -> None:
    general, x = fold_scale(build(source, bias), scale_in=1.0, scale_out=1.0), rows(seed=21)
    sae = start_from_general(TARGETS[target], general, scale_in=0.4)
    torch.testing.assert_close(sae(x * 0.4) / 0.4, general(x), rtol=1e-4, atol=1e-4)
    assert sae.has_output_bias == general.has_output_bias
    assert sae.pre_bias_is_tied == general.pre_bias_is_tied
    loss(sae).terms.total.backward()


@pytest.mark.parametrize(("source", "target"), K_RULES)
def test_a_start_where_k_rules_has_gs_pre_activations(source: str, target: str) -> None:
    general, x = fold_scale(build(source), scale_in=1.0, scale_out=1.0), rows(seed=21)
    sae = start_from_general(TARGETS[target], general, scale_in=0.4)
    rule = general.elementwise()
    pre = general.centred(x) @ rule.W_enc + rule.b_enc
    b_enc = sae.tensors()["b_enc"]
    torch.testing.assert_close(sae.centred(x * 0.4) @ sae.W_enc + b_enc, pre * 0.4, rtol=1e-4, atol=1e-4)
    assert torch.allclose(sae.W_dec, general.W_dec, atol=1e-6)
    loss(sae).terms.total.backward()


@pytest.mark.parametrize(
    ("source", "target"), [("topk", "relu"), ("topk", "gated"), ("gated", "batch_topk"), ("jumprelu", "relu")]
)
def test_a_start_that_would_change_g_lists_what_works(source: str, target: str) -> None:
    with pytest.raises(
        SAEError, match=rf"cannot be trained further as '{target}'; '{target}' can start from .* can become"
    ):
        start_from_general(TARGETS[target], build(source), scale_in=1.0)


def test_g_is_left_as_it_was() -> None:
    general = build("jumprelu")
    before = fingerprint(general)
    sae = start_from_general(TARGETS["batch_topk"], general, scale_in=0.4)
    with torch.no_grad():
        for parameter in sae.parameters():
            parameter.add_(1.0)
    assert fingerprint(general) == before


def test_the_width_is_gs_or_the_job_is_refused() -> None:
    general = build("jumprelu")
    assert start_from_general(BatchTopKConfig(k=4, d_sae=D_SAE), general, scale_in=1.0).d_sae == D_SAE
    with pytest.raises(SAEError, match="asks for 24 latents, but the general SAE that it starts from has 40; remove"):
        start_from_general(BatchTopKConfig(k=4, expansion=24 / D_IN), general, scale_in=1.0)
    with pytest.raises(ConfigError, match="k = 99"):
        start_from_general(BatchTopKConfig(k=99), general, scale_in=1.0)
