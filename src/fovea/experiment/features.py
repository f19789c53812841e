"""Evidence about the latents of a run: one pass over D and one over general text, for all its SAEs.

    saes/, general/, controls --gather, a pass per corpus--> features/.parts --assemble--> features/ (fovea.features)

A corpus that was read before a kill is not read again. The key of the manifest holds all that decides the content.
"""

import hashlib
import json
import logging
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import torch

from fovea.errors import RunError
from fovea.experiment.config import DomainConfig, ExperimentConfig
from fovea.experiment.contenders import saved_contenders, untrained_controls
from fovea.experiment.fit import jobs_of, remove_working_files
from fovea.experiment.folder import RunFolder, hold_run
from fovea.experiment.measure import Contender
from fovea.experiment.prepare import Material, Subject, calibrate, load_subject, materials
from fovea.experiment.progress import stage
from fovea.features.assemble import Assembler
from fovea.features.collect import SAMPLE, WITH_CONTEXT, Reading, Totals, gather
from fovea.features.config import FeaturesConfig
from fovea.features.files import FORMAT, Paths, read_manifest, write_manifest
from fovea.features.hashing import AROUND
from fovea.features.links import Unembedding
from fovea.features.parts import Part, is_whole, load_part, part_path, save_part
from fovea.features.spelling import token_bytes
from fovea.features.text import write_vocabulary
from fovea.ranks import Ranks
from fovea.sae.files import SAEMetadata, save_sae

log = logging.getLogger("fovea")


class Subjects(NamedTuple):
    """The SAEs that evidence is collected for, by folder, and the corpora that each is shown."""

    contenders: dict[str, Contender]
    corpora: dict[str, list[str]]
    saved: dict[str, Path | None]
    "Folder of each SAE in the run; None for untrained controls, which have none."
    device: torch.device
    "Where the SAEs lie."


def features_of_run(folder: Path, *, tokens: int | None = None, force: bool = False) -> str:
    """Collect the evidence of a finished run; returns a sentence that says what there is.

    Args:
        tokens: In place of the experiment's features.tokens.
        force: Replace evidence that was made of other text, SAEs or settings.

    Raises:
        RunError: the folder is not a finished run, or holds other evidence.
    """
    config = RunFolder(folder).config()
    settings = config.features or FeaturesConfig()
    if tokens is not None:
        settings = settings.model_copy(update={"tokens": tokens})
    with hold_run(folder) as run:
        _check_finished(config, run)
        subject = load_subject(config)
        found = materials(config, run, subject)
        try:
            collect_features(config, run, subject, materials=found, settings=settings, replace=force)
        except RunError:
            remove_working_files(run)
            raise
        remove_working_files(run)
    manifest = read_manifest(folder)
    counts = ", ".join(f"{about['n_tokens']:,} tokens of {name}" for name, about in manifest["corpora"].items())
    return f"{run.features}: evidence of {len(manifest['jobs'])} SAEs on {counts}"


def collect_features(
    config: ExperimentConfig,
    run: RunFolder,
    subject: Subject,
    *,
    materials: Mapping[str, Material],
    settings: FeaturesConfig,
    replace: bool,
) -> None:
    """Collect the evidence of every SAE of a run, unless it is there; ranks take a share of the SAEs each.

    Raises:
        RunError: other evidence is there, and `replace` is False.
    """
    readings = {
        name: Reading([material.heldout, material.train], n_tokens=settings.tokens)
        for name, material in materials.items()
    }
    subjects = _subjects(config, run, subject, materials=materials)
    decisive = _decisive(settings, subject, subjects, readings=readings)
    key = hashlib.sha256(json.dumps(decisive, sort_keys=True).encode()).hexdigest()
    # What the first rank sees decides: files reach other machines late.
    if run.ranks.any(run.ranks.is_first and _is_there(run, key, decisive, replace=replace)):
        log.info("evidence in %s is reused", run.features)
        return
    paths, parts = Paths.of(run.path), run.features / ".parts" / key[:16]
    run.ranks.by_first(lambda: paths.manifest.unlink(missing_ok=True))
    for corpus, reading in readings.items():
        _gather(corpus, reading, subjects, settings=settings, parts=parts, ranks=run.ranks)
    run.ranks.barrier()
    about = _Evidence(key, decisive, readings)
    run.ranks.by_first(lambda: _assemble(run, subject, subjects, about, settings=settings))


