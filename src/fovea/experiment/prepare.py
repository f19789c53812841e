"""Before training: the lm, g, the tokenised corpora, the token filter and the scales. All kept in the run folder.

references --> lm, g --(do they fit?)--> tokens of D and of general text --> filter --> mean and scale of x on D
"""

import logging
import math
from pathlib import Path
from typing import Any, NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

from fovea.atomic import write_checked_json
from fovea.data.activations import ActivationChunks, TokenFilter, median_norm, sample_rows
from fovea.data.batching import batch_record, fastest_batch
from fovea.data.cache import SharedCache
from fovea.data.clean import Cleaner, LMScorer
from fovea.data.scale import InputScale
from fovea.data.shards import TokenShard
from fovea.data.store import ChunkStore
from fovea.data.tokens import CorpusConfig, PackedTokens, PackingConfig, TokenisedCorpus, build_tokens, check_distinct
from fovea.errors import DamagedError, SAEError
from fovea.experiment.calibration import (
    Calibration,
    calibration_file,
    read_batch_size,
    read_calibration,
    read_filter,
)
from fovea.experiment.config import DomainConfig, ExperimentConfig, GeneralConfig
from fovea.experiment.folder import RunFolder
from fovea.experiment.progress import stage
from fovea.experiment.sharing import local_device, sae_device
from fovea.lm.hookpoint import HookPoint
from fovea.lm.load import load_lm
from fovea.lm.memory import keep_freed_memory
from fovea.lm.model import LM
from fovea.sae.files import LoadedSAE, check_fits, load_sae
from fovea.sae.frozen import FrozenSAE
from fovea.sae.sanity import sanity
from fovea.tensorfile import write_checked

log = logging.getLogger("fovea")
_FILTER_TOKENS, _CALIBRATION_TOKENS = 2048, 4096
"A median norm needs fewer than a mean. Of n rows, the error of a mean is 1/n of the variance of x."

SANITY_ROWS = 2048
"Tokens of general text on which g is tried before anything is trained."


class Subject(NamedTuple):
    """What a run studies: the lm at a hook point, with g."""

    lm: LM
    hook_point: HookPoint
    general: LoadedSAE | None
    "g as loaded, on the CPU, where jobs begin."
    frozen: FrozenSAE | None
    "g as it is run, on `device`."
    device: torch.device = torch.device("cpu")
    "Where SAEs train and are measured."


class Material(NamedTuple):
    """One corpus, ready to be read."""

    corpus: TokenisedCorpus
    train: ActivationChunks
    heldout: ActivationChunks


def load_subject(config: ExperimentConfig) -> Subject:
    """The lm and g, checked against each other, each on this rank's own device.

    Raises:
        ModelError: the hook point is not in the lm.
        SAEError: g has another width or belongs to another hook point or lm.
    """
    keep_freed_memory()
    device = sae_device(config)
    if str(device).startswith("cuda:"):
        torch.cuda.set_device(device)  # of this process: what names no number means this one
    lm = load_lm(
        config.lm.model,
        dtype=config.lm.dtype,
        device=local_device(config.lm.device),
        compiled=config.lm.compile,
    )
    hook_point = HookPoint.parse(config.lm.hook_point)
    lm.check(hook_point)
    if config.general is None:
        return Subject(lm, hook_point, None, None, device)
    general = load_sae(config.general.sae)
    check_fits(general, lm_name=lm.name, d_model=lm.d_model, hook_point=str(hook_point))
    _warn_of_another_lm(general, lm.name)
    return Subject(lm, hook_point, general, FrozenSAE(general.sae, device=device), device)


def _warn_of_another_lm(general: LoadedSAE, name: str) -> None:
    """Say it when g's file names another lm. A warning: a model has many names (hub id, folder)."""
    if names_another_lm(general, name):
        named = general.metadata.model_name
        log.warning("general SAE %r says it was trained on %r; the experiment runs %r", general.reference, named, name)


def names_another_lm(sae: LoadedSAE, lm_name: str) -> bool:
    """Whether an SAE's file names an lm whose last part of the name is another."""
    last = [name.rstrip("/").rsplit("/", 1)[-1].lower() for name in (sae.metadata.model_name or "", lm_name)]
    return bool(last[0]) and last[0] != last[1]


def tokenise(config: ExperimentConfig, run: RunFolder, subject: Subject) -> dict[str, TokenisedCorpus]:
    """The corpora by name: "general" (if any) and each domain; made on the first call, opened on later ones."""
    corpora: dict[str, TokenisedCorpus] = {}
    if config.general is not None:
        corpora["general"] = _tokens(config, run, subject, source=config.general, name="general")
    for domain in config.domain:
        corpora[domain.name] = _tokens(config, run, subject, source=domain, name=domain.name)
        if "general" in corpora:
            check_distinct(corpora[domain.name], corpora["general"])
    return corpora


