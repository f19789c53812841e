"""A whole run in miniature, through the library: what the folder holds, and what it refuses."""

import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from fovea.errors import ConfigError, CorpusError, FoveaError, ModelError, RunError, SAEError
from fovea.eval.records import read_metrics
from fovea.experiment.config import ExperimentConfig, resolve
from fovea.experiment.folder import RunFolder, open_run
from fovea.experiment.prepare import calibrate, load_subject, materials
from fovea.experiment.run import run_experiment
from tests.experiment.tiny import experiment, save_corpus, save_general

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module", autouse=True)
def no_figures():
    """As without the report extra: figures have tests of their own, and take half of a miniature run."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(sys.modules, "vl_convert", None)
        yield


@pytest.fixture(scope="module")
def config(tmp_path_factory) -> ExperimentConfig:
    return resolve(experiment(tmp_path_factory.mktemp("tiny")), where="test")


@pytest.fixture(scope="module")
def run(config, tmp_path_factory) -> Path:
    """A finished run."""
    out = tmp_path_factory.mktemp("run") / "a"
    run_experiment(config, out)
    return out


def test_the_folder_keeps_the_contract(run, config):
    names = {path.name for path in run.iterdir()}
    assert {"experiment.toml", "provenance.json", "corpora", "saes", "general", "metrics.jsonl", "features"} <= names
    assert not {"checkpoints", "activations"} & names, "working files go when the run is complete"
    epochs: dict[str, float] = {}
    for job in config.job:
        assert {path.name for path in (run / "saes" / job.name).iterdir()} >= {
            "cfg.json",
            "sae_weights.safetensors",
            "job.json",
        }
        ledger = json.loads((run / "saes" / job.name / "job.json").read_text())["ledger"]
        assert ledger["n_tokens"] == 6400
        epochs[job.method.kind] = ledger["epochs"]
    assert epochs["direct"] > 1.5
    assert epochs["mix"] == pytest.approx(0.5 * epochs["direct"]), "half of its rows are general"
    assert epochs["ssae"] == pytest.approx(0.75 * epochs["direct"]), "a quarter of its rows are silenced general ones"


@pytest.mark.parametrize("method", ["mix", "ssae"])
def test_a_job_that_reads_general_rows_trains_the_same_in_other_company(run, config, tmp_path, method):
    alone = config.model_copy(update={"job": tuple(job for job in config.job if job.method.kind == method)[:1]})
    run_experiment(alone, tmp_path / "alone")
    weights = f"saes/{alone.job[0].name}/sae_weights.safetensors"
    assert (tmp_path / "alone" / weights).read_bytes() == (run / weights).read_bytes()


def test_every_job_g_and_the_controls_are_measured_on_three_parts(run, config):
    records = read_metrics(run / "metrics.jsonl")
    jobs = {job.name for job in config.job} | {"g"}
    jobs |= {f"control-{kind}-k4" for kind in ("random", "moment", "frozen_decoder")}
    parts = {("words", "heldout"), ("words", "train"), ("general", "heldout")}
    ce = {(r.job, r.corpus, r.split) for r in records if r.metric == "ce"}
    assert ce == {(job, *part) for job in jobs for part in parts}
    assert all(record.value is not None or record.reason for record in records)


def test_l0_of_an_ssae_is_the_sum_of_g_and_its_own(run):
    records = {
        (r.job, r.metric): r.value
        for r in read_metrics(run / "metrics.jsonl")
        if r.corpus == "words" and r.split == "heldout"
    }
    job = "ssae_silence0.25-batch_topk-k2-s0"
    assert records[job, "l0"] == pytest.approx(records[job, "l0_general"] + records[job, "l0_domain"])
    assert records[job, "l0_general"] == pytest.approx(records["g", "l0"])


def test_the_same_seed_gives_the_same_metrics_file_and_weights_profiled_or_not(run, config, tmp_path):
    run_experiment(config, tmp_path / "b", profile=True)
    assert not (run / "profile.json").exists()
    profile = json.loads((tmp_path / "b" / "profile.json").read_text())
    spans = {tuple(span["path"]): span for span in profile["spans"]}
    train = ("train on words",)
    assert spans[(*train, "read a batch")]["calls"] == config.n_steps
    for job in config.job:
        assert spans[(*train, job.name)]["calls"] == config.n_steps
    of_stages = sum(span["seconds"] for path, span in spans.items() if len(path) == 1)
    assert 0.9 * profile["seconds"] < of_stages <= profile["seconds"], "what no stage counts is hidden"
    trace = json.loads((tmp_path / "b" / "profile-trace.json").read_text())
    names = [event.get("name") for event in trace["traceEvents"]]
    assert names.count("aten::mm") > 0
    assert {config.job[0].name, "g(x)"} <= set(names)
    assert (tmp_path / "b" / "metrics.jsonl").read_bytes() == (run / "metrics.jsonl").read_bytes()
    for job in config.job:
        weights = [
            load_file(folder / "saes" / job.name / "sae_weights.safetensors") for folder in (run, tmp_path / "b")
        ]
        torch.testing.assert_close(*weights, rtol=0, atol=0)


def test_a_finished_run_resumes_to_itself(run, config):
    before = (run / "metrics.jsonl").read_bytes()
    run_experiment(config, run, resume=True)
    assert (run / "metrics.jsonl").read_bytes() == before


def test_the_sample_that_the_filter_is_measured_on_is_the_calibration_of_its_corpus(run, config, tmp_path):
    folder = tmp_path / "copy"
    shutil.copytree(run, folder)
    measured = load_file(folder / "calibration" / "general.safetensors")["rows"]
    (folder / "calibration" / "general.safetensors").unlink()
    copied, subject = RunFolder(folder), load_subject(config)
    again = calibrate(copied, materials(config, copied, subject)["general"].train)
    torch.testing.assert_close(again.rows, measured, rtol=0, atol=0)


def test_a_folder_that_holds_another_run_is_refused_and_kept(run, config, tmp_path):
    before = (run / "metrics.jsonl").read_bytes()
    with pytest.raises(RunError, match="add --resume"):
        run_experiment(config, run)
    other = config.model_copy(update={"seed": 5})
    with pytest.raises(RunError, match="another experiment.*seed"):
        run_experiment(other, run, resume=True)
    (tmp_path / "notes.txt").write_text("mine")
    with pytest.raises(RunError, match="not a run"):
        run_experiment(config, tmp_path, resume=True)
    assert (run / "metrics.jsonl").read_bytes() == before


def test_two_processes_cannot_work_in_one_folder(config, tmp_path):
    from fovea.experiment.folder import open_run
    from fovea.experiment.sharing import settle
    from fovea.ranks import ALONE

    config = settle(config, tmp_path / "run", ALONE)
    with open_run(tmp_path / "run", config, resume=False), pytest.raises(RunError, match="another process"):
        run_experiment(config, tmp_path / "run", resume=True)


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ({"lm": {"hook_point": "blocks.9.hook_resid_post"}}, ModelError, "layers"),
        ({"lm": {"hook_point": "somewhere"}}, ModelError, "somewhere"),
        ({"lm": {"hook_point": "blocks.0.hook_resid_post"}}, SAEError, "hook"),
        ({"domain": [{"name": "d", "corpus": "empty.txt"}]}, CorpusError, "no text"),
        ({"domain": [{"name": "d", "corpus": "short.txt"}]}, CorpusError, "less than one context"),
        ({"domain": [{"name": "d", "corpus": "latin.txt"}]}, CorpusError, "UTF-8"),
        ({"domain": [{"name": "d", "corpus": "absent.txt"}]}, CorpusError, "does not exist"),
        ({"domain": [{"name": "d", "corpus": "general.jsonl"}]}, CorpusError, "identical to general"),
        ({"general": {"corpus": "general.jsonl", "sae": "wide"}}, SAEError, "width|d_in"),
        ({"general": {"corpus": "general.jsonl", "sae": "nan"}}, SAEError, "NaN"),
        ({"general": {"corpus": "general.jsonl", "sae": "nowhere"}}, FoveaError, "nowhere"),
        (
            {"job": [{"method": {"kind": "direct"}, "sae": {"kind": "batch_topk", "d_sae": 8, "k": 9}}]},
            ConfigError,
            "k = 9.*8",
        ),
    ],
)
def test_bad_input_is_one_clear_error(tmp_path, monkeypatch, change, error, message):
    tables = experiment(tmp_path)
    (tmp_path / "empty.txt").write_text("  \n")
    (tmp_path / "short.txt").write_text("w3 w4")
    (tmp_path / "latin.txt").write_bytes(b"caf\xe9 " * 100)
    save_general(tmp_path / "wide", d_in=32, model=str(tmp_path / "lm"))
    save_general(tmp_path / "nan", model=str(tmp_path / "lm"))
    _poison(tmp_path / "nan" / "sae_weights.safetensors")
    monkeypatch.chdir(tmp_path)
    merged = {name: {**tables[name], **value} if name == "lm" else value for name, value in change.items()}
    with pytest.raises(error, match=message):
        run_experiment(resolve({**tables, **merged}, where="test"), tmp_path / "out")


def test_a_document_of_many_megabytes_on_one_line_is_read(tmp_path):
    tables = experiment(tmp_path)
    save_corpus(tmp_path / "domain.jsonl", words=range(3, 40), seed=1)
    with (tmp_path / "domain.jsonl").open("a") as file:
        file.write(json.dumps({"text": "w5 w6 w7 " * 600_000}) + "\n")
    tables["domain"][0]["max_train_tokens"] = 20_000
    tables["job"] = tables["job"][-1:]
    run_experiment(resolve(tables, where="test"), tmp_path / "out")
    assert (tmp_path / "out" / "metrics.jsonl").exists()


def _poison(path: Path) -> None:
    from safetensors.torch import save_file

    tensors = load_file(path)
    tensors["W_enc"][0, 0] = float("nan")
    save_file(tensors, path)


_UNDER_A_QUOTA = """
import pathlib, resource, signal, sys
from fovea.experiment.config import load_experiment
from fovea.experiment.run import run_experiment
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (12_000, 12_000))
run_experiment(load_experiment(pathlib.Path(sys.argv[1])), pathlib.Path(sys.argv[2]))
"""


def test_a_full_disk_is_said_and_leaves_nothing_half_written(config, tmp_path):
    """The quota is real: no file of the process may grow beyond 12 kB."""
    config = config.model_copy(update={"job": config.job[:1]})
    (tmp_path / "e.toml").write_text(config.to_toml())
    command = [sys.executable, "-c", _UNDER_A_QUOTA, str(tmp_path / "e.toml"), str(tmp_path / "out")]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode != 0
    assert "File too large" in done.stderr
    assert not list((tmp_path / "out").rglob("*.partial"))
    run_experiment(config, tmp_path / "out", resume=True)
    assert (tmp_path / "out" / "metrics.jsonl").exists()


def test_a_general_sae_that_names_another_lm_is_warned_of(config, tmp_path, caplog):
    save_general(tmp_path / "g", model="gpt2-small")
    general = config.general.model_copy(update={"sae": str(tmp_path / "g")})
    load_subject(config.model_copy(update={"general": general}))
    assert "trained on 'gpt2-small'" in caplog.text
    caplog.clear()
    load_subject(config)
    assert "trained on" not in caplog.text


def test_after_a_mistake_the_corrected_command_runs_in_the_same_folder(config, tmp_path):
    wrong = config.model_copy(update={"lm": config.lm.model_copy(update={"hook_point": "blocks.99.hook_resid_post"})})
    with pytest.raises(ModelError, match="layer"):
        run_experiment(wrong, tmp_path / "out")
    with open_run(tmp_path / "out", config, resume=False) as folder:
        assert folder.experiment.read_text() == config.to_toml()


def test_k_above_the_width_is_refused_before_anything_is_tokenised(config, tmp_path):
    sae = config.job[0].sae.model_copy(update={"k": 5000})
    wrong = config.model_copy(update={"job": (config.job[0].model_copy(update={"sae": sae}),)})
    with pytest.raises(ConfigError, match=r"direct-batch_topk-k5000-s0'.*between 1 and its 48 latents"):
        run_experiment(wrong, tmp_path / "out")
    assert not (tmp_path / "out" / "corpora").exists()
