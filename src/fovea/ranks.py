"""The processes that share a run: what each must know of the others, and what it asks them.

    Ranks           one process by itself: every exchange is the identity, and costs nothing
    `-- Together    several, over torch.distributed (fovea.together)

    Mesh            the same ranks as a table: `latents` hold the same tokens and other latents of an SAE,
                    `tokens` the same latents and other tokens

An object that is passed in; nothing here is global.
"""

from collections.abc import Callable
from typing import NamedTuple, TypeVar

import torch
from torch import Tensor

T = TypeVar("T")


class Ranks:
    """Processes that work on one thing. This one is alone.

    Each exchange must be called by all ranks in the same order, with tensors of equal shape and type.
    """

    rank: int = 0
    "Number of this process, from 0."
    size: int = 1
    "Number of processes."

    @property
    def is_first(self) -> bool:
        """Whether this is the process that writes what all share."""
        return self.rank == 0

    def sum(self, tensor: Tensor) -> Tensor:
        """The sum over all ranks; the same bits on each."""
        return tensor

    def sum_later(self, tensor: Tensor) -> Callable[[], Tensor]:
        """`sum` that goes on beside other work: call what comes back for the result. `tensor` is used up."""
        return lambda: tensor

    def least(self, tensor: Tensor) -> Tensor:
        """The smallest of each element over all ranks."""
        return tensor

    def gather(self, tensor: Tensor) -> Tensor:
        """[size ...] what each rank gave, in order."""
        return tensor[None]

    def total(self, n: int) -> int:
        """The sum of a whole number over all ranks."""
        return n

    def any(self, flag: bool) -> bool:
        """True if it is on any rank."""
        return self.total(int(flag)) > 0

    def barrier(self) -> None:
        """Return when all ranks have come here."""

    def after_first(self, work: Callable[[], T]) -> T:
        """Do `work` on the first rank, then on all others at once; for what leaves files that the others find."""
        return work()

    def by_first(self, work: Callable[[], None]) -> None:
        """Do `work` on the first rank, however long it takes, while the others wait."""
        work()

    def rows(self, every: int) -> "list[Ranks]":
        """Of ranks laid out in rows of `every`: the rank's own row, and its column."""
        assert every == 1, "one process cannot be split"
        return [self, self]


ALONE = Ranks()
"One process: what runs without torchrun has."


class Mesh(NamedTuple):
    """The ranks of a training, as a table."""

    world: Ranks
    tokens: Ranks
    "Ranks with other tokens and the same latents."
    latents: Ranks
    "Ranks with the same tokens and other latents."

    @classmethod
    def of(cls, world: Ranks, *, latent_shards: int = 1) -> "Mesh":
        """Neighbouring ranks hold the latents of one SAE; `latent_shards` divides the number of ranks."""
        latents, tokens = world.rows(latent_shards)
        return cls(world, tokens, latents)

    def whole(self, part: Tensor) -> Tensor:
        """What is a sum over latents, added up over the ranks that hold them; its gradient is the part's."""
        if self.latents.size == 1:
            return part
        own = part.detach()
        return part + (self.latents.sum(own.clone()) - own)

    def once(self, shared: Tensor) -> Tensor:
        """A weight that every rank holds whole, for a sum over latents: the first adds and trains it, others add 0."""
        return shared if self.latents.is_first else torch.zeros_like(shared)

    def pooled(self, mean: Tensor) -> Tensor:
        """The mean over the tokens of all ranks, of a mean over this rank's that is summed over its latents.

        Its gradient is that of this rank's part; averaged over `tokens`, gradients are those of the whole.
        """
        if self.world.size == 1:
            return mean
        own = mean.detach()
        return mean + (self.world.sum(own.clone()) / self.tokens.size - own)


ALONE_MESH = Mesh(ALONE, ALONE, ALONE)
"One process has all tokens and all latents."


def union(ranks: Ranks, found: set[int]) -> set[int]:
    """The numbers that any rank found."""
    if ranks.size == 1:
        return found
    own = torch.tensor(sorted(found), dtype=torch.int64)
    longest = int(ranks.gather(torch.tensor(len(own))).max())
    padded = torch.full((longest,), -1, dtype=torch.int64)
    padded[: len(own)] = own
    return set(ranks.gather(padded).flatten().tolist()) - {-1}
