"""How many contexts the lm should see at once: the smallest number whose speed is near the best, measured.

    1, 2, 4, ... contexts --a few forwards each, in turn--> tokens per second --> the smallest within 3% of the best

The number is part of what activations are (another batch shape rounds differently), so it is measured once and stored.
"""

import gc
import hashlib
import json
import time
from pathlib import Path
from typing import Any

import torch

from fovea.data.cache import machine
from fovea.data.tokens import PackedTokens
from fovea.lm.hookpoint import HookPoint
from fovea.lm.model import LM

N_ROUNDS = 3
"Every size is timed so often, all in turn; the fastest time counts, because other work on the machine only adds."
TOLERANCE = 0.03
_LARGEST = {"cpu": 32}
_LARGEST_ELSEWHERE = 256


@torch.no_grad()
def fastest_batch(lm: LM, hook_point: HookPoint, packed: PackedTokens, *, largest: int) -> dict[str, Any]:
    """The choice, as json holds it: contexts_per_batch and what was measured, tokens per second by contexts.

    Args:
        largest: No more contexts than this; the lm's device has a limit of its own.
    """
    top = min(largest, packed.n_contexts, _LARGEST.get(lm.device.type, _LARGEST_ELSEWHERE))
    sizes = [2**power for power in range(top.bit_length()) if 2**power <= top]
    if lm.device.type == "cpu":
        sizes = [size for size in sizes if size >= min(4, top)] or sizes[-1:]
    best = dict.fromkeys(sizes, float("inf"))
    for _ in range(N_ROUNDS):
        for size in list(best):
            tokens = packed.batch(range(size)).tokens.to(lm.device)
            try:
                best[size] = min(best[size], _seconds(lm, hook_point, tokens))
            except torch.OutOfMemoryError:
                del best[size]
    speeds = {size: size * packed.context_size / seconds for size, seconds in best.items()}
    return {"contexts_per_batch": near_best(speeds), "tokens_per_second": {str(n): round(s) for n, s in speeds.items()}}


def near_best(speeds: dict[int, float]) -> int:
    """The smallest size within TOLERANCE of the fastest: it needs least memory, and repeats agree most often."""
    fastest = max(speeds.values())
    return min(size for size, speed in speeds.items() if speed >= (1 - TOLERANCE) * fastest)


def batch_record(folder: Path, lm: LM, hook_point: HookPoint, *, packed: PackedTokens) -> Path:
    """Where a folder of shared activations keeps the choice for this lm, hook point, context size and machine."""
    parts = [lm.fingerprint, lm.computation, str(hook_point), packed.context_size, machine()]
    key = hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()
    return folder.expanduser() / f"batch-{key[:16]}.json"


def _seconds(lm: LM, hook_point: HookPoint, tokens: torch.Tensor) -> float:
    """Time of one forward; `activations` checks its result, so the device has finished when it returns."""
    gc.collect()
    began = time.perf_counter()
    lm.activations(tokens, hook_point)
    return time.perf_counter() - began
