"""A tiny run with real evidence: trained SAEs, g and controls, made by the pipeline. For tests marked slow.

run_with_features(folder) --> the run folder; `Features(that)` opens it.
"""

import sys
from pathlib import Path
from typing import Any

import pytest

from fovea.experiment.config import resolve
from fovea.experiment.run import run_experiment
from tests.experiment.tiny import experiment

JOBS = [
    {"method": {"kind": "direct"}, "sae": {"kind": "batch_topk", "expansion": 2, "k": 4}},
    {"method": {"kind": "ssae"}, "sae": {"kind": "batch_topk", "expansion": 2, "k": 2}},
]


def run_with_features(folder: Path, **changes: Any) -> Path:
    """A finished run in folder/run with evidence; `changes` replace tables of the tiny experiment."""
    folder.mkdir(parents=True, exist_ok=True)
    tables = {"job": JOBS, "features": {"tokens": 3000}, **changes}
    with pytest.MonkeyPatch.context() as patch:
        # As without the report extra: drawing figures takes half of a miniature run, and no evidence is in them.
        patch.setitem(sys.modules, "vl_convert", None)
        run_experiment(resolve(experiment(folder, **tables), where="test"), folder / "run")
    return folder / "run"