class _Evidence(NamedTuple):
    key: str
    decisive: dict[str, Any]
    readings: dict[str, Reading]


def _assemble(
    run: RunFolder, subject: Subject, subjects: Subjects, about: _Evidence, *, settings: FeaturesConfig
) -> None:
    """Put the gathered parts together and write the evidence."""
    key, decisive, readings = about
    paths, parts = Paths.of(run.path), run.features / ".parts" / key[:16]
    vocabulary = token_bytes(subject.lm.tokenizer)
    write_vocabulary(paths.vocabulary, vocabulary)
    unembedding = Unembedding(subject.lm, n_tokens=len(vocabulary.tokens))
    assembler = Assembler(paths, settings, readings=readings, unembedding=unembedding)
    totals: dict[str, Totals] = {}
    with stage("writing evidence", len(subjects.contenders), unit="SAEs") as advance:
        for name, contender in subjects.contenders.items():
            found = {corpus: load_part(part_path(parts, corpus, name)) for corpus in subjects.corpora[name]}
            totals |= {corpus: part.totals for corpus, part in found.items()}
            assembler.write_job(name, contender.sae, found)
            if subjects.saved[name] is None:
                save_sae(contender.sae, run.features / name, metadata=SAEMetadata(fovea={"job": name}))
            advance(1)
    assembler.write_contexts()
    content = {
        "key": key,
        "decisive": decisive,
        "corpora": {corpus: _about_corpus(corpus, reading, totals[corpus]) for corpus, reading in readings.items()},
        "jobs": {name: _about(run, name, subjects) for name in subjects.contenders},
        "groups": [rule._asdict() for rule in assembler.rules],
        "definitions": DEFINITIONS,
    }
    write_manifest(run.path, content, _inputs(run, subjects))
    shutil.rmtree(run.features / ".parts", ignore_errors=True)


DEFINITIONS = {
    "n_fired": "tokens on which the latent is above zero, of n_tokens tokens that count",
    "top": "the largest activation of a context; at most one a context, texts around the peak all different",
    "rank": f"share of the latent's firings with a larger activation, from a uniform sample of {SAMPLE} firings; exact "
    "where it fired no more often",
    "n_duplicates": f"places in the text that was read with the same {AROUND} tokens on either side of the peak",
    "histogram": "firings in equal bins of (0, the largest activation on any corpus of the job]",
    "promoted": "unembedding x (weight of the final norm * decoder row): a linear approximation of the direct path",
    "nearest": "cosine of decoder rows",
    "cofiring": "tokens of D on which both fire / tokens on which either does, on a sample of tokens",
}
"What the columns mean, as the manifest says it."


def _check_finished(config: ExperimentConfig, run: RunFolder) -> None:
    for domain in config.domain:
        for name in jobs_of(config, domain):
            if not (run.saes / name / "job.json").exists() or not (run.features / name / "latents.parquet").exists():
                raise RunError(
                    f"run {str(run.path)!r} is not finished: job {name!r} is not trained and measured; continue it "
                    "with --resume first"
                )


def _subjects(
    config: ExperimentConfig, run: RunFolder, subject: Subject, *, materials: Mapping[str, Material]
) -> Subjects:
    found = Subjects({}, {}, {}, subject.device)
    for domain in config.domain:
        calibration = calibrate(run, materials[domain.name].train)
        own = saved_contenders(config, run, subject, domain=domain)
        for contender in [*own, *untrained_controls(config, subject, domain, calibration=calibration)]:
            name = folder_of(config, domain, contender.info.job)
            found.contenders[name] = contender
            found.corpora[name] = [domain.name, *(["general"] if "general" in materials else [])]
            saved = run.general if contender.info.job == "g" else run.saes / contender.info.job
            found.saved[name] = saved if (saved / "cfg.json").exists() else None
    return found


