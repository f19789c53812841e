"""Words in what latents show: example text around the peaks, and promoted tokens, as one string searched by find.

    a text per row --TextIndex.add--> parts --freeze--> one casefolded string and where each row's text begins
    word --rows_with--> mask over rows

The index is filled by a thread of its own after the server is up, because reading every card takes a while; until a
row is in it, its text is not found, and `progress` says so.
"""

import threading
from collections.abc import Iterable

import numpy as np
from numpy.typing import NDArray

Mask = NDArray[np.bool_]
_PER_BLOCK = 4096
_END = "\0"
"Between rows: no word that is searched for holds it, so nothing is found across two rows."


class TextIndex:
    """Text of rows 0 to n_rows - 1, added in order."""

    def __init__(self, n_rows: int) -> None:
        self.n_rows = n_rows
        self.n_done = 0
        self._blocks: list[tuple[str, NDArray[np.int64]]] = []
        self._stop = threading.Event()

    @property
    def progress(self) -> float:
        """Share of rows that can be found by their text."""
        return self.n_done / self.n_rows if self.n_rows else 1.0

    def fill(self, texts: Iterable[str]) -> None:
        """Take one text per row, in order, until all are there or `stop` was called."""
        parts: list[str] = []
        for text in texts:
            if self._stop.is_set():
                return
            parts.append(text.casefold().replace(_END, "\u2400") + _END)
            if len(parts) == _PER_BLOCK:
                self._freeze(parts)
                parts = []
        self._freeze(parts)

    def stop(self) -> None:
        """End `fill` soon."""
        self._stop.set()

    def rows_with(self, word: str) -> Mask:
        """Rows whose text holds the casefolded `word`."""
        mask = np.zeros(self.n_rows, bool)
        word = word.replace(_END, "\u2400")
        first = 0
        for text, starts in list(self._blocks):
            found = _places(text, word)
            mask[first + np.unique(np.searchsorted(starts, found, side="right") - 1)] = True
            first += len(starts)
        return mask

    def _freeze(self, parts: list[str]) -> None:
        if parts:
            starts = np.concatenate([[0], np.cumsum([len(part) for part in parts])[:-1]]).astype(np.int64)
            self._blocks.append(("".join(parts), starts))
            self.n_done += len(parts)


def _places(text: str, word: str) -> NDArray[np.int64]:
    """Where `word` stands in `text`; after a hit the rest of its row is skipped."""
    found: list[int] = []
    at = text.find(word)
    while at >= 0:
        found.append(at)
        at = text.find(word, text.find(_END, at) + 1)
    return np.array(found, np.int64)
