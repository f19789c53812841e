"""A corpus as packed token contexts on disk, by split, with the document of every token.

    CorpusReader --> [Cleaner] --> split_of --> PlainTokenizer --> Packer, one a split --> folder/ --> PackedTokens

The folder is complete or absent. Its manifest holds a key, the hash of all that decides the content (the corpus files'
bytes too): with an equal key the folder is used as it is, with another it is refused.

    folder/manifest.json   SPLIT.tokens.u32  SPLIT.documents.i32  SPLIT.documents.txt   (SPLIT = train, heldout)
"""

import hashlib
import json
import logging
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np
import torch
from jaxtyping import Int64
from numpy.typing import NDArray
from pydantic import Field, PositiveInt
from torch import Tensor

from fovea.atomic import new_folder, read_checked_json, write_checked_json
from fovea.config import Config
from fovea.data.clean import Cleaner
from fovea.data.content import changes, write_content
from fovea.data.corpus import CorpusReader, Document
from fovea.data.pack import Packer, SplitFiles
from fovea.data.split import SPLITS, Split, split_of
from fovea.data.tokenizer import PlainTokenizer, pieces_of
from fovea.errors import ConfigError, CorpusError, DamagedError, RunError
from fovea.foreign import Refusal, damage, is_there
from fovea.lm.model import LM

logger = logging.getLogger("fovea")
_FORMAT = 1
_DELETE = Refusal(RunError, "give the folder of a tokenised corpus, or delete it and run again to make it anew")
_BATCH_CHARACTERS = 1_000_000
_BATCH_PIECES = 1024


class CorpusConfig(Config):
    """Which documents, how they are split and how many of their tokens are used."""

    reference: str | tuple[str, ...]
    "File, folder, glob, hf:NAME[:CONFIG]#SPLIT or bundled:NAME; or several."
    text_field: str = "text"
    "Field or column with the text, for jsonl, parquet and Hugging Face datasets."
    heldout_fraction: float = Field(default=0.1, ge=0, le=1)
    "Share of the documents that no SAE is trained on."
    salt: str = ""
    "Another salt gives another split."
    max_train_tokens: PositiveInt | None = None
    "Stop after so many, in corpus order; none for all."
    max_heldout_tokens: PositiveInt | None = None
    "The same for the held-out split."

    def max_tokens(self, split: Split) -> int | None:
        """The limit of a split."""
        return self.max_train_tokens if split == "train" else self.max_heldout_tokens

    def wants(self, split: Split) -> bool:
        """Whether any document may fall into a split."""
        return self.heldout_fraction < 1 if split == "train" else self.heldout_fraction > 0


class PackingConfig(Config):
    """How tokens are laid out for the lm; the same for all corpora of a run."""

    context_size: int = Field(default=128, ge=2)
    "Tokens the lm sees at once, BOS included."
    prepend_bos: Literal["auto"] | bool = "auto"
    "Start each context with BOS; auto does what the lm's own tokenizer does."


class TokenBatch(NamedTuple):
    """Contexts with the document and the position of each token."""

    tokens: Int64[Tensor, "batch pos"]
    documents: Int64[Tensor, "batch pos"]
    "Index of the document in its split; -1 for BOS and separators."
    positions: Int64[Tensor, "batch pos"]
    "Position in the context, from 0."


