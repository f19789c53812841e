"""Paragraphs of manuals in HTML, by section; code, tables and navigation are left out."""

import re
from collections.abc import Sequence
from pathlib import Path

from lxml import html

from corpora.corpus import flat, is_prose
from fovea.bundled.text import BundledDocument, pack, without_repeated_paragraphs

LIMIT = 20_000
"Characters of a document: longer pages are cut between sections."
_SHORTEST_DOCUMENT = 400
_HEADINGS = ("h1", "h2", "h3", "h4")
_BLOCKS = ("p", "li", "dd", "blockquote")
_LIST_ENTRY = re.compile(r"^Bases: |^[\w*, ]{1,30} [\u2013:-] |^(?:[A-Z][\w.]* ){1,4}\(\d{4}|^https?:")
"Base classes, parameters, authors and bare links: most of an API reference, none of it prose."
_NOISE = "//pre|//script|//style|//nav|//table|//footer|//form|//*[contains(@class,'headerlink')]"
_NOISE += (
    "|//*[contains(@class,'sphinxsidebar')]|//*[contains(@class,'related')]|//*[contains(@class,'toctree-wrapper')]"
)


def documents(pages: Sequence[Path], root: Path, label: str, *, letters: float = 0.62) -> list[BundledDocument]:
    """Documents of a manual: pages in the order given, cut at sections, without paragraphs that repeat earlier ones."""
    read = [(page, section) for page in pages for section in _sections(page, letters)]
    fresh = without_repeated_paragraphs([section for _, section in read])
    by_page: dict[Path, list[list[str]]] = {page: [] for page in pages}
    for (page, _), section in zip(read, fresh, strict=True):
        by_page[page].append(section)
    found: list[BundledDocument] = []
    for page, sections in by_page.items():
        source = f"{label}:{page.relative_to(root).with_suffix('')}"
        units = [unit for section in sections for unit in _units(section)]
        found += [BundledDocument(text, source) for text in pack(units, LIMIT) if len(text) >= _SHORTEST_DOCUMENT]
    return found


def _units(section: list[str]) -> list[str]:
    """A section as one unit, or as its paragraphs when too long for a document; headings alone are dropped."""
    if not any(is_prose(paragraph, letters=0) for paragraph in section):
        return []
    text = "\n\n".join(section)
    return [text] if len(text) <= LIMIT else section


def _sections(page: Path, letters: float) -> list[list[str]]:
    tree = html.fromstring(page.read_bytes(), parser=html.HTMLParser(encoding="utf-8"))
    for paragraph in tree.xpath("//div[@class='para']"):
        paragraph.tag = "p"
    for noise in tree.xpath(_NOISE):
        if noise.getparent() is not None:
            noise.drop_tree()
    main = tree.xpath("//*[@role='main']") or tree.xpath("//main") or tree.xpath("//body")
    if not main:
        return []
    sections: list[list[str]] = [[]]
    for element in main[0].iter(*_HEADINGS, *_BLOCKS, "div"):
        text = _formulas(flat(element.text_content()))
        if element.tag in _HEADINGS:
            sections.append([text])
        elif element.tag == "div":
            if "math" in element.get("class", "").split() and sections[-1]:
                sections[-1][-1] += f" {text}"
        elif _is_leaf(element) and is_prose(text, letters=letters) and not _LIST_ENTRY.search(text):
            sections[-1].append(text)
    return sections


def _is_leaf(element: html.HtmlElement) -> bool:
    return next(element.iterdescendants(*_BLOCKS), None) is None


def _formulas(text: str) -> str:
    r"""TeX delimiters as people type them: \(x\) becomes $x$, \[x\] becomes $$x$$."""
    for sphinx, typed in ((r"\(", "$"), (r"\)", "$"), (r"\[", "$$"), (r"\]", "$$")):
        text = text.replace(sphinx, typed)
    return text
