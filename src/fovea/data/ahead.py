"""Chunks made in the background, in the order in which they will be asked for.

    chunk(index, then=what comes next) --> one worker thread makes index, then the first n_ahead of `then`, in order
                                       --> waits for index alone

A chunk is a function of its index, so who makes it and when changes nothing but time.
"""

import weakref
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor

from fovea.data.activations import Chunk


class Ahead:
    """At most `n_ahead` finished or unfinished chunks wait; none with n_ahead = 0, and then there is no thread."""

    def __init__(self, make: Callable[[int], Chunk], *, n_ahead: int) -> None:
        assert n_ahead >= 0
        self._make, self.n_ahead = make, n_ahead
        self._waiting: dict[int, Future[Chunk]] = {}
        self._worker: ThreadPoolExecutor | None = None
        if n_ahead:
            self._worker = ThreadPoolExecutor(1, "fovea-ahead")
            # A run that is stopped does not wait for chunks that nobody will read.
            weakref.finalize(self, self._worker.shutdown, wait=False, cancel_futures=True)

    def chunk(self, index: int, then: Sequence[int]) -> Chunk:
        """Chunk number `index`; `then` are those that will be asked for next, of which the first few are begun.

        Raises:
            Exception: whatever making the chunk raised.
        """
        if self._worker is None:
            return self._make(index)
        wanted = [index, *then[: self.n_ahead]]
        for other in [other for other in self._waiting if other not in wanted]:
            self._waiting.pop(other).cancel()
        for other in wanted:
            if other not in self._waiting:
                self._waiting[other] = self._worker.submit(self._make, other)
        return self._waiting.pop(index).result()
