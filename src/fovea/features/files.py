"""The files of the evidence: what each holds, how it is written and when it is stale.

features/manifest.json               key, corpora, jobs, groups, definitions; written last: without it nothing counts
features/tokens.parquet              token id -> bytes
features/contexts-CORPUS.safetensors every context that an example lies in: tokens and documents
features/contexts-CORPUS.json        ids of their documents
features/JOB/evidence.parquet        a row per latent and corpus, in this order; examples as flat lists
features/JOB/links.parquet           a row per latent: promoted and suppressed tokens, near and co-firing latents
features/JOB/cfg.json, *.safetensors an untrained control's SAE, which has no folder under saes/
"""

import hashlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray
from safetensors import SafetensorError
from safetensors.numpy import load_file

from fovea.atomic import replacing, write_json
from fovea.errors import RunError
from fovea.foreign import MAX_TEXT_BYTES, Refusal, damage, is_plain_name, is_there, read_object, regular

FORMAT = 1
ROWS_PER_GROUP = 32
"Rows of evidence.parquet that are read to show one of them."
MAKE_AGAIN = "make it again with `fovea features RUN --force`"
AGAIN = Refusal(RunError, MAKE_AGAIN)
MAX_LATENTS = 2**24
"Of one SAE."

Ints = NDArray[np.int64]
Role = Literal["domain", "general"]


class GroupRule(NamedTuple):
    """A group of examples: the largest activations, or firings of a range of ranks."""

    name: str
    low: float
    high: float
    "Rank quantiles among the firings of a latent; 0 is the largest activation."


def group_rules(edges: Sequence[float]) -> tuple[GroupRule, ...]:
    """The group of largest activations, then one for each range of ranks."""
    ranges = zip(edges[:-1], edges[1:], strict=True)
    return (
        GroupRule("top", 0.0, 0.0),
        *(GroupRule(f"rank {100 * low:g}-{100 * high:g}%", low, high) for low, high in ranges),
    )


class Examples(NamedTuple):
    """Examples of all latents of one SAE on one corpus, ordered by latent, group and activation (largest first)."""

    latent: Ints
    group: Ints
    context: Ints
    "Number of the context in reading order."
    peak: Ints
    n_duplicates: Ints
    lengths: Ints
    "How many entries of `positions` and `values` belong to each example."
    positions: Ints
    values: NDArray[np.float32]


class CorpusEvidence(NamedTuple):
    """What one SAE did on one corpus."""

    n_tokens: int
    n_documents: int
    n_fired: Ints
    maxima: NDArray[np.float32]
    "Largest activation of each latent, 0 where it never fired."
    histogram: Ints
    "[d_sae n_bins] firings in equal bins of (0, max over all corpora of the job]."
    examples: Examples


class CorpusContexts(NamedTuple):
    """The contexts of one corpus that examples lie in."""

    numbers: Ints
    "Ascending numbers of the contexts in reading order."
    tokens: NDArray[np.uint32]
    documents: NDArray[np.int32]
    "[contexts pos] index into document_ids, -1 for BOS and separators."
    starts: NDArray[np.uint8]
    "[contexts pos] 1 where a document begins."
    document_ids: tuple[str, ...]


class Paths(NamedTuple):
    """Where the evidence of a run lies."""

    folder: Path

    @classmethod
    def of(cls, run: Path) -> "Paths":
        """The paths of the run in `run`."""
        return cls(run / "features")

    @property
    def manifest(self) -> Path:
        return self.folder / "manifest.json"

    @property
    def vocabulary(self) -> Path:
        return self.folder / "tokens.parquet"

    def contexts(self, corpus: str) -> Path:
        return self.folder / f"contexts-{corpus}.safetensors"

    def document_ids(self, corpus: str) -> Path:
        return self.folder / f"contexts-{corpus}.json"

    def evidence(self, job: str) -> Path:
        return self.folder / job / "evidence.parquet"

    def links(self, job: str) -> Path:
        return self.folder / job / "links.parquet"

    def latents(self, job: str) -> Path:
        return self.folder / job / "latents.parquet"


