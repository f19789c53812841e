"""Jobs that diverge, through whole runs: what the folder, the report and the messages say, and what goes on."""

import json
import sys
from pathlib import Path

import pytest

from fovea.errors import RunError, StudyError
from fovea.eval.records import read_metrics
from fovea.experiment.config import ExperimentConfig, resolve
from fovea.experiment.export import export_job
from fovea.experiment.general import train_general
from fovea.experiment.run import run_experiment
from fovea.features.files import read_manifest
from fovea.rating.config import study_config
from fovea.rating.study import create
from fovea.report.finding import finding, verdict
from fovea.report.results import results
from fovea.report.rundata import read_run
from fovea.report.sheets import comparisons, ledger
from fovea.report.summary import headline
from fovea.train.job import DivergedError, Job
from tests.experiment.tiny import experiment, save_corpus

pytestmark = pytest.mark.slow

GOOD = {"method": {"kind": "direct"}, "sae": {"kind": "batch_topk", "expansion": 2, "k": [2, 4]}}
WILD = {"method": {"kind": "finetune"}, "sae": {"kind": "batch_topk", "k": 4}, "optimiser": {"lr": {"peak": 1e3}}}
WILD_NAME = "finetune-batch_topk-k4-s0"


@pytest.fixture(scope="module", autouse=True)
def no_figures():
    """As without the report extra: figures have tests of their own."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(sys.modules, "vl_convert", None)
        yield


def settings(folder: Path, *jobs, **changes) -> ExperimentConfig:
    tables = experiment(folder, job=list(jobs), **changes)
    tables["train"].update(n_tokens=2560)
    return resolve(tables, where="test")


@pytest.fixture(scope="module")
def run(tmp_path_factory) -> Path:
    """A finished run of which one job has diverged."""
    folder = tmp_path_factory.mktemp("diverging")
    run_experiment(settings(folder, GOOD, WILD), folder / "run")
    return folder / "run"


def test_a_job_that_diverges_is_saved_as_it_was_when_it_was_good_and_said(run):
    record = json.loads((run / "saes" / WILD_NAME / "job.json").read_text())
    assert record["stopped"]["step_kept"] <= record["stopped"]["step"] < 20
    assert "lower its learning rate (1000)" in record["stopped"]["reason"]
    assert record["ledger"]["n_tokens"] == 128 * record["stopped"]["step"]
    assert f"job '{WILD_NAME}': the loss is" in (run / "log.jsonl").read_text()


def test_a_diverged_job_is_measured_but_is_in_no_table_comparison_or_sentence(run):
    assert any(record.job == WILD_NAME for record in read_metrics(run / "metrics.jsonl"))
    assert "finetune" not in (run / "comparisons.jsonl").read_text()
    data = read_run(run)
    assert WILD_NAME not in {job.name for job in data.jobs}
    assert {missing.part for missing in data.missing} == {f"saes/{WILD_NAME}"}
    shown = f"{results(data)} {comparisons(data)} {finding(data)} {headline(run)}"
    assert "direct" in shown
    assert "finetune" not in shown
    assert WILD_NAME in str(ledger(data)), "what it cost stays in the ledger"


def test_evidence_of_a_diverged_job_is_there_for_who_wants_to_know_why(run):
    assert WILD_NAME in read_manifest(run)["jobs"]


def test_exporting_a_diverged_job_says_what_it_is(run, tmp_path, caplog):
    export_job(run, WILD_NAME, tmp_path / "out")
    assert "what is written are the weights of step" in caplog.text


def test_a_study_of_a_diverged_job_is_refused(run):
    arms = {"direct": "direct-batch_topk-k4-s0", "finetune": WILD_NAME}
    table = {"arm": [{"name": arm, "jobs": [job]} for arm, job in arms.items()], "rater": [{"name": "ann"}]}
    with pytest.raises(StudyError, match=f"arm 'finetune': the training of job '{WILD_NAME}' diverged.*take it out"):
        create(run, "one", study_config(table, where="test"))
    assert not (run / "studies").exists()


@pytest.mark.parametrize("controls", [False, {"k": 4}])
def test_where_every_job_diverges_the_run_says_so_each_time_and_keeps_what_there_is(tmp_path, controls):
    config = settings(tmp_path, WILD, controls=controls)
    for resume in (False, True):
        with pytest.raises(RunError, match=f"(?s)all 1 SAEs diverged.*saes.*{WILD_NAME}.*lower its learning rate"):
            run_experiment(config, tmp_path / "run", resume=resume)
    assert (tmp_path / "run" / "saes" / WILD_NAME / "cfg.json").exists()
    assert not (tmp_path / "run" / "metrics.jsonl").exists()


def test_a_domain_whose_jobs_all_diverge_does_not_stop_the_other(tmp_path, monkeypatch):
    config = settings(tmp_path, GOOD)
    save_corpus(tmp_path / "other.jsonl", words=range(5, 60), seed=3)
    other = config.domain[0].model_copy(update={"name": "other", "corpus": str(tmp_path / "other.jsonl")})
    check = Job._check

    def refuse(job: Job, loss: float) -> None:
        check(job, loss)
        if job.spec.domain == "words" and not job.spec.name.startswith("words-control"):
            raise DivergedError(f"job {job.spec.name!r}: the loss is nan at step {job.step_index}; lower it")

    monkeypatch.setattr(Job, "_check", refuse)
    run_experiment(config.model_copy(update={"domain": (config.domain[0], other)}), tmp_path / "run")
    data = read_run(tmp_path / "run")
    assert set(data.domains) == {"words", "other"}
    assert len([missing for missing in data.missing if missing.part.startswith("saes/words-direct")]) == 2
    assert [job.name for job in data.jobs if job.method == "direct"] == [
        f"other-direct-batch_topk-k{k}-s0" for k in (2, 4)
    ]
    assert verdict(data, "words").winner is None
    assert "words" in " ".join(map(str, finding(data)))


def test_a_general_sae_that_diverges_stops_alone_and_all_of_them_say_so(tmp_path):
    wild = {**GOOD, "seed": 7, "sae": {**GOOD["sae"], "k": 4}, "optimiser": {"lr": {"peak": 1e30}}}
    config = settings(tmp_path, GOOD, wild, general=False, controls=False, features=False)
    train_general(config, tmp_path / "run")
    data = read_run(tmp_path / "run")
    assert [missing.part for missing in data.missing if missing.part.startswith("saes")] == [
        "saes/direct-batch_topk-k4-s7"
    ]
    config = settings(tmp_path, wild, general=False, controls=False, features=False)
    with pytest.raises(RunError, match="all 1 SAEs diverged"):
        train_general(config, tmp_path / "none")
