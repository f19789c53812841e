"""Raw units and back: the function stays, the units change."""

import pytest
import torch

from fovea.errors import SAEError
from fovea.sae.files import fingerprint
from fovea.sae.folding import fold_scale, unfold_scale
from fovea.sae.topk import TopKSAE
from tests.sae.cases import BIASES, CONFIGS, build, rows

UNTIED = [bias for bias in BIASES if bias != "tied"]


@pytest.mark.parametrize("name", CONFIGS)
@pytest.mark.parametrize(("bias", "scale_out"), [("tied", 0.37), *[(bias, 5.1) for bias in UNTIED]])
def test_the_folded_sae_rebuilds_the_raw_target_from_raw_x(name: str, bias: str, scale_out: float) -> None:
    sae, x, scale_in = build(name, bias), rows(), 0.37
    folded = fold_scale(sae, scale_in=scale_in, scale_out=scale_out)
    right = sae(x * scale_in) / scale_out
    torch.testing.assert_close(folded(x), right, rtol=1e-5, atol=1e-5 * right.abs().max().item())
    assert torch.equal(folded.encode(x) > 0, sae.encode(x * scale_in) > 0)


@pytest.mark.parametrize("name", sorted(CONFIGS.keys() - {"topk"}))
def test_folded_decoder_rows_have_length_1(name: str) -> None:
    folded = fold_scale(build(name, "own"), scale_in=0.4, scale_out=7.0)
    torch.testing.assert_close(folded.W_dec.norm(dim=1), torch.ones(folded.d_sae))


def test_folding_a_topk_multiplies_all_latents_by_one_number_so_their_ranks_stay() -> None:
    sae = build("topk", "own")
    with torch.no_grad():
        sae.W_dec.mul_(torch.rand(sae.d_sae, 1) + 0.5)
    folded = fold_scale(sae, scale_in=0.4, scale_out=7.0)
    assert isinstance(folded, TopKSAE)
    torch.testing.assert_close(folded.W_dec, sae.W_dec.detach())
    torch.testing.assert_close(folded.encode(rows()), sae.encode(rows() * 0.4) / 7.0, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("name", CONFIGS)
@pytest.mark.parametrize("bias", BIASES)
def test_unfolding_undoes_folding(name: str, bias: str) -> None:
    raw = fold_scale(build(name, bias), scale_in=0.5, scale_out=0.5)
    again = fold_scale(unfold_scale(raw, scale_in=0.3, scale_out=0.3), scale_in=0.3, scale_out=0.3)
    torch.testing.assert_close(dict(again.state_dict()), dict(raw.state_dict()), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("name", CONFIGS)
def test_folding_changes_a_copy(name: str) -> None:
    sae = build(name)
    before = fingerprint(sae)
    fold_scale(sae, scale_in=0.4, scale_out=0.4)
    assert fingerprint(sae) == before
    assert all(parameter.requires_grad for parameter in sae.parameters())


def test_rows_of_length_0_stay() -> None:
    sae = build("relu", "own")
    with torch.no_grad():
        sae.W_dec[3] = 0.0
    folded = fold_scale(sae, scale_in=0.4, scale_out=2.0)
    assert not folded.W_dec[3].any()
    assert all(tensor.isfinite().all() for tensor in folded.state_dict().values())
    torch.testing.assert_close(folded(rows()), sae(rows() * 0.4) / 2.0, rtol=1e-5, atol=1e-5)


def test_the_raw_pre_bias_can_be_kept_to_the_bit() -> None:
    raw = torch.randn(12, generator=torch.Generator().manual_seed(0)) * 100
    scale = 0.123
    sae = CONFIGS["batch_topk"].build(12, generator=torch.Generator(), pre_bias=raw * scale, output_bias=False)
    folded = fold_scale(sae, scale_in=scale, scale_out=2.0, pre_bias=raw)
    assert torch.equal(folded.input_bias(), raw)


def test_a_tied_pre_bias_has_one_scale() -> None:
    with pytest.raises(SAEError, match=r"scale_in = 0.5 differs from scale_out = 2.0.*tied"):
        fold_scale(build("relu"), scale_in=0.5, scale_out=2.0)


@pytest.mark.parametrize("scale", [0.0, -1.0, float("nan")])
def test_scales_are_positive(scale: float) -> None:
    for change in (fold_scale, unfold_scale):
        with pytest.raises(SAEError, match="must both be above 0"):
            change(build("relu"), scale_in=scale, scale_out=1.0)
