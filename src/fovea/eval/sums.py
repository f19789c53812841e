"""Per-document float64 sums: all that an evaluation remembers of a corpus split.

    tokens --index_add by document--> Sums --(merge, save, load)--> Sums --> metrics, intervals, comparisons

A metric is a ratio of totals of these sums, so batch size, order and interruption do not matter. Sums hold one row per
evaluated document; a token belongs to the document it was read from. Kept tokens are those that the token filter keeps;
scored tokens are the kept ones whose next token is predicted and counted in CE and KL (fovea.eval.downstream).
"""

import json
import logging
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import NamedTuple

import torch
from jaxtyping import Float, Float64, Int64
from torch import Tensor

from fovea.errors import DamagedError, RunError
from fovea.foreign import DAMAGED, damage, parse_json
from fovea.ranks import ALONE, Ranks
from fovea.tensorfile import read_checked, write_checked

_LOG = logging.getLogger("fovea")
_FORMAT = "fovea-sums-1"


class CorpusSums(NamedTuple):
    """What does not depend on the SAE, one row per document."""

    n_tokens: Float64[Tensor, " documents"]
    "Kept tokens."
    n_scored: Float64[Tensor, " documents"]
    "Kept tokens whose prediction is scored."
    n_masked: Float64[Tensor, " documents"]
    "Scored tokens where g costs more than 0.001 nats: the seed's mask."
    sum_x: Float64[Tensor, "documents d_in"]
    sum_x_sq: Float64[Tensor, " documents"]
    "Sum of |x|^2 over kept tokens."
    ce_clean: Float64[Tensor, " documents"]
    "Sum of the unpatched lm's cross-entropy over scored tokens, nats."
    gap_masked: Float64[Tensor, " documents"]
    "Sum of L_g - L_clean over masked tokens, nats."


class CandidateSums(NamedTuple):
    """What one reconstruction did, one row per document."""

    ce: Float64[Tensor, " documents"]
    "Sum of the patched lm's cross-entropy over scored tokens, nats."
    kl: Float64[Tensor, " documents"]
    "Sum of KL(clean || patched) over scored tokens, nats."
    gain_masked: Float64[Tensor, " documents"]
    "Sum of L_g - L over masked tokens, nats."
    error_sq: Float64[Tensor, " documents"]
    "Sum of |x - x_hat|^2 over kept tokens."
    l0_general: Float64[Tensor, " documents"]
    "Active latents of g's block, summed over kept tokens."
    l0_domain: Float64[Tensor, " documents"]
    "Active latents of the domain SAE's block, summed over kept tokens."


class Sums(NamedTuple):
    """The sums of one corpus split for all candidates; rows are in ascending order of document index."""

    documents: Int64[Tensor, " documents"]
    corpus: CorpusSums
    candidates: dict[str, CandidateSums]

    @property
    def n_documents(self) -> int:
        """Number of documents that gave at least one kept token."""
        return int((self.corpus.n_tokens > 0).sum())


def empty_sums(documents: Int64[Tensor, " documents"], names: Iterable[str], *, d_in: int) -> Sums:
    """Sums of nothing, with a row for each of `documents` (ascending, no repeats)."""
    assert bool((documents[1:] > documents[:-1]).all()), "documents must ascend"
    n = len(documents)

    def zeros(*shape: int) -> Tensor:
        return torch.zeros(shape, dtype=torch.float64)

    corpus = CorpusSums(**{field: zeros(n, d_in) if field == "sum_x" else zeros(n) for field in CorpusSums._fields})
    candidates = {name: CandidateSums(*(zeros(n) for _ in CandidateSums._fields)) for name in names}
    return Sums(documents, corpus, candidates)


def rows_of(documents: Int64[Tensor, " tokens"], sums: Sums) -> Int64[Tensor, " tokens"]:
    """Row of `sums` for each token's document; every document must have one."""
    rows = torch.searchsorted(sums.documents, documents).clamp_max(len(sums.documents) - 1)
    assert bool((sums.documents[rows] == documents).all()), "a token's document has no row"
    return rows


def add_by_row(
    total: Float64[Tensor, "documents ..."],
    rows: Int64[Tensor, " tokens"],
    values: Float[Tensor, "tokens ..."] | Int64[Tensor, "tokens ..."],
) -> None:
    """Add each token's value to the row of its document, in float64, on the CPU (where index_add is deterministic)."""
    total.index_add_(0, rows, values.cpu().double())


