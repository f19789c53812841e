"""Training of one domain: all its jobs on one pass, from the newest checkpoint to saved SAEs.

D, general text --MixingBuffer--> Stream --> jobs --> fold the scales --> saes/JOB/
"""

import logging
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch

from fovea.atomic import read_checked_json, remove_folder, write_checked_json
from fovea.data.activations import ActivationChunks
from fovea.data.shuffle import MixingBuffer
from fovea.errors import ConfigError, DamagedError, FoveaError, RunError
from fovea.experiment.config import DomainConfig, ExperimentConfig, JobConfig
from fovea.experiment.folder import RunFolder
from fovea.experiment.prepare import Calibration, Material, Subject, own_shards
from fovea.experiment.progress import stage
from fovea.foreign import Refusal, damage
from fovea.methods.base import Batch, Setting
from fovea.methods.frozen_decoder import FrozenDecoder
from fovea.ranks import Mesh
from fovea.sae.base import SAE
from fovea.sae.batch_topk import BatchTopKConfig
from fovea.sae.files import SAEMetadata, fingerprint, read_sae, save_sae
from fovea.sae.folding import fold_scale
from fovea.train.job import Job, JobSpec, StepLog, Stopped
from fovea.train.ledger import Ledger, ledger_of
from fovea.train.loop import train
from fovea.train.stream import Reading, Shards, Source, Stream, readings

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
        RankError: another rank was lost; the run can be resumed.
    """
    wanted = jobs_of(config, domain)
    # What the first rank sees decides: folders reach other machines late.
    if run.ranks.any(run.ranks.is_first and all((run.saes / name / "job.json").exists() for name in wanted)):
        log.info("jobs of %s are trained already", domain.name)
        return
    mesh = Mesh.of(run.ranks, latent_shards=config.train.latent_shards)
    jobs = [
        Job(*_start(config, name, job, subject, domain=domain, sources=sources), mesh) for name, job in wanted.items()
    ]
    own = own_shards(config, run, sources.domain)
    _harvest(config, sources, own)
    stream = _stream(config, run, subject, sources, jobs=jobs, own=own)
    title = f"training {len(jobs)} SAEs on {domain.name}"
    with stage(title, config.n_steps, unit="steps") as advance:
        started = False

        def observe(step: int, logs: Sequence[StepLog | None]) -> None:
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
    read, n_tokens = readings(stream), max(1, *(job.n_tokens for job in jobs))
    for job in jobs:
        seen = _share(job) * (job.n_tokens / n_tokens)  # less for one that has stopped before the others
        ledger = ledger_of(job, epochs=seen * read["domain"].epochs, flops_lm=_lm_flops(config, subject, read))
        trained = _Trained(job.spec, job.whole_sae(), ledger, job.stopped)
        run.ranks.by_first(lambda found=trained: _save(config, subject, found, run=run, job=wanted[found.spec.name]))
    run.ranks.by_first(lambda: remove_folder(run.checkpoints / domain.name))


def job_record(run: RunFolder, name: str) -> dict[str, Any]:
    """The job.json of a saved job.

    Raises:
        DamagedError: it is not what was written.
    """
    return read_checked_json(run.saes / name / "job.json", _train_again(run, name))


def saved_sae(run: RunFolder, name: str) -> SAE:
    """A trained SAE as it was saved.

    Raises:
        DamagedError: its files are not what was written.
    """
    record, again = job_record(run, name), _train_again(run, name)
    try:
        sae = read_sae(run.saes / name).sae
    except FoveaError as error:
        raise DamagedError(f"the SAE of job {name!r} is damaged: {error}; {again}") from None
    if record.get("sae_fingerprint", found := fingerprint(sae)) != found:
        raise DamagedError(f"{run.saes / name} is damaged: these are not the weights that were saved; {again}")
    return sae


def _train_again(run: RunFolder, name: str) -> str:
    return f"put it back, or delete {run.saes / name} and use --resume, which trains the SAEs of its domain again"


def stopped_jobs(run: RunFolder, names: Iterable[str]) -> dict[str, Stopped]:
    """Which of these saved jobs ended before the others, and why."""
    stopped: dict[str, Stopped] = {}
    for name in names:
        found = job_record(run, name).get("stopped")
        if found is not None:
            with damage(run.saes / name / "job.json", Refusal(DamagedError, _train_again(run, name))):
                stopped[name] = Stopped(**found)
    return stopped


def refuse_if_all_stopped(config: ExperimentConfig, run: RunFolder) -> None:
    """Nothing, if a job that was asked for has trained to its end; trained controls alone are not worth measuring.

    Raises:
        RunError: every job has diverged; what was kept of each is saved.
    """
    names = [config.job_name(domain, job) for domain in config.domain for job in config.job]
    stopped = run.ranks.after_first(lambda: stopped_jobs(run, names))
    if len(stopped) == len(names):
        reasons = "\n".join(f"- {found.reason}" for found in stopped.values())
        raise RunError(
            f"all {len(names)} SAEs diverged, so there is nothing to compare (what was kept of each is in "
            f"{run.saes}):\n{reasons}"
        )


def _share(job: Job) -> float:
    """The part of a job's rows that comes from D."""
    return 1.0 - round(job.spec.method.general_share * job.spec.batch_size) / job.spec.batch_size


