"""The bytes that each token of a tokenizer stands for, from how it spells them.

byte-level BPE   each character of a spelling stands for one byte, printable Latin-1 for itself
sentencepiece    U+2581 is a space, "<0xE2>" a byte; the space before a document's first word is the tokenizer's own
WordPiece        "##ing" -> b"ing", others b" word"; words alone: b" word"
"""

import json
import logging
import re
from typing import Any

from transformers import PreTrainedTokenizerBase, PreTrainedTokenizerFast

from fovea.features.text import Vocabulary

log = logging.getLogger("fovea")
_BYTE = re.compile(r"<0x([0-9A-Fa-f]{2})>")
_MARK = "\u2581"


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
