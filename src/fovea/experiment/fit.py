"""Training of one domain: all its jobs on one pass, from the newest checkpoint to saved SAEs.

D, general text --MixingBuffer--> Stream --> jobs --> fold the scales --> saes/JOB/
"""

import logging
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import torch

from fovea.atomic import write_json
from fovea.data.shuffle import MixingBuffer
from fovea.errors import ConfigError
from fovea.experiment.config import DomainConfig, ExperimentConfig, JobConfig
from fovea.experiment.folder import RunFolder
from fovea.experiment.prepare import Calibration, Material, Subject
from fovea.experiment.progress import stage
from fovea.methods.base import Batch, Setting
from fovea.methods.frozen_decoder import FrozenDecoder
from fovea.sae.batch_topk import BatchTopKConfig
from fovea.sae.files import SAEMetadata, save_sae
from fovea.sae.folding import fold_scale
from fovea.train.job import Job, JobSpec, StepLog
from fovea.train.ledger import Ledger, ledger_of
from fovea.train.loop import train
from fovea.train.stream import Stream

log = logging.getLogger("fovea")


class Sources(NamedTuple):
    """What a domain's jobs learn from."""

    domain: Material
    general: Material | None
    calibration: Calibration


def jobs_of(config: ExperimentConfig, domain: DomainConfig) -> dict[str, JobConfig]:
    """All jobs of a domain by name: those asked for and the trained control."""
    jobs = {config.job_name(domain, job): job for job in config.job}
    if config.controls is not None and config.controls.frozen_decoder:
        sae = BatchTopKConfig(expansion=config.controls.expansion, k=config.controls.k)
        name = f"control-frozen_decoder-k{config.controls.k}"
        jobs[name if len(config.domain) == 1 else f"{domain.name}-{name}"] = JobConfig(
            method=FrozenDecoder(), sae=sae, seed=config.seed
        )
    return jobs


def check_sparsities(config: ExperimentConfig, subject: Subject) -> None:
    """Refuse a k above the width before anything long begins.

    Raises:
        ConfigError: a job's width is not known, or its k exceeds it.
    """
    for job in config.job:
        given = job.sae.d_sae is not None or job.sae.expansion is not None
        if not given and subject.general is not None:
            width = subject.general.sae.d_sae
        else:
            width = job.sae.width(subject.lm.d_model)
        k = getattr(job.sae, "k", 0)
        if k > width:
            raise ConfigError(
                f"job {job.name!r}: sae.k = {k}, but it must lie between 1 and its {width} latents; lower k or widen it"
            )


def fit_domain(
    config: ExperimentConfig, run: RunFolder, subject: Subject, *, domain: DomainConfig, sources: Sources
) -> None:
    """Train what is not yet saved of a domain's jobs.

    Raises:
        Interrupted: a signal came; the run can be resumed.
    """
    wanted = jobs_of(config, domain)
    if all((run.saes / name / "job.json").exists() for name in wanted):
        log.info("jobs of %s are trained already", domain.name)
        return
    jobs = [_job(config, name, job, subject, domain=domain, sources=sources) for name, job in wanted.items()]
    _harvest(config, sources)
    stream = _stream(config, jobs, subject, sources)
    title = f"training {len(jobs)} SAEs on {domain.name}"
    with stage(title, config.n_steps, unit="steps") as advance:
        started = False

        def observe(step: int, logs: Sequence[StepLog]) -> None:
            nonlocal started
            advance(1 if started else step + 1)
            started = True
            if step % 50 == 0 or step + 1 == config.n_steps:
                _log_step(step, jobs, logs)

        train(
            jobs,
            stream,
            n_steps=config.n_steps,
            checkpoints=run.checkpoints / domain.name,
            checkpoint_seconds=config.train.checkpoint_seconds,
            observe=observe,
        )
    for job in jobs:
        folder = run.saes / job.spec.name
        (folder / "job.json").unlink(missing_ok=True)
        _save_sae(config, subject, job, folder=folder)
        share = 1.0 - round(job.spec.method.general_share * job.spec.batch_size) / job.spec.batch_size
        ledger = ledger_of(job, epochs=share * stream.domain.epoch, flops_lm=_lm_flops(config, subject, stream))
        _save_record(job, wanted[job.spec.name], ledger, folder=folder)
    shutil.rmtree(run.checkpoints / domain.name, ignore_errors=True)


def _harvest(config: ExperimentConfig, sources: Sources) -> None:
    """Run the lm over what every job will read, if more than one epoch of it is read and the disk may keep it."""
    chunks = sources.domain.train
    if config.train.n_tokens < chunks.packed.n_tokens:
        return
    with stage(f"harvesting activations of {chunks.packed.name}", chunks.n_chunks, unit="chunks") as advance:
        chunks.harvest(advance)


def _job(
    config: ExperimentConfig, name: str, job: JobConfig, subject: Subject, *, domain: DomainConfig, sources: Sources
) -> Job:
    """A job at its start; the same one whatever else trains beside it."""
    generator = torch.Generator().manual_seed(_seed(config, job))
    mean, scale_in = sources.calibration.input
    setting = Setting(subject.lm.d_model, subject.general, mean, scale_in, generator)
    sae = job.method.start(job.sae, setting)
    spec = JobSpec(
        name=name,
        domain=domain.name,
        method=job.method,
        architecture=job.sae.kind,
        label=job.sae.label,
        seed=job.seed,
        optimiser=job.optimiser,
        scale_in=scale_in,
        scale_out=_scale_out(job, subject, sources.calibration),
        n_steps=config.n_steps,
        batch_size=config.train.batch_size,
    )
    return Job(spec, sae)


