"""overcomplete: its train_sae on one batch after the other, monitoring=1, mean squared error as in its README.

It has no auxiliary loss by default, and its package imports vision libraries that training does not use: where they
do not import (they follow a torch built for another device), empty ones stand in.
"""

import importlib
import sys
import types
from typing import Any

import torch
from rows import Rows

for name in ("torchvision", "timm"):
    try:
        importlib.import_module(name)
    except (ImportError, RuntimeError):
        for part in [loaded for loaded in sys.modules if loaded.partition(".")[0] == name]:
            del sys.modules[part]
        stand_in = types.ModuleType(name)
        stand_in.transforms = stand_in.create_model = None  # type: ignore[attr-defined]
        sys.modules[name] = stand_in

from overcomplete.sae import BatchTopKSAE, JumpSAE, TopKSAE  # noqa: E402
from overcomplete.sae.train import train_sae  # noqa: E402


def criterion(x: Any, x_hat: Any, pre_codes: Any, codes: Any, dictionary: Any) -> Any:
    """Mean squared error."""
    del pre_codes, codes, dictionary
    return (x - x_hat).square().mean()


def prepare(task: dict[str, Any]) -> tuple[Any, Any]:
    """`n` SAEs, each with an Adam of its own."""
    rows = Rows(task["data"], task["batch_size"])
    saes = [_sae(task, rows.d_in) for _ in range(task.get("n", 1))]
    optimisers = [torch.optim.Adam(sae.parameters(), lr=5e-4) for sae in saes]

    def unit() -> int:
        x = rows.batch()
        for sae, optimiser in zip(saes, optimisers, strict=True):
            train_sae(sae, [x], criterion, optimiser, nb_epochs=1, monitoring=1, device="cpu")
        return len(x)

    return unit, lambda: {"threads": torch.get_num_threads()}


def _sae(task: dict[str, Any], d_in: int) -> Any:
    match task["arch"]:
        case "topk":
            return TopKSAE(d_in, nb_concepts=task["d_sae"], top_k=task["k"], device="cpu")
        case "batch_topk":  # its top_k counts the whole batch
            return BatchTopKSAE(d_in, nb_concepts=task["d_sae"], top_k=task["k"] * task["batch_size"], device="cpu")
        case "jumprelu":
            return JumpSAE(d_in, nb_concepts=task["d_sae"], device="cpu")
    raise ValueError(task["arch"])