class _Trained(NamedTuple):
    spec: JobSpec
    sae: SAE
    ledger: Ledger
    stopped: Stopped | None


def _save(config: ExperimentConfig, subject: Subject, trained: _Trained, *, run: RunFolder, job: JobConfig) -> None:
    """Write a trained SAE with its record."""
    folder = run.saes / trained.spec.name
    (folder / "job.json").unlink(missing_ok=True)
    saved = _save_sae(config, subject, trained, folder=folder)
    _save_record(trained, job, folder=folder, sae_fingerprint=saved)


def _harvest(config: ExperimentConfig, sources: Sources, own: Mapping[int, ActivationChunks]) -> None:
    """Run the lm over what every job will read, if more than one epoch of it is read and the disk may keep it."""
    packed = sources.domain.train.packed
    if config.train.n_tokens < packed.n_tokens:
        return
    n_chunks = sum(chunks.n_chunks for chunks in own.values())
    with stage(f"harvesting activations of {packed.name}", n_chunks, unit="chunks") as advance:
        for chunks in own.values():
            chunks.harvest(advance)


def _start(
    config: ExperimentConfig, name: str, job: JobConfig, subject: Subject, *, domain: DomainConfig, sources: Sources
) -> tuple[JobSpec, SAE]:
    """A job at its start; the same one whatever else trains beside it, and on every rank."""
    generator = torch.Generator().manual_seed(_seed(config, job))
    mean, scale_in = sources.calibration.input
    setting = Setting(subject.lm.d_model, subject.general, mean, scale_in, generator)
    sae = job.method.start(job.sae, setting).to(subject.device)  # drawn on the CPU: the same on every device
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
    return spec, sae


def _seed(config: ExperimentConfig, job: JobConfig) -> int:
    return 1_000_003 * config.seed + job.seed


def _scale_out(job: JobConfig, subject: Subject, calibration: Calibration) -> float:
    """Scale of the target: that of x, but for a residual the one that gives it, too, a mean norm of sqrt(d_in)."""
    if not job.method.adds_general:
        return calibration.input.scale
    assert subject.frozen is not None, "a method that adds g needs g"
    x = calibration.rows.to(subject.device)
    batch = Batch(x, subject.frozen.reconstruct(x), torch.ones(len(x), dtype=torch.bool))
    norm = job.method.target(batch).double().norm(dim=-1).mean()
    return float(x.shape[1] ** 0.5 / norm)


