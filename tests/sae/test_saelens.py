"""Our losses against SAELens's numbers, and our files in SAELens's hands."""

import importlib
import json
from pathlib import Path

import pytest
import torch
from torch import Tensor

from fovea.sae.base import SAE, SAEConfig, StepState, Weights
from fovea.sae.batch_topk import BatchTopKConfig
from fovea.sae.files import SAEMetadata, fingerprint, read_sae, save_sae
from fovea.sae.formats.writers import write_stack
from fovea.sae.gated import GatedConfig
from fovea.sae.jumprelu import JumpReLUConfig
from fovea.sae.relu import ReLUConfig
from fovea.sae.saelens import from_object
from fovea.sae.topk import TopKConfig
from tests.golden import make_saelens as golden
from tests.sae.cases import BIASES, CONFIGS, ELEMENTWISE, build, rows

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning")  # sae_lens imports a deprecated module

NUMBERS = json.loads(golden.OUTPUT.read_text())
L0_WEIGHT, TARGET_L0 = 2.0, 5.0

CASES: dict[str, SAEConfig] = {
    "standard": ReLUConfig(d_sae=golden.D_SAE, l1=golden.L1),
    "gated": GatedConfig(d_sae=golden.D_SAE, l1=golden.L1, decoder_norm="free", detach_aux_decoder=False),
    "topk": TopKConfig(d_sae=golden.D_SAE, k=golden.K),
    "batchtopk": BatchTopKConfig(d_sae=golden.D_SAE, k=golden.K),
    "jumprelu": JumpReLUConfig(
        d_sae=golden.D_SAE,
        target_l0=TARGET_L0,
        l0_weight=L0_WEIGHT,
        bandwidth=golden.BANDWIDTH,
        dead_weight=golden.DEAD_WEIGHT,
        decoder_norm="free",
    ),
}
OURS = {
    "mse_loss": "mse",
    "l1_loss": "l1",
    "l0_loss": "l0",
    "auxiliary_reconstruction_loss": "auxk",
    "pre_act_loss": "dead",
}


def same_weights(kind: str) -> SAE:
    tensors = golden.tensors(kind)
    sae = CASES[kind].from_weights(Weights(tensors["W_enc"], tensors["W_dec"], tensors["b_dec"], "tied"))
    sae.set_tensors(tensors)
    return sae


def gradients_by_name(sae: SAE, term: Tensor) -> dict[str, Tensor]:
    leaves = dict(sae.named_parameters())
    found = torch.autograd.grad(term, list(leaves.values()), retain_graph=True, allow_unused=True)
    named = {name: gradient for name, gradient in zip(leaves, found, strict=True) if gradient is not None}
    if "scaled_threshold" in named:
        # d / d threshold, where threshold = scaled_threshold * gain
        named["threshold"] = named.pop("scaled_threshold") / 8.0
    return named


@pytest.mark.parametrize("kind", CASES)
def test_losses_and_gradients_are_sae_lens_numbers(kind: str) -> None:
    assert NUMBERS["sae_lens"] == "6.54.12"
    sae, x, numbers = same_weights(kind), golden.rows(), NUMBERS["cases"][kind]
    result = sae.loss(x, x, StepState(1.0, golden.dead()))
    assert result.l0.item() == pytest.approx(numbers["l0"])
    assert result.x_hat.double().square().sum().item() == pytest.approx(numbers["x_hat_sum_sq"], rel=1e-5)
    for theirs, measured in numbers["terms"].items():
        name = "aux" if kind == "gated" and theirs == "auxiliary_reconstruction_loss" else OURS[theirs]
        term, factor = result.terms.terms[name], 1.0
        value = measured["value"]
        if name == "l0":
            # theirs is l0 itself (mode "step"); ours is a function of it
            excess = value / TARGET_L0 - 1.0
            factor = L0_WEIGHT * golden.D_IN * 2 * excess / TARGET_L0
            value = L0_WEIGHT * golden.D_IN * excess**2
        assert term.item() == pytest.approx(value, rel=1e-5), name
        ours = gradients_by_name(sae, term)
        for key, flat in measured["gradients"].items():
            if name == "auxk" and key == "b_dec" and key not in ours:
                continue
            right = factor * torch.tensor(flat).view_as(ours[key])
            atol = NUMBERS["tolerance"] * max(1.0, right.abs().max().item())
            torch.testing.assert_close(ours[key], right, rtol=NUMBERS["tolerance"], atol=atol, msg=f"{name} {key}")


