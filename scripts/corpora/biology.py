"""Biology: definitions of the Gene Ontology, one family of terms a paragraph run, near-duplicates removed."""

import re
from collections.abc import Sequence
from pathlib import Path

from corpora.corpus import Corpus
from corpora.sources import Archive, fetch
from fovea.bundled.obo import Term, family_documents, terms
from fovea.bundled.text import BundledDocument, without_near_duplicates

EMBOSS = Archive(
    "apt", "emboss-data", "6.6.0+dfsg-12", "0197c365690535b2b419dad1663c0ae07082dfca99807622463647d91565b46a"
)
_VARIANT = re.compile(r"^(?:positive |negative |up-?|down-?)?regulation of ")
_REACTION = "Catalysis of the reaction"


def make(work: Path) -> Corpus:
    """Terms with the same first parent lie together, so that a split by document parts few close relatives."""
    path = fetch(EMBOSS, work) / "usr/share/EMBOSS/data/OBO/go.obo"
    current = list(terms(path.read_text(encoding="utf-8")))
    natural = [term for term in current if term.comment or not term.definition.startswith(_REACTION)]
    stems = _one_per_stem(natural)
    kept = set(without_near_duplicates([term.sentence for term in stems]))
    unlike = [term for term in stems if term.sentence in kept]
    return Corpus(
        name="biology",
        title="Definitions of biological processes, functions and cell components from the Gene Ontology",
        licence="CC-BY-3.0",
        attribution="Gene Ontology Consortium, release of 2013-07-13",
        sources=[f"{EMBOSS.label} (go.obo)"],
        made="'Name: definition comment', grouped by first parent in documents of at most 3 kB. Of terms that "
        "differ only by 'positive/negative regulation of' one is kept; then every term of which more than 40% of the "
        "13-word shingles occurred before is dropped, and reaction equations without a comment.",
        dropped={
            "reaction equations": len(current) - len(natural),
            "regulation variants": len(natural) - len(stems),
            "near-duplicates": len(stems) - len(kept),
        },
        documents=[BundledDocument(text, "gene-ontology") for text in family_documents(unlike)],
    )


def _one_per_stem(found: Sequence[Term]) -> list[Term]:
    """The shortest-named term of each stem, in the file's order: "regulation of X" goes where "X" itself is defined."""
    best: dict[str, Term] = {}
    for term in found:
        stem = _VARIANT.sub("", term.name)
        if stem not in best or len(term.name) < len(best[stem].name):
            best[stem] = term
    chosen = {term.name for term in best.values()}
    return [term for term in found if term.name in chosen]
