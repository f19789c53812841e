"""Tokens as exact text: every token is bytes, and a text is the bytes of its tokens, whatever characters they split.

tokenizer --spelling--> Vocabulary(id -> bytes) --pieces--> one string per token; joined they are the text
"""

import json
import re
from bisect import bisect_right
from collections.abc import Sequence
from itertools import accumulate
from pathlib import Path
from typing import NamedTuple

import pyarrow as pa
import pyarrow.parquet as pq

from fovea.atomic import replacing
from fovea.errors import RunError
from fovea.features.tables import open_table
from fovea.foreign import Refusal, damage

_BROKEN = re.compile("[\udc80-\udcff]+")
_REPLACEMENT = "\ufffd"
_AGAIN = Refusal(RunError, "make the evidence again with `fovea features`")
MAX_TOKENS = 2**22
"Of a vocabulary; the largest have 262,144."
MAX_TOKEN_BYTES = 2**27


class Vocabulary(NamedTuple):
    """The bytes of every token id."""

    tokens: tuple[bytes, ...]
    added_space: bool
    "The tokenizer puts a space before the first word of a document, which is not in the document."


def pieces(tokens: Sequence[bytes]) -> list[str]:
    """The text of each token: a character split over tokens belongs to the first of them, the others show "".

    Bytes that are part of no character (a context may begin within one) show as one U+FFFD.
    """
    found: list[str] = []
    pending: list[bytes] = []
    for token in tokens:
        text = whole(token)
        if text:  # characters begin and end with it, so that what came before stands for itself
            if pending:
                found += _split_pieces(pending)
                pending = []
            found.append(text)
        else:
            pending.append(token)
    return found + _split_pieces(pending)


def whole(token: bytes) -> str | None:
    """The text of a token that is whole characters; None where it holds a part of one."""
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
    """What `write_vocabulary` wrote: at most MAX_TOKENS tokens.

    Raises:
        RunError: the file is missing or damaged.
    """
    folder = path.parent
    with damage(path, _AGAIN, pa.ArrowException), open_table(path, folder, _AGAIN, max_rows=MAX_TOKENS) as file:
        if not pa.types.is_binary(file.schema_arrow.field("bytes").type):
            raise TypeError("tokens are no bytes")
        table = file.read(columns=["bytes"])
        added_space = json.loads(table.schema.metadata[b"added_space"])
        tokens = table.column("bytes").to_pylist()
        if None in tokens or sum(map(len, tokens)) > MAX_TOKEN_BYTES:
            raise ValueError(f"tokens are missing, or have more than {MAX_TOKEN_BYTES:,} bytes together")
        return Vocabulary(tuple(tokens), bool(added_space))
