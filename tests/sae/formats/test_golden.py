"""SAEs of other libraries, as those libraries wrote them, compute here what they compute there."""

import json
from pathlib import Path

import pytest
import torch

from fovea.errors import SAEError
from fovea.sae.frozen import FrozenSAE
from fovea.sae.show import describe
from tests.sae.formats.golden import CASES, FOLDER, READ, REFUSED, X, difference, load, path_of

TOLERANCE = 2e-6
"Relative, float32: the order of sums and of one or two products differs."

MADE_BY = {
    "dictionary_learning": "0.1.0",
    "llamascopium": "2.0.0b34",
    "openai": "764586a",
    "sae_lens": "6.54.12",
    "sparsify": "1.3.3",
}


def test_the_golden_files_are_of_the_versions_that_the_documents_name() -> None:
    versions = json.loads((FOLDER / "versions.json").read_text())
    assert {name: each["version"] for name, each in versions.items()} == MADE_BY
    assert len(CASES) > 60
    assert {case.partition("/")[0] for case in CASES} == MADE_BY.keys()


@pytest.mark.parametrize("case", READ)
def test_no_latent_flips_and_all_values_agree(case: str) -> None:
    found = difference(case)
    assert found.n_flips == 0
    assert found.latents < TOLERANCE
    assert found.x_hat < TOLERANCE


@pytest.mark.parametrize("case", READ)
def test_as_g_it_rebuilds_the_same(case: str) -> None:
    sae = load(case).sae
    with torch.no_grad():
        torch.testing.assert_close(FrozenSAE(sae).reconstruct(X), sae(X), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("case", REFUSED)
def test_what_is_no_sae_here_is_refused_with_the_reason(case: str) -> None:
    with pytest.raises(SAEError, match=REFUSED[case]):
        load(case)


@pytest.mark.parametrize(
    ("case", "model", "hook_point", "context_size"),
    [
        ("sae_lens/v6-topk", "EleutherAI/pythia-70m", "blocks.3.hook_resid_post", 128),
        ("sae_lens/v3-standard", "EleutherAI/pythia-70m", "blocks.3.hook_resid_post", 128),
        ("sae_lens/gemma_scope_1", "google/gemma-2-2b", "blocks.20.hook_resid_post", 1024),
        ("sae_lens/gemma_scope_2", "google/gemma-3-270m", "blocks.12.hook_resid_post", 1024),
        ("sae_lens/llama_scope", None, "blocks.15.hook_resid_post", None),
        ("dictionary_learning/BatchTopKSAE", "EleutherAI/pythia-70m", "blocks.3.hook_resid_post", 128),
        ("sparsify/layers.3", "EleutherAI/pythia-70m", "blocks.3.hook_resid_post", 128),
        ("sparsify/h.3.mlp", "EleutherAI/pythia-70m", "blocks.3.hook_mlp_out", 128),
        ("llamascopium/relu-inference", None, "blocks.3.hook_resid_post", None),
        ("openai/TopK", "openai-community/gpt2", "blocks.6.hook_resid_post", 64),
    ],
)
def test_model_and_hook_point_are_said_in_our_spelling(
    case: str, model: str | None, hook_point: str, context_size: int | None
) -> None:
    metadata = load(case).metadata
    assert (metadata.model_name, metadata.hook_name, metadata.context_size) == (model, hook_point, context_size)


@pytest.mark.parametrize(
    ("case", "said"),
    [
        ("sae_lens/v5-gated", "the layout of SAELens before 6 is read as version 6 does"),
        ("sae_lens/v6-topk-rescaled", "latents are ranked by decoder lengths"),
        ("sae_lens/checkpoint-batchtopk", "its one threshold 0.8 is repeated for every latent"),
        ("sae_lens/gemma_scope_1", "lm and hook point are taken from the path"),
        ("sae_lens/llama_scope", "x was multiplied by 0.37 in training"),
        ("dictionary_learning/AutoEncoder", "latents are measured along decoder rows of length 1"),
        ("dictionary_learning/BatchTopKSAE-no_threshold", "its threshold is -1: none was measured"),
        ("dictionary_learning/MatryoshkaBatchTopKSAE", "all groups of latents are active"),
        ("llamascopium/jumprelu-dataset-wise-by_length", "thresholds were divided by the lengths of decoder rows"),
        ("openai/TopK", "every token is brought to mean 0 and deviation 1"),
    ],
)
def test_what_was_converted_is_said(case: str, said: str) -> None:
    assert any(said in note for note in load(case).metadata.fovea["converted"])
    assert str(path_of(case)) == load(case).reference


def test_show_says_the_conventions_and_what_was_converted() -> None:
    said = describe(str(path_of("openai/TopK")))
    assert "input scale          every token to mean 0 and deviation 1, and back (layer_norm)" in said
    assert "converted 1          every token is brought to mean 0" in said
    assert "layout               openai" in said
    assert "layout" not in describe(str(path_of("sae_lens/v6-standard")))


def test_show_survives_metadata_of_any_shape(tmp_path: Path) -> None:
    for path in path_of("sae_lens/v6-standard").iterdir():
        (tmp_path / path.name).write_bytes(path.read_bytes())
    cfg = json.loads((tmp_path / "cfg.json").read_text())
    cfg["metadata"]["fovea"] = {"blocks": [3, {"stop": "x"}, {"stop": 3}], "converted": 4}
    (tmp_path / "cfg.json").write_text(json.dumps(cfg))
    assert "latents None to 2  " in describe(str(tmp_path))
