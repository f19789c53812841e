"""What several ranks select together is what one process selects, ties and shortages included."""

import numpy as np
import torch

from fovea.ranks import ALONE_MESH, Mesh, Ranks
from fovea.sae.encoder import Encoder
from fovea.sae.exchange import batch_topk, topk
from fovea.sae.select import Dead, Selection, select_batch_topk, select_topk
from fovea.sae.sparse import SparseCode
from tests.ranked import on_ranks

N_TOKENS, D_SAE = 24, 16
KINDS = ("plain", "all on one rank", "many equal", "hardly any", "none", "far below and above one")


def made_pre(kind: str) -> torch.Tensor:
    """Pre-activations [tokens d_sae] of all ranks."""
    pre = torch.randn(N_TOKENS, D_SAE, generator=torch.Generator().manual_seed(3))
    if kind == "all on one rank":
        pre[N_TOKENS // 4 :] -= 20.0
    if kind == "many equal":
        pre = pre.mul(2).round().div(2)
    if kind == "hardly any":
        pre[pre < 2.0] = -1.0
    if kind == "none":
        pre = -pre.abs()
    if kind == "far below and above one":
        pre = pre.sign() * torch.exp2(20 * pre)
    return pre


def own(pre: torch.Tensor, select, n: int, *, dead: Dead | None = None) -> Selection:
    """`select` on these pre-activations, through an encoder that gives them exactly."""
    return select(torch.eye(len(pre)), Encoder(pre, torch.zeros(pre.shape[1]), "float32"), n, dead=dead)


def in_company(pre: torch.Tensor, k: int, mesh: Mesh) -> tuple[SparseCode, SparseCode]:
    """What this rank selects of its pre-activations in BatchTopK and in TopK."""
    by_batch = batch_topk(lambda n, dead: own(pre, select_batch_topk, n, dead=dead), k, mesh)
    by_token = topk(own(pre, select_topk, min(k, pre.shape[1])).code, k, mesh.latents)
    return by_batch.code, by_token


def chosen(ranks: Ranks, latent_shards: int, k: int) -> dict[str, np.ndarray]:
    """For each kind what this rank selects in BatchTopK and in TopK."""
    mesh = Mesh.of(ranks, latent_shards=latent_shards)
    found = {}
    for kind in KINDS:
        pre = made_pre(kind).chunk(mesh.tokens.size)[mesh.tokens.rank]
        pre = pre.chunk(mesh.latents.size, dim=1)[mesh.latents.rank].contiguous()
        by_batch, by_token = in_company(pre, k, mesh)
        found |= {f"{kind} by batch": by_batch.dense().numpy(), f"{kind} by token": by_token.dense().numpy()}
        assert (by_batch.offsets.diff() == torch.bincount(by_batch.tokens, minlength=len(pre))).all()
    return found


def whole(parts: list[dict[str, np.ndarray]], latent_shards: int, name: str) -> np.ndarray:
    rows = [parts[first : first + latent_shards] for first in range(0, len(parts), latent_shards)]
    return np.block([[each[name] for each in row] for row in rows])


def check(n_ranks: int, latent_shards: int, k: int) -> None:
    wanted = chosen(ALONE_MESH.world, 1, k)
    parts = on_ranks(n_ranks, chosen, latent_shards, k)
    for name in wanted:
        found = whole(parts, latent_shards, name)
        if name == "many equal by token":  # one process leaves equal values to torch.topk: compare them as values
            found, wanted[name] = np.sort(found, axis=1), np.sort(wanted[name], axis=1)
        np.testing.assert_array_equal(found, wanted[name], err_msg=f"{name}, k = {k}, {n_ranks} ranks")
    for name in ("plain by batch", "many equal by batch", "all on one rank by batch"):
        n_positive = int((made_pre(name.removesuffix(" by batch")) > 0).sum())
        assert (wanted[name] > 0).sum() == min(k * N_TOKENS, n_positive)


def test_tokens_on_two_ranks():
    check(2, 1, 2)


def test_latents_on_two_ranks():
    check(2, 2, 3)


def test_tokens_and_latents_on_four_ranks():
    check(4, 2, 2)


def test_the_smallest_k():
    check(4, 1, 1)


def times_asked(ranks: Ranks) -> int:
    """How often a rank selects anew where the ranks' tokens are alike."""
    pre = torch.randn(512, D_SAE, generator=torch.Generator().manual_seed(ranks.rank))
    asked: list[int] = []

    def select(n: int, dead: Dead | None) -> Selection:
        asked.append(n)
        return own(pre, select_batch_topk, n, dead=dead)

    batch_topk(select, 4, Mesh.of(ranks))
    return len(asked)


def test_ranks_with_alike_tokens_select_once():
    assert on_ranks(2, times_asked) == [1, 1]