def folder_of(config: ExperimentConfig, domain: DomainConfig, job: str) -> str:
    """The job's own name; g is measured on every domain, so where there are several its folder carries the domain."""
    return f"{domain.name}-g" if job == "g" and len(config.domain) > 1 else job


def _decisive(
    settings: FeaturesConfig, subject: Subject, subjects: Subjects, *, readings: Mapping[str, Reading]
) -> dict[str, Any]:
    """All that decides the content."""
    return {
        "format": FORMAT,
        "settings": settings.model_dump(mode="json"),
        "samples": [SAMPLE, WITH_CONTEXT, AROUND],
        "lm": subject.lm.fingerprint,
        "text": {
            corpus: [[chunks.key, n_contexts] for chunks, n_contexts in reading.parts]
            for corpus, reading in readings.items()
        },
        "saes": {name: contender.info.sae_fingerprint for name, contender in subjects.contenders.items()},
    }


def _is_there(run: RunFolder, key: str, decisive: Mapping[str, Any], *, replace: bool) -> bool:
    """Whether this evidence is there and whole.

    Raises:
        RunError: other evidence is there, and it may not be replaced.
    """
    try:
        manifest = read_manifest(run.path)
    except RunError as error:
        if Paths.of(run.path).manifest.exists() and not replace:
            raise RunError(f"{error} to replace it") from None
        return False
    if manifest["key"] == key:
        return True
    if not replace:
        changed = sorted(name for name in decisive if decisive[name] != manifest["decisive"].get(name))
        raise RunError(
            f"{run.features} holds evidence that differs in {', '.join(changed)}; add --force to replace it, or ask "
            f"for the same (settings there: {manifest['decisive']['settings']})"
        )
    return False


def _gather(
    corpus: str, reading: Reading, subjects: Subjects, *, settings: FeaturesConfig, parts: Path, ranks: Ranks
) -> None:
    """Read a corpus for this rank's share of the SAEs that are shown it and whose part is not there."""
    shown = [name for name in subjects.contenders if corpus in subjects.corpora[name]]
    missing = {
        name: subjects.contenders[name].sae.encode
        for name in shown[ranks.rank :: ranks.size]
        if not is_whole(part_path(parts, corpus, name))
    }
    reading.prefetch(ranks)
    if not missing:
        return
    title = f"evidence of {len(missing)} SAEs on {corpus} ({reading.split})"
    with stage(title, reading.n_contexts, unit="contexts") as advance:
        done = 0

        def observe(n_done: int) -> None:
            nonlocal done
            advance(n_done - done)
            done = n_done

        gathered, totals = gather(reading, missing, n_top=settings.top, device=subjects.device, observe=observe)
    for name, found in gathered.items():
        save_part(part_path(parts, corpus, name), Part(found, totals))


def _about_corpus(corpus: str, reading: Reading, totals: Totals) -> dict[str, Any]:
    """What the manifest says of a corpus."""
    return {
        "role": "general" if corpus == "general" else "domain",
        "split": reading.split,
        "n_contexts": reading.n_contexts,
        **totals._asdict(),
    }


def _about(run: RunFolder, name: str, subjects: Subjects) -> dict[str, Any]:
    """What the manifest says of an SAE."""
    contender, saved = subjects.contenders[name], subjects.saved[name]
    general = next(
        (
            other
            for other, one in subjects.contenders.items()
            if one.info.job == "g" and one.info.domain == contender.info.domain and other != name
        ),
        None,
    )
    return {
        "method": contender.info.method,
        "domain": contender.info.domain,
        "architecture": contender.info.architecture,
        "d_sae": contender.sae.d_sae,
        "corpora": subjects.corpora[name],
        "general_job": general,
        "sae": str((saved or run.features / name).relative_to(run.path)),
        "sae_fingerprint": contender.info.sae_fingerprint,
    }


def _inputs(run: RunFolder, subjects: Subjects) -> list[str]:
    """Files that evidence must agree with whenever it is read."""
    paths = Paths.of(run.path)
    files = [run.experiment, run.calibration / "filter.json"]
    for name, saved in subjects.saved.items():
        files.append(paths.latents(name))
        files.append((saved or run.features / name) / "sae_weights.safetensors")
    return [str(path.relative_to(run.path)) for path in files]
