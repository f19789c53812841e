"""Cleaning that every bundled corpus passes: repeated paragraphs and near-duplicate documents out, and one file format.

    texts -> without_repeated_paragraphs -> without_near_duplicates -> pack -> write_documents -> NAME.jsonl.zst

A shingle is a run of 13 consecutive words, case and punctuation ignored; a text of fewer words is one shingle.
"""

import hashlib
import io
import json
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import zstandard

from fovea.atomic import write_bytes

SHINGLE_WORDS = 13
SEEN_SHARE = 0.4
"A text is a near-duplicate if more than this share of its shingles occurred in the texts kept before it."

_ZSTD_LEVEL = 19
_WORD = re.compile(r"\w+")


class BundledDocument(NamedTuple):
    """One line of a bundled corpus."""

    text: str
    source: str
    "Register or file it came from."


def document_id(text: str) -> str:
    """First 16 hex digits of the sha256 of the text."""
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def shingles(text: str) -> set[int]:
    """Hashes of the runs of 13 words in the text; stable between processes."""
    words = [word.lower() for word in _WORD.findall(text)]
    starts = range(max(len(words) - SHINGLE_WORDS + 1, 1))
    runs = (" ".join(words[start : start + SHINGLE_WORDS]) for start in starts)
    return {int.from_bytes(hashlib.blake2b(run.encode(), digest_size=8).digest()) for run in runs}


def without_near_duplicates(texts: Iterable[str]) -> list[str]:
    """The texts whose shingles are mostly new, in order; the first of each family is kept."""
    seen: set[int] = set()
    kept: list[str] = []
    for text in texts:
        own = shingles(text)
        if len(own & seen) <= SEEN_SHARE * len(own):
            seen |= own
            kept.append(text)
    return kept


def without_repeated_paragraphs(documents: Iterable[Sequence[str]]) -> list[list[str]]:
    """Documents as lists of paragraphs, less every paragraph that stood in the same words before."""
    seen: set[str] = set()
    kept: list[list[str]] = []
    for paragraphs in documents:
        fresh = [text for text in dict.fromkeys(paragraphs) if text not in seen]
        seen.update(fresh)
        kept.append(fresh)
    return kept


def pack(units: Sequence[str], limit: int, joint: str = "\n\n") -> list[str]:
    """Consecutive units joined into the fewest texts of at most `limit` characters, as even as can be.

    A unit longer than the limit stands alone. Cuts fall only between units, so hand over natural ones.
    """
    fewest = len(_fill(units, limit, len(joint)))
    too_small, enough = 0, limit
    while too_small + 1 < enough:
        middle = (too_small + enough) // 2
        if len(_fill(units, middle, len(joint))) > fewest:
            too_small = middle
        else:
            enough = middle
    return [joint.join(part) for part in _fill(units, enough, len(joint))]


def _fill(units: Sequence[str], limit: int, joint: int) -> list[list[str]]:
    parts: list[list[str]] = []
    size = 0
    for unit in units:
        if parts and size + joint + len(unit) <= limit:
            parts[-1].append(unit)
            size += joint + len(unit)
        else:
            parts.append([unit])
            size = len(unit)
    return parts


def write_documents(path: Path, documents: Iterable[BundledDocument]) -> None:
    """Write `{"id", "text", "source"}` a line, compressed; the same documents give the same bytes.

    In the order of their ids, which are hashes: the first documents are as good a sample as any.
    """
    lines = io.BytesIO()
    for document in sorted(documents, key=lambda document: document_id(document.text)):
        record = {"id": document_id(document.text), "text": document.text, "source": document.source}
        lines.write(json.dumps(record, ensure_ascii=False).encode() + b"\n")
    write_bytes(path, zstandard.ZstdCompressor(level=_ZSTD_LEVEL, threads=0).compress(lines.getvalue()))


def read_records(path: Path) -> Iterator[Mapping[str, str]]:
    """The lines of a bundled corpus. Iterates the bytes: a text may hold U+2028, at which str.splitlines would cut."""
    with path.open("rb") as file, zstandard.ZstdDecompressor().stream_reader(file) as plain:
        for line in io.BufferedReader(plain):
            yield json.loads(line)