@pytest.mark.saelens
@pytest.mark.parametrize("name", CONFIGS)
@pytest.mark.parametrize("bias", BIASES)
def test_sae_lens_loads_our_files_as_they_are_and_agrees(name: str, bias: str, tmp_path: Path) -> None:
    sae_lens = importlib.import_module("sae_lens")
    sae, x = build(name, bias), rows(seed=21)
    metadata = SAEMetadata(model_name="m", hook_name="blocks.1.hook_resid_post", hf_hook_name="model.layers.1")
    save_sae(sae, tmp_path, metadata=metadata)
    theirs = sae_lens.SAE.load_from_disk(str(tmp_path))
    assert theirs.cfg.metadata.hook_name == "blocks.1.hook_resid_post"
    with torch.no_grad():
        latents, x_hat = theirs.encode(x), theirs(x)
    torch.testing.assert_close(latents, sae.encode(x), rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(x_hat, sae(x), rtol=1e-5, atol=1e-5)


@pytest.mark.saelens
@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_sae_lens_loads_half_precision_files_as_float32(dtype: str, tmp_path: Path) -> None:
    sae_lens = importlib.import_module("sae_lens")
    save_sae(build("batch_topk"), tmp_path, metadata=SAEMetadata(), storage_dtype=dtype)  # pyright: ignore
    ours, x = read_sae(tmp_path).sae, rows(seed=21)
    theirs = sae_lens.SAE.load_from_disk(str(tmp_path))
    assert theirs.W_dec.dtype == torch.float32
    with torch.no_grad():
        torch.testing.assert_close(theirs(x), ours(x), rtol=1e-5, atol=1e-5)


@pytest.mark.saelens
@pytest.mark.parametrize("name", ELEMENTWISE)
def test_sae_lens_loads_our_stacks_and_agrees_with_the_sum(name: str, tmp_path: Path) -> None:
    sae_lens = importlib.import_module("sae_lens")
    general, domain, x = build("batch_topk"), build(name, "own", seed=3), rows(seed=21)
    write_stack(general, domain, tmp_path / "out", probe_x=x, metadata=SAEMetadata(model_name="m"))
    theirs = sae_lens.SAE.load_from_disk(str(tmp_path / "out"))
    assert theirs.cfg.metadata["fovea"]["blocks"][1]["start"] == general.d_sae
    with torch.no_grad():
        torch.testing.assert_close(theirs(x), general(x) + domain(x), rtol=1e-5, atol=1e-5)
        assert torch.equal(theirs.encode(x) > 0, torch.cat([general.encode(x), domain.encode(x)], dim=1) > 0)


@pytest.mark.saelens
@pytest.mark.parametrize("name", ["relu", "gated", "jumprelu", "topk"])
def test_a_sae_lens_object_becomes_ours(name: str, tmp_path: Path) -> None:
    sae_lens = importlib.import_module("sae_lens")
    sae = build(name)
    save_sae(sae, tmp_path, metadata=SAEMetadata(model_name="m", hook_name="blocks.1.hook_resid_post", context_size=64))
    loaded = from_object(sae_lens.SAE.load_from_disk(str(tmp_path)), reference="saelens:release/id")
    assert fingerprint(loaded.sae) == fingerprint(sae)
    assert (loaded.metadata.hook_name, loaded.metadata.context_size) == ("blocks.1.hook_resid_post", 64)


@pytest.mark.saelens
@pytest.mark.parametrize("name", ["relu", "gated", "jumprelu", "topk"])
def test_what_sae_lens_writes_we_read(name: str, tmp_path: Path) -> None:
    sae_lens = importlib.import_module("sae_lens")
    sae = build(name)
    save_sae(sae, tmp_path / "ours", metadata=SAEMetadata(model_name="m"))
    sae_lens.SAE.load_from_disk(str(tmp_path / "ours")).save_model(str(tmp_path / "theirs"))
    assert fingerprint(read_sae(tmp_path / "theirs").sae) == fingerprint(sae)
