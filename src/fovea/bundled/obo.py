"""Terms of an ontology in the OBO format, as sentences: "Name: definition comment"."""

import re
from collections.abc import Iterator, Sequence
from typing import NamedTuple

from fovea.bundled.text import pack

_QUOTED = re.compile(r'"((?:[^"\\]|\\.)*)"')
_ESCAPE = re.compile(r"\\(.)")
_SPACE = re.compile(r"\s+")
_LIMIT = 3_000
"Characters of a document: about fifteen related definitions."


class Term(NamedTuple):
    """One defined, current term."""

    name: str
    definition: str
    comment: str
    "Empty when the term has none."
    parents: tuple[str, ...]
    "Names of the terms that this one is a kind of."

    @property
    def sentence(self) -> str:
        """The term as running text."""
        name = self.name[:1].upper() + self.name[1:]
        return " ".join(part for part in (f"{name}: {self.definition}", self.comment) if part)


def terms(text: str) -> Iterator[Term]:
    """Terms of an OBO file in its order; obsolete ones and those without a definition are left out."""
    for stanza in text.split("\n[")[1:]:
        kind, _, body = stanza.partition("]\n")
        fields = [line.partition(": ") for line in body.split("\n")]
        values: dict[str, list[str]] = {}
        for key, _, value in fields:
            values.setdefault(key, []).append(value)
        if kind != "Term" or "def" not in values or values.get("is_obsolete") == ["true"]:
            continue
        quoted = _QUOTED.search(values["def"][0])
        definition = _plain(quoted[1]) if quoted else ""
        if definition and not definition.upper().startswith("OBSOLETE"):
            parents = tuple(value.partition(" ! ")[2] for value in values.get("is_a", []))
            yield Term(values["name"][0], definition, _plain(" ".join(values.get("comment", []))), parents)


def family_documents(found: Sequence[Term]) -> list[str]:
    """Documents of terms that share their first parent, so that a split by document parts few close relatives.

    Large families fill documents of their own; small ones share, in the order of their parents' names.
    """
    families: dict[str, list[str]] = {}
    for term in found:
        families.setdefault(term.parents[0] if term.parents else term.name, []).append(term.sentence)
    full: list[str] = []
    small: list[str] = []
    for _, sentences in sorted(families.items()):
        parts = pack(sentences, _LIMIT)
        if len(parts) > 1:
            full += parts
        else:
            small += parts
    return full + pack(small, _LIMIT)


def _plain(text: str) -> str:
    unescaped = _ESCAPE.sub(lambda match: " " if match[1] == "n" else match[1], text)
    return _SPACE.sub(" ", unescaped).strip()