def _seed(config: ExperimentConfig, job: JobConfig) -> int:
    return 1_000_003 * config.seed + job.seed


def _scale_out(job: JobConfig, subject: Subject, calibration: Calibration) -> float:
    """Scale of the target: that of x, but for a residual the one that gives it, too, a mean norm of sqrt(d_in)."""
    if not job.method.adds_general:
        return calibration.input.scale
    assert subject.frozen is not None, "a method that adds g needs g"
    x = calibration.rows
    batch = Batch(x, subject.frozen.reconstruct(x), torch.ones(len(x), dtype=torch.bool))
    norm = job.method.target(batch).double().norm(dim=-1).mean()
    return float(x.shape[1] ** 0.5 / norm)


def _stream(config: ExperimentConfig, jobs: Sequence[Job], subject: Subject, sources: Sources) -> Stream:
    size = config.train.batch_size
    shares = [job.spec.method.general_share for job in jobs]
    # Full batches of both kinds whatever the shares, so that the rows of a job do not depend on the other jobs.
    n_general = size if any(round(share * size) for share in shares) else 0
    reads_general = any(job.spec.method.adds_general for job in jobs)
    n_ahead = read_ahead(config, subject)
    domain = MixingBuffer(sources.domain.train, rows=config.train.buffer_rows, seed=config.seed, n_ahead=n_ahead)
    general = None
    if n_general:
        assert sources.general is not None, "checked when the experiment was read"
        chunks = sources.general.train
        general = MixingBuffer(chunks, rows=config.train.buffer_rows, seed=config.seed + 1, n_ahead=n_ahead)
    return Stream(domain, general, subject.frozen if reads_general else None, n_domain=size, n_general=n_general)


def read_ahead(config: ExperimentConfig, subject: Subject) -> int:
    """Chunks made in the background; none where the lm would take the SAEs' own cores, unless asked for."""
    wanted = config.train.read_ahead
    return wanted if wanted != "auto" else 0 if subject.lm.device.type == "cpu" else 2


def _log_step(step: int, jobs: Sequence[Job], logs: Sequence[StepLog]) -> None:
    for job, entry in zip(jobs, logs, strict=True):
        terms = " ".join(f"{name}={value:.4g}" for name, value in entry.terms.items())
        log.info("step %d %s: %s l0=%.1f dead=%d", step, job.spec.name, terms, entry.l0, entry.n_dead)


def _save_sae(config: ExperimentConfig, subject: Subject, job: Job, *, folder: Path) -> None:
    """Fold the scales and write the SAE."""
    spec = job.spec
    # A pre-bias of its own is g's: given in raw units, it stays g's to the bit, and stacking is concatenation.
    general = None if job.sae.frozen_pre_bias is None else subject.general
    pre_bias = None if general is None else general.sae.input_bias()
    sae = fold_scale(job.sae, scale_in=spec.scale_in, scale_out=spec.scale_out, pre_bias=pre_bias)
    save_sae(sae, folder, metadata=sae_metadata(config, subject, spec.name, trained_as=spec.architecture))


def _save_record(job: Job, config: JobConfig, ledger: Ledger, *, folder: Path) -> None:
    """Write job.json, which comes last: its presence means that the job is complete."""
    spec = job.spec
    record = {
        "job": spec.name,
        "method": spec.method.family,
        "architecture": spec.architecture,
        "sparsity": spec.label,
        "domain": spec.domain,
        "seed": spec.seed,
        "config": config.model_dump(mode="json"),
        "scale_in": spec.scale_in,
        "scale_out": spec.scale_out,
        "ledger": ledger.model_dump(mode="json"),
    }
    write_json(folder / "job.json", record)


def sae_metadata(config: ExperimentConfig, subject: Subject, name: str, *, trained_as: str | None) -> SAEMetadata:
    """What an SAE file says of where it belongs."""
    prepend = config.text.prepend_bos
    return SAEMetadata(
        model_name=config.lm.model,
        hook_name=subject.hook_point.transformer_lens,
        hf_hook_name=subject.hook_point.hugging_face(subject.lm.layers_path),
        prepend_bos=subject.lm.adds_bos if prepend == "auto" else prepend,
        context_size=config.text.context_size,
        training_architecture=trained_as,
        fovea={"job": name, "experiment": config.name},
    )


def remove_working_files(run: RunFolder) -> None:
    """Drop what only an unfinished run needs: checkpoints and remembered activations."""
    for folder in (run.checkpoints, run.activations):
        shutil.rmtree(folder, ignore_errors=True)


def _lm_flops(config: ExperimentConfig, subject: Subject, stream: Stream) -> float:
    """FLOPs of the lm up to the hook point for the tokens harvested: 2 per weight and token, kept epochs not again."""
    layers = subject.lm.model.get_submodule(subject.lm.layers_path)
    n_layers = subject.hook_point.layer + (subject.hook_point.site != "resid_pre")
    weights = sum(p.numel() for index in range(n_layers) for p in layers.get_submodule(str(index)).parameters())
    buffers = [stream.domain] if stream.general is None else [stream.domain, stream.general]
    kept = config.train.cache_gigabytes > 0
    rows = [b.n_rows_read * min(1.0, 1.0 / b.epoch) if kept else b.n_rows_read for b in buffers if b.n_rows_read]
    return 2.0 * weights * sum(rows)