class PackedTokens:
    """One split of a tokenised corpus, read from disk as it is needed."""

    def __init__(self, folder: Path, split: Split) -> None:
        manifest = read_manifest(folder)
        counts = manifest["splits"][split]
        self.folder, self.split = folder, split
        self.name: str = manifest["name"]
        self.context_size: int = manifest["settings"]["context_size"]
        self.n_contexts: int = counts["n_contexts"]
        self.n_tokens: int = counts["n_tokens"]
        self.n_document_tokens: int = counts["n_document_tokens"]
        self.n_documents: int = counts["n_documents"]
        self.fingerprint: str = counts["fingerprint"]
        self._files = SplitFiles.of(folder, split)
        shape = (self.n_contexts, self.context_size)
        numbers: tuple[Any, ...] = (*shape, self.n_tokens, self.n_document_tokens, self.n_documents)
        for number in numbers:
            if not isinstance(number, int) or isinstance(number, bool) or not 0 <= number < 2**48:
                raise _DELETE.of(f"{folder / 'manifest.json'} is damaged ({number!r:.100} is no count)")
        self._tokens = _mapped(self._files.tokens, "<u4", shape)
        self._documents = _mapped(self._files.documents, "<i4", shape)

    def batch(self, indices: Sequence[int] | range) -> TokenBatch:
        """The contexts with these indices, in this order."""
        chosen = np.asarray(indices, dtype=np.int64)
        tokens = torch.from_numpy(self._tokens[chosen].astype(np.int64))
        documents = torch.from_numpy(self._documents[chosen].astype(np.int64))
        return TokenBatch(tokens, documents, torch.arange(self.context_size).expand_as(tokens).contiguous())

    def document_ids(self) -> list[str]:
        """The ids of the documents, in the order of their indices."""
        return self._files.ids.read_text().split()


class TokenisedCorpus(NamedTuple):
    """Both splits of a corpus and what its manifest says."""

    train: PackedTokens
    heldout: PackedTokens
    manifest: dict[str, Any]

    @property
    def name(self) -> str:
        """Name of the corpus: that of its folder."""
        return str(self.manifest["name"])


class Overlap(NamedTuple):
    """Documents that two corpora share."""

    n_shared: int
    n_documents: int
    "Documents of the domain corpus."

    @property
    def share(self) -> float:
        """Share of the domain's documents that the general corpus has too, in [0, 1)."""
        return self.n_shared / self.n_documents


def build_tokens(
    config: CorpusConfig,
    lm: LM,
    *,
    folder: Path,
    packing: PackingConfig,
    cleaner: Cleaner | None = None,
    on_progress: Callable[[int, int], None] | None = None,
) -> TokenisedCorpus:
    """Tokenise a corpus into `folder`, or open it if it is there already.

    Args:
        on_progress: Called with the documents read and the tokens written so far.

    Raises:
        CorpusError: the corpus can not be read, or a split has less than one context.
        RunError: the folder holds other tokens, or damaged ones.
        OSError: the disk is full; no folder is left.
    """
    reader = CorpusReader(config.reference, text_field=config.text_field)
    tokenizer = PlainTokenizer(lm.tokenizer)
    settings = _settings(config, packing, lm, tokenizer) | {"cleaning": cleaner.key if cleaner else None}
    content = reader.content()
    settings["content"] = hashlib.sha256("\n".join(content).encode()).hexdigest()
    if folder.exists():
        _check_same(folder, settings, content)
        return open_tokens(folder)
    with new_folder(folder) as partial:
        packers: dict[Split, Packer] = {split: _packer(partial, split, config, settings) for split in SPLITS}
        with ExitStack() as open_files:
            for packer in packers.values():
                open_files.callback(packer.close)
            _fill(packers, cleaner(reader) if cleaner else reader, tokenizer, config, on_progress)
            for packer in packers.values():
                packer.finish()
        _check_size(packers, config, settings)
        write_content(partial, content)
        write_checked_json(partial / "manifest.json", _manifest(folder.name, settings, packers, reader, cleaner))
    return open_tokens(folder)


def open_tokens(folder: Path) -> TokenisedCorpus:
    """The tokenised corpus in `folder`, after a check of its files' hashes.

    Raises:
        RunError: the folder is not a tokenised corpus, or a file is missing or damaged.
    """
    manifest = read_manifest(folder)
    with damage(folder, _DELETE):
        for split in SPLITS:
            files = SplitFiles.of(folder, split)
            for path in files:
                if not is_there(path, folder, _DELETE):
                    raise RunError(f"{path} is missing; delete {folder} and run again to make it anew")
            found = files.sha256()
            for name, digest in manifest["splits"][split]["sha256"].items():
                if found[name] != digest:
                    raise RunError(
                        f"{folder / name} is damaged: its SHA-256 is {found[name]}, not {digest}; delete {folder}"
                    )
        return TokenisedCorpus(PackedTokens(folder, "train"), PackedTokens(folder, "heldout"), manifest)