def write_evidence(path: Path, parts: Sequence[CorpusEvidence]) -> None:
    """Write evidence.parquet: rows of latent 0 on each corpus in order, then of latent 1, ...; atomically."""
    d_sae, n = len(parts[0].n_fired), len(parts)
    columns: dict[str, Any] = {
        "latent": np.repeat(np.arange(d_sae, dtype=np.int32), n),
        "corpus": np.tile(np.arange(n, dtype=np.int16), d_sae),
        "n_fired": _woven([part.n_fired for part in parts]),
        "n_tokens": np.tile(np.array([part.n_tokens for part in parts]), d_sae),
        "n_documents": np.tile(np.array([part.n_documents for part in parts]), d_sae),
    }
    maxima = _woven([part.maxima for part in parts])
    columns["max_activation"] = pa.array(maxima, pa.float32(), mask=maxima == 0)
    bins = _woven([part.histogram for part in parts])
    offsets = np.arange(0, bins.size + 1, bins.shape[1], dtype=np.int64)
    columns["histogram"] = pa.LargeListArray.from_arrays(offsets, bins.reshape(-1))
    table = pa.table(columns | _example_columns(parts, d_sae))
    with replacing(path) as temporary:
        pq.write_table(table, temporary, row_group_size=ROWS_PER_GROUP, compression="zstd")


def _woven(arrays: Sequence[NDArray[Any]]) -> NDArray[Any]:
    """Rows of several arrays in turn."""
    return np.stack(arrays, axis=1).reshape(-1, *arrays[0].shape[1:])


def _example_columns(parts: Sequence[CorpusEvidence], d_sae: int) -> dict[str, Any]:
    found = [part.examples for part in parts]
    rows = np.concatenate([one.latent * len(parts) + i for i, one in enumerate(found)])
    order = np.argsort(rows, kind="stable")
    lengths = np.concatenate([one.lengths for one in found])
    entries = _ragged_order(lengths, order)
    ends = np.searchsorted(rows[order], np.arange(len(parts) * d_sae + 1))
    starts = np.concatenate([[0], np.cumsum(lengths[order])])
    kinds = {"group": pa.int8(), "context": pa.int64(), "peak": pa.int32(), "n_duplicates": pa.int64()}
    columns: dict[str, Any] = {}
    for name, kind in kinds.items():
        values = np.concatenate([getattr(one, name) for one in found])[order]
        columns[f"example_{name}"] = pa.LargeListArray.from_arrays(ends, pa.array(values, kind))
    columns["example_n_active"] = pa.LargeListArray.from_arrays(ends, pa.array(lengths[order], pa.int32()))
    for name, kind in {"positions": pa.int32(), "values": pa.float32()}.items():
        values = np.concatenate([getattr(one, name) for one in found])[entries]
        columns[f"active_{name}"] = pa.LargeListArray.from_arrays(starts[ends], pa.array(values, kind))
    return columns


def _ragged_order(lengths: Ints, order: Ints) -> Ints:
    """Where the entries of ragged rows go when the rows are put in `order`."""
    starts = np.cumsum(lengths) - lengths
    return ragged_indices(starts[order], lengths[order])


def ragged_indices(starts: Ints, lengths: Ints) -> Ints:
    """starts[0], starts[0] + 1, ... (lengths[0] of them), starts[1], ..."""
    if len(lengths) == 0:
        return np.zeros(0, dtype=np.int64)
    firsts = np.cumsum(lengths) - lengths
    return np.repeat(starts - firsts, lengths) + np.arange(int(lengths.sum()))


class LinkLists(NamedTuple):
    """Per latent, so many others or tokens with a value each, best first; -1 fills what is not there."""

    ids: Ints
    values: NDArray[np.float32]


def write_links(path: Path, lists: Mapping[str, LinkLists], counts: Mapping[str, Ints]) -> None:
    """Write links.parquet: a row per latent; NAME_ids, NAME_values and, for counts, NAME as lists; atomically."""
    columns: dict[str, Any] = {}
    for name, found in lists.items():
        columns.setdefault("latent", np.arange(len(found.ids), dtype=np.int32))
        columns[f"{name}_ids"] = _listed(found.ids, found.ids >= 0, pa.int32())
        columns[f"{name}_values"] = _listed(found.values, found.ids >= 0, pa.float32())
    for name, values in counts.items():
        columns[name] = _listed(values, values >= 0, pa.int64())
    with replacing(path) as temporary:
        pq.write_table(pa.table(columns), temporary, row_group_size=16 * ROWS_PER_GROUP, compression="zstd")


def _listed(values: NDArray[Any], present: NDArray[np.bool_], kind: Any) -> Any:
    offsets = np.concatenate([[0], np.cumsum(present.sum(axis=1))])
    return pa.LargeListArray.from_arrays(offsets, pa.array(values[present], kind))


def write_manifest(run: Path, content: Mapping[str, Any], inputs: Sequence[str]) -> None:
    """Write the manifest, which makes the evidence whole.

    Args:
        content: key, corpora, jobs, groups, settings, definitions.
        inputs: Files of the run, relative to it, that the evidence was made from; if one changes, it is stale.
    """
    digests = {name: quick_digest(run / name) for name in sorted(inputs)}
    write_json(Paths.of(run).manifest, {"format": FORMAT, **content, "inputs": digests})


