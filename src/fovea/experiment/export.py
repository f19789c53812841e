"""Hand one SAE of a run to other tools, checked as it is written.

saes/JOB [+ general] --(--stack: one exact SAE)--> OUT, layout of the library --read back, compared on probe activations
"""

from pathlib import Path

from jaxtyping import Float
from torch import Tensor

from fovea.errors import ConfigError, RunError
from fovea.experiment.calibration import read_calibration
from fovea.experiment.config import JobConfig
from fovea.experiment.fit import jobs_of
from fovea.experiment.folder import RunFolder
from fovea.sae.files import read_sae
from fovea.sae.formats.writers import WRITERS, write_sae
from fovea.sae.stack import save_stack, verify_stack
from fovea.sae.stack import stack as join


def export_job(folder: Path, job: str, out: Path, *, layout: str = "saelens", stack: bool = False) -> str:
    """Write one job's SAE, or g and it as one, to `out`; returns a sentence that says what was checked.

    Raises:
        ConfigError: the layout is unknown, or a stack makes no sense for the job's method.
        RunError: the job is not in the run, or `out` exists.
        SAEError: what was written does not compute what the run's SAE does.
    """
    if layout not in WRITERS:
        raise ConfigError(f"--format {layout!r} is unknown; allowed: {', '.join(WRITERS)}")
    if out.exists():
        raise RunError(f"--out {str(out)!r} exists; give a new folder")
    run = RunFolder(folder)
    domain = _find(run, job)[0]
    loaded = read_sae(run.saes / job)
    probe = read_calibration(run, domain).rows[:4096]
    if stack:
        return _export_stack(run, job, out, layout=layout, probe_x=probe)
    check = write_sae(loaded.sae, out, layout=layout, metadata=loaded.metadata, probe_x=probe)
    return (
        f"{out}: {job}, {loaded.sae.d_sae} latents, in the layout of {layout}; on {check.n_tokens} tokens relative "
        "error "
        f"{check.max_relative_error:.1e}, {check.n_flips} flipped latents"
        + (f", the same in {check.library}" if check.library else "")
    )


def _export_stack(run: RunFolder, job: str, out: Path, *, layout: str, probe_x: Float[Tensor, "tokens d_in"]) -> str:
    """g and the job as one SAE."""
    job_config = _find(run, job)[1]
    if not job_config.method.adds_general:
        raise ConfigError(
            f"--stack joins g and an SAE on its residual, but {job!r} is {job_config.method.kind_name!r}, which is "
            "whole by itself; leave --stack out"
        )
    general, loaded = read_sae(run.general), read_sae(run.saes / job)
    metadata = loaded.metadata.model_copy(update={"training_architecture": None})
    if layout == "saelens":
        found = save_stack(general.sae, loaded.sae, out, probe_x=probe_x, metadata=metadata, names=("general", job))
    else:
        one = join(general.sae, loaded.sae)
        found = verify_stack(general.sae, loaded.sae, one, probe_x=probe_x)
        write_sae(one, out, layout=layout, metadata=metadata, probe_x=probe_x)
    return (
        f"{out}: g and {job} as one SAE of {general.sae.d_sae} + {loaded.sae.d_sae} latents; "
        f"on {found.n_tokens} tokens relative error {found.max_relative_error:.1e}, {found.n_flips} flipped latents"
    )


def _find(run: RunFolder, job: str) -> tuple[str, JobConfig]:
    """The domain and settings of a job that the run has saved."""
    config = run.config()
    for domain in config.domain:
        found = jobs_of(config, domain)
        if job in found and (run.saes / job / "job.json").exists():
            return domain.name, found[job]
    saved = sorted(path.parent.name for path in run.saes.glob("*/job.json"))
    raise RunError(f"run {str(run.path)!r} has no job {job!r}; it has: {', '.join(saved) or 'none yet'}")
