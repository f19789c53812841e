"""Documents from a corpus reference, streamed and without exact duplicates.

    reference(s) --> files in a fixed order, or a Hugging Face dataset --> records --(strip, hash, seen?)--> Document

A reference is a file, a folder, a glob, "hf:NAME[:CONFIG]#SPLIT" (streamed; NAME may be a local folder) or
"bundled:NAME". Memory: one document, plus about 100 bytes for each document seen (its hash).
"""

import glob
import hashlib
import itertools
import logging
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

from fovea.data.readers import Record, format_of, read_file, supported, text_of
from fovea.errors import CorpusError, UnknownReferenceError
from fovea.foreign import Refusal, expanded, regular

logger = logging.getLogger("fovea")
_PATH = Refusal(CorpusError, "give an existing file, folder or glob")
_REMOVE = Refusal(CorpusError, "take it out of the corpus, or give the files to be read by name")


class Document(NamedTuple):
    """One text with a name that depends on nothing else."""

    id: str
    "First 16 hexadecimal digits of the text's SHA-256."
    text: str
    "Without white space at its ends; never empty."
    source: str
    "Where it was read: file, and line or row."


class CorpusReader:
    """Iterator over the documents of one or more references; iterating again reads again.

    Counts are those of the latest iteration, up to the document that it has reached.

    Args:
        text_field: Name of the field or column that holds the text (jsonl, parquet, Hugging Face datasets).

    Raises:
        CorpusError: a file is missing, damaged, not UTF-8 or lacks `text_field`; or there is no document at all.
    """

    def __init__(self, reference: str | Sequence[str], *, text_field: str = "text") -> None:
        self.references = [reference] if isinstance(reference, str) else list(reference)
        if not self.references:
            raise CorpusError("corpus reference [] is empty; give at least one path, hf: or bundled: reference")
        self.text_field = text_field
        self.n_documents = self.n_duplicates = self.n_empty = 0

    def __iter__(self) -> Iterator[Document]:
        self.n_documents = self.n_duplicates = self.n_empty = 0
        seen: set[int] = set()
        for record in self._records():
            text = record.text.strip()
            if not text:
                self.n_empty += 1
                continue
            digest = hashlib.sha256(text.encode()).hexdigest()[:16]
            if int(digest, 16) in seen:
                self.n_duplicates += 1
                continue
            seen.add(int(digest, 16))
            self.n_documents += 1
            yield Document(digest, text, record.where)
        if self.n_documents == 0:
            raise CorpusError(
                f"corpus {self.references} has no text ({self.n_empty} empty records); give one that holds documents"
            )

    def content(self) -> list[str]:
        """What decides the documents: name and SHA-256 of each file, in order; the commit of a Hugging Face dataset."""
        return [line for reference in self.references for line in _content(reference)]

    def _records(self) -> Iterator[Record]:
        for reference in self.references:
            if reference.startswith("hf:"):
                yield from _hf_records(_parse_hf(reference), self.text_field)
            else:
                for path in _files(reference):
                    yield from read_file(path, text_field=self.text_field)


def documents(reference: str | Sequence[str], *, text_field: str = "text") -> Iterator[Document]:
    """The documents of `reference`, each text once, in the order of the files and of the records in them."""
    return iter(CorpusReader(reference, text_field=text_field))


def _files(reference: str) -> list[Path]:
    """The files of a path, folder, glob or bundled corpus, sorted by their path below the folder or by name."""
    if reference.startswith("bundled:"):
        from fovea.bundled.corpora import corpus_path

        return [corpus_path(reference.removeprefix("bundled:"))]
    path = expanded(reference, _PATH)
    if path.is_dir():
        found = [item for item in path.rglob("*") if not item.is_dir()]
        return _supported(sorted(found, key=lambda item: item.relative_to(path).as_posix()), reference, within=path)
    if path.is_file():
        return [path]
    if glob.has_magic(reference):
        found = [item for item in map(Path, glob.glob(str(path), recursive=True)) if not item.is_dir()]
        return _supported(sorted(found), reference, within=_fixed_part(path))
    raise CorpusError(
        f"corpus {reference!r} does not exist; give a file, folder or glob ({supported()}), hf:NAME#SPLIT or "
        "bundled:NAME"
    )