def _tokens(
    config: ExperimentConfig, run: RunFolder, subject: Subject, *, source: DomainConfig | GeneralConfig, name: str
) -> TokenisedCorpus:
    corpus = CorpusConfig(
        reference=source.corpus,
        text_field=source.text_field,
        heldout_fraction=config.text.heldout_fraction,
        max_train_tokens=source.max_train_tokens,
        max_heldout_tokens=source.max_heldout_tokens,
    )
    packing = PackingConfig(context_size=config.text.context_size, prepend_bos=config.text.prepend_bos)
    cleaner = None
    if isinstance(source, DomainConfig) and source.clean is not None:
        scorer = LMScorer(
            load_lm(source.clean.scorer, device=str(subject.lm.device)), n_tokens=source.clean.piece_tokens
        )
        cleaner = Cleaner(scorer, max_loss=source.clean.max_loss)
    limits = [limit for limit in (source.max_train_tokens, source.max_heldout_tokens) if limit]
    total = sum(limits) if len(limits) == 2 else None
    with stage(f"tokenising {name}", total, unit="tokens") as advance:
        done = 0

        def on_progress(n_documents: int, n_tokens: int) -> None:
            nonlocal done
            del n_documents
            advance(n_tokens - done)
            done = n_tokens

        return build_tokens(
            corpus, subject.lm, folder=run.corpora / name, packing=packing, cleaner=cleaner, on_progress=on_progress
        )


def token_filter(config: ExperimentConfig, run: RunFolder, subject: Subject, *, packed: PackedTokens) -> TokenFilter:
    """The filter, with the massive-norm threshold measured once per run on `packed` and stored."""
    path = run.calibration / "filter.json"
    if path.exists():
        try:
            return read_filter(run)
        except DamagedError as error:
            log.warning("the token filter is measured again: %s", error)
    plain = TokenFilter.of(subject.lm, skip_first=config.text.skip_first)
    rows = _sampled(subject.lm, subject.hook_point, packed, keep=plain, n_tokens=_FILTER_TOKENS)
    median = median_norm(rows, corpus=packed.name)
    max_norm = config.text.max_norm_ratio * median
    measured = TokenFilter.of(subject.lm, skip_first=config.text.skip_first, max_norm=max_norm)
    write_checked_json(path, {"filter": measured.to_dict(), "median_norm": median, "corpus": packed.name})
    log.info("median norm %.1f; tokens above %.1f are dropped", median, measured.max_norm)
    return measured


def materials(config: ExperimentConfig, run: RunFolder, subject: Subject) -> dict[str, Material]:
    """Everything that is read, by corpus name: "general" first (if any), then each domain."""
    corpora = tokenise(config, run, subject)
    keep = token_filter(config, run, subject, packed=next(iter(corpora.values())).train)
    return {name: _material(config, run, subject, corpus=corpus, keep=keep) for name, corpus in corpora.items()}


def _material(
    config: ExperimentConfig, run: RunFolder, subject: Subject, *, corpus: TokenisedCorpus, keep: TokenFilter
) -> Material:
    """Activations of both splits, remembered on disk if the experiment allows it."""
    size = contexts_per_batch(config, run, subject, packed=corpus.train)
    train, heldout = (
        ActivationChunks(
            subject.lm,
            subject.hook_point,
            packed=packed,
            token_filter=keep,
            contexts_per_chunk=config.text.contexts_per_chunk,
            contexts_per_batch=size,
        )
        for packed in (corpus.train, corpus.heldout)
    )
    train.round_to(config.train.cache_precision)
    remember(config, run, train, name=corpus.name)
    remember(config, run, heldout, name=f"{corpus.name}-heldout")
    return Material(corpus, train, heldout)


def remember(
    config: ExperimentConfig, run: RunFolder, chunks: ActivationChunks, *, name: str, n_parts: int = 1
) -> None:
    """Keep chunks on disk as the experiment says: in the run, in a folder that runs share, or not at all.

    Args:
        n_parts: Parts that share the room in the run; a shared folder has one limit in any case.

    Raises:
        RunError: the folder of the cache cannot be used, or holds something else.
    """
    max_bytes = int(config.train.cache_gigabytes * 1e9)
    if max_bytes == 0:
        return
    if config.train.cache_folder is not None:
        SharedCache(Path(config.train.cache_folder), max_bytes=max_bytes).remember(chunks, name=name)
        return
    store = ChunkStore(
        run.activations / name,
        key=chunks.key,
        dtype=chunks.lm.dtype,
        max_bytes=max_bytes // n_parts,
        precision=chunks.precision,
    )
    chunks.remember(store)


