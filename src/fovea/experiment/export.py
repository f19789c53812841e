"""Hand one SAE of a run to other tools, checked as it is written.

saes/JOB [+ general] --(--stack: one exact SAE)--> OUT, layout of the library --read back, compared on probe activations
"""

import logging
from pathlib import Path

from jaxtyping import Float
from torch import Tensor

from fovea.errors import ConfigError, RunError
from fovea.experiment.calibration import read_calibration
from fovea.experiment.config import JobConfig
from fovea.experiment.fit import jobs_of, saved_sae, stopped_jobs
from fovea.experiment.folder import RunFolder
from fovea.features.dashboards import DASHBOARDS, Source, write_dashboards
from fovea.features.read import Features
from fovea.lm.hookpoint import HookPoint
from fovea.sae.files import read_sae
from fovea.sae.formats.writers import WRITERS, WriteCheck, write_sae, write_stack

log = logging.getLogger("fovea")


def export_job(folder: Path, job: str, out: Path, *, layout: str = "saelens", stack: bool = False) -> str:
    """Write one job's SAE, or g and it as one, to `out`; returns a sentence that says what was checked.

    Raises:
        ConfigError: the layout is unknown, or a stack makes no sense for the job's method.
        RunError: the job is not in the run, or `out` exists.
        SAEError: what was written does not compute what the run's SAE does.
    """
    if layout not in WRITERS:
        raise ConfigError(f"--format {layout!r} is unknown; allowed: {', '.join((*WRITERS, *DASHBOARDS))}")
    if out.exists():
        raise RunError(f"--out {str(out)!r} exists; give a new folder")
    run = RunFolder(folder)
    domain = find_job(run, job)[0]
    saved_sae(run, job)
    if job in (stopped := stopped_jobs(run, [job])):
        log.warning("%s; what is written are the weights of step %d", stopped[job].reason, stopped[job].step_kept)
    loaded = read_sae(run.saes / job)
    probe = read_calibration(run, domain).rows[:4096]
    if stack:
        return _export_stack(run, job, out, layout=layout, probe_x=probe)
    check = write_sae(loaded.sae, out, layout=layout, metadata=loaded.metadata, probe_x=probe)
    return (
        f"{out}: {job}, {loaded.sae.d_sae} latents, in the layout of {layout}; on {check.n_tokens} tokens relative "
        f"error {check.max_relative_error:.1e}, {check.n_flips} flipped latents" + _in_library(check)
    )


def _export_stack(run: RunFolder, job: str, out: Path, *, layout: str, probe_x: Float[Tensor, "tokens d_in"]) -> str:
    """g and the job as one SAE."""
    job_config = find_job(run, job)[1]
    if not job_config.method.adds_general:
        raise ConfigError(
            f"--stack joins g and an SAE on its residual, but {job!r} is {job_config.method.kind_name!r}, which is "
            "whole by itself; leave --stack out"
        )
    general, loaded = read_sae(run.general), read_sae(run.saes / job)
    metadata = loaded.metadata.model_copy(update={"training_architecture": None})
    found, check = write_stack(general.sae, loaded.sae, out, probe_x=probe_x, metadata=metadata, layout=layout)
    return (
        f"{out}: g and {job} as one SAE of {general.sae.d_sae} + {loaded.sae.d_sae} latents, in the layout of "
        f"{layout}; on {found.n_tokens} tokens relative error {found.max_relative_error:.1e}, "
        f"{found.n_flips} flipped latents" + _in_library(check)
    )


def _in_library(check: WriteCheck) -> str:
    return f", the same in {check.library}" if check.library else ""


def find_job(run: RunFolder, job: str) -> tuple[str, JobConfig]:
    """The domain and settings of a job that the run has saved."""
    config = run.config()
    for domain in config.domain:
        found = jobs_of(config, domain)
        if job in found and (run.saes / job / "job.json").exists():
            return domain.name, found[job]
    saved = sorted(path.parent.name for path in run.saes.glob("*/job.json"))
    raise RunError(f"run {str(run.path)!r} has no job {job!r}; it has: {', '.join(saved) or 'none yet'}")


def export_features(folder: Path, job: str, out: Path, *, layout: str) -> str:
    """Write what the latents of a job (or of g) fire on, in the files of a dashboard; returns a sentence.

    Raises:
        RunError: the run has no evidence of such a job, or `out` exists.
    """
    if out.exists():
        raise RunError(f"--out {str(out)!r} exists; give a new folder")
    config, features = RunFolder(folder).config(), Features(folder)
    if job not in features.jobs:
        raise RunError(f"the evidence of {str(folder)!r} has no job {job!r}; it has: {', '.join(features.jobs)}")
    about = features.manifest["jobs"][job]
    source = Source(
        model_id=Path(config.lm.model.partition(":")[2] or config.lm.model).name.lower(),
        layer=HookPoint.parse(config.lm.hook_point).layer,
        sae_set=f"{config.name}-{job}",
        dataset=about["domain"],
        context_size=config.text.context_size,
    )
    found = write_dashboards(features, job, out, layout=layout, source=source)
    return (
        f"{out}: {found.n_latents} latents of {job} that fire on {about['domain']}, in {found.n_files} files for "
        f"{layout} ({found.n_skipped} never fired there); model {source.model_id!r} and source {source.name!r} are "
        "guesses of the names there. The files hold text of the corpus: share them only if its licence lets you"
    )


def export_any(folder: Path, job: str, out: Path, *, layout: str, stack: bool) -> str:
    """`export_job` or `export_features`, by the name of the layout.

    Raises:
        ConfigError: the layout is unknown, or --stack makes no sense for it. The rest as these two.
    """
    if layout not in DASHBOARDS:
        return export_job(folder, job, out, layout=layout, stack=stack)
    if stack:
        raise ConfigError(
            f"--format {layout} writes what the latents of one SAE of the run fire on, and a stack is not one of them; "
            "export the job and g apart"
        )
    return export_features(folder, job, out, layout=layout)
