"""A split cut into shards that are read apart: shard s of n owns contexts s, s + n, s + 2n, ...

Neighbouring contexts are alike and go to different shards; the shards differ by one context at most.
"""

from collections.abc import Sequence

from fovea.data.tokens import PackedTokens, TokenBatch
from fovea.errors import ConfigError


class TokenShard(PackedTokens):
    """Every n-th context of a split, numbered anew from 0; documents keep their numbers.

    Raises:
        ConfigError: there are fewer contexts than shards.
    """

    def __init__(self, whole: PackedTokens, shard: int, n_shards: int) -> None:
        if whole.n_contexts < n_shards:
            raise ConfigError(
                f"train.shards = {n_shards}, but corpus {whole.name!r} ({whole.split}) has {whole.n_contexts} contexts "
                "of text; give fewer shards, a smaller context_size or more text"
            )
        self._whole, self._every = whole, range(shard, whole.n_contexts, n_shards)
        self.folder, self.split, self.name = whole.folder, whole.split, whole.name
        self.context_size = whole.context_size
        self.n_contexts = len(self._every)
        self.n_tokens = self.n_contexts * self.context_size
        self.n_documents = whole.n_documents
        self.fingerprint = f"{whole.fingerprint} shard {shard} of {n_shards}"

    def batch(self, indices: Sequence[int] | range) -> TokenBatch:
        """The contexts with these indices, in this order."""
        return self._whole.batch([self._every[index] for index in indices])

    def document_ids(self) -> list[str]:
        """The ids of all documents of the split."""
        return self._whole.document_ids()
