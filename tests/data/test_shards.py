"""A split cut into shards: every context in exactly one, documents and tokens as in the whole."""

import pytest
import torch

from fovea.data.shards import TokenShard
from fovea.errors import ConfigError
from tests.builders import texts, tiny_lm, tokenised


@pytest.mark.parametrize("n_shards", [1, 2, 3, 5])
def test_every_context_is_in_one_shard(tmp_path, n_shards):
    whole = tokenised(tmp_path / "a", tiny_lm(), documents=texts(30)).train
    shards = [TokenShard(whole, shard, n_shards) for shard in range(n_shards)]
    assert max(s.n_contexts for s in shards) - min(s.n_contexts for s in shards) <= 1
    assert sum(s.n_tokens for s in shards) == whole.n_tokens
    everything = whole.batch(range(whole.n_contexts))
    for shard, part in enumerate(shards):
        found = part.batch(range(part.n_contexts))
        for field, wanted in zip(found, everything, strict=True):
            torch.testing.assert_close(field, wanted[shard::n_shards], rtol=0, atol=0)
    assert len({s.fingerprint for s in shards} | {whole.fingerprint}) == n_shards + 1


def test_fewer_contexts_than_shards_is_said(tmp_path):
    whole = tokenised(tmp_path / "a", tiny_lm(), documents=texts(30)).train
    with pytest.raises(ConfigError, match="give fewer shards"):
        TokenShard(whole, 0, whole.n_contexts + 1)
