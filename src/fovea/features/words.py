"""The words by which latents can be found: the text around their peaks and the tokens that they promote.

    evidence.parquet, links.parquet, contexts, tokens --latent_words--> one string per latent, in order

Read column by column, so that a hundred thousand latents take seconds; a Card of each would take minutes.
"""

from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from fovea.features.files import AGAIN, CorpusContexts, Paths, read_contexts, read_manifest
from fovea.features.tables import open_table
from fovea.features.text import Vocabulary, read_vocabulary
from fovea.foreign import damage

N_EXAMPLES = 8
"Examples of each corpus whose text is read."
AROUND = 6
"Tokens on each side of a peak."
MAX_BYTES = 200
"Of one token; what comes after is not found."
_BATCH = 2048


class _Windows(NamedTuple):
    """Where examples lie, and in which row of the evidence each is."""

    row: NDArray[np.int64]
    context: NDArray[np.int64]
    peak: NDArray[np.int64]


def latent_words(run: Path, job: str) -> Iterator[str]:
    """Per latent of `job`, in order: text around the peaks on every corpus, then promoted tokens, a line each.

    Raises:
        RunError: the run has no evidence, or it is stale.
    """
    paths, manifest = Paths.of(run), read_manifest(run)
    with damage(paths.folder, AGAIN, pa.ArrowException):
        yield from _words(run, job, manifest["jobs"][job])


def _words(run: Path, job: str, about: dict[str, Any]) -> Iterator[str]:
    paths, corpora = Paths.of(run), about["corpora"]
    vocabulary = read_vocabulary(paths.vocabulary)
    contexts = [read_contexts(paths, corpus) for corpus in corpora]
    links = open_table(paths.links(job), run, AGAIN, max_rows=about["d_sae"])
    promoted = _promoted(links, vocabulary)
    columns = ["example_context", "example_peak"]
    file = open_table(paths.evidence(job), run, AGAIN, max_rows=about["d_sae"] * len(corpora))
    for batch in file.iter_batches(batch_size=_BATCH * len(corpora), columns=columns):
        lines: list[list[str]] = [[] for _ in range(batch.num_rows // len(corpora))]
        windows = _windows(batch)
        for row, context, peak in zip(*(part.tolist() for part in windows), strict=True):
            lines[row // len(corpora)].append(_around(contexts[row % len(corpora)], context, peak, vocabulary))
        for found in lines:
            yield "\n".join([*found, next(promoted, "")])


def _windows(batch: Any) -> _Windows:
    """The first examples of each row of a batch."""
    lists = batch.column("example_context")
    lengths = np.diff(lists.offsets.to_numpy())
    row = np.repeat(np.arange(len(lengths)), lengths)
    place = np.arange(len(row)) - np.repeat(np.cumsum(lengths) - lengths, lengths)
    first = place < N_EXAMPLES
    context = lists.flatten().to_numpy(zero_copy_only=False)
    peak = batch.column("example_peak").flatten().to_numpy(zero_copy_only=False)
    return _Windows(row[first], context[first], peak[first].astype(np.int64))


def _around(contexts: CorpusContexts, context: int, peak: int, vocabulary: Vocabulary) -> str:
    number = int(np.searchsorted(contexts.numbers, context))
    ids = contexts.tokens[number, max(0, peak - AROUND) : peak + AROUND + 1].tolist()
    return b"".join([vocabulary.tokens[i][:MAX_BYTES] for i in ids]).decode(errors="replace")


def _promoted(links: pq.ParquetFile, vocabulary: Vocabulary) -> Iterator[str]:
    for batch in links.iter_batches(batch_size=_BATCH, columns=["promoted_ids"]):
        for ids in batch.column(0).to_pylist():
            yield " ".join(vocabulary.tokens[i][:MAX_BYTES].decode(errors="replace") for i in ids)