def _stream(
    config: ExperimentConfig,
    run: RunFolder,
    subject: Subject,
    sources: Sources,
    *,
    jobs: Sequence[Job],
    own: Mapping[int, ActivationChunks],
) -> Source:
    n_shards = int(config.train.shards)
    size = config.train.batch_size
    shares = [job.spec.method.general_share for job in jobs]
    # Full batches of both kinds whatever the shares, so that the rows of a job do not depend on the other jobs.
    n_general = size if any(round(share * size) for share in shares) else 0
    reads_general = any(job.spec.method.adds_general for job in jobs)
    general: Mapping[int, ActivationChunks] = {}
    if n_general:
        assert sources.general is not None, "checked when the experiment was read"
        general = own_shards(config, run, sources.general)
    rows, n_ahead = config.train.buffer_rows // n_shards, read_ahead(config, subject)

    def buffer(chunks: ActivationChunks, seed: int) -> MixingBuffer:
        made = MixingBuffer(chunks, rows=rows, seed=config.seed + seed, device=subject.device, n_ahead=n_ahead)
        made.n_wanted = config.n_steps * (size // n_shards)
        return made

    streams = {
        shard: Stream(
            buffer(chunks, 2 * shard),
            buffer(general[shard], 2 * shard + 1) if n_general else None,
            subject.frozen if reads_general else None,
            n_domain=size // n_shards,
            n_general=n_general // n_shards,
        )
        for shard, chunks in own.items()
    }
    if n_shards == 1:
        return streams[0]
    return Shards(streams, n_shards=n_shards, ranks=run.ranks, latents=jobs[0].mesh.latents)


def read_ahead(config: ExperimentConfig, subject: Subject) -> int:
    """Chunks made in the background; none where the lm would take the SAEs' own cores, unless asked for."""
    wanted = config.train.read_ahead
    return wanted if wanted != "auto" else 0 if subject.lm.device.type == "cpu" else 2


def _log_step(step: int, jobs: Sequence[Job], logs: Sequence[StepLog | None]) -> None:
    for job, entry in zip(jobs, logs, strict=True):
        if entry is None:
            continue
        terms = " ".join(f"{name}={value:.4g}" for name, value in entry.terms.items())
        log.info("step %d %s: %s l0=%.1f dead=%d", step, job.spec.name, terms, entry.l0, entry.n_dead)


def _save_sae(config: ExperimentConfig, subject: Subject, trained: _Trained, *, folder: Path) -> str:
    """Fold the scales and write the SAE; the fingerprint of what was written."""
    spec = trained.spec
    # A pre-bias of its own is g's: given in raw units, it stays g's to the bit, and stacking is concatenation.
    general = None if trained.sae.frozen_pre_bias is None else subject.general
    pre_bias = None if general is None else general.sae.input_bias()
    sae = fold_scale(trained.sae, scale_in=spec.scale_in, scale_out=spec.scale_out, pre_bias=pre_bias)
    save_sae(sae, folder, metadata=sae_metadata(config, subject, spec.name, trained_as=spec.architecture))
    return fingerprint(sae)


def _save_record(trained: _Trained, config: JobConfig, *, folder: Path, sae_fingerprint: str) -> None:
    """Write job.json, which comes last: its presence means that the job is complete."""
    spec = trained.spec
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
        "sae_fingerprint": sae_fingerprint,
        "stopped": None if trained.stopped is None else trained.stopped._asdict(),
        "ledger": trained.ledger.model_dump(mode="json"),
    }
    write_checked_json(folder / "job.json", record)


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
        remove_folder(folder)


def _lm_flops(config: ExperimentConfig, subject: Subject, read: Mapping[str, Reading]) -> float:
    """FLOPs of the lm up to the hook point for the tokens harvested: 2 per weight and token, kept epochs not again."""
    layers = subject.lm.model.get_submodule(subject.lm.layers_path)
    n_layers = subject.hook_point.layer + (subject.hook_point.site != "resid_pre")
    weights = sum(p.numel() for index in range(n_layers) for p in layers.get_submodule(str(index)).parameters())
    kept = config.train.cache_gigabytes > 0
    return 2.0 * weights * sum(corpus.n_rows_once if kept else corpus.n_rows for corpus in read.values())
