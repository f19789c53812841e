"""The demo's experiment in small: the bundled model, corpora and general SAE, end to end through the command line."""

import json
import os
import subprocess
import sys

import pytest

from tests.house import ROOT, fences

SMALL = (
    "job.0.sae.k=[40]",
    "job.1.sae.k=[40]",
    "job.2.sae.k=[16]",
    "train.n_tokens=4096",
    "train.batch_size=256",
    "train.buffer_rows=2048",
    "domain.0.max_train_tokens=3072",
    "domain.0.max_heldout_tokens=2048",
    "general.max_train_tokens=3072",
    "general.max_heldout_tokens=2048",
    "evaluate.heldout_tokens=256",
    "evaluate.train_tokens=128",
    "evaluate.general_tokens=128",
    "evaluate.density_tokens=1024",
    "features.tokens=1024",
)


@pytest.mark.slow
def test_the_demo_and_the_python_of_the_documents_run_on_the_real_model(tmp_path, monkeypatch):
    run = tmp_path / "runs" / "demo"
    overrides = [part for setting in SMALL for part in ("--set", setting)]
    command = [sys.executable, "-m", "fovea.cli", "demo", "--out", str(run), *overrides]
    n_workers = int(os.environ.get("PYTEST_XDIST_WORKER_COUNT", "1"))
    environment = {**os.environ, "OMP_NUM_THREADS": str(max(1, (os.cpu_count() or 1) // n_workers))}
    done = subprocess.run(command, capture_output=True, text=True, check=False, env=environment)
    assert done.returncode == 0, done.stderr
    assert str(run / "report.html").rsplit("/", 1)[-1] in done.stdout
    records = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    values = {(r["job"], r["corpus"], r["split"], r["metric"]): r["value"] for r in records}
    clean = values["lm", "biology", "heldout", "ce_clean"]
    assert 1.0 < clean < 4.0, "Gene Ontology has a perplexity near 9 under this model"
    assert values["lm", "biology", "heldout", "ce_zero"] > clean + 3
    assert clean < values["g", "biology", "heldout", "ce"] < values["lm", "biology", "heldout", "ce_mean"]
    assert 15 < values["g", "general", "heldout", "l0"] < 60
    assert 0.0 < values["g", "general", "heldout", "fvu"] < 0.5
    assert values["finetune-batch_topk-k40-s0", "biology", "train", "fvu"] < values["g", "biology", "train", "fvu"]

    monkeypatch.chdir(tmp_path)
    for name in ("README.md", "docs/features.md"):
        (code,) = fences((ROOT / name).read_text(), "python")
        exec(compile(code, name, "exec"), {"__name__": "__main__"})
