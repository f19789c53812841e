"""Text to token ids as plain text, in batches, whatever the length of a document.

    text --> pieces of at most 32,000 characters, cut before a single space --> batches --> ids

Cutting bounds memory and time; a cut before a single space changes no token of a byte-level tokenizer. A special
token's spelling inside a text ("<|im_end|>") is text like any other: it never becomes the special id.
"""

import hashlib
import json
import re
from collections.abc import Iterator, Sequence
from functools import lru_cache
from typing import NamedTuple

from tokenizers import Tokenizer
from transformers import PreTrainedTokenizerFast

from fovea.errors import ModelError

PIECE_CHARACTERS = 32_000
_CUT_WINDOW = 4096
_CUT = re.compile(r"(?<=\S)\s(?=\S)")


class Token(NamedTuple):
    """A token id and the character at which its text starts."""

    id: int
    start: int


class PlainTokenizer:
    """A private copy of an lm's tokenizer, without truncation, padding, special tokens added or special tokens parsed.

    Raises:
        ModelError: the tokenizer has no fast (Rust) form.
    """

    def __init__(self, tokenizer: object) -> None:
        if not isinstance(tokenizer, PreTrainedTokenizerFast):
            raise ModelError(
                f"tokenizer {type(tokenizer).__name__} has no fast form; save one with the `tokenizers` library "
                "(tokenizer.json beside the model) and load that folder"
            )
        self._tokenizer, self.fingerprint = _plain(tokenizer.backend_tokenizer.to_str())

    def encode(self, pieces: Sequence[str]) -> list[list[int]]:
        """The ids of each piece."""
        return [encoding.ids for encoding in self._tokenizer.encode_batch_fast(list(pieces), add_special_tokens=False)]

    def encode_with_starts(self, piece: str) -> list[Token]:
        """The tokens of one piece with the characters at which they start."""
        encoding = self._tokenizer.encode(piece, add_special_tokens=False)
        return [Token(id, start) for id, (start, _) in zip(encoding.ids, encoding.offsets, strict=True)]


@lru_cache(maxsize=1)
def _plain(text: str) -> tuple[Tokenizer, str]:
    """The copy and its fingerprint; kept, because every corpus of a run asks for the same."""
    tokenizer = Tokenizer.from_str(text)
    tokenizer.no_truncation()
    tokenizer.no_padding()
    tokenizer.encode_special_tokens = True
    settings = json.dumps(json.loads(tokenizer.to_str()), sort_keys=True)
    return tokenizer, hashlib.sha256(settings.encode()).hexdigest()


def pieces_of(text: str, *, size: int = PIECE_CHARACTERS) -> Iterator[str]:
    """`text` in order, in pieces of at most `size` characters, cut before a lone space if the last 4,096 have one."""
    start = 0
    while len(text) - start > size:
        end = start + size
        cuts = [match.start() for match in _CUT.finditer(text, max(start + 1, end - _CUT_WINDOW), end + 1)]
        end = cuts[-1] if cuts else end
        yield text[start:end]
        start = end
    if start < len(text):
        yield text[start:]