def contexts_per_batch(config: ExperimentConfig, run: RunFolder, subject: Subject, *, packed: PackedTokens) -> int:
    """Contexts that the lm sees at once: the experiment's number, or the fastest, measured once per run and stored.

    A shared cache stores it too: activations of another batch shape would not be reused.
    """
    if config.text.contexts_per_batch != "auto":
        return config.text.contexts_per_batch
    path = run.calibration / "batch.json"
    if not path.exists():
        shared = config.train.cache_folder
        known = None if shared is None else batch_record(Path(shared), subject.lm, subject.hook_point, packed=packed)
        if known is None or not known.exists():
            found = fastest_batch(subject.lm, subject.hook_point, packed, largest=config.text.contexts_per_chunk)
            write_checked_json(path if known is None else known, found)
        if known is not None:
            write_checked_json(path, read_batch_size(known))
    n_contexts: int = read_batch_size(path)["contexts_per_batch"]
    log.info("the lm sees %d contexts at once (%s)", n_contexts, path)
    return n_contexts


def own_shards(config: ExperimentConfig, run: RunFolder, material: Material) -> dict[int, ActivationChunks]:
    """The shards of the training split that this rank reads, by number; of one shard, the split itself."""
    n_shards = int(config.train.shards)
    whole = material.train
    if n_shards == 1:
        return {0: whole}
    n_own = n_shards // run.ranks.size
    found: dict[int, ActivationChunks] = {}
    for shard in range(run.ranks.rank * n_own, (run.ranks.rank + 1) * n_own):
        found[shard] = ActivationChunks(
            whole.lm,
            whole.hook_point,
            packed=TokenShard(whole.packed, shard, n_shards),
            token_filter=whole.token_filter,
            contexts_per_chunk=whole.contexts_per_chunk,
            contexts_per_batch=whole.contexts_per_batch,
        )
        found[shard].round_to(whole.precision)
        name = f"{whole.packed.name}-{shard:04d}-of-{n_shards:04d}"
        remember(config, run, found[shard], name=name, n_parts=n_shards)
    return found


def calibrate(run: RunFolder, chunks: ActivationChunks) -> Calibration:
    """Mean and scale of x on rows from all over a split, measured once per run and stored."""
    path = calibration_file(run, chunks.packed.name)
    if path.exists():
        try:
            return read_calibration(run, chunks.packed.name)
        except DamagedError as error:
            log.warning("mean and scale of %s are measured again: %s", chunks.packed.name, error)
    rows = _sampled(chunks.lm, chunks.hook_point, chunks.packed, keep=chunks.token_filter, n_tokens=_CALIBRATION_TOKENS)
    fitted = InputScale.fit(rows)
    scale = torch.tensor([fitted.scale], dtype=torch.float64)
    write_checked(path, {"rows": rows, "mean": fitted.mean, "scale": scale})
    return read_calibration(run, chunks.packed.name)


def _sampled(lm: LM, hook_point: HookPoint, packed: PackedTokens, *, keep: TokenFilter, n_tokens: int) -> Tensor:
    n_contexts = -(-n_tokens // packed.context_size)
    return sample_rows(lm, hook_point, packed, token_filter=keep, n_contexts=n_contexts)


def warn_if_misread(subject: Subject, rows: Float[Tensor, "tokens d_in"]) -> None:
    """Say it when g does not rebuild general text, and name the convention under which it would.

    Raises:
        SAEError: g gives NaN or infinite numbers.
    """
    if subject.general is None:
        return
    found = sanity(subject.general.sae, rows[:SANITY_ROWS])
    if not math.isfinite(found.fvu):
        raise SAEError(
            f"general SAE {subject.general.reference!r} gives NaN or infinite numbers on general text: its weights are "
            "too large for float32 sums; get it again, or take another"
        )
    log.info("general SAE: FVU %.3f on general text", found.fvu)
    if found.warning is not None:
        log.warning("general SAE %r: %s", subject.general.reference, found.warning)


def general_provenance(subject: Subject) -> dict[str, Any]:
    """Fingerprints of what the run stands on."""
    return {
        "lm": {"name": subject.lm.name, "fingerprint": subject.lm.fingerprint, "dtype": str(subject.lm.dtype)},
        "general_sae": None if subject.frozen is None else {"fingerprint": subject.frozen.fingerprint()},
    }
