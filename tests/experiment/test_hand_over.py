"""What leaves a run: the Python interface, `show` and `export`."""

import re
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

import fovea
from fovea.errors import ConfigError, RunError, SAEError
from fovea.experiment.config import resolve
from fovea.experiment.export import export_job
from fovea.experiment.prepare import Subject, warn_if_misread
from fovea.experiment.run import run_experiment
from fovea.lm.hookpoint import HookPoint
from fovea.lm.load import load_lm
from fovea.sae.files import read_sae
from fovea.sae.show import describe
from tests.experiment.tiny import HOOK_POINT, experiment

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module", autouse=True)
def no_figures():
    """As without the report extra: figures have tests of their own, and take half of a miniature run."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(sys.modules, "vl_convert", None)
        yield


SSAE, DIRECT = "ssae_silence0.25-batch_topk-k2-s0", "direct-batch_topk-k4-s0"


@pytest.fixture(scope="module")
def run(tmp_path_factory) -> Path:
    """A finished run."""
    folder = tmp_path_factory.mktemp("tiny")
    run_experiment(resolve(experiment(folder), where="test"), folder / "run")
    return folder / "run"


def probe(run: Path) -> torch.Tensor:
    return load_file(run / "calibration" / "words.safetensors")["rows"]


def test_a_run_says_whether_g_rebuilds_general_text(run: Path) -> None:
    told = [line for line in (run / "log.jsonl").read_text().splitlines() if "general SAE" in line]
    assert any(re.search(r"general SAE: FVU \d\.\d{3} on general text", line) for line in told)


def test_a_general_sae_that_rebuilds_nothing_is_warned_of(run: Path, caplog: pytest.LogCaptureFixture) -> None:
    loaded = fovea.load_run(run).general()
    loaded.sae.set_tensors({"W_dec": -loaded.sae.W_dec})
    lm = load_lm(fovea.load_run(run).config.lm.model)
    subject = Subject(lm, HookPoint.parse(HOOK_POINT), loaded, None)
    warn_if_misread(subject, probe(run))
    assert "of the variance of x unexplained" in caplog.text
    caplog.clear()
    warn_if_misread(subject._replace(general=None), probe(run))
    assert not caplog.text
    loaded.sae.set_tensors({"W_dec": torch.full_like(loaded.sae.W_dec, 3e38)})
    with pytest.raises(SAEError, match="gives NaN or infinite numbers on general text"):
        warn_if_misread(subject, probe(run))


@pytest.mark.parametrize("layout", ["dictionary_learning", "saelens"])
def test_a_stack_is_exported_in_other_layouts(run: Path, layout: str, tmp_path: Path) -> None:
    told = export_job(run, SSAE, tmp_path / "stack", layout=layout, stack=True)
    assert "0 flipped latents" in told
    general, domain = fovea.load_run(run).general().sae, fovea.load_run(run).sae(SSAE).sae
    one = fovea.load_sae(str(tmp_path / "stack")).sae
    torch.testing.assert_close(one(probe(run)), general(probe(run)) + domain(probe(run)), rtol=1e-4, atol=1e-4)


def test_an_sae_that_a_layout_cannot_hold_is_refused(run: Path, tmp_path: Path) -> None:
    with pytest.raises(SAEError, match="sparsify holds topk SAEs"):
        export_job(run, DIRECT, tmp_path / "out", layout="sparsify")
    assert not (tmp_path / "out").exists()


def test_a_run_gives_its_metrics_as_a_data_frame(run):
    frame = fovea.load_run(run).metrics()
    assert set(frame["split"]) == {"train", "heldout"}
    assert len(frame.query("metric == 'ce' and job == 'g'")) == 3


def test_a_run_gives_its_saes_and_refuses_others_by_name(run):
    loaded = fovea.load_run(run)
    assert SSAE in loaded.jobs
    assert loaded.sae(SSAE).sae.d_sae == 2 * loaded.general().sae.d_in
    with pytest.raises(RunError, match="has no job 'x'; it has:"):
        loaded.sae("x")


def test_text_is_encoded_at_the_hook_point_that_the_file_names(run):
    lm = fovea.load_lm(fovea.load_run(run).config.lm.model)
    sae = fovea.load_sae(str(run / "saes" / DIRECT))
    encoding = fovea.encode_text(lm, sae, "w5 w6 w7 w8")
    assert len(encoding.tokens) == 4
    assert encoding.latents.shape == (4, sae.sae.d_sae)
    assert not encoding.is_massive.any()


def test_an_attention_sink_is_marked_and_its_latents_are_left_out(run):
    lm = fovea.load_lm(fovea.load_run(run).config.lm.model)
    with torch.no_grad():
        lm.model.get_input_embeddings().weight[5] *= 1000
    encoding = fovea.encode_text(lm, fovea.load_sae(str(run / "saes" / DIRECT)), "w5 w6 w7 w8")
    assert encoding.is_massive.tolist() == [bool(encoding.is_massive[0]), False, False, False]
    assert encoding.is_massive[0]
    assert not encoding.latents[0].any()
    assert encoding.latents[1:].any()


def test_patching_a_job_changes_the_model_and_leaving_puts_it_back(run):
    loaded = fovea.load_run(run)
    lm = fovea.load_lm(loaded.config.lm.model)
    ids = torch.tensor([[5, 6, 7, 8, 9, 10]])
    before = lm.model(ids).logits
    with loaded.patched(lm, SSAE):
        inside = lm.model(ids).logits
    assert not torch.allclose(before, inside)
    torch.testing.assert_close(lm.model(ids).logits, before, rtol=0, atol=0)


def test_show_says_where_an_sae_belongs(run):
    told = describe(str(run / "saes" / DIRECT))
    for part in ("jumprelu, trained as batch_topk", HOOK_POINT, "d_sae", "sha256", DIRECT):
        assert part in told


def test_the_exported_stack_is_g_plus_the_job_exactly(run, tmp_path):
    told = export_job(run, SSAE, tmp_path / "stack", stack=True)
    error, flips = re.search(r"relative error (\S+), (\d+) flipped", told).groups()
    assert float(error) < 1e-5
    assert flips == "0"
    x = probe(run)
    general, own = read_sae(run / "general").sae, read_sae(run / "saes" / SSAE).sae
    torch.testing.assert_close(read_sae(tmp_path / "stack").sae(x), general(x) + own(x), rtol=1e-5, atol=1e-5)


def test_an_exported_job_computes_what_the_run_has(run, tmp_path):
    export_job(run, DIRECT, tmp_path / "one")
    x = probe(run)
    written, own = read_sae(tmp_path / "one").sae, read_sae(run / "saes" / DIRECT).sae
    torch.testing.assert_close(written(x), own(x), rtol=0, atol=0)


@pytest.mark.saelens
def test_sae_lens_loads_the_stack_and_agrees(run, tmp_path):
    from sae_lens import SAE

    export_job(run, SSAE, tmp_path / "stack", stack=True)
    theirs = SAE.load_from_disk(str(tmp_path / "stack"), device="cpu")
    x = probe(run)
    torch.testing.assert_close(theirs(x), read_sae(tmp_path / "stack").sae(x), rtol=1e-5, atol=1e-5)


def test_what_cannot_be_exported_is_said(run, tmp_path):
    with pytest.raises(ConfigError, match="leave --stack out"):
        export_job(run, DIRECT, tmp_path / "a", stack=True)
    with pytest.raises(ConfigError, match="allowed: saelens"):
        export_job(run, DIRECT, tmp_path / "b", layout="pickle")
    with pytest.raises(RunError, match="has no job 'nobody'"):
        export_job(run, "nobody", tmp_path / "c")
    (tmp_path / "d").mkdir()
    with pytest.raises(RunError, match="exists"):
        export_job(run, DIRECT, tmp_path / "d")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["d"]