def read_manifest(folder: Path) -> dict[str, Any]:
    """The manifest of a tokenised corpus.

    Raises:
        RunError: there is none, it is damaged, or another version wrote it.
    """
    path = folder / "manifest.json"
    try:
        manifest = read_checked_json(path)
    except (FileNotFoundError, DamagedError) as error:
        raise RunError(
            f"{path} can not be read ({error}); give the folder of a tokenised corpus, or delete {folder}"
        ) from None
    if manifest.get("format") != _FORMAT:
        raise RunError(f"{path} has format {manifest.get('format')!r}, this version reads {_FORMAT}; delete the folder")
    return manifest


def check_distinct(domain: TokenisedCorpus, general: TokenisedCorpus) -> Overlap:
    """How many of the domain's documents the general corpus has too; some is logged as a warning.

    Raises:
        CorpusError: all of them: the domain is identical to the general corpus, or a part of it.
    """
    own, other = (set(corpus.train.document_ids() + corpus.heldout.document_ids()) for corpus in (domain, general))
    overlap = Overlap(len(own & other), len(own))
    if own == other:
        raise CorpusError(
            f"domain {domain.name!r} is identical to general {general.name!r}: the same {len(own)} documents; "
            "give a domain corpus that differs"
        )
    if overlap.share == 1:
        raise CorpusError(
            f"all {len(own)} documents of domain {domain.name!r} are also in general {general.name!r}; remove "
            "them there"
        )
    if overlap.n_shared:
        logger.warning("%d of %d documents of domain %r are also in general %r", *overlap, domain.name, general.name)
    return overlap


def _settings(config: CorpusConfig, packing: PackingConfig, lm: LM, tokenizer: PlainTokenizer) -> dict[str, Any]:
    """All that decides the tokens, but for the documents themselves and their cleaning."""
    wants_bos = lm.adds_bos if packing.prepend_bos == "auto" else packing.prepend_bos
    if wants_bos and lm.bos_id is None:
        raise ConfigError(f"prepend_bos = true, but {lm.name!r} has no BOS token; set prepend_bos = false")
    if lm.context_size is not None and packing.context_size > lm.context_size:
        raise ConfigError(
            f"context_size = {packing.context_size}, but {lm.name!r} reads at most {lm.context_size} tokens; lower it"
        )
    for split in SPLITS:
        limit = config.max_tokens(split)
        if limit is not None and limit < packing.context_size:
            raise ConfigError(
                f"max_{split}_tokens = {limit} is less than one context of {packing.context_size} tokens; raise "
                "it or lower context_size"
            )
    return {
        **config.model_dump(mode="json", exclude={"reference"}),
        "reference": [config.reference] if isinstance(config.reference, str) else list(config.reference),
        "context_size": packing.context_size,
        "bos_id": lm.bos_id if wants_bos else None,
        "separator_id": lm.separator_id,
        "tokenizer": tokenizer.fingerprint,
    }


def _key(settings: dict[str, Any]) -> str:
    """Hash of the settings; where the files lie does not matter, only what is in them."""
    decisive = {name: value for name, value in settings.items() if name != "reference"}
    return hashlib.sha256(json.dumps(decisive, sort_keys=True).encode()).hexdigest()


def _check_same(folder: Path, settings: dict[str, Any], content: list[str]) -> None:
    manifest = read_manifest(folder)
    with damage(folder, _DELETE):
        if manifest["key"] == _key(settings):
            logger.info("tokens in %s are reused", folder)
            return
        changed = changes(folder, manifest["settings"], settings, content=content)
    raise RunError(
        f"{folder} holds tokens made in another way ({'; '.join(changed)}); put the old text or settings back, or "
        "choose another folder"
    )


