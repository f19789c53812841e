"""Which latents are active, decided among several ranks: exactly what one process with all tokens and latents decides.

    batch_topk   own candidates --histograms of their bits, three times--> the cut --> own code above it
    topk         own k largest of each token --gathered--> the cut of each token --> own code above it

What crosses is counts and values, never activations. Ranks select among their own by `fovea.sae.select`.
"""

from collections.abc import Callable
from typing import NamedTuple

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from fovea.ranks import Mesh, Ranks
from fovea.sae.select import Dead, Selection
from fovea.sae.sparse import SparseCode, part_of

SPARE = 1.25
"A rank first asks for so many times its fair share of the batch's latents."
_DIGITS = ((20, 11), (10, 10), (0, 10))
"(shift, width) of the pieces in which the 31 bits of a positive float32 are searched."


class _Cut(NamedTuple):
    bits: int
    "Bits of the smallest kept value; positive floats sort as their bits do."
    n_equal: int
    "How many of the values equal to it are kept."


def batch_topk(
    select: Callable[[int, Dead | None], Selection], k: int, mesh: Mesh, *, dead: Dead | None = None
) -> Selection:
    """This rank's part of the tokens * k largest positive pre-activations of the whole batch.

    Equal values: the first token and latent, tokens counted through the ranks.

    Args:
        select: The tokens * n largest of this rank's own, for any n, and what is asked of the dead.
        dead: Asked of this rank's own dead latents, and given back as it comes.
    """
    if mesh.world.size == 1:
        return select(k, dead)
    n_asked = max(1, round(SPARE * k / mesh.latents.size))
    code, of_dead = select(n_asked, dead)
    while True:
        is_all = len(code.values) < n_asked * code.n_tokens
        cut = _cut(code.values, k * code.n_tokens * mesh.tokens.size, mesh.world)
        bits = code.values.view(torch.int32)
        # What was left out is at most the smallest that came; if that is below the cut, nothing is missing.
        is_enough = is_all or (cut is not None and int(bits.min()) < cut.bits)
        if not mesh.world.any(not is_enough):
            if cut is not None:
                code = part_of(code, (bits > cut.bits) | _first_equal(code, bits, cut, mesh))
            return Selection(code, of_dead)
        n_asked *= 2
        code = select(n_asked, None).code


def topk(code: SparseCode, k: int, latents: Ranks) -> SparseCode:
    """This rank's part of the k largest positive pre-activations of each token; of equal ones the first rank's.

    Args:
        code: The k largest of each token among this rank's latents; all of them, if these are fewer.
    """
    if latents.size == 1:
        return code
    place = torch.arange(len(code.tokens), device=code.tokens.device) - code.offsets[code.tokens]
    values = code.values.new_zeros(code.n_tokens, k)
    values[code.tokens, place] = code.values
    everyone = latents.gather(values)  # [ranks tokens k], 0 where there is none
    cut = everyone.transpose(0, 1).flatten(1).topk(k, dim=1).values[:, -1]
    n_equal = k - (everyone > cut[:, None]).sum(dim=(0, 2))
    n_before = (everyone[: latents.rank] == cut[:, None]).sum(dim=(0, 2))
    is_equal = values == cut[:, None]
    kept = (values > cut[:, None]) | (is_equal & (is_equal.cumsum(dim=1) + n_before[:, None] <= n_equal[:, None]))
    return part_of(code, kept[code.tokens, place])


def no_code(like: SparseCode) -> SparseCode:
    """A code of as many tokens and latents in which nothing fires."""
    nothing = like.tokens[:0]
    return SparseCode(torch.zeros_like(like.offsets), nothing, nothing, like.values[:0], like.d_sae)


def _cut(values: Float[Tensor, " entries"], n: int, world: Ranks) -> _Cut | None:
    """The n-th largest of the values of all ranks; None where there are no more than n.

    From the top bits down: count by digit on all ranks, step into the digit where the count passes n.
    """
    bits = values.view(torch.int32)
    prefix = 0
    for shift, width in _DIGITS:
        n_digits = 1 << width
        inside = bits[bits >> (shift + width) == prefix]
        counts = world.sum(torch.bincount((inside >> shift) & (n_digits - 1), minlength=n_digits)).flip(0)
        so_far = counts.cumsum(0)
        if shift == _DIGITS[0][0] and int(so_far[-1]) <= n:
            return None
        place = int(torch.searchsorted(so_far, n))
        n -= int(so_far[place] - counts[place])
        prefix = prefix << width | (n_digits - 1 - place)
    return _Cut(prefix, n)


def _first_equal(code: SparseCode, bits: Tensor, cut: _Cut, mesh: Mesh) -> Bool[Tensor, " entries"]:
    """Of the entries at the cut, those that come first among all ranks' as far as there is room."""
    is_equal = bits == cut.bits
    by_row = mesh.world.gather(is_equal.sum()).view(mesh.tokens.size, mesh.latents.size).sum(dim=1)
    room = cut.n_equal - int(by_row[: mesh.tokens.rank].sum())
    if room <= 0:
        return torch.zeros_like(is_equal)
    if room >= int(by_row[mesh.tokens.rank]):
        return is_equal
    # Tokens of a row are shared by its ranks: order by token, then rank (which holds the lower latents), then latent.
    order = code.tokens * mesh.latents.size + mesh.latents.rank
    equal = order[is_equal]
    n_each = mesh.latents.gather(order.new_tensor([len(equal)]))
    padded = order.new_full((int(n_each.max()),), torch.iinfo(torch.int64).max)
    padded[: len(equal)] = equal
    last = mesh.latents.gather(padded).flatten().kthvalue(room).values
    n_below = int(mesh.latents.sum((equal < last).sum()[None]))
    at_last = is_equal & (order == last)
    return is_equal & (order < last) | (at_last & (at_last.cumsum(0) <= room - n_below))
