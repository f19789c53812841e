"""Layers of an lm as machine code made on first use (torch.compile): the same products, less memory traffic between.

    layers --(torch.compile, one graph for all layers of a kind and all batch shapes)--> forwards
    with stand_in(): layer.forward is the compiled one      a layer that is entered or left halfway runs as it is

What a batch gives depends on its shape alone, never on what came before it: shapes are symbols from the first call on,
and a layer that would fall back to plain code is an error. So a run that goes on in another process makes the same
bytes.
"""

import logging
import os
import shutil
import sys
import time
from collections.abc import Callable, Collection, Generator, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
from torch import nn
from torch._dynamo.exc import FailOnRecompileLimitHit, TorchDynamoException

from fovea.errors import ConfigError, ModelError
from fovea.lm.running import LayerParts, overridden

log = logging.getLogger("fovea")
_FAILURES = (TorchDynamoException, FailOnRecompileLimitHit)


class CompiledLayers:
    """Forwards of all layers, compiled when they first run.

    Raises:
        ConfigError: the lm is on the CPU and there is no C++ compiler.
    """

    def __init__(self, layers: Sequence[LayerParts], *, name: str, device: torch.device) -> None:
        if device.type == "cpu":
            _require_compiler()
        self._name = name
        self._is_first = True
        self._forwards: dict[nn.Module, Callable[..., Any]] = {
            parts.layer: torch.compile(parts.layer.forward, dynamic=True, fullgraph=True) for parts in layers
        }

    @contextmanager
    def stand_in(self, *, but: Collection[nn.Module] = ()) -> Generator[None]:
        """Inside it, every layer runs compiled, but those in `but` and those whose forward is overridden already.

        Raises:
            ModelError: a layer cannot be compiled.
        """
        began = time.perf_counter()
        if self._is_first:
            log.info("compiling the layers of %s as they first run; minutes on a busy machine", self._name)
        with ExitStack() as stack:
            for layer, forward in self._forwards.items():
                if layer not in but and "forward" not in vars(layer):
                    stack.enter_context(overridden(layer, forward))
            try:
                yield
            except _FAILURES as error:
                raise ModelError(
                    f"lm.compile = true, but the layers of {self._name} cannot be compiled here "
                    f"({str(error).strip().splitlines()[0]}); set lm.compile = false"
                ) from error
        if self._is_first:
            self._is_first = False
            log.info(
                "first batch through the compiled layers: %.0f s; torch keeps the code on disk for later starts",
                time.perf_counter() - began,
            )


def compiler() -> tuple[str, bool]:
    """The command of the C++ compiler that torch would call, and whether it is there."""
    command = os.environ.get("CXX") or ("clang++" if sys.platform == "darwin" else "g++")
    return command, shutil.which(command) is not None


def _require_compiler() -> None:
    command, is_there = compiler()
    if not is_there:
        raise ConfigError(
            f"lm.compile = true needs a C++ compiler, but {command!r} is not on the path; install one (Debian: g++), "
            "name it in the environment variable CXX, or set lm.compile = false"
        )
