"""The model card of one SAE of a run: what a stranger needs to use it, and what is not known about it.

RUN (settings, job.json, metrics.jsonl, provenance.json) --> README.md: YAML header for the Hub, then Markdown

Works from the run folder alone. Names no path of this machine and holds no text of a corpus.
"""

import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from fovea.atomic import read_checked_json
from fovea.bundled.corpora import corpus_info
from fovea.eval.definitions import DEFINITIONS
from fovea.eval.records import MetricRecord, finite, read_metrics
from fovea.experiment.config import ExperimentConfig
from fovea.experiment.folder import RunFolder
from fovea.report.words import interval, number
from fovea.sae.blocks import ARCHITECTURE
from fovea.sae.files import LoadedSAE

HUB_NAMES = {"bundled:smollm2-135m-instruct": "HuggingFaceTB/SmolLM2-135M-Instruct"}
"Names on the Hub of models that fovea brings."

SHOWN = (
    "loss_recovered_gap",
    "loss_recovered_zero",
    "loss_recovered_mean",
    "delta_ce",
    "kl",
    "fvu",
    "l0",
    "n_dead",
    "novelty_decoder_median",
)
"Metrics of the card, in this order, where the run has them."

LOCAL = " (local files)"
"What stands in place of the folders of this machine."

IN_HEADER = ("loss_recovered_gap", "loss_recovered_mean", "fvu", "l0")


class Subject(NamedTuple):
    """What a card is about."""

    run: RunFolder
    config: ExperimentConfig
    job: str
    domain: str
    loaded: LoadedSAE
    "As it is handed over: g and the job as one where `is_stack`."
    is_stack: bool
    license: str | None
    "Of the weights, as the Hub spells it; None if the user has not said."
    place: str
    "hf:OWNER/REPO[/PATH]."


def public_name(reference: str) -> str:
    """A reference without the folders of this machine."""
    is_path = Path(reference).is_absolute() or reference.startswith((".", "~")) or Path(reference).exists()
    return f"{Path(reference).name}{LOCAL}" if is_path else reference


def card(subject: Subject) -> str:
    """README.md."""
    parts = [_header(subject), _what(subject), _load(subject), _made(subject), _measured(subject), _data(subject)]
    return "\n".join([*parts, _limits(subject), _provenance(subject)])


def _header(subject: Subject) -> str:
    from huggingface_hub import EvalResult, ModelCardData

    base = hub_name(subject.config.lm.model)
    results = [
        EvalResult(
            task_type="feature-extraction",
            dataset_type=record.corpus,
            dataset_name=record.corpus,
            dataset_split=record.split,
            dataset_revision=record.corpus_fingerprint,
            metric_type=record.metric,
            metric_name=DEFINITIONS[record.definition].name,
            metric_value=record.value,
            metric_args={
                "ci_low": record.ci_low,
                "ci_high": record.ci_high,
                "n_tokens": record.n_tokens,
                "n_documents": record.n_documents,
            },
        )
        for record in _records(subject)
        if record.metric in IN_HEADER and record.split == "heldout" and finite(record.value) is not None
    ]
    data = ModelCardData(
        license=subject.license or "unknown",
        library_name="fovea" if _is_own(subject.loaded) else "saelens",
        tags=["sparse-autoencoder", "interpretability", "fovea", subject.domain],
        model_name=subject.job if results else None,
        eval_results=results or None,
        base_model=base,
    )
    return f"---\n{data.to_yaml()}\n---\n"


def hub_name(lm: str) -> str | None:
    """OWNER/NAME of an lm, if it has one."""
    if lm in HUB_NAMES:
        return HUB_NAMES[lm]
    is_id = lm.count("/") == 1 and ":" not in lm and public_name(lm) == lm
    return lm if is_id else None


def _lm(reference: str) -> str:
    name = hub_name(reference)
    copied = reference in HUB_NAMES
    return f"{reference}: {name}, weights rounded to 4 bits" if copied else public_name(reference)