def _packer(folder: Path, split: Split, config: CorpusConfig, settings: dict[str, Any]) -> Packer:
    limit = config.max_tokens(split)
    return Packer(
        SplitFiles.of(folder, split),
        context_size=settings["context_size"],
        separator_id=settings["separator_id"],
        bos_id=settings["bos_id"],
        max_contexts=None if limit is None else limit // settings["context_size"],
    )


def _fill(
    packers: dict[Split, Packer],
    documents: Iterable[Document],
    tokenizer: PlainTokenizer,
    config: CorpusConfig,
    on_progress: Callable[[int, int], None] | None,
) -> None:
    """Tokenise batch after batch until the documents end or every split that is wanted is full."""
    wanted = [packers[split] for split in SPLITS if config.wants(split)]
    for batch in _batches(documents, packers, config):
        encoded = tokenizer.encode([piece.text for piece in batch])
        for piece, ids in zip(batch, encoded, strict=True):
            packers[piece.split].add(piece.document_id, ids)
        if on_progress:
            tokens = sum(packer.n_contexts for packer in packers.values()) * wanted[0].context_size
            on_progress(batch[-1].n_documents, tokens)
        if all(packer.full for packer in wanted):
            return


class _Piece(NamedTuple):
    split: Split
    document_id: str
    text: str
    n_documents: int
    "Documents read up to this one."


def _batches(
    documents: Iterable[Document], packers: dict[Split, Packer], config: CorpusConfig
) -> Iterator[list[_Piece]]:
    """Pieces of the documents whose split is not full, about a million characters at a time."""
    batch: list[_Piece] = []
    n_characters = 0
    for n_documents, document in enumerate(documents, start=1):
        split = split_of(document.id, heldout_fraction=config.heldout_fraction, salt=config.salt)
        for text in pieces_of(document.text):
            if packers[split].full:
                break
            batch.append(_Piece(split, document.id, text, n_documents))
            n_characters += len(text)
            if n_characters >= _BATCH_CHARACTERS or len(batch) >= _BATCH_PIECES:
                yield batch
                batch, n_characters = [], 0
    if batch:
        yield batch


def _check_size(packers: dict[Split, Packer], config: CorpusConfig, settings: dict[str, Any]) -> None:
    for split, packer in packers.items():
        if config.wants(split) and packer.n_contexts == 0:
            raise CorpusError(
                f"corpus {settings['reference']}: its {split} split has {packer.n_tail_tokens} tokens from "
                f"{packer.n_documents_seen} documents, less than one context of {settings['context_size']} "
                f"tokens; add text, lower context_size, or change heldout_fraction ({config.heldout_fraction}): "
                "documents are split whole"
            )


def _manifest(
    name: str, settings: dict[str, Any], packers: dict[Split, Packer], reader: CorpusReader, cleaner: Cleaner | None
) -> dict[str, Any]:
    splits: dict[str, Any] = {}
    for split, packer in packers.items():
        hashes = packer.files.sha256()
        decisive = json.dumps([settings["context_size"], sorted(hashes.values())])
        fingerprint = hashlib.sha256(decisive.encode()).hexdigest()
        splits[split] = {**packer.counts(), "fingerprint": fingerprint, "sha256": hashes}
    cleaning = None
    if cleaner:
        cleaning = {
            "n_pieces_kept": cleaner.n_kept,
            "n_pieces_dropped": cleaner.n_dropped,
            "n_documents_dropped": cleaner.n_documents_dropped,
        }
    return {
        "format": _FORMAT,
        "name": name,
        "key": _key(settings),
        "settings": settings,
        "n_documents_read": reader.n_documents,
        "n_duplicates": reader.n_duplicates,
        "n_empty": reader.n_empty,
        "cleaning": cleaning,
        "splits": splits,
    }


def _mapped(path: Path, dtype: str, shape: tuple[int, int]) -> NDArray[Any]:
    """A file as an array that is read as it is used; an empty file can not be mapped."""
    return np.memmap(path, dtype=dtype, mode="r", shape=shape) if shape[0] else np.empty(shape, dtype=dtype)
