"""The SAEs of a run: g and the trained jobs as saved, and the untrained controls, made anew from the same seed."""

import torch

from fovea.eval.controls import ControlKind, control, control_name
from fovea.experiment.config import DomainConfig, ExperimentConfig, JobConfig
from fovea.experiment.fit import jobs_of, saved_sae, stopped_jobs
from fovea.experiment.folder import RunFolder
from fovea.experiment.measure import Contender, contender_of, control_of, general_of
from fovea.experiment.prepare import Calibration, Subject


def saved_contenders(
    config: ExperimentConfig, run: RunFolder, subject: Subject, *, domain: DomainConfig
) -> list[Contender]:
    """g and the trained jobs as saved; one that diverged is measured, but is no point of its method's curve."""
    stopped = run.ranks.after_first(lambda: stopped_jobs(run, jobs_of(config, domain)))
    found = [] if subject.general is None else [general_of(subject, domain)]
    for name, job in jobs_of(config, domain).items():
        sae = saved_sae(run, name).to(subject.device)
        contender = contender_of(name, domain, job, sae=sae, curve=_curve(config, job))
        found.append(contender._replace(point=None) if name in stopped else contender)
    return found


def _curve(config: ExperimentConfig, job: JobConfig) -> str:
    """Name of a job's sparsity sweep: the method, and the architecture where the method has several."""
    label = config.label(job)
    kinds = {other.sae.kind for other in config.job if config.label(other) == label}
    return label if len(kinds) < 2 else f"{label} {job.sae.kind}"


def untrained_controls(
    config: ExperimentConfig, subject: Subject, domain: DomainConfig, *, calibration: Calibration
) -> list[Contender]:
    """The untrained dictionaries; made before training, so that a k that they cannot reach is said at once."""
    if config.controls is None:
        return []
    prefix = "" if len(config.domain) == 1 else f"{domain.name}-"
    k, d_sae = config.controls.k, round(config.controls.expansion * subject.lm.d_model)
    kinds: tuple[ControlKind, ...] = ("random", "moment")
    found: list[Contender] = []
    for kind in kinds:
        generator = torch.Generator().manual_seed(config.seed)
        sae = control(kind, calibration.rows, d_sae=d_sae, k=k, generator=generator)
        name = prefix + control_name(kind, k)
        found.append(control_of(name, domain, sae=sae.to(subject.device), seed=config.seed))
    return found