def _is_own(loaded: LoadedSAE) -> bool:
    return loaded.sae.file_architecture == ARCHITECTURE


def _what(subject: Subject) -> str:
    sae, said = subject.loaded.sae, subject.loaded.metadata
    record = _job(subject)
    about = (
        f"The general SAE g and `{subject.job}`, an SAE trained on what g leaves over, as one exact SAE"
        if subject.is_stack
        else f"`{subject.job}`, a sparse autoencoder trained by the method `{record['method']}`"
    )
    facts = {
        "model": _lm(subject.config.lm.model),
        "hook point": f"`{said.hook_name}` (TransformerLens), `{said.hf_hook_name}` (Hugging Face)",
        "width, latents": f"{sae.d_in}, {sae.d_sae}",
        "architecture": f"`{sae.file_architecture}`"
        + (f", trained as {said.training_architecture}" if said.training_architecture else ""),
        "context size, BOS first": f"{said.context_size}, {str(said.prepend_bos).lower()}",
        "reads": "raw activations" if sae.token_norm == "none" else f"activations normalised by {sae.token_norm}",
    }
    blocks = said.fovea.get("blocks")
    for block in blocks if isinstance(blocks, list) else []:
        facts[f"latents {block['start']} to {block['stop'] - 1}"] = block["name"]
    whole = (
        ""
        if subject.is_stack or not _adds_general(subject)
        else (
            "\n**By itself it does not rebuild x: its output is added to that of the general SAE "
            f"{public_name(subject.config.general.sae)}.**\n"
            if subject.config.general
            else ""
        )
    )
    return f"# {subject.job}\n\n{about}. Domain: {subject.domain}.\n{whole}\n{_table(('', ''), facts.items())}"


def _load(subject: Subject) -> str:
    first = "import fovea.saelens  # teaches sae_lens stacks of per-token TopK\n" if _is_own(subject.loaded) else ""
    repository = "/".join(subject.place.removeprefix("hf:").split("/")[:2])
    path = "/".join(subject.place.removeprefix("hf:").split("/")[2:])
    folder = f'snapshot_download("{repository}")' + (f' + "/{path}"' if path else "")
    return (
        "## Load it\n\n```python\nimport fovea\n\n"
        f'loaded = fovea.load_sae("{subject.place}")\nlatents = loaded.sae.encode(x)  # x: [tokens d_in]\n'
        "x_hat = loaded.sae(x)\n```\n\nIn SAELens 6:\n\n```python\n"
        f"{first}from huggingface_hub import snapshot_download\nfrom sae_lens import SAE\n\n"
        f"sae = SAE.load_from_disk({folder})\n```\n"
    )


def _made(subject: Subject) -> str:
    record, config = _job(subject), subject.config
    ledger = record["ledger"]
    general = "none" if config.general is None else public_name(config.general.sae)
    facts = {
        "method": f"`{record['method']}`",
        "general SAE g": general,
        "settings": f"`{json.dumps(record['config'])}`",
        "activations learnt from": f"{ledger['n_tokens']:,} ({ledger['epochs']:.2f} epochs of the training documents)",
        "seed": str(record["seed"]),
        "training FLOPs of the SAE": f"{ledger['flops']:.2g}",
    }
    return f"## How it was made\n\n{_table(('', ''), facts.items())}"


def _measured(subject: Subject) -> str:
    rows = [
        (
            DEFINITIONS[record.definition].name,
            record.corpus,
            record.split,
            number(record.value),
            interval(record.ci_low, record.ci_high) or record.reason or "none",
            f"{record.n_tokens:,}" + (f" in {record.n_documents:,} documents" if record.n_documents else ""),
        )
        for record in _records(subject)
    ]
    if not rows:
        return "## Measured\n\nNothing: the run was not evaluated.\n"
    both = "" if not _adds_general(subject) else " Measured together with g, as the sum of both."
    return (
        f"## Measured\n\nOn documents that the SAE was not trained on (heldout).{both} Intervals: 95%, bootstrap over "
        "documents.\n\n" + _table(("metric", "text", "split", "value", "95%", "tokens"), rows)
    )


