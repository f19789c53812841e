"""g and a domain SAE as one: exact, or refused."""

import itertools
import json
from pathlib import Path

import pytest
import torch

from fovea.errors import SAEError
from fovea.sae.base import SAE
from fovea.sae.files import SAEMetadata, fingerprint, read_sae
from fovea.sae.folding import fold_scale
from fovea.sae.formats.writers import write_stack
from fovea.sae.jumprelu import JumpReLUSAE
from fovea.sae.stack import MAX_RELATIVE_ERROR, stack, verify_stack
from fovea.sae.topk import TopKConfig
from tests.sae.cases import BIASES, D_IN, D_SAE, build, generator, rows

KINDS = ["relu", "jumprelu", "gated", "batch_topk"]
PROBE = rows(500, seed=11)


def residual_sae(general: SAE, name: str, *, scale_in: float = 0.3, scale_out: float = 4.0) -> SAE:
    """An SSAE as training makes it: g's pre-bias, no output bias, scales of its own, folded at the end."""
    raw = general.input_bias()
    config = build(name).config  # pyright: ignore
    sae = config.build(D_IN, generator=generator(5), pre_bias=raw * scale_in, output_bias=False)
    with torch.no_grad():
        for key, parameter in sae.named_parameters():
            if key not in ("W_enc", "W_dec"):
                parameter.add_(0.1 * torch.randn(parameter.shape, generator=generator(6)).abs())
    return fold_scale(sae, scale_in=scale_in, scale_out=scale_out, pre_bias=raw)


@pytest.mark.parametrize(("first", "second"), list(itertools.product(KINDS, KINDS)))
@pytest.mark.parametrize(
    "biases", ["tied-own", "tied-tied", "tied-none", "none-none", "none-tied", "own-own", "own-tied"]
)
def test_a_stack_of_elementwise_saes_is_the_sum_of_both(first: str, second: str, biases: str) -> None:
    here, there = biases.split("-")
    general, domain = build(first, here), build(second, there, seed=3)
    check = verify_stack(general, domain, stack(general, domain), probe_x=PROBE)
    assert check.max_relative_error < MAX_RELATIVE_ERROR
    assert check.n_flips == 0
    assert check.n_ties <= 2


@pytest.mark.parametrize(("first", "second"), list(itertools.product(KINDS, ["batch_topk", "gated"])))
def test_a_residual_sae_with_gs_pre_bias_stacks_by_concatenation(first: str, second: str) -> None:
    general = fold_scale(build(first), scale_in=0.3, scale_out=0.3)
    domain = residual_sae(general, second)
    stacked = stack(general, domain)
    assert stacked.pre_bias_is_tied
    assert torch.equal(stacked.b_dec, general.b_dec)
    parts = [general.elementwise(), domain.elementwise()]
    for name in ("W_enc", "b_enc", "threshold"):
        joined = torch.cat([getattr(part, name) for part in parts], dim=-1)
        assert torch.equal(stacked.tensors()[name], joined), name
    verify_stack(general, domain, stacked, probe_x=PROBE)


def test_each_block_keeps_its_own_threshold_and_place() -> None:
    general, domain = build("batch_topk"), build("batch_topk", "own", seed=3)
    stacked = stack(general, domain)
    assert isinstance(stacked, JumpReLUSAE)
    assert stacked.d_sae == 2 * D_SAE
    threshold = stacked.threshold
    assert threshold[:D_SAE].unique().item() != threshold[D_SAE:].unique().item()
    assert torch.equal(stacked.W_dec[:D_SAE], general.W_dec)


def test_a_large_mean_does_not_break_a_stack_with_a_shared_pre_bias() -> None:
    x = PROBE * 3 + 400.0
    general = build("jumprelu")
    general.set_output_bias(x.mean(dim=0))
    domain = residual_sae(general, "batch_topk")
    assert verify_stack(general, domain, stack(general, domain), probe_x=x).max_relative_error < 1e-6


def test_a_stack_that_is_not_the_sum_is_caught() -> None:
    general, domain = build("relu"), build("relu", "own", seed=3)
    right = stack(general, domain)
    for name, nudge in (("W_dec", 1e-2), ("threshold", 0.5), ("b_enc", 1e-2)):
        wrong = stack(general, domain)
        wrong.set_tensors({name: right.tensors()[name] + nudge})
        with pytest.raises(SAEError, match="the stack is not the sum of its blocks"):
            verify_stack(general, domain, wrong, probe_x=PROBE)


def test_not_a_number_is_caught_too() -> None:
    general, domain = build("relu"), build("relu", "own", seed=3)
    wrong = stack(general, domain)
    wrong.set_tensors({"W_dec": torch.full_like(wrong.W_dec, float("nan"))})
    with pytest.raises(SAEError, match="the stack is not the sum"):
        verify_stack(general, domain, wrong, probe_x=PROBE)


def test_widths_must_agree() -> None:
    other = TopKConfig(d_sae=8, k=2).build(D_IN + 1, generator=generator())
    with pytest.raises(SAEError, match="reads width 12 and the domain SAE width 13"):
        stack(build("relu"), other)


@pytest.mark.parametrize("bias", BIASES)
def test_a_written_stack_names_its_blocks_and_reads_back_exactly(bias: str, tmp_path: Path) -> None:
    general, domain = build("batch_topk"), build("gated", bias, seed=3)
    metadata = SAEMetadata(hook_name="blocks.1.hook_resid_post", fovea={"job": "ssae-gated-l1_4-s0"})
    check, _ = write_stack(general, domain, tmp_path / "out", probe_x=PROBE, metadata=metadata)
    assert check.n_tokens == 500
    loaded = read_sae(tmp_path / "out")
    verify_stack(general, domain, loaded.sae, probe_x=PROBE)
    assert loaded.metadata.fovea == {
        "job": "ssae-gated-l1_4-s0",
        "blocks": [
            {"name": "general", "start": 0, "stop": D_SAE, "sha256": fingerprint(general)},
            {"name": "ssae-gated-l1_4-s0", "start": D_SAE, "stop": 2 * D_SAE, "sha256": fingerprint(domain)},
        ],
    }
    assert json.loads((tmp_path / "out" / "cfg.json").read_text())["architecture"] == "jumprelu"


def test_a_stack_that_fails_its_check_leaves_no_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    general, domain = build("relu"), build("batch_topk", seed=3)
    wrong = stack(general, domain)
    wrong.set_tensors({"W_dec": wrong.W_dec + 1e-2})
    monkeypatch.setattr("fovea.sae.formats.writers.stack", lambda *_: wrong)
    with pytest.raises(SAEError, match="the stack is not the sum of its blocks"):
        write_stack(general, domain, tmp_path / "a", probe_x=PROBE, metadata=SAEMetadata())
    assert list(tmp_path.iterdir()) == []
