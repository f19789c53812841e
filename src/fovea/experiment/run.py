"""One experiment from settings to report; every stage is skipped where its result is already in the folder.

settings -> lm, g -> tokens -> filter, scales -> train, per domain -> measure, per domain -> metrics -> features
-> report

Under torchrun every rank walks through the same stages: each reads, trains and measures its part; the first one writes.
"""

import logging
from collections.abc import Mapping
from importlib.resources import as_file, files
from pathlib import Path
from typing import Any

from rich.console import Console

from fovea.atomic import write_json
from fovea.errors import ConfigError, RunError, SAEError
from fovea.eval.downstream import Bench
from fovea.eval.latents import write_definitions
from fovea.eval.matched import Comparison, write_comparisons
from fovea.eval.records import MetricRecord, write_metrics
from fovea.experiment.config import ExperimentConfig, load_experiment
from fovea.experiment.contenders import saved_contenders, untrained_controls
from fovea.experiment.excluded import count_excluded
from fovea.experiment.features import collect_features
from fovea.experiment.fit import Sources, check_sparsities, fit_domain, refuse_if_all_stopped, remove_working_files
from fovea.experiment.folder import RunFolder, open_run
from fovea.experiment.latents import measure_latents
from fovea.experiment.measure import Contender, DomainMeasurement, bench_of
from fovea.experiment.prepare import (
    Material,
    Subject,
    calibrate,
    general_provenance,
    load_subject,
    materials,
    warn_if_misread,
)
from fovea.experiment.provenance import command_line, note_start, note_texts
from fovea.experiment.sharing import sae_device, settle
from fovea.profile import profiled, span
from fovea.sae.files import fingerprint, read_sae, save_sae
from fovea.together import joined

log = logging.getLogger("fovea")


def demo_experiment(overrides: tuple[str, ...] = ()) -> ExperimentConfig:
    """The experiment that ships with fovea."""
    with as_file(files("fovea") / "experiments" / "demo.toml") as path:
        return load_experiment(path, overrides)


def run_experiment(config: ExperimentConfig, out: Path, *, resume: bool = False, profile: bool = False) -> RunFolder:
    """Train, measure and report `config` in the folder `out`; with the other ranks, where there are any.

    Args:
        profile: Say at the end where this process's time went, and keep that in the folder.

    Raises:
        FoveaError: a setting, reference or folder is not usable; what was finished before stays.
        RankError: another rank was lost; resume goes on, on any number of ranks that divides train.shards.
        Interrupted: a signal came; resume goes on to the same bytes.
    """
    device = sae_device(config).type
    with joined(timeout_seconds=config.train.rank_timeout_seconds, device=device) as ranks:
        config = settle(config, out, ranks)
        with (
            open_run(out, config, resume=resume, ranks=ranks) as run,
            profiled(out, wanted=profile and ranks.is_first),
        ):
            _run(config, run)
    return run


def _run(config: ExperimentConfig, run: RunFolder) -> None:
    ranks = run.ranks
    with span("load the lm and g"):
        subject = ranks.after_first(lambda: load_subject(config))
        ranks.by_first(lambda: _begin(run, subject))
    check_sparsities(config, subject)
    with span("tokenise, measure the filter"):
        found = ranks.after_first(lambda: materials(config, run, subject))
        ranks.by_first(lambda: _note_texts(run, found))
    with span("measure the scales"):
        calibrations = ranks.after_first(lambda: {name: calibrate(run, m.train) for name, m in found.items()})
    if "general" in calibrations and ranks.is_first:
        warn_if_misread(subject, calibrations["general"].rows)
    sources = {
        domain.name: Sources(found[domain.name], found.get("general"), calibrations[domain.name])
        for domain in config.domain
    }
    controls = {
        domain.name: untrained_controls(config, subject, domain, calibration=calibrations[domain.name])
        for domain in config.domain
    }
    for domain in config.domain:
        with span(f"train on {domain.name}"):
            fit_domain(config, run, subject, domain=domain, sources=sources[domain.name])
    refuse_if_all_stopped(config, run)
    # Mean ablation puts in the mean of general text, or of D where there is none: "general" comes first.
    reference = next(iter(found))
    bench = bench_of(subject, found[reference].train.token_filter, calibrations[reference].input.mean, ranks=ranks)
    with span("measure"):
        _measure(config, run, subject, sources=sources, bench=bench, controls=controls)
    if config.features is not None:
        with span("collect evidence of features"):
            collect_features(config, run, subject, materials=found, settings=config.features, replace=True)
    with span("report"):
        ranks.by_first(lambda: _finish(run, count_excluded(run, {name: m.corpus for name, m in found.items()})))


def _begin(run: RunFolder, subject: Subject) -> None:
    before = note_start(run, command=command_line(), fingerprints=general_provenance(subject))
    _keep_general(run, subject, is_known=before.get("general_sae") is not None)


def _note_texts(run: RunFolder, found: Mapping[str, Material]) -> None:
    note_texts(
        run,
        {
            name: {"train": m.train.packed.fingerprint, "heldout": m.heldout.packed.fingerprint}
            for name, m in found.items()
        },
    )


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
        contenders = [*saved_contenders(config, run, subject, domain=domain), *controls[domain.name]]
        measurement = DomainMeasurement(config, run, domain=domain, bench=bench, sources=own, contenders=contenders)
        found = measurement.run_parts()
        g = None if subject.frozen is None else subject.frozen.sae
        records += [*found.records, *measure_latents(measurement, run, general_sae=g)]
        comparisons += found.comparisons
    if run.ranks.is_first:
        write_definitions(run.path / "definitions.json")
        write_comparisons(run.path / "comparisons.jsonl", comparisons)
        write_metrics(run.metrics, records)


def _keep_general(run: RunFolder, subject: Subject, *, is_known: bool) -> None:
    """Write g into the run, unless it is there and whole.

    Args:
        is_known: The run has noted which g it began with, and this is it.

    Raises:
        RunError: g is not the one in the run.
    """
    if subject.general is None:
        return
    if (run.general / "cfg.json").exists():
        try:
            kept = fingerprint(read_sae(run.general).sae)
        except SAEError as error:
            kept = str(error)
        if kept == fingerprint(subject.general.sae):
            return
        if not is_known:
            raise RunError(
                f"general SAE {subject.general.reference!r} is not the one in {run.general}; put the old one back, or "
                "start in a new folder"
            )
        log.warning("%s is damaged (%s): g is written again", run.general, kept)
    save_sae(subject.general.sae, run.general, metadata=subject.general.metadata)


def _finish(run: RunFolder, excluded: Mapping[str, Any]) -> None:
    """Write the report and say where it is; without the report extra the run is complete all the same."""
    from fovea.report.page import write_report
    from fovea.report.summary import headline, summary_table

    write_json(run.path / "excluded.json", excluded)
    remove_working_files(run)
    console = Console()
    try:
        report = f"report: {write_report(run.path)}"
    except ConfigError as error:
        report = f"measured: {run.metrics}; no report: {error}"
    console.print(summary_table(run.path))
    console.print(headline(run.path), markup=False)
    console.print(report, markup=False, soft_wrap=True)
