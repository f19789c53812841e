"""Hand one SAE of a run to other tools, checked as it is written.

saes/JOB [+ general] --(--stack: one exact SAE)--> OUT, SAELens v6 layout --read back, compared on probe activations
"""

from pathlib import Path

from safetensors.torch import load_file

from fovea.errors import ConfigError, RunError, SAEError
from fovea.experiment.config import JobConfig
from fovea.experiment.fit import jobs_of
from fovea.experiment.folder import RunFolder
from fovea.sae.files import read_sae, save_sae
from fovea.sae.stack import MAX_RELATIVE_ERROR, save_stack

LAYOUTS = ("saelens",)


def export_job(folder: Path, job: str, out: Path, *, layout: str = "saelens", stack: bool = False) -> str:
    """Write one job's SAE, or g and it as one, to `out`; returns a sentence that says what was checked.

    Raises:
        ConfigError: the layout is unknown, or a stack makes no sense for the job's method.
        RunError: the job is not in the run, or `out` exists.
        SAEError: what was written does not compute what the run's SAE does.
    """
    if layout not in LAYOUTS:
        raise ConfigError(f"--format {layout!r} is unknown; allowed: {', '.join(LAYOUTS)}")
    if out.exists():
        raise RunError(f"--out {str(out)!r} exists; give a new folder")
    run = RunFolder(folder)
    domain, job_config = _find(run, job)
    loaded = read_sae(run.saes / job)
    probe = load_file(run.calibration / f"{domain}.safetensors")["rows"][:4096]
    if stack:
        if not job_config.method.adds_general:
            raise ConfigError(
                f"--stack joins g and an SAE on its residual, but {job!r} is {job_config.method.kind_name!r}, which is "
                "whole by itself; leave --stack out"
            )
        general = read_sae(run.general)
        metadata = loaded.metadata.model_copy(update={"training_architecture": None})
        found = save_stack(general.sae, loaded.sae, out, probe_x=probe, metadata=metadata, names=("general", job))
        return (
            f"{out}: g and {job} as one SAE of {general.sae.d_sae} + {loaded.sae.d_sae} latents; "
            f"on {found.n_tokens} tokens relative error {found.max_relative_error:.1e}, {found.n_flips} flipped latents"
        )
    save_sae(loaded.sae, out, metadata=loaded.metadata)
    expected, written = loaded.sae(probe), read_sae(out).sae(probe)
    worst = float(((expected - written).norm(dim=1) / expected.norm(dim=1).clamp_min(1e-30)).max())
    if not worst <= MAX_RELATIVE_ERROR:
        raise SAEError(
            f"{out} differs from {job} by {worst:.1e} (allowed {MAX_RELATIVE_ERROR:.0e}); please report this"
        )
    return f"{out}: {job}, {loaded.sae.d_sae} latents; on {len(probe)} tokens relative error {worst:.1e}"


def _find(run: RunFolder, job: str) -> tuple[str, JobConfig]:
    """The domain and settings of a job that the run has saved."""
    config = run.config()
    for domain in config.domain:
        found = jobs_of(config, domain)
        if job in found and (run.saes / job / "job.json").exists():
            return domain.name, found[job]
    saved = sorted(path.parent.name for path in run.saes.glob("*/job.json"))
    raise RunError(f"run {str(run.path)!r} has no job {job!r}; it has: {', '.join(saved) or 'none yet'}")
