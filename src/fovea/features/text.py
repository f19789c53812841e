"""Tokens as exact text: every token is bytes, and a text is the bytes of its tokens, whatever characters they split.

    tokenizer --token_bytes--> Vocabulary(id -> bytes) --pieces--> one string per token; joined they are the text

byte-level BPE   each character of a spelling stands for one byte, printable Latin-1 for itself
sentencepiece    U+2581 is a space, "<0xE2>" a byte; the space before a document's first word is the tokenizer's own
WordPiece        "##ing" -> b"ing", others b" word"; words alone: b" word"
"""

import json
import logging
import re
from bisect import bisect_right
from collections.abc import Sequence
from itertools import accumulate
from pathlib import Path
from typing import Any, NamedTuple

import pyarrow as pa
import pyarrow.parquet as pq
from transformers import PreTrainedTokenizerBase, PreTrainedTokenizerFast

from fovea.atomic import replacing
from fovea.errors import RunError

log = logging.getLogger("fovea")
_BYTE = re.compile(r"<0x([0-9A-Fa-f]{2})>")
_BROKEN = re.compile("[\udc80-\udcff]+")
_REPLACEMENT = "\ufffd"
_MARK = "\u2581"


class Vocabulary(NamedTuple):
    """The bytes of every token id."""

    tokens: tuple[bytes, ...]
    added_space: bool
    "The tokenizer puts a space before the first word of a document, which is not in the document."


def token_bytes(tokenizer: PreTrainedTokenizerBase) -> Vocabulary:
    """The bytes that each token of a tokenizer stands for; added tokens stand for their own spelling."""
    assert isinstance(tokenizer, PreTrainedTokenizerFast), "a corpus cannot be tokenised without the fast form"
    state: dict[str, Any] = json.loads(tokenizer.backend_tokenizer.to_str())
    spellings: dict[int, str] = {i: token for token, i in tokenizer.get_vocab().items()}
    added = {entry["id"]: str(entry["content"]) for entry in state["added_tokens"]}
    kind = _kind(state)
    found = [b""] * (max(spellings, default=-1) + 1)
    for index, spelling in spellings.items():
        if index in added:
            found[index] = added[index].encode()
        elif kind == "unknown":
            found[index] = str(tokenizer.decode([index])).encode()
        else:
            found[index] = _bytes_of(spelling, kind)
    return Vocabulary(tuple(found), kind != "byte-level")


def _kind(state: dict[str, Any]) -> str:
    """How the spellings of a tokenizer are to be read."""
    decoder = state.get("decoder")
    parts = [] if decoder is None else decoder.get("decoders", [decoder])
    names = {part["type"] for part in parts}
    if "ByteLevel" in names:
        return "byte-level"
    if "Metaspace" in names or any(part.get("content") == " " and _is_mark(part) for part in parts):
        return "sentencepiece"
    if "WordPiece" in names:
        return "wordpiece"
    if not names and state["model"]["type"] == "WordLevel":
        return "words"
    log.warning("tokenizer with decoder %s is not known: characters split over tokens are shown as \ufffd", names)
    return "unknown"


def _is_mark(part: dict[str, Any]) -> bool:
    return part["type"] == "Replace" and part["pattern"].get("String") == _MARK


def _bytes_of(spelling: str, kind: str) -> bytes:
    if kind == "byte-level":
        alphabet = _alphabet()
        if all(character in alphabet for character in spelling):
            return bytes(alphabet[character] for character in spelling)
        return spelling.encode()
    if kind == "sentencepiece":
        byte = _BYTE.fullmatch(spelling)
        return bytes([int(byte[1], 16)]) if byte else spelling.replace(_MARK, " ").encode()
    if kind == "wordpiece":
        return spelling[2:].encode() if spelling.startswith("##") else f" {spelling}".encode()
    return f" {spelling}".encode()


_ALPHABET: dict[str, int] = {}


def _alphabet() -> dict[str, int]:
    """Character -> byte of byte-level BPE: printable Latin-1 stands for itself, the rest for U+0100 and up in order."""
    if not _ALPHABET:
        plain = {*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)}
        others = [byte for byte in range(256) if byte not in plain]
        _ALPHABET.update({chr(byte): byte for byte in plain})
        _ALPHABET.update({chr(256 + index): byte for index, byte in enumerate(others)})
    return _ALPHABET


def pieces(tokens: Sequence[bytes]) -> list[str]:
    """The text of each token: a character split over tokens belongs to the first of them, the others show "".

    Bytes that are part of no character (a context may begin within one) show as one U+FFFD.
    """
    found: list[str] = []
    pending: list[bytes] = []
    for token in tokens:
        text = _whole(token)
        if text:  # characters begin and end with it, so that what came before stands for itself
            found += [*_split_pieces(pending), text]
            pending = []
        else:
            pending.append(token)
    return found + _split_pieces(pending)


def _whole(token: bytes) -> str | None:
    """The text of a token that is whole characters."""
    try:
        return token.decode()
    except UnicodeDecodeError:
        return None


def _split_pieces(tokens: Sequence[bytes]) -> list[str]:
    """`pieces` where characters may be split."""
    starts = list(accumulate((len(token) for token in tokens), initial=0))
    found: list[list[str]] = [[] for _ in tokens]
    place = 0
    for text in _characters(b"".join(tokens)):
        # Several tokens may start at one byte, all but the last of them empty.
        found[bisect_right(starts, place) - 1].append(_BROKEN.sub(_REPLACEMENT, text))
        place += len(text.encode("utf-8", "surrogateescape"))
    return ["".join(parts) for parts in found]


def _characters(data: bytes) -> list[str]:
    """Characters in order; a run of bytes that are no character is one entry, as surrogate escapes."""
    return re.findall("[\udc80-\udcff]+|[^\udc80-\udcff]", data.decode("utf-8", "surrogateescape"), flags=re.DOTALL)


def write_vocabulary(path: Path, vocabulary: Vocabulary) -> None:
    """Write tokens.parquet: token id -> bytes; atomically."""
    ids = pa.array(range(len(vocabulary.tokens)), pa.int32())
    table = pa.table({"token_id": ids, "bytes": pa.array(vocabulary.tokens, pa.binary())})
    table = table.replace_schema_metadata({"added_space": json.dumps(vocabulary.added_space)})
    with replacing(path) as temporary:
        pq.write_table(table, temporary)


def read_vocabulary(path: Path) -> Vocabulary:
    """What `write_vocabulary` wrote.

    Raises:
        RunError: the file is missing or damaged.
    """
    try:
        table = pq.read_table(path)
        added_space = json.loads(table.schema.metadata[b"added_space"])
    except (OSError, pa.ArrowInvalid, KeyError, TypeError) as error:
        raise RunError(f"{path} can not be read ({error}); make the evidence again with `fovea features`") from None
    return Vocabulary(tuple(table.column("bytes").to_pylist()), added_space)