def write_contexts(paths: Paths, corpus: str, contexts: CorpusContexts) -> None:
    """Write the contexts of a corpus, atomically."""
    import torch

    from fovea.tensorfile import write_tensors

    tensors = {
        name: torch.from_numpy(np.ascontiguousarray(getattr(contexts, name)))
        for name in ("numbers", "tokens", "documents", "starts")
    }
    write_tensors(paths.contexts(corpus), tensors)
    write_json(paths.document_ids(corpus), {"document_ids": list(contexts.document_ids)})


def read_contexts(paths: Paths, corpus: str) -> CorpusContexts:
    """The contexts of a corpus.

    Raises:
        RunError: they are missing or damaged.
    """
    path, run = paths.contexts(corpus), paths.folder.parent
    with damage(path, AGAIN, SafetensorError):
        tensors = load_file(regular(path, run, AGAIN))
        ids = read_object(paths.document_ids(corpus), run, AGAIN, most=MAX_TEXT_BYTES)["document_ids"]
        found = CorpusContexts(**tensors, document_ids=tuple(ids))
        shape = found.tokens.shape
        if (
            len(shape) != 2
            or found.numbers.shape != shape[:1]
            or {found.documents.shape, found.starts.shape} != {shape}
        ):
            raise ValueError("its arrays do not fit each other")
        if any(array.dtype.kind not in "iu" for array in found[:4]) or not all(isinstance(each, str) for each in ids):
            raise TypeError("its arrays are not of whole numbers, or its ids are no texts")
        return found


def read_manifest(run: Path) -> dict[str, Any]:
    """The manifest of a run's evidence, which must belong to the run as it is.

    Raises:
        RunError: there is no evidence, another version wrote it, or it is stale.
    """
    path = Paths.of(run).manifest
    if not path.exists():
        raise RunError(f"{str(run)!r} holds no evidence of its features; make it with `fovea features {run}`")
    manifest = read_object(path, run, AGAIN)
    if manifest.get("format") != FORMAT:
        raise RunError(f"{path} has format {manifest.get('format')!r}, this version reads {FORMAT}; {MAKE_AGAIN}")
    with damage(path, AGAIN):
        _check_manifest(manifest)
        for name, digest in manifest["inputs"].items():
            if any(part == ".." for part in Path(name).parts) or Path(name).is_absolute():
                raise ValueError(f"{name!r:.100} leads out of the run")
            there = is_there(run / name, run, AGAIN)
            if (quick_digest(run / name) if there else "absent") != digest:
                raise RunError(f"the evidence in {path.parent} is stale: {name} has changed since; {MAKE_AGAIN}")
    return manifest


def _check_manifest(manifest: Mapping[str, Any]) -> None:
    """Nothing, if the manifest says what it must, and names lead nowhere but into the evidence."""
    corpora, jobs = manifest["corpora"], manifest["jobs"]
    for name in (*corpora, *jobs):
        if not is_plain_name(name):
            raise ValueError(f"{name!r:.100} is no name of a job or corpus")
    for about in corpora.values():
        _check_kinds(about, {"role": str, "split": str, "n_tokens": int, "n_documents": int})
    for about in jobs.values():
        _check_kinds(about, {"method": str, "domain": str, "d_sae": int, "corpora": list})
        general = about["general_job"]
        if not 0 < about["d_sae"] <= MAX_LATENTS or not (general is None or general in jobs):
            raise ValueError(f"a job of {about['d_sae']} latents, or g = {general!r:.100}")
        if not about["corpora"] or any(name not in corpora for name in about["corpora"]):
            raise ValueError("a job on a corpus that is not there")
    for rule in manifest["groups"]:
        _check_kinds(rule, {"name": str, "low": int | float, "high": int | float})
    if not isinstance(manifest["inputs"], dict):
        raise TypeError("inputs")


def _check_kinds(about: Mapping[str, Any], kinds: Mapping[str, Any]) -> None:
    for name, kind in kinds.items():
        if not isinstance(about[name], kind) or isinstance(about[name], bool):
            raise TypeError(f"{name} = {about[name]!r:.100}")


def quick_digest(path: Path) -> str:
    """SHA-256 of a file's size and of 64 blocks spread over it: any retrained SAE differs; "absent" if it is not there.

    Reading gigabytes of weights whenever evidence is opened would be slow; `fovea features` itself compares all bytes.
    """
    if not path.is_file():
        return "absent"
    size, block = path.stat().st_size, 4096
    digest = hashlib.sha256(str(size).encode())
    with path.open("rb") as file:
        for index in range(64):
            file.seek(index * max(block, size // 64))
            digest.update(file.read(block))
    return digest.hexdigest()
