"""One experiment from settings to report; every stage is skipped where its result is already in the folder.

settings -> lm, g -> tokens -> filter, scales -> train, per domain -> measure, per domain -> metrics -> report
"""

import logging
from collections.abc import Mapping
from importlib.resources import as_file, files
from pathlib import Path

import torch
from rich.console import Console

from fovea.atomic import write_json
from fovea.errors import ConfigError, RunError
from fovea.eval.controls import ControlKind, control, control_name
from fovea.eval.downstream import Bench
from fovea.eval.latents import write_definitions
from fovea.eval.matched import Comparison, write_comparisons
from fovea.eval.records import MetricRecord, write_metrics
from fovea.experiment.config import DomainConfig, ExperimentConfig, JobConfig, load_experiment
from fovea.experiment.excluded import count_excluded
from fovea.experiment.fit import Sources, check_sparsities, fit_domain, jobs_of, remove_working_files
from fovea.experiment.folder import RunFolder, command_line, open_run, write_provenance
from fovea.experiment.latents import measure_latents
from fovea.experiment.measure import (
    Contender,
    DomainMeasurement,
    bench_of,
    contender_of,
    control_of,
    general_of,
)
from fovea.experiment.prepare import (
    Calibration,
    Subject,
    calibrate,
    general_provenance,
    load_subject,
    materials,
)
from fovea.sae.files import fingerprint, load_sae, read_sae, save_sae

log = logging.getLogger("fovea")


def demo_experiment(overrides: tuple[str, ...] = ()) -> ExperimentConfig:
    """The experiment that ships with fovea."""
    with as_file(files("fovea") / "experiments" / "demo.toml") as path:
        return load_experiment(path, overrides)


def run_experiment(config: ExperimentConfig, out: Path, *, resume: bool = False) -> RunFolder:
    """Train, measure and report `config` in the folder `out`.

    Raises:
        FoveaError: a setting, reference or folder is not usable; what was finished before stays.
        Interrupted: a signal came; resume goes on to the same bytes.
    """
    with open_run(out, config, resume=resume) as run:
        subject = load_subject(config)
        write_provenance(run, command=command_line(), fingerprints=general_provenance(subject))
        _keep_general(run, subject)
        check_sparsities(config, subject)
        found = materials(config, run, subject)
        sources = {
            domain.name: Sources(found[domain.name], found.get("general"), calibrate(run, found[domain.name].train))
            for domain in config.domain
        }
        controls = {
            domain.name: _controls(config, subject, domain, calibration=sources[domain.name].calibration)
            for domain in config.domain
        }
        for domain in config.domain:
            fit_domain(config, run, subject, domain=domain, sources=sources[domain.name])
        # Mean ablation puts in the mean of general text, or of D where there is none: "general" comes first.
        reference = next(iter(found.values())).train
        bench = bench_of(subject, reference.token_filter, calibrate(run, reference).input.mean)
        _measure(config, run, subject, sources=sources, bench=bench, controls=controls)
        write_json(run.path / "excluded.json", count_excluded(run, {name: m.corpus for name, m in found.items()}))
        remove_working_files(run)
        _finish(run)
    return run


def _measure(
    config: ExperimentConfig,
    run: RunFolder,
    subject: Subject,
    *,
    sources: Mapping[str, Sources],
    bench: Bench,
    controls: Mapping[str, list[Contender]],
) -> None:
    records: list[MetricRecord] = []
    comparisons: list[Comparison] = []
    for domain in config.domain:
        own = sources[domain.name]
        contenders = [*_contenders(config, run, subject, domain=domain), *controls[domain.name]]
        measurement = DomainMeasurement(config, run, domain=domain, bench=bench, sources=own, contenders=contenders)
        found = measurement.run_parts()
        g = None if subject.general is None else subject.general.sae
        records += [*found.records, *measure_latents(measurement, run, general_sae=g)]
        comparisons += found.comparisons
    write_definitions(run.path / "definitions.json")
    write_comparisons(run.path / "comparisons.jsonl", comparisons)
    write_metrics(run.metrics, records)


def _contenders(config: ExperimentConfig, run: RunFolder, subject: Subject, *, domain: DomainConfig) -> list[Contender]:
    """g and the trained jobs as saved."""
    found = [] if subject.general is None else [general_of(subject, domain)]
    for name, job in jobs_of(config, domain).items():
        sae = load_sae(str(run.saes / name)).sae
        found.append(contender_of(name, domain, job, sae=sae, curve=_curve(config, job)))
    return found


def _curve(config: ExperimentConfig, job: JobConfig) -> str:
    """Name of a job's sparsity sweep: the method, and the architecture where the method has several."""
    kinds = {other.sae.kind for other in config.job if other.method.label == job.method.label}
    return job.method.label if len(kinds) < 2 else f"{job.method.label} {job.sae.kind}"


def _controls(
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
        found.append(control_of(prefix + control_name(kind, k), domain, sae=sae, seed=config.seed))
    return found


def _keep_general(run: RunFolder, subject: Subject) -> None:
    """Write g into the run, or check that the run's g is still the one that the experiment names.

    Raises:
        RunError: g has changed since the run began.
    """
    if subject.general is None:
        return
    if not (run.general / "cfg.json").exists():
        save_sae(subject.general.sae, run.general, metadata=subject.general.metadata)
    elif fingerprint(read_sae(run.general).sae) != fingerprint(subject.general.sae):
        raise RunError(
            f"general SAE {subject.general.reference!r} has changed since this run began; put the old one back, or use "
            "another folder"
        )


def _finish(run: RunFolder) -> None:
    """Write the report and say where it is; without the report extra the run is complete all the same."""
    from fovea.report.page import write_report
    from fovea.report.summary import headline, summary_table

    console = Console()
    try:
        report = f"report: {write_report(run.path)}"
    except ConfigError as error:
        report = f"measured: {run.metrics}; no report: {error}"
    console.print(summary_table(run.path))
    console.print(headline(run.path), markup=False)
    console.print(report, markup=False, soft_wrap=True)
