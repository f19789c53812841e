"""Computing: the Rust Book and its companions, the Debian Administrator's Handbook, the Python documentation."""

from pathlib import Path

from corpora.corpus import Corpus, mostly_new
from corpora.html import documents
from corpora.sources import Archive, fetch

RUST = Archive("apt", "rust-doc", "1.63.0+dfsg1-2", "96ef96fe6df87d939ca713bd7df3d15c2b778ccb892eca025c4ee504146f697b")
HANDBOOK = Archive(
    "apt", "debian-handbook", "11.20220922", "3d5dbeac1f1afc9c094eab9d0f701f6ecff99c4927d5a4794cf6c85678134faa"
)
PYTHON = Archive(
    "apt", "python3.11-doc", "3.11.2-6+deb12u9", "5b3594189d6ef9a6963ce0347fd307a1cc67620ad697e144db366070e2e146be"
)
_RUST_BOOKS = ["book", "nomicon", "embedded-book", "edition-guide", "reference"]
_OLD_EDITIONS = {"first-edition", "second-edition", "2018-edition"}
_PYTHON_PARTS = ["tutorial", "howto", "faq", "reference", "using", "extending", "library"]


def make(work: Path) -> Corpus:
    """Prose about programming and running computers."""
    rust = fetch(RUST, work) / "usr/share/doc/rust-doc/html"
    handbook = fetch(HANDBOOK, work) / "usr/share/doc/debian-handbook/html/en-US"
    python = fetch(PYTHON, work) / "usr/share/doc/python3.11/html"
    found = documents(_pages(rust, _RUST_BOOKS), rust, "rust")
    found += documents(sorted(handbook.glob("*.html")), handbook, "debian-handbook")
    found += documents(_pages(python, _PYTHON_PARTS), python, "python")
    kept = mostly_new(found)
    return Corpus(
        name="computing",
        title="Programming and system administration: Rust Book, Debian Handbook, Python documentation",
        licence="MIT OR Apache-2.0 (Rust), CC-BY-SA-3.0 (Debian Handbook, of GPL-2.0-or-later OR CC-BY-SA-3.0), "
        "PSF-2.0 (Python)",
        attribution="The Rust Project Developers; Raphael Hertzog, Roland Mas, Freexian SARL; "
        "Python Software Foundation",
        sources=[RUST.label, HANDBOOK.label, PYTHON.label],
        made="Paragraphs of the HTML pages; code, tables, "
        "navigation, repeated paragraphs and near-duplicates are left out; pages above "
        "20 kB are cut between sections.",
        dropped={"near-duplicates": len(found) - len(kept)},
        documents=kept,
    )


def _pages(root: Path, parts: list[str]) -> list[Path]:
    pages = [page for part in parts for page in sorted((root / part).rglob("*.html"))]
    return [
        page for page in pages if page.name not in ("print.html", "index.html") and _OLD_EDITIONS.isdisjoint(page.parts)
    ]
