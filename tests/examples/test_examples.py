"""The examples, each as its reader would run it: in a process of its own, on a miniature run."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

import fovea
from fovea.data.tokens import PackedTokens
from fovea.experiment.config import resolve
from fovea.experiment.run import run_experiment
from fovea.lm.hookpoint import HookPoint
from fovea.lm.load import load_lm
from tests.experiment.tiny import HOOK_POINT, experiment
from tests.house import ROOT

pytestmark = pytest.mark.slow

SSAE, BATCH_TOPK, TOPK = "ssae_silence0.25-batch_topk-k2-s0", "direct-batch_topk-k4-s0", "mix0.5-topk-k4-s0"
SAME = "flipped latents                 0"
"What handover.compare prints of two codings that agree; it ends the example otherwise."


@pytest.fixture(scope="module", autouse=True)
def no_figures():
    """As without the report extra: figures have tests of their own, and take half of a miniature run."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(sys.modules, "vl_convert", None)
        yield


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished run."""
    folder = tmp_path_factory.mktemp("examples")
    run_experiment(resolve(experiment(folder), where="test"), folder / "run")
    return folder / "run"


def example(name: str, run: Path, job: str, out: Path) -> str:
    """What an example prints; it must end well."""
    command = [sys.executable, str(ROOT / "examples" / f"{name}.py"), str(run), job, str(out)]
    environment = {**os.environ, "TQDM_DISABLE": "1"}
    done = subprocess.run(command, check=False, capture_output=True, text=True, env=environment)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.mark.parametrize("job", [BATCH_TOPK, SSAE])
def test_five_lines_of_plain_hooks_patch_as_the_run_does(run: Path, job: str, tmp_path: Path) -> None:
    told = example("plain_hooks", run, job, tmp_path)
    assert "logits against run.patched: largest difference" in told
    assert (tmp_path / "sae" / "sae_weights.safetensors").exists()


def test_delphis_cache_holds_every_firing_in_its_types(run: Path, tmp_path: Path) -> None:
    example("delphi_cache", run, BATCH_TOPK, tmp_path)
    sae = fovea.load_run(run).sae(BATCH_TOPK).sae
    lm = load_lm(fovea.load_run(run).config.lm.model, dtype="float32")
    packed = PackedTokens(run / "corpora" / "words", "heldout")
    tokens = packed.batch(range(min(32, packed.n_contexts))).tokens
    latents = sae.encode(lm.activations(tokens, HookPoint.parse(HOOK_POINT))).detach()
    folder = tmp_path / "latents" / HookPoint.parse(HOOK_POINT).hugging_face()
    read = torch.zeros_like(latents)
    for path in folder.glob("*.safetensors"):
        part = load_file(path)
        assert {name: tensor.dtype for name, tensor in part.items()} == {
            "locations": torch.uint16,
            "activations": torch.float16,
            "tokens": torch.int64,
        }
        torch.testing.assert_close(part["tokens"], tokens)
        context, position, latent = part["locations"].long().T
        first, last = (int(edge) for edge in path.stem.split("_"))
        assert int(latent.max()) <= last - first
        read[context, position, latent + first] = part["activations"].float()
    torch.testing.assert_close(read, latents, rtol=1e-3, atol=1e-3)
    config = json.loads((folder / "config.json").read_text())
    assert (config["cache_ctx_len"], config["n_tokens"]) == (tokens.shape[1], tokens.numel())


def test_delphis_explanations_are_strings_named_after_their_latent(run: Path, tmp_path: Path) -> None:
    example("delphi_cache", run, BATCH_TOPK, tmp_path)
    paths = list((tmp_path / "explanations").iterdir())
    assert len(paths) == 20
    for path in paths:
        assert path.name.removesuffix(".txt").rpartition("_latent")[2].isdigit()
        assert json.loads(path.read_text()).startswith(("Fires most on 'w", "Fires most on '<"))


@pytest.mark.delphi
@pytest.mark.parametrize("job", [BATCH_TOPK, SSAE])
def test_delphi_reads_its_cache(run: Path, job: str, tmp_path: Path) -> None:
    assert "firings: 0 differ" in example("delphi_cache", run, job, tmp_path)


@pytest.mark.nnsight
@pytest.mark.parametrize("job", [BATCH_TOPK, SSAE])
def test_five_lines_of_nnsight_patch_as_the_run_does(run: Path, job: str, tmp_path: Path) -> None:
    assert "logits against run.patched: largest difference" in example("nnsight_patch", run, job, tmp_path)


@pytest.mark.saelens
@pytest.mark.parametrize("job", [TOPK, BATCH_TOPK, SSAE])
def test_sae_lens_computes_the_same(run: Path, job: str, tmp_path: Path) -> None:
    assert SAME in example("sae_lens_load", run, job, tmp_path)


@pytest.mark.sparsify
def test_sparsify_computes_the_same(run: Path, tmp_path: Path) -> None:
    assert SAME in example("sparsify_load", run, TOPK, tmp_path)


@pytest.mark.dictionary_learning
@pytest.mark.parametrize("job", [TOPK, BATCH_TOPK, SSAE])
def test_dictionary_learning_computes_the_same(run: Path, job: str, tmp_path: Path) -> None:
    assert SAME in example("dictionary_learning_load", run, job, tmp_path)


@pytest.mark.sae_bench
@pytest.mark.parametrize("job", [BATCH_TOPK, SSAE])
def test_saebench_counts_what_we_count(run: Path, job: str, tmp_path: Path) -> None:
    assert "ce_loss_with_sae" in example("saebench_core", run, job, tmp_path)
    assert json.loads((tmp_path / "core.json").read_text())["eval_result_metrics"]["sparsity"]["l0"] > 0


@pytest.mark.sae_probes
def test_sae_probes_probes_our_latents(run: Path, tmp_path: Path) -> None:
    told = example("sae_probes_task", run, BATCH_TOPK, tmp_path)
    assert SAME in told
    assert "probe on 16 latents: test AUC" in told


@pytest.mark.sae_dashboard
@pytest.mark.parametrize("job", [BATCH_TOPK, SSAE])
def test_sae_dashboard_shows_our_activations(run: Path, job: str, tmp_path: Path) -> None:
    assert "8 features; largest relative difference" in example("sae_dashboard_page", run, job, tmp_path)
    assert "DASHBOARD_DATA" in (tmp_path / "features.html").read_text()
