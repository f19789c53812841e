"""Functions run on several ranks: forked processes that meet over gloo, so that none imports torch again."""

import multiprocessing
import os
import socket
import traceback
import warnings
from collections.abc import Callable
from contextlib import closing
from multiprocessing.connection import Connection
from multiprocessing.process import BaseProcess
from typing import Any

import torch

from fovea.ranks import Ranks
from fovea.together import joined

_FORK = multiprocessing.get_context("fork")


def free_port() -> int:
    """A port on which nobody listens now."""
    with closing(socket.socket()) as found:
        found.bind(("127.0.0.1", 0))
        return found.getsockname()[1]


def fork_ranks(n: int, work: Callable[..., Any], *arguments: Any) -> list[tuple[BaseProcess, Connection]]:
    """`work(*arguments)` in n processes with the environment that torchrun gives; what it returns comes on the pipe."""
    port, started = free_port(), []
    for rank in range(n):
        here, there = _FORK.Pipe()
        process = _FORK.Process(target=_child, args=(there, rank, n, port, work, arguments))
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", DeprecationWarning)  # forking a process that has had threads
            process.start()
        there.close()
        started.append((process, here))
    return started


def on_ranks(n: int, work: Callable[..., Any], *arguments: Any, timeout_seconds: float = 60.0) -> list[Any]:
    """What `work(ranks, *arguments)` returns on each of n ranks; an exception's traceback where it raises."""
    started = fork_ranks(n, _in_company, timeout_seconds, work, arguments)
    found = []
    for process, pipe in started:
        try:
            found.append(pipe.recv())
        except EOFError:
            found.append(None)
        process.join()
        process.close()
        pipe.close()
    return found


def _in_company(timeout_seconds: float, work: Callable[..., Any], arguments: tuple[Any, ...]) -> Any:
    with joined(timeout_seconds=timeout_seconds) as ranks:
        assert isinstance(ranks, Ranks)
        return work(ranks, *arguments)


def _child(
    pipe: Connection, rank: int, n: int, port: int, work: Callable[..., Any], arguments: tuple[Any, ...]
) -> None:
    torch.set_num_threads(1)  # threads do not survive a fork
    os.environ |= {"RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": str(n)}
    os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    try:
        result = work(*arguments)
    except (Exception, KeyboardInterrupt):
        result = traceback.format_exc()
    pipe.send(result)
    pipe.close()
