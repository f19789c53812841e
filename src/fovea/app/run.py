"""What the pages need to know of a run before any latent: its name, its jobs in order and colour, its corpora."""

from pathlib import Path
from typing import Any

from fovea.app.table import Table
from fovea.config import MAX_TOML_BYTES, parse_toml
from fovea.errors import RunError
from fovea.features.read import Features
from fovea.foreign import Refusal, is_there, read_text
from fovea.report.palette import FIXED

_AGAIN = Refusal(RunError, "put the run's experiment.toml there again")
G_SLOT, CONTROL_SLOT = 7, 8


def describe_run(run: Path, features: Features, table: Table) -> dict[str, Any]:
    """Title, jobs and corpora of a run, as json."""
    corpora = features.manifest["corpora"]
    domains = list(dict.fromkeys(str(about["domain"]) for about in features.manifest["jobs"].values()))
    name = _name(run)
    return {
        "title": name,
        "domains": domains,
        "jobs": [_job(job, features, table) for job in table.jobs],
        "corpora": {
            corpus: {key: about.get(key) for key in ("role", "split", "n_tokens", "n_documents")}
            for corpus, about in corpora.items()
        },
        "n_latents": table.n_rows,
        "default_sort": table.default_sort,
    }


def ordered_jobs(features: Features) -> list[str]:
    """Jobs with the methods first, controls after them, g last."""
    about = features.manifest["jobs"]

    def rank(job: str) -> int:
        slot = _slot(str(about[job]["method"]), is_general=_is_general(features, job))
        return slot if slot < G_SLOT else {CONTROL_SLOT: 90, G_SLOT: 91}[slot]

    return sorted(features.jobs, key=rank)


def _job(job: str, features: Features, table: Table) -> dict[str, Any]:
    about, rows = features.manifest["jobs"][job], table.job_rows[job]
    first = {name: table.columns[name][rows][:1].tolist() for name in ("n_tokens_domain", "n_tokens_general")}
    return {
        "name": job,
        "method": about["method"],
        "domain": about["domain"],
        "general_job": about["general_job"],
        "slot": _slot(str(about["method"]), is_general=_is_general(features, job)),
        "is_control": is_control(features, job),
        "n_latents": rows.stop - rows.start,
        **{name: int(value[0]) if value and value[0] == value[0] else None for name, value in first.items()},
    }


def is_control(features: Features, job: str) -> bool:
    """Whether a job is there only to compare with: random, moment-matched and frozen-decoder dictionaries."""
    return features.manifest["jobs"][job]["method"] == "control"


def _is_general(features: Features, job: str) -> bool:
    return any(about["general_job"] == job for about in features.manifest["jobs"].values())


def _slot(method: str, *, is_general: bool) -> int:
    return G_SLOT if is_general else FIXED.get(method, CONTROL_SLOT)


def _name(run: Path) -> str:
    """The experiment's name, else the folder's."""
    path = run / "experiment.toml"
    if is_there(path, run, _AGAIN):
        name = parse_toml(read_text(path, run, _AGAIN, most=MAX_TOML_BYTES), where=str(path)).get("name")
        if isinstance(name, str):
            return name
    return run.resolve().name