def merge(first: Sums, second: Sums) -> Sums:
    """The sums of both: rows of a document that occurs in both are added. Associative and commutative up to rounding.

    Raises:
        RunError: they hold different candidates.
    """
    if first.candidates.keys() != second.candidates.keys():
        differing = sorted(first.candidates.keys() ^ second.candidates.keys())
        raise RunError(
            f"sums of different candidates cannot be merged: {differing} occur in one only; evaluate them on both"
        )
    documents = torch.cat([first.documents, second.documents]).unique()
    merged = empty_sums(documents, sorted(first.candidates), d_in=first.corpus.sum_x.shape[1])
    for part in (first, second):
        rows = rows_of(part.documents, merged)
        for total, values in zip(merged.corpus, part.corpus, strict=True):
            add_by_row(total, rows, values)
        for name, candidate in part.candidates.items():
            for total, values in zip(merged.candidates[name], candidate, strict=True):
                add_by_row(total, rows, values)
    return merged


def without_empty_documents(sums: Sums) -> Sums:
    """`sums` without the documents of which no token was kept."""
    kept = sums.corpus.n_tokens > 0
    return Sums(
        sums.documents[kept],
        CorpusSums(*(values[kept] for values in sums.corpus)),
        {name: CandidateSums(*(values[kept] for values in sums.candidates[name])) for name in sums.candidates},
    )


def save_sums(path: Path, sums: Sums, *, key: str) -> None:
    """Write `sums` as one safetensors file, atomically; `key` names everything that its numbers depend on."""
    names = sorted(sums.candidates)
    tensors = {"documents": sums.documents}
    tensors |= {f"corpus.{field}": values for field, values in sums.corpus._asdict().items()}
    for index, name in enumerate(names):
        tensors |= {f"candidate.{index}.{field}": v for field, v in sums.candidates[name]._asdict().items()}
    write_checked(path, tensors, {"about": json.dumps({"format": _FORMAT, "key": key, "candidates": names})})


def load_sums(path: Path, *, key: str) -> Sums:
    """The sums that `save_sums` wrote under the same key.

    Raises:
        RunError: the file holds the sums of another evaluation.
        DamagedError: the file is damaged.
    """
    tensors, metadata = read_checked(path)
    with damage(path, DAMAGED):
        about = parse_json(metadata.get("about", "{}"), DAMAGED, where=str(path))
        if about.get("format") != _FORMAT or about.get("key") != key:
            raise RunError(
                f"{path} holds sums of another evaluation (key {about.get('key')!r:.100}, expected {key!r}): the lm, "
                "an SAE, the corpus or a setting changed; choose another output folder or remove that file"
            )
        candidates = {
            name: CandidateSums(*(tensors[f"candidate.{index}.{field}"] for field in CandidateSums._fields))
            for index, name in enumerate(about["candidates"])
        }
        corpus = CorpusSums(*(tensors[f"corpus.{field}"] for field in CorpusSums._fields))
        n = tensors["documents"].shape
        parts = [*corpus, *(values for found in candidates.values() for values in found)]
        if len(n) != 1 or any(values.shape[:1] != n or values.dtype != torch.float64 for values in parts):
            raise ValueError("its sums are not one of each document")
        return Sums(tensors["documents"], corpus, candidates)


def summed(sums: Sums, ranks: Ranks) -> Sums:
    """The sums of all ranks, each of which has a row for the same documents."""
    return Sums(
        sums.documents,
        CorpusSums(*map(ranks.sum, sums.corpus)),
        {name: CandidateSums(*map(ranks.sum, sums.candidates[name])) for name in sums.candidates},
    )


def cached_sums(path: Path, compute: Callable[[], Sums], *, key: str, ranks: Ranks = ALONE) -> Sums:
    """The sums at `path` if they are there, else what `compute` returns, written to `path`: how an evaluation resumes.

    A damaged file is computed again and said in the log.

    Args:
        ranks: All compute, or none; the first reads and writes, and where the sums were there, only it has them.

    Raises:
        RunError: the file holds the sums of another evaluation.
    """
    found: Sums | None = None
    if ranks.is_first and path.exists():
        try:
            found = load_sums(path, key=key)
        except DamagedError as error:
            _LOG.warning("%s: evaluating that part again", error)
    if ranks.any(found is not None):
        return found if found is not None else empty_sums(torch.zeros(0, dtype=torch.int64), (), d_in=0)
    sums = compute()
    ranks.by_first(lambda: save_sums(path, sums, key=key))
    return sums
