"""Several processes on one run, over torch.distributed: what torchrun or Slurm started.

    RANK, WORLD_SIZE, MASTER_ADDR, MASTER_PORT --rendezvous--> store, process group --> Together (a Ranks)

gloo carries tensors on the CPU, NCCL those on a GPU. When a rank fails it says why in the store before it ends, so the
others can repeat it; when one is killed or hangs, their next exchange fails, at the latest after the timeout.
"""

import os
import re
import time
from collections.abc import Callable, Generator
from contextlib import contextmanager
from datetime import timedelta
from typing import TypeVar

import torch
import torch.distributed as dist
from torch import Tensor
from torch.distributed.distributed_c10d import PrefixStore, ProcessGroup, Store
from torch.distributed.rendezvous import rendezvous

from fovea.errors import FoveaError, RankError
from fovea.ranks import Ranks

T = TypeVar("T")
_ERROR = "error"
_POLL_SECONDS = 0.02


@contextmanager
def joined(*, timeout_seconds: float, device: str = "cpu") -> Generator[Ranks]:
    """The ranks that this process belongs to; one by itself unless WORLD_SIZE is above 1.

    Args:
        timeout_seconds: An exchange that takes longer fails: some rank hangs.
        device: Device of the SAEs, whose tensors cross; one of CUDA adds NCCL.

    Raises:
        RankError: another rank failed, was killed or hangs.
    """
    if int(os.environ.get("WORLD_SIZE", "1")) == 1:
        yield Ranks()
        return
    limit = timedelta(seconds=timeout_seconds)
    try:
        store, rank, size = next(iter(rendezvous("env://", timeout=limit)))
        kept = PrefixStore("fovea", store)
        backend = "cpu:gloo,cuda:nccl" if device.startswith("cuda") else "gloo"
        dist.init_process_group(backend, store=PrefixStore("exchange", kept), rank=rank, world_size=size, timeout=limit)
    except (RuntimeError, ValueError) as error:
        raise RankError(
            f"the ranks did not meet within {timeout_seconds:g} s ({_first_line(error)}); start all of them with one "
            "torchrun (or one srun) and check MASTER_ADDR and MASTER_PORT"
        ) from None
    together = Together(rank, size, group=None, store=kept)
    try:
        yield together
        together.barrier()
    except (Exception, KeyboardInterrupt) as error:
        cause = together.say_failed(error)
        if cause is None or not isinstance(error, FoveaError) or isinstance(error, RankError):
            raise
        raise RankError(cause) from error
    finally:
        dist.destroy_process_group()


class Together(Ranks):
    """Some or all ranks of the job."""

    def __init__(self, rank: int, size: int, *, group: ProcessGroup | None, store: Store) -> None:
        self.rank, self.size, self._group, self._store = rank, size, group, store
        self._n_turns = 0

    def sum(self, tensor: Tensor) -> Tensor:
        """The sum over all ranks, in place where the tensor is contiguous."""
        return self.sum_later(tensor)()

    def sum_later(self, tensor: Tensor) -> Callable[[], Tensor]:
        """A sum that goes on beside other work."""
        tensor = tensor.contiguous()
        with self._watched("sum"):
            work = dist.all_reduce(tensor, group=self._group, async_op=True)
        assert work is not None, "this rank is not in the group"

        def result() -> Tensor:
            with self._watched("sum"):
                work.wait()
            return tensor

        return result

    def least(self, tensor: Tensor) -> Tensor:
        """The smallest of each element."""
        tensor = tensor.contiguous()
        with self._watched("minimum"):
            dist.all_reduce(tensor, op=dist.ReduceOp.MIN, group=self._group)
        return tensor

    def gather(self, tensor: Tensor) -> Tensor:
        """[size ...] what each rank gave."""
        tensor = tensor.contiguous()
        parts = [torch.empty_like(tensor) for _ in range(self.size)]
        with self._watched("gathering"):
            dist.all_gather(parts, tensor, group=self._group)
        return torch.stack(parts)

    def total(self, n: int) -> int:
        """The sum of a whole number."""
        return int(self.sum(torch.tensor([n], dtype=torch.int64)))

    def barrier(self) -> None:
        """Return when all ranks have come here."""
        self.total(0)

    def after_first(self, work: Callable[[], T]) -> T:
        """Do `work` on the first rank, then on the others."""
        if self.is_first:
            done = work()
            self._end_turn()
        else:
            self._end_turn()
            done = work()
        self.barrier()
        return done

    def by_first(self, work: Callable[[], None]) -> None:
        """Do `work` on the first rank; no timeout runs while the others wait."""
        if self.is_first:
            work()
        self._end_turn()

    def rows(self, every: int) -> list[Ranks]:
        """The rank's row of `every` neighbours, and the column of those at the same place in their rows."""
        table = torch.arange(self.size).view(-1, every)
        return [self._part(table), self._part(table.T)]

    def say_failed(self, error: Exception | KeyboardInterrupt) -> str | None:
        """Tell the others why this rank ends; what another one said before, or None if this is the first to fail."""
        said = str(error) or ("interrupted" if isinstance(error, KeyboardInterrupt) else type(error).__name__)
        own = f"rank {self.rank} of {self.size} stopped: {said}"
        try:
            first = self._store.compare_set(_ERROR, "", own).decode()
        except RuntimeError:  # the store went with the rank that held it
            return None
        return None if first == own else f"{first} (rank {self.rank} ends with it)"

    def _part(self, lines: Tensor) -> Ranks:
        """This rank's line of a table of ranks; every rank makes every group, as torch.distributed asks for."""
        if lines.shape[1] == 1:
            return Ranks()
        if len(lines) == 1:
            return self
        own: Ranks | None = None
        for line in lines.tolist():
            group = dist.new_group(line)
            if self.rank in line:
                assert isinstance(group, ProcessGroup), "a rank is in its own line"
                own = Together(line.index(self.rank), len(line), group=group, store=self._store)
        assert own is not None, "a table of ranks holds each of them"
        return own

    def _end_turn(self) -> None:
        """The first rank says that its turn is over; the others wait for it, or for word of a failure."""
        self._n_turns += 1
        turn = f"turn {self._n_turns}"
        with self._watched("waiting for rank 0"):
            if self.is_first:
                self._store.set(turn, "over")
            while not self._store.check([turn]):
                if self._store.check([_ERROR]):
                    raise RuntimeError("it failed")
                time.sleep(_POLL_SECONDS)

    @contextmanager
    def _watched(self, what: str) -> Generator[None]:
        try:
            yield
        except RuntimeError as error:
            raise RankError(self._why(what, error)) from None

    def _why(self, what: str, error: RuntimeError) -> str:
        again = "run the same command with --resume to go on, on any number of ranks that divides train.shards"
        try:
            if self._store.check([_ERROR]):
                return f"{self._store.get(_ERROR).decode()} (rank {self.rank} ends with it)"
        except RuntimeError:  # the store went with the rank that held it
            pass
        return (
            f"rank {self.rank} of {self.size} lost another rank during {what} ({_first_line(error)}): it was killed or "
            f"hangs; {again}"
        )


def _first_line(error: Exception) -> str:
    """The first sentence of what torch says, without the place in its source."""
    line = (str(error).splitlines() or [type(error).__name__])[0]
    return re.sub(r"^\[/\S+\] ", "", line).partition(". ")[0]