def _fixed_part(pattern: Path) -> Path:
    """The folder that a glob names without wildcards."""
    fixed = itertools.takewhile(lambda part: not glob.has_magic(part), pattern.parts)
    return Path(*fixed)


def _supported(paths: list[Path], reference: str, *, within: Path) -> list[Path]:
    """The files among `paths` that we read; the others are counted in a warning.

    Raises:
        CorpusError: there is none, or one is a pipe, a device, or a link that leads out of the folder `within`.
    """
    chosen = [path for path in paths if format_of(path)]
    others = [path.name for path in paths if not format_of(path)]
    if not chosen:
        raise CorpusError(f"corpus {reference!r} holds no file that can be read; allowed are {supported()}")
    for path in chosen:
        regular(path, within, _REMOVE)
    if others:
        logger.warning(
            "corpus %r: %d of %d files are not read, their names are not supported: %s%s",
            reference,
            len(others),
            len(paths),
            ", ".join(others[:5]),
            ", ..." if len(others) > 5 else "",
        )
    return chosen


def _content(reference: str) -> list[str]:
    if reference.startswith("hf:"):
        dataset = _parse_hf(reference)
        folder = expanded(dataset.name, _PATH)
        if not folder.is_dir():
            return [f"hf:{dataset.name}:{dataset.config}#{dataset.split} {_hf_revision(dataset)}"]
        files = [regular(item, folder, _REMOVE) for item in sorted(folder.rglob("*")) if not item.is_dir()]
        return [f"hf:{dataset.config}#{dataset.split}", *(_file_content(item, folder) for item in files)]
    folder = expanded(reference, _PATH)
    return [_file_content(path, folder if folder.is_dir() else path.parent) for path in _files(reference)]


def _file_content(path: Path, folder: Path) -> str:
    with path.open("rb") as file:
        return f"{path.relative_to(folder).as_posix()} {hashlib.file_digest(file, 'sha256').hexdigest()}"


class _HFReference(NamedTuple):
    name: str
    config: str | None
    split: str


def _parse_hf(reference: str) -> _HFReference:
    place, _, split = reference.removeprefix("hf:").partition("#")
    name, _, config = place.partition(":")
    if not name or not split:
        raise UnknownReferenceError(f"corpus {reference!r} is incomplete; write hf:NAME#SPLIT or hf:NAME:CONFIG#SPLIT")
    return _HFReference(name, config or None, split)


def _hf_revision(dataset: _HFReference) -> str:
    """The commit that the Hub serves now; documents are read from exactly this one."""
    from huggingface_hub import HfApi

    try:
        return str(HfApi().dataset_info(dataset.name).sha)
    except Exception as error:  # the Hub client raises its transport's errors, whose classes change with its version
        raise _hf_error(dataset, error) from error


def _hf_records(dataset: _HFReference, text_field: str) -> Iterator[Record]:
    from datasets import load_dataset

    folder = expanded(dataset.name, _PATH)
    revision = None if folder.is_dir() else _hf_revision(dataset)
    try:
        rows = load_dataset(
            str(folder) if folder.is_dir() else dataset.name,
            dataset.config,
            split=dataset.split,
            revision=revision,
            streaming=True,
        )
    except (OSError, ValueError) as error:
        raise _hf_error(dataset, error) from error
    for number, row in enumerate(rows, start=1):
        where = f"hf:{dataset.name}#{dataset.split} row {number}"
        yield Record(text_of(row, text_field, where), where)


def _hf_error(dataset: _HFReference, error: Exception) -> UnknownReferenceError:
    return UnknownReferenceError(
        f"Hugging Face dataset {dataset.name!r} (config {dataset.config!r}, split {dataset.split!r}) cannot be opened: "
        f"{error}; check the three names and the network, or give a local folder"
    )
