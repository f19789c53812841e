"""Mathematics: the manuals of SageMath and SymPy, formulas as TeX."""

from pathlib import Path

from corpora.corpus import Corpus, mostly_new
from corpora.html import documents
from corpora.sources import Archive, fetch

SAGE = Archive("apt", "sagemath-doc", "9.5-6", "dae42f803878fe655dd4627b3ddaa74de82a737a6076527d3441e80018ab2b12")
SYMPY = Archive(
    "apt", "python-sympy-doc", "1.11.1-1", "2a1d50bd49738f0280308fc8d86d5fa5739dbc6391e1c754f4549bc3635e6a31"
)
_NOT_MATHEMATICS = {
    *("spkg", "misc", "interfaces", "repl", "libs", "doctest", "structure", "cpython", "parallel", "databases"),
    *("data_structures", "plotting", "plot3d", "notebook", "history_and_license", "references", "tests", "coercion"),
}
_LETTERS = 0.5
"TeX has fewer letters than prose."


def make(work: Path) -> Corpus:
    """Every page about mathematics: tutorials, constructions and the reference manual less its software parts."""
    sage = fetch(SAGE, work) / "usr/share/doc/sagemath/html/en"
    parts = ["tutorial", "constructions", "prep", "thematic_tutorials", "a_tour_of_sage", "reference"]
    pages = [page for part in parts for page in sorted((sage / part).rglob("*.html")) if _wanted(page, sage)]
    sympy = fetch(SYMPY, work) / "usr/share/doc/python-sympy-doc/html"
    folders = ["tutorials", "modules", "explanation", "guides"]
    sympy_pages = [page for part in folders for page in sorted((sympy / part).rglob("*.html")) if _wanted(page, sympy)]
    found = documents(pages, sage, "sagemath", letters=_LETTERS)
    found += documents(sympy_pages, sympy, "sympy", letters=_LETTERS)
    kept = mostly_new(found)
    return Corpus(
        name="mathematics",
        title="Algebra, number theory, combinatorics, geometry and calculus from the SageMath and SymPy manuals",
        licence="CC-BY-SA-3.0 (SageMath), BSD-3-Clause (SymPy)",
        attribution="The Sage Development Team, 2005-2016; SymPy Development Team, 2006-2014",
        sources=[SAGE.label, SYMPY.label],
        made="Paragraphs and formulas of the HTML pages; code, tables, navigation, lists of parameters and "
        "authors, repeated paragraphs, near-duplicates and the pages about software are left out; pages "
        "above 20 kB are cut between sections.",
        dropped={"near-duplicates": len(found) - len(kept)},
        documents=kept,
    )


def _wanted(page: Path, root: Path) -> bool:
    parts = page.relative_to(root).parts
    noise = page.name.startswith(("genindex", "py-modindex", "search", "index")) or "_modules" in parts
    return not noise and _NOT_MATHEMATICS.isdisjoint(parts)
