"""The contract that every method keeps, and what is particular to each."""

from pathlib import Path
from typing import get_args

import pytest
import torch

from fovea.errors import ConfigError
from fovea.methods.base import Batch, Method, Setting, choose_rows
from fovea.methods.finetune import Finetune
from fovea.methods.mix import Mix
from fovea.methods.registry import MethodConfig
from fovea.methods.ssae import SSAE
from fovea.sae.base import StepState
from fovea.sae.batch_topk import BatchTopKConfig
from fovea.sae.files import LoadedSAE, SAEMetadata, load_sae, save_sae

D_IN, WIDTH, SCALE = 12, 20, 0.5
METHODS = [kind() for kind in get_args(get_args(MethodConfig)[0])]
BUILT = BatchTopKConfig(d_sae=16, k=2)
FROM_G = BatchTopKConfig(k=2)


@pytest.fixture(scope="module")
def general(tmp_path_factory) -> LoadedSAE:
    """An untrained g with a bias and a threshold, from disk."""
    folder: Path = tmp_path_factory.mktemp("g") / "g"
    sae = BatchTopKConfig(d_sae=WIDTH, k=3).build(D_IN, generator=torch.Generator().manual_seed(3))
    sae.set_output_bias(torch.randn(D_IN, generator=torch.Generator().manual_seed(4)))
    with torch.no_grad():
        sae.threshold_sum.fill_(0.3)
        sae.threshold_weight.fill_(1.0)
    save_sae(sae, folder, metadata=SAEMetadata())
    return load_sae(str(folder))


def setting(general: LoadedSAE | None) -> Setting:
    mean = torch.randn(D_IN, generator=torch.Generator().manual_seed(5))
    return Setting(D_IN, general, mean, SCALE, torch.Generator().manual_seed(0))


def batch(general: LoadedSAE, n_domain: int = 30, n_general: int = 30) -> Batch:
    x = torch.randn(n_domain + n_general, D_IN, generator=torch.Generator().manual_seed(6))
    is_domain = torch.arange(n_domain + n_general) < n_domain
    return Batch(x, general.sae(x), is_domain)


def architecture(method: Method) -> BatchTopKConfig:
    """Methods that start from g take its width."""
    return FROM_G if isinstance(method, Finetune) else BUILT


@pytest.mark.parametrize("method", METHODS, ids=lambda m: m.kind_name)
def test_every_method_starts_learns_and_combines(method: Method, general: LoadedSAE):
    sae = method.start(architecture(method), setting(general))
    data = batch(general)
    rows = choose_rows(data.is_domain, 24, method.general_share)
    target = method.target(data)
    assert target.shape == data.x.shape
    state = StepState(1.0, torch.zeros(sae.d_sae, dtype=torch.bool))
    result = sae.loss(data.x[rows] * SCALE, target[rows] * SCALE, state)
    result.terms.total.backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in sae.parameters() if p.requires_grad)
    x_hat = torch.ones_like(data.x)
    combined = method.combine(data.x_general, x_hat)
    expected = data.x_general + x_hat if method.adds_general else x_hat
    torch.testing.assert_close(combined, expected, rtol=0, atol=0)


@pytest.mark.parametrize("method", METHODS, ids=lambda m: m.kind_name)
def test_equal_generators_give_equal_starts(method: Method, general: LoadedSAE):
    a, b = (method.start(architecture(method), setting(general)) for _ in range(2))
    torch.testing.assert_close(dict(a.state_dict()), dict(b.state_dict()), rtol=0, atol=0)


@pytest.mark.parametrize("method", [m for m in METHODS if m.reads_general], ids=lambda m: m.kind_name)
def test_a_method_that_needs_g_says_so(method: Method):
    with pytest.raises(ConfigError, match="needs a general SAE"):
        method.start(architecture(method), setting(None))


def test_finetune_starts_as_g_in_scaled_units(general: LoadedSAE):
    sae = Finetune().start(FROM_G, setting(general))
    x = batch(general).x
    ours = sae.centred(x * SCALE) @ sae.W_enc + sae.b_enc
    g = general.sae
    theirs = g.centred(x) @ g.W_enc + g.elementwise().b_enc
    torch.testing.assert_close(ours, SCALE * theirs)


def test_an_ssae_reads_x_through_the_pre_bias_of_g_and_has_no_output_bias(general: LoadedSAE):
    sae = SSAE().start(BUILT, setting(general))
    assert sae.pre_bias is not None
    torch.testing.assert_close(sae.pre_bias, general.sae.input_bias() * SCALE)
    assert not sae.has_output_bias
    assert "b_dec" not in dict(sae.named_parameters())


def test_rows_come_in_the_share_that_the_method_asks_for(general: LoadedSAE):
    data = batch(general)
    rows = choose_rows(data.is_domain, 20, Mix(domain_share=0.7).general_share)
    assert int(data.is_domain[rows].sum()) == 14
    assert len(rows) == len(set(rows.tolist())) == 20


def test_labels_differ_whenever_settings_do():
    labels = [m.label for m in (Mix(), Mix(domain_share=0.3), Mix(start_at="general"), SSAE(), SSAE(silence=0.2))]
    labels += [m.label for m in (Finetune(), Finetune(freeze=("encoder",)), Finetune(freeze=("encoder", "biases")))]
    assert len(set(labels)) == len(labels)
