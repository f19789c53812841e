"""What every architecture must do, whatever it is."""

import copy
from pathlib import Path

import pytest
import torch
from torch import Tensor

from fovea.errors import ConfigError
from fovea.sae.base import SAE, SAEConfig
from fovea.sae.batch_topk import BatchTopKConfig
from fovea.sae.files import SAEMetadata, fingerprint, load_sae, save_sae
from fovea.sae.topk import TopKConfig
from tests.sae.cases import BIASES, CONFIGS, D_IN, D_SAE, N_TOKENS, build, generator, loss, rows, state

every_architecture = pytest.mark.parametrize("name", CONFIGS)
every_bias = pytest.mark.parametrize("bias", BIASES)


@pytest.fixture
def sae(name: str) -> SAE:
    return build(name)


def snapshot(sae: SAE) -> dict[str, Tensor]:
    return copy.deepcopy(sae.state_dict())


@every_architecture
@every_bias
def test_encode_and_decode_have_the_shapes_of_x_and_are_float32(name: str, bias: str) -> None:
    sae = build(name, bias)
    for shape in ((7, D_IN), (2, 3, D_IN), (D_IN,)):
        x = torch.randn(shape, generator=generator())
        latents = sae.encode(x)
        assert latents.shape == (*shape[:-1], D_SAE)
        assert latents.dtype == torch.float32
        assert (latents >= 0).all()
        assert sae.decode(latents).shape == x.shape
        torch.testing.assert_close(sae(x), sae.decode(sae.encode(x)), rtol=0, atol=0)


@every_architecture
def test_equal_generators_build_equal_saes(name: str) -> None:
    first, second = (CONFIGS[name].build(D_IN, generator=generator(3)) for _ in range(2))
    torch.testing.assert_close(first.state_dict(), second.state_dict(), rtol=0, atol=0)
    assert fingerprint(first) == fingerprint(second)


@every_architecture
def test_building_leaves_the_global_generator_alone(name: str) -> None:
    before = torch.get_rng_state()
    CONFIGS[name].build(D_IN, generator=generator())
    assert torch.equal(torch.get_rng_state(), before)


@every_architecture
@every_bias
def test_the_encoder_starts_as_the_transpose_of_the_decoder(name: str, bias: str) -> None:
    convention = BIASES[bias]
    sae = CONFIGS[name].build(
        D_IN, generator=generator(), pre_bias=convention.pre_bias(), output_bias=convention.output_bias
    )
    assert torch.equal(sae.W_enc, sae.W_dec.T)
    torch.testing.assert_close(sae.W_dec.norm(dim=1), torch.full((D_SAE,), CONFIGS[name].decoder_init_norm))
    assert not sae.b_dec.any()
    assert sae.b_dec.requires_grad == convention.output_bias


@every_architecture
@every_bias
def test_loss_changes_neither_the_sae_nor_its_inputs(name: str, bias: str) -> None:
    sae, x, now = build(name, bias), rows(), state(n_dead=6)
    target = x * 0.5
    before = snapshot(sae), x.clone(), target.clone(), now.dead.clone()
    sae.loss(x, target, now).terms.total.backward()
    torch.testing.assert_close((snapshot(sae), x, target, now.dead), before, rtol=0, atol=0)


@every_architecture
@every_bias
@pytest.mark.parametrize("n_dead", [0, 6, D_SAE])
def test_every_logged_term_moves_a_gradient_and_total_is_their_sum(name: str, bias: str, n_dead: int) -> None:
    sae = build(name, bias)
    terms = loss(sae, n_dead=n_dead).terms
    trained = list(sae.parameters())
    for key, term in terms.terms.items():
        gradients = torch.autograd.grad(term, trained, retain_graph=True, allow_unused=True)
        assert any(g is not None and g.abs().max() > 0 for g in gradients), f"term {key!r} trains nothing"
        assert term.isfinite()
    torch.testing.assert_close(terms.total, torch.stack(list(terms.terms.values())).sum())


@every_architecture
@every_bias
def test_every_parameter_gets_a_gradient(name: str, bias: str) -> None:
    sae = build(name, bias)
    loss(sae, n_dead=6).terms.total.backward()
    for key, parameter in sae.named_parameters():
        assert parameter.grad is not None, key
        assert parameter.grad.isfinite().all()
        assert parameter.grad.abs().max() > 0, key


@pytest.mark.parametrize("name", ["batch_topk", "topk", "jumprelu", "jumprelu_free"])
def test_dead_latents_get_a_gradient_that_pulls_them(name: str) -> None:
    sae = build(name)
    with torch.no_grad():
        sae.get_parameter("b_enc")[-6:] = -1.5
    result = loss(sae, n_dead=6)
    extra = {key: term for key, term in result.terms.terms.items() if key in ("auxk", "dead")}
    (gradient,) = torch.autograd.grad(torch.stack(list(extra.values())).sum(), sae.get_parameter("b_enc"))
    assert gradient[-6:].abs().sum() > 0
    assert not gradient[:-6].any(), "the term for dead latents moves a living one"


@every_architecture
@every_bias
def test_the_result_counts_what_the_reconstruction_used(name: str, bias: str) -> None:
    sae = build(name, bias)
    result = loss(sae)
    assert result.x_hat.shape == (N_TOKENS, D_IN)
    assert not result.x_hat.requires_grad
    assert 0 < result.l0 <= D_SAE
    assert result.fired.shape == (D_SAE,)
    if name not in ("batch_topk",):
        latents = sae.encode(rows())
        torch.testing.assert_close(result.x_hat, sae.decode(latents).detach(), rtol=1e-5, atol=1e-5)
        assert torch.equal(result.fired, (latents > 0).any(dim=0))
        assert result.l0.item() == pytest.approx((latents > 0).sum().item() / N_TOKENS)


