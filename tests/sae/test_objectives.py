"""Each objective against its formula, written out densely in float64."""

import math

import pytest
import torch
from torch import Tensor

from fovea.sae.auxk import Objective, competition, step
from fovea.sae.base import SAE, LossTerms, StepResult, StepState
from fovea.sae.batch_topk import BatchTopKConfig, BatchTopKSAE
from fovea.sae.gated import GatedSAE
from fovea.sae.jumprelu import THRESHOLD_GAIN, JumpReLUConfig, JumpReLUSAE
from fovea.sae.relu import ReLUSAE
from fovea.sae.topk import TopKConfig, TopKSAE
from tests.sae.cases import BIASES, D_IN, D_SAE, N_TOKENS, build, generator, rows, state, train


@pytest.fixture(params=["dense", "entries"])
def path(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Force one of the two ways in which relu, gated and jumprelu compute their loss."""
    monkeypatch.setattr("fovea.sae.select.SPARSE_UP_TO", {"dense": -1.0, "entries": 1.0}[request.param])


def doubled(sae: SAE) -> dict[str, Tensor]:
    """The trained tensors as float64 leaves."""
    return {name: p.detach().double().requires_grad_() for name, p in sae.named_parameters()}


def centre(sae: SAE, leaves: dict[str, Tensor], x: Tensor) -> Tensor:
    if sae.pre_bias_is_tied:
        return x - leaves["b_dec"]
    return x - sae.input_bias().double()


def squared(error: Tensor) -> Tensor:
    return error.square().sum(dim=1).mean()


def assert_equal_gradients(sae: SAE, result: StepResult, leaves: dict[str, Tensor], terms: dict[str, Tensor]) -> None:
    assert result.terms.terms.keys() == terms.keys()
    for name, term in terms.items():
        assert result.terms.terms[name].item() == pytest.approx(term.item(), rel=1e-5), name
    ours = torch.autograd.grad(result.terms.total, list(sae.parameters()))
    truth = torch.autograd.grad(torch.stack(list(terms.values())).sum(), list(leaves.values()))
    for name, mine, right in zip(leaves, ours, truth, strict=True):
        torch.testing.assert_close(mine.double(), right, rtol=1e-5, atol=2e-5 * right.abs().max().item(), msg=name)


def output_bias(leaves: dict[str, Tensor]) -> Tensor:
    return leaves.get("b_dec", torch.zeros(D_IN, dtype=torch.float64))


@pytest.mark.parametrize("bias", BIASES)
@pytest.mark.parametrize("n_dead", [0, 3, 20, D_SAE])
@pytest.mark.parametrize("name", ["topk", "batch_topk"])
def test_topk_losses_are_mse_and_auxk(name: str, n_dead: int, bias: str) -> None:
    sae, x = build(name, bias), rows()
    assert isinstance(sae, TopKSAE | BatchTopKSAE)
    target, now = x.flip(1), state(n_dead=n_dead)
    leaves = doubled(sae)
    pre = centre(sae, leaves, x.double()) @ leaves["W_enc"] + leaves["b_enc"]
    if name == "topk":
        active = torch.zeros_like(pre, dtype=torch.bool).scatter(1, pre.topk(sae.k, dim=1).indices, True)
    else:
        active = pre >= pre.flatten().topk(sae.k * N_TOKENS).values[-1]
    x_hat = torch.where(active, pre.relu(), 0.0) @ leaves["W_dec"] + output_bias(leaves)
    terms = {"mse": squared(x_hat - target)}
    if n_dead:
        dead = pre[:, now.dead]
        chosen = dead >= dead.topk(min(n_dead, D_IN // 2), dim=1).values[:, -1:]
        e_hat = torch.where(chosen, dead.relu(), 0.0) @ leaves["W_dec"][now.dead]
        terms["auxk"] = squared(e_hat - (target - x_hat).detach()) / 32
    assert_equal_gradients(sae, sae.loss(x, target, now), leaves, terms)


@pytest.mark.parametrize("dense_up_to", [0, 100])
@pytest.mark.parametrize("n_dead", [1, 20, D_SAE])
@pytest.mark.parametrize("name", ["topk", "batch_topk"])
def test_every_path_of_auxk_gives_the_same_gradients(
    name: str, n_dead: int, dense_up_to: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("fovea.sae.auxk.DENSE_UP_TO", dense_up_to)
    sae, x, now = build(name), rows(), state(n_dead=n_dead)
    assert isinstance(sae, TopKSAE | BatchTopKSAE)
    at = competition(sae, sae.b_enc, x, compute_dtype="float32")
    fast, dense = (step(sae, sae.select, at, target=x, state=now, how=Objective(0.5, dense)) for dense in (False, True))
    for key in ("mse", "auxk"):
        assert fast.terms.terms[key].item() == pytest.approx(dense.terms.terms[key].item(), rel=1e-5)
    pairs = zip(
        *(torch.autograd.grad(result.terms.total, list(sae.parameters())) for result in (fast, dense)), strict=True
    )
    for ours, reference in pairs:
        torch.testing.assert_close(ours, reference, rtol=1e-5, atol=1e-5 * reference.abs().max().item())
    assert torch.equal(fast.fired, dense.fired)


@pytest.mark.usefixtures("path")
@pytest.mark.parametrize("bias", BIASES)
@pytest.mark.parametrize("name", ["relu", "relu_unit"])
def test_the_relu_loss_is_mse_and_l1_times_free_decoder_lengths(name: str, bias: str) -> None:
    sae, x = build(name, bias), rows()
    assert isinstance(sae, ReLUSAE)
    leaves = doubled(sae)
    latents = (centre(sae, leaves, x.double()) @ leaves["W_enc"] + leaves["b_enc"]).relu()
    norms = torch.ones(D_SAE) if name == "relu_unit" else leaves["W_dec"].norm(dim=1)
    terms = {
        "mse": squared(latents @ leaves["W_dec"] + output_bias(leaves) - x),
        "l1": 0.6 * 0.5 * (latents * norms).sum(dim=1).mean(),
    }
    assert_equal_gradients(sae, sae.loss(x, x, state(sparsity_scale=0.6)), leaves, terms)


@pytest.mark.usefixtures("path")
@pytest.mark.parametrize("bias", BIASES)
@pytest.mark.parametrize("name", ["gated", "gated_free"])
def test_the_gated_loss_is_mse_l1_on_the_gate_and_an_auxiliary_mse(name: str, bias: str) -> None:
    sae, x = build(name, bias), rows()
    assert isinstance(sae, GatedSAE)
    leaves = doubled(sae)
    product = centre(sae, leaves, x.double()) @ leaves["W_enc"]
    gate = product + leaves["b_gate"]
    latents = torch.where(gate > 0, (product * leaves["r_mag"].exp() + leaves["b_mag"]).relu(), 0.0)
    W_dec, b_dec = leaves["W_dec"], output_bias(leaves)
    frozen = name == "gated"
    norms = torch.ones(D_SAE) if frozen else W_dec.norm(dim=1)
    aux = gate.relu() @ (W_dec.detach() if frozen else W_dec) + (b_dec.detach() if frozen else b_dec)
    terms = {
        "mse": squared(latents @ W_dec + b_dec - x),
        "l1": 0.6 * 0.5 * (gate.relu() * norms).sum(dim=1).mean(),
        "aux": squared(aux - x),
    }
    assert_equal_gradients(sae, sae.loss(x, x, state(sparsity_scale=0.6)), leaves, terms)


def test_the_auxiliary_term_of_the_paper_leaves_the_decoder_alone() -> None:
    x = rows()
    for name, moves in (("gated", False), ("gated_free", True)):
        sae = build(name, "own_with_output")
        aux = sae.loss(x, x, state()).terms.terms["aux"]
        gradients = torch.autograd.grad(aux, [sae.W_dec, sae.b_dec], allow_unused=True)
        assert all((gradient is not None) == moves for gradient in gradients)


@pytest.mark.usefixtures("path")
@pytest.mark.parametrize("bias", BIASES)
@pytest.mark.parametrize("name", ["jumprelu", "jumprelu_free"])
def test_jumprelu_gradients_are_the_papers_straight_through_estimates(name: str, bias: str) -> None:
    sae, x, now = build(name, bias), rows(), state(n_dead=6, sparsity_scale=0.6)
    assert isinstance(sae, JumpReLUSAE)
    assert sae.config is not None
    leaves, width = doubled(sae), sae.config.bandwidth
    pre = centre(sae, leaves, x.double()) @ leaves["W_enc"] + leaves["b_enc"]
    threshold = leaves["scaled_threshold"] * THRESHOLD_GAIN
    near = ((pre - threshold).abs() < width / 2).double().detach()
    fires = (pre > threshold).double().detach()
    # Surrogates: the value is the true one, the gradient is the estimate.
    latents = pre * fires - (threshold - threshold.detach()) * (threshold.detach() / width) * near
    l0 = (fires - (threshold - threshold.detach()) / width * near).sum(dim=1).mean()
    below = (threshold[now.dead] - pre[:, now.dead]).relu() * leaves["W_dec"][now.dead].norm(dim=1)
    terms = {
        "mse": squared(latents @ leaves["W_dec"] + output_bias(leaves) - x),
        "l0": 0.6 * 4 * D_IN * (l0 / 5 - 1).square(),
        "dead": 0.1 * below.sum(dim=1).mean(),
    }
    assert_equal_gradients(sae, sae.loss(x, x, now), leaves, terms)


def test_thresholds_below_0_are_brought_back_after_a_step() -> None:
    sae = build("jumprelu")
    assert isinstance(sae, JumpReLUSAE)
    sae.set_tensors({"threshold": torch.where(torch.arange(D_SAE) < 3, -0.5, sae.threshold)})
    before = sae.encode(rows())
    sae.after_step(sae.loss(rows(), rows(), state()))
    assert (sae.threshold >= 0).all()
    assert torch.equal(sae.encode(rows()), before)


def batch_topk(k: int = 4, decay: float = 0.5) -> BatchTopKSAE:
    return BatchTopKConfig(d_sae=D_SAE, k=k, threshold_decay=decay).from_weights(build("topk").weights)


def observed(value: float) -> StepResult:
    terms = LossTerms({"mse": torch.zeros(())})
    nothing = torch.zeros(D_SAE, dtype=torch.bool)
    return StepResult(terms, nothing, torch.zeros(()), torch.zeros(1, D_IN), {"smallest_kept": torch.tensor(value)})


def test_the_threshold_is_an_average_that_is_right_from_the_first_step() -> None:
    sae = batch_topk()
    assert sae.threshold == 0
    sae.after_step(observed(2.0))
    assert sae.threshold == 2.0
    sae.after_step(observed(4.0))
    assert sae.threshold.item() == pytest.approx((0.5 * 2 + 1 * 4) / 1.5)


def test_a_batch_that_keeps_nothing_leaves_the_threshold_alone() -> None:
    sae = batch_topk()
    sae.after_step(observed(2.0))
    sae.after_step(observed(math.nan))
    assert sae.threshold == 2.0
    with torch.no_grad():
        sae.b_enc.fill_(-1e3)
    result = sae.loss(rows(), rows(), state())
    assert result.l0 == 0
    assert math.isnan(result.observed["smallest_kept"])


def test_the_threshold_gives_training_l0_at_inference() -> None:
    sae, x = batch_topk(), rows(4000)
    for seed in range(20):
        sae.after_step(sae.loss(rows(1000, seed=seed), rows(1000, seed=seed), state()))
    l0 = (sae.encode(x) > 0).sum().item() / len(x)
    assert l0 == pytest.approx(4, rel=0.02)


def test_auxk_brings_dead_latents_back() -> None:
    x = rows(2000)
    revived = {}
    for weight in (0.0, 1 / 32):
        sae = TopKConfig(d_sae=D_SAE, k=4, aux_weight=weight).build(D_IN, generator=generator())
        assert isinstance(sae, TopKSAE)
        with torch.no_grad():
            sae.W_enc[:, : D_SAE // 2] *= 0.02
        sae.set_output_bias(x.mean(dim=0))
        train(sae, x, x, n_steps=60, lr=1e-3)
        revived[weight] = int((sae.encode(x) > 0).any(dim=0)[: D_SAE // 2].sum())
    assert revived[1 / 32] > revived[0.0]


def test_a_jumprelu_sae_reaches_its_target_l0() -> None:
    x = rows(2000)
    sae = JumpReLUConfig(d_sae=D_SAE, target_l0=5).build(D_IN, generator=generator())
    sae.set_output_bias(x.mean(dim=0))
    train(sae, x, x, n_steps=200, batch_size=256)
    assert (sae.encode(x) > 0).sum().item() / len(x) == pytest.approx(5, rel=0.1)


def test_a_stronger_l1_gives_sparser_latents() -> None:
    x = rows(2000)
    for name in ("relu", "gated"):
        l0 = []
        for weight in (0.1, 3.0):
            config = build(name).config.model_copy(update={"l1": weight})  # pyright: ignore
            sae = config.build(D_IN, generator=generator())
            l0.append(train(sae, x, x, n_steps=60, lr=1e-2, batch_size=256).l0.item())
        assert l0[1] < 0.7 * l0[0], name


def test_step_state_is_read_and_not_kept() -> None:
    sae, x = build("batch_topk"), rows()
    dead = torch.ones(D_SAE, dtype=torch.bool)
    first = sae.loss(x, x, StepState(1.0, dead)).terms.total.item()
    dead.fill_(False)
    assert sae.loss(x, x, StepState(1.0, dead)).terms.total.item() != first