def _data(subject: Subject) -> str:
    lines = [f"- weights: {subject.license or '**not said by the author; ask before you use them**'}"]
    if subject.is_stack and subject.config.general is not None:
        lines.append(
            f"- the weights of g, {public_name(subject.config.general.sae)}, are in this file: see its licence"
        )
    sources = {subject.domain: next(d.corpus for d in subject.config.domain if d.name == subject.domain)}
    if subject.config.general is not None:
        sources["general text"] = subject.config.general.corpus
    for name, references in sources.items():
        for reference in [references] if isinstance(references, str) else references:
            lines.append(f"- {name}: {public_name(reference)}, {_data_licence(reference)}")
    return "## Licence and data\n\n" + "\n".join(lines) + "\n\nNo text of these corpora is in this repository.\n"


def _data_licence(reference: str) -> str:
    scheme, _, name = reference.partition(":")
    if scheme != "bundled":
        return "licence not known to fovea"
    info = corpus_info(name)
    kept = "" if info.redistributable else " (may be used, not passed on)"
    return f"{info.title}; licence {info.licence}{kept}"


def _limits(subject: Subject) -> str:
    record = _job(subject)
    ledger = record["ledger"]
    lines = [
        f"One seed ({record['seed']}): how far the numbers move from seed to seed is not said here.",
        f"{ledger['n_dead']:,} of {ledger['d_sae']:,} latents had not fired for a long time when training ended.",
        "Trained and measured on one lm, one hook point and one domain; nothing is known of others.",
        "Computed in float32; in bfloat16 other latents may fire.",
    ]
    if record["stopped"]:
        lines.append("**Its training diverged and was stopped; these are the last good weights.**")
    if record["method"] == "control":
        lines.append("**A control, not meant for use.**")
    return "## Limits\n\n" + "\n".join(f"- {line}" for line in lines) + "\n"


def _provenance(subject: Subject) -> str:
    found: Mapping[str, Any] = read_checked_json(subject.run.provenance)
    facts = {
        "fovea": f"{found['fovea']} (commit {found['commit'] or 'not known'})",
        **{name: str(version) for name, version in found["packages"].items() if version},
        "lm": f"`{found['lm']['fingerprint']}` in {found['lm']['dtype']}",
        "g": "none" if not found["general_sae"] else f"`{found['general_sae']['fingerprint']}`",
    }
    fingerprints = {r.sae_fingerprint for r in read_metrics(subject.run.metrics) if r.job == subject.job}
    facts["this SAE"] = ", ".join(f"`{each}`" for each in sorted(filter(None, fingerprints))) or "not measured"
    return f"## Provenance\n\n{_table(('', ''), facts.items())}\nWritten by `fovea push`.\n"


def _records(subject: Subject) -> list[MetricRecord]:
    """The job's records that the card shows, held-out D first."""
    if not subject.run.metrics.exists():
        return []
    own = [
        record
        for record in read_metrics(subject.run.metrics)
        if record.job == subject.job and record.metric in SHOWN and record.split == "heldout"
    ]
    return sorted(own, key=lambda r: (r.corpus == "general", SHOWN.index(r.metric)))


def _job(subject: Subject) -> dict[str, Any]:
    return read_checked_json(subject.run.saes / subject.job / "job.json")


def _adds_general(subject: Subject) -> bool:
    return _find(subject).method.adds_general


def _find(subject: Subject) -> Any:
    from fovea.experiment.fit import jobs_of

    domain = next(each for each in subject.config.domain if each.name == subject.domain)
    return jobs_of(subject.config, domain)[subject.job]


def _table(head: Sequence[str], rows: Any) -> str:
    lines: Iterator[str] = (
        "| " + " | ".join(str(cell).replace("|", "\\|").replace("\n", " ") for cell in row) + " |" for row in rows
    )
    return "\n".join(["| " + " | ".join(head) + " |", "|" + "---|" * len(head), *lines]) + "\n"