@every_architecture
def test_the_sparsity_scale_only_weighs_the_sparsity_terms(name: str) -> None:
    sae, x = build(name), rows()
    full, none = (sae.loss(x, x, state(sparsity_scale=scale)).terms.terms for scale in (1.0, 0.0))
    for key in full:
        assert none[key].item() == (0.0 if key in ("l1", "l0") else full[key].item())


@every_architecture
def test_unit_decoders_stay_at_length_1_and_free_ones_are_left_alone(name: str) -> None:
    sae = build(name)
    loss(sae).terms.total.backward()
    assert sae.W_dec.grad is not None
    gradient = sae.W_dec.grad.clone()
    sae.project_decoder_gradient()
    along = (sae.W_dec.grad * sae.W_dec).sum(dim=1)
    if sae.unit_decoder:
        assert along.abs().max() < 1e-4
    else:
        assert torch.equal(sae.W_dec.grad, gradient)
    with torch.no_grad():
        sae.W_dec.add_(0.1)
    before = sae.W_dec.detach().clone()
    sae.normalise_decoder()
    if sae.unit_decoder:
        torch.testing.assert_close(sae.W_dec.norm(dim=1), torch.ones(D_SAE))
    else:
        assert torch.equal(sae.W_dec, before)


@every_architecture
@every_bias
def test_a_saved_and_loaded_sae_gives_identical_outputs(name: str, bias: str, tmp_path: Path) -> None:
    sae = build(name, bias)
    save_sae(sae, tmp_path / "sae", metadata=SAEMetadata(model_name="m", hook_name="blocks.1.hook_resid_post"))
    loaded = load_sae(tmp_path / "sae")
    x = rows()
    assert torch.equal(loaded.sae.encode(x), sae.encode(x))
    assert torch.equal(loaded.sae(x), sae(x))
    assert fingerprint(loaded.sae) == fingerprint(sae)
    assert not any(parameter.requires_grad for parameter in loaded.sae.parameters())


@every_architecture
@every_bias
def test_the_inference_form_computes_the_same_and_shares_nothing(name: str, bias: str) -> None:
    sae = build(name, bias)
    form, x = sae.inference_form(), rows()
    assert torch.equal(form(x), sae(x))
    before = form(x).clone()
    with torch.no_grad():
        for parameter in sae.parameters():
            parameter.add_(1.0)
    assert torch.equal(form(x), before)


@every_architecture
@every_bias
def test_a_state_dict_restores_everything(name: str, bias: str) -> None:
    trained, fresh = build(name, bias), build(name, bias, seed=9)
    fresh.load_state_dict(trained.state_dict())
    assert fingerprint(fresh) == fingerprint(trained)
    torch.testing.assert_close(snapshot(fresh), snapshot(trained), rtol=0, atol=0)


@every_architecture
def test_a_frozen_pre_bias_is_no_parameter_and_never_moves(name: str) -> None:
    sae = build(name, "own")
    loss(sae).terms.total.backward()
    assert not sae.input_bias().requires_grad
    assert "b_dec" not in dict(sae.named_parameters())
    assert torch.equal(sae.input_bias(), torch.linspace(-2.0, 3.0, D_IN))


@every_architecture
def test_setting_the_output_bias_moves_a_tied_pre_bias_with_it(name: str) -> None:
    sae = build(name)
    sae.set_output_bias(torch.arange(D_IN).float())
    assert torch.equal(sae.input_bias(), torch.arange(D_IN).float())


@every_architecture
def test_bfloat16_encoding_trains_close_to_float32(name: str) -> None:
    config = CONFIGS[name]
    exact = config.build(D_IN, generator=generator())
    rough = config.model_copy(update={"compute_dtype": "bfloat16"}).build(D_IN, generator=generator())
    first, second = loss(exact).terms.total, loss(rough).terms.total
    assert second.item() == pytest.approx(first.item(), rel=0.03)
    second.backward()
    assert all(p.grad is not None and p.grad.dtype == torch.float32 for p in rough.parameters())


@pytest.mark.parametrize("config", [TopKConfig(d_sae=8, k=9), BatchTopKConfig(expansion=2, k=9)])
def test_k_beyond_the_width_says_what_to_do(config: SAEConfig) -> None:
    with pytest.raises(ConfigError, match=r"k = 9.*d_sae = 8; lower k or raise"):
        config.build(4, generator=generator())


def test_a_missing_width_says_what_to_set() -> None:
    with pytest.raises(ConfigError, match=r"sae\.d_sae and sae\.expansion are both missing"):
        TopKConfig(k=2).build(4, generator=generator())


def test_two_widths_contradict_each_other() -> None:
    with pytest.raises(ValueError, match="both set the width"):
        TopKConfig(k=2, d_sae=8, expansion=2)


def test_a_width_of_0_is_refused() -> None:
    with pytest.raises(ValueError, match="greater than 0"):
        TopKConfig(k=2, d_sae=0)
    with pytest.raises(ConfigError, match="gives 0 latents"):
        TopKConfig(k=2, expansion=0.1).build(4, generator=generator())


@pytest.mark.parametrize(
    ("name", "label"),
    [("batch_topk", "k5"), ("topk", "k5"), ("gated", "l1_0.5"), ("relu", "l1_0.5"), ("jumprelu", "l0_5")],
)
def test_labels_name_the_sparsity(name: str, label: str) -> None:
    assert CONFIGS[name].label == label
