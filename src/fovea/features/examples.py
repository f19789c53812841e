"""Which of the kept firings become examples, and the contexts that they lie in.

top      the largest activations, one a context, windows distinct
sample --(rank of each activation among all sampled ones)--> groups of ranks --(distinct, by hash)--> a few each
windows of all examples --(one look over the tokens)--> how often the text holds each: n_duplicates
"""

from collections.abc import Iterator, Sequence

import numpy as np
from numpy.typing import NDArray

from fovea.features.collect import Gathered, Reading
from fovea.features.files import CorpusContexts, Examples, GroupRule, Ints
from fovea.features.hashing import Hashes, window_hashes
from fovea.features.kept import Entries, joined, ranks_of

_CONTEXTS = 512
"Contexts looked over at once."


def choose(gathered: Gathered, rules: Sequence[GroupRule], *, per_group: int, reading: Reading) -> tuple[Entries, Ints]:
    """The examples of one SAE with the group of each, ordered by latent, group and activation, largest first.

    A group of ranks holds one firing a context and one a window, and of more than `per_group` those with the smallest
    hashes.
    """
    sample = gathered.sample
    sample = sample._replace(around=_windows_at(sample.location, reading))
    group = _groups_of(sample, rules)
    fits = (sample.lengths > 0) & (group > 0)
    order = np.flatnonzero(fits)
    order = order[np.lexsort((sample.key[order], group[order], sample.latent[order]))]
    contexts = sample.location // reading.context_size
    for same in (sample.around, contexts):
        order = order[_first_of_each((sample.latent[order], group[order], same[order]))]
    cell = sample.latent[order] * len(rules) + group[order]
    order = order[ranks_of(cell) < per_group]
    found = joined([gathered.top, sample.chosen(order, np.ones(len(order), np.bool_))])
    groups = np.concatenate([np.zeros(len(gathered.top.latent), np.int64), group[order]])
    final = np.lexsort((found.location, -found.value, groups, found.latent))
    return found.chosen(final, np.ones(len(final), np.bool_)), groups[final]


def _groups_of(sample: Entries, rules: Sequence[GroupRule]) -> Ints:
    """Group of each sampled firing by the share of its latent's sampled firings that are larger; 0 = in none."""
    order = np.lexsort((sample.location, -sample.value, sample.latent))
    ranks = np.empty(len(order), np.int64)
    ranks[order] = ranks_of(sample.latent[order])
    quantiles = ranks / np.bincount(sample.latent, minlength=1)[sample.latent]
    group = np.zeros(len(order), np.int64)
    for index, rule in enumerate(rules):
        group[(quantiles >= rule.low) & (quantiles < rule.high)] = index
    return group


def _first_of_each(columns: tuple[Ints | Hashes, ...]) -> Ints:
    """Indices of the first entry of each combination, in order."""
    order = np.lexsort(columns)
    same = np.logical_and.reduce([column[order][1:] == column[order][:-1] for column in columns])
    first = np.ones(len(order), np.bool_)
    first[order[1:][same]] = False
    return np.flatnonzero(first)


def _windows_at(locations: Ints, reading: Reading) -> Hashes:
    """Hash of the tokens around each location."""
    found = np.zeros(len(locations), np.uint64)
    order = np.argsort(locations, kind="stable")
    sorted_locations = locations[order]
    for first, last, hashes in _hash_blocks(reading):
        low, high = np.searchsorted(sorted_locations, [first, last])
        found[order[low:high]] = hashes[sorted_locations[low:high] - first]
    return found


def count_windows(wanted: Hashes, reading: Reading) -> tuple[Hashes, Ints]:
    """The distinct ones of `wanted`, ascending, and how many positions of the text that was read have each."""
    distinct = np.unique(wanted)
    counts = np.zeros(len(distinct), np.int64)
    for _, _, hashes in _hash_blocks(reading):
        places = np.minimum(np.searchsorted(distinct, hashes), max(len(distinct) - 1, 0))
        hits = places[distinct[places] == hashes] if len(distinct) else places[:0]
        counts += np.bincount(hits, minlength=len(distinct))
    return distinct, counts


def _hash_blocks(reading: Reading) -> Iterator[tuple[int, int, Hashes]]:
    """First location, end and window hashes of some contexts at a time."""
    size = reading.context_size
    for first in range(0, reading.n_contexts, _CONTEXTS):
        last = min(first + _CONTEXTS, reading.n_contexts)
        yield first * size, last * size, window_hashes(reading.tokens(first, last)).reshape(-1)


def as_examples(entries: Entries, groups: Ints, *, windows: tuple[Hashes, Ints], context_size: int) -> Examples:
    """Examples as they are written; `windows` is what `count_windows` gave for these entries or more."""
    distinct, counts = windows
    return Examples(
        entries.latent,
        groups,
        entries.location // context_size,
        entries.location % context_size,
        counts[np.searchsorted(distinct, entries.around)],
        entries.lengths,
        entries.positions.astype(np.int64),
        entries.values,
    )


def contexts_of(numbers: Ints, reading: Reading) -> CorpusContexts:
    """The contexts with these (ascending) numbers."""
    tokens, documents, starts = (np.zeros((len(numbers), reading.context_size), kind) for kind in ("u4", "i4", "u1"))
    ids: list[str] = []
    begin = first_document = 0
    for chunks, n_contexts in reading.parts:
        low, high = np.searchsorted(numbers, [begin, begin + n_contexts])
        own = (numbers[low:high] - begin).tolist()
        batch, before = chunks.packed.batch(own), chunks.packed.batch([max(index - 1, 0) for index in own])
        found = batch.documents.numpy()
        last = np.where(numbers[low:high, None] == begin, -1, before.documents.numpy()[:, -1:])
        tokens[low:high] = batch.tokens.numpy()
        documents[low:high] = np.where(found >= 0, found + first_document, -1)
        starts[low:high] = _starts(found, last)
        ids += chunks.packed.document_ids()
        begin += n_contexts
        first_document += chunks.packed.n_documents
    used = np.unique(documents[documents >= 0])
    documents = np.where(documents >= 0, np.searchsorted(used, documents), -1).astype(np.int32)
    return CorpusContexts(numbers, tokens, documents, starts, tuple(ids[index] for index in used))


def _starts(documents: Ints, last: Ints) -> NDArray[np.uint8]:
    """1 where a document begins: its token follows none, or one of another document; BOS does not count.

    Args:
        last: [contexts 1] the document of the token before each context, -1 for none.
    """
    previous = last[:, 0].copy()
    found = np.zeros(documents.shape, np.uint8)
    for position in range(documents.shape[1]):
        now = documents[:, position]
        found[:, position] = (now >= 0) & (now != previous)
        previous = np.where(now >= 0, now, previous)
    return found
