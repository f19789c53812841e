"""How many contexts the lm should see at once: the smallest number whose speed is near the best, measured.

    4, 8, 16, ... contexts --a few forwards each, while twice as many are clearly faster--> the smallest near the best

A forward of this takes as long as one of the run, so no size is tried that cannot be chosen. The number is part of what
activations are (another batch shape rounds differently), so it is measured once and stored.
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

N_ROUNDS = 2
"A size is timed so often, in turn with the one before; the fastest counts, for other work on the machine only adds."
TOLERANCE = 0.03
_SMALLEST_CPU, _LARGEST_CPU, _LARGEST = 4, 32, 256


@torch.no_grad()
def fastest_batch(lm: LM, hook_point: HookPoint, packed: PackedTokens, *, largest: int) -> dict[str, Any]:
    """The choice, as json holds it: contexts_per_batch and what was measured, tokens per second by contexts.

    Args:
        largest: No more contexts than this; the lm's device has a limit of its own.
    """
    is_cpu = lm.device.type == "cpu"
    top = min(largest, packed.n_contexts, _LARGEST_CPU if is_cpu else _LARGEST)
    size = min(_SMALLEST_CPU if is_cpu else 1, 2 ** (top.bit_length() - 1))
    _seconds(lm, hook_point, packed, size)  # the first forward does what no other does again
    speeds: dict[int, float] = {}
    while size <= top:
        pair = [each for each in (size // 2, size) if each in speeds or each == size]
        try:
            for each in pair * N_ROUNDS:
                speed = each * packed.context_size / _seconds(lm, hook_point, packed, each)
                speeds[each] = max(speed, speeds.get(each, 0.0))
        except torch.OutOfMemoryError:
            speeds.pop(size, None)
            break
        if near_best(speeds) != size:
            break
        size *= 2
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


def _seconds(lm: LM, hook_point: HookPoint, packed: PackedTokens, size: int) -> float:
    """Time of one forward; `activations` checks its result, so the device has finished when it returns."""
    tokens = packed.batch(range(size)).tokens.to(lm.device)
    gc.collect()
    began = time.perf_counter()
    lm.activations(tokens, hook_point)
    return time.perf_counter() - began
