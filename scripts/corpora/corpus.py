"""What a corpus module hands over, and how it becomes two files in the package."""

import re
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from fovea.atomic import write_json
from fovea.bundled.cache import sha256_of
from fovea.bundled.text import BundledDocument, document_id, without_near_duplicates, write_documents

_SPACE = re.compile(r"\s+")


class Corpus(NamedTuple):
    """Documents with everything a reader must know to use and redistribute them."""

    name: str
    title: str
    licence: str
    attribution: str
    sources: Sequence[str]
    made: str
    "How the text was cleaned, in a sentence or two."
    dropped: dict[str, int]
    "What was left out, by reason, and how many."
    documents: Sequence[BundledDocument]


def write_corpus(corpus: Corpus, folder: Path) -> dict[str, object]:
    """Write NAME.jsonl.zst and NAME.json; returns the description."""
    unique = {document_id(document.text): document for document in corpus.documents}
    path = folder / f"{corpus.name}.jsonl.zst"
    write_documents(path, unique.values())
    description: dict[str, object] = {
        "name": corpus.name,
        "title": corpus.title,
        "licence": corpus.licence,
        "attribution": corpus.attribution,
        "source": "; ".join(corpus.sources),
        "made": corpus.made,
        "dropped": corpus.dropped,
        "documents": len(unique),
        "text_bytes": sum(len(document.text.encode()) for document in unique.values()),
        "bytes": path.stat().st_size,
        "sha256": sha256_of(path),
    }
    write_json(folder / f"{corpus.name}.json", description)
    return description


def mostly_new(documents: Sequence[BundledDocument]) -> list[BundledDocument]:
    """The documents that are not near-duplicates of earlier ones."""
    kept = set(without_near_duplicates([document.text for document in documents]))
    return [document for document in documents if document.text in kept]


def is_prose(paragraph: str, *, letters: float = 0.62, shortest: int = 40) -> bool:
    """True for a paragraph long enough and made mostly of letters."""
    return len(paragraph) >= shortest and sum(map(str.isalpha, paragraph)) >= letters * len(paragraph)


def flat(text: str) -> str:
    """The text on one line."""
    return _SPACE.sub(" ", text).strip()
