"""Token streams of one split written as packed contexts: two flat files, written as they come.

    (document, ids), (document, ids), ... --> ids, separator, ids, ... --> contexts [n_contexts, context_size] --> disk

`SPLIT.tokens.u32` holds the tokens, `SPLIT.documents.i32` the index of the document of each, -1 for BOS and separators,
`SPLIT.documents.txt` the id of each document, a line each, in the order of the indices. A document may begin anywhere
in a context and run over several. The tail that does not fill a context is dropped and counted.
"""

import hashlib
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from fovea.data.split import Split

NO_DOCUMENT = -1


class SplitFiles(NamedTuple):
    """The files of one split of a tokenised corpus."""

    tokens: Path
    documents: Path
    ids: Path

    @classmethod
    def of(cls, folder: Path, split: Split) -> "SplitFiles":
        """Where `folder` keeps them."""
        return cls(folder / f"{split}.tokens.u32", folder / f"{split}.documents.i32", folder / f"{split}.documents.txt")

    def sha256(self) -> dict[str, str]:
        """Hash of each file's bytes, by file name."""
        found: dict[str, str] = {}
        for path in self:
            with path.open("rb") as file:
                found[path.name] = hashlib.file_digest(file, "sha256").hexdigest()
        return found


class Packer:
    """Writes the contexts of one split; memory is that of one piece of a document.

    Args:
        bos_id: Put first in each context; None for no BOS.
        max_contexts: Stop there; None for all.
    """

    def __init__(
        self, files: SplitFiles, *, context_size: int, separator_id: int, bos_id: int | None, max_contexts: int | None
    ) -> None:
        self.files, self.context_size, self.max_contexts = files, context_size, max_contexts
        self.separator_id, self.bos_id = separator_id, bos_id
        self.n_contexts = self.n_documents_seen = self.n_tail_tokens = 0
        self._last_index = NO_DOCUMENT
        self._document_ids: list[str] = []
        self._pending = np.empty((2, 0), dtype=np.int64)
        self._n_document_tokens = 0
        self._tokens, self._documents = files.tokens.open("wb"), files.documents.open("wb")

    @property
    def full(self) -> bool:
        """True when max_contexts are written."""
        return self.max_contexts is not None and self.n_contexts >= self.max_contexts

    def add(self, document_id: str, ids: list[int]) -> None:
        """Append tokens of a document: all of it, or its next piece."""
        if self.full or not ids:
            return
        if not self._document_ids or self._document_ids[-1] != document_id:
            if self._document_ids:
                self._append([self.separator_id], NO_DOCUMENT)
            self._document_ids.append(document_id)
        self._append(ids, len(self._document_ids) - 1)
        self._write_full_contexts()

    def finish(self) -> None:
        """Write what is left: the tail is dropped, and with it the documents of which no token was written."""
        self.close()
        self.n_documents_seen = len(self._document_ids)
        self.n_tail_tokens = 0 if self.full else self._pending.shape[1]
        kept = self._document_ids[: self._last_index + 1]
        self.files.ids.write_text("".join(f"{document_id}\n" for document_id in kept))

    def close(self) -> None:
        """Close the two files, also when the disk is full."""
        try:
            self._tokens.close()
        finally:
            self._documents.close()

    def counts(self) -> dict[str, Any]:
        """What was written, for the manifest; after `finish`."""
        return {
            "n_documents": self._last_index + 1,
            "n_contexts": self.n_contexts,
            "n_tokens": self.n_contexts * self.context_size,
            "n_document_tokens": self._n_document_tokens,
            "n_tail_tokens": self.n_tail_tokens,
        }

    def _append(self, ids: list[int], index: int) -> None:
        new = np.array([ids, [index] * len(ids)], dtype=np.int64)
        self._pending = np.concatenate([self._pending, new], axis=1)

    def _write_full_contexts(self) -> None:
        width = self.context_size - (self.bos_id is not None)
        n_new = self._pending.shape[1] // width
        if self.max_contexts is not None:
            n_new = min(n_new, self.max_contexts - self.n_contexts)
        if n_new == 0:
            return
        body = self._pending[:, : n_new * width].reshape(2, n_new, width)
        self._pending = self._pending[:, n_new * width :]
        tokens, documents = body
        if self.bos_id is not None:
            tokens, documents = _prefixed(tokens, self.bos_id), _prefixed(documents, NO_DOCUMENT)
        self._tokens.write(tokens.astype("<u4").tobytes())
        self._documents.write(documents.astype("<i4").tobytes())
        self.n_contexts += n_new
        self._n_document_tokens += int((documents != NO_DOCUMENT).sum())
        self._last_index = max(self._last_index, int(documents.max()))


def _prefixed(contexts: NDArray[np.int64], first: int) -> NDArray[np.int64]:
    return np.concatenate([np.full((len(contexts), 1), first), contexts], axis=1)
