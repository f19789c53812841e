"""The machine as results describe it: no host names, nothing that identifies it."""

import importlib.metadata
import os
import platform
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

EMULATED = "not measured: this processor emulates bf16"
"What stands where a bf16 number would be."
_PACKAGES = ("torch", "transformers", "tokenizers", "safetensors", "numpy", "pydantic")
_TOLD = ("avx2", "fma", "avx512f", "avx512_bf16", "amx_bf16", "amx_tile", "asimd", "bf16", "sve")


def describe_machine() -> dict[str, Any]:
    """Processor, cores, vector instructions, memory, versions, threads."""
    return {
        "processor": _cpu_field("model name") or platform.processor() or platform.machine(),
        "cores": os.cpu_count(),
        "vector_instructions": [flag for flag in _TOLD if flag in cpu_flags()],
        "memory_gib": _memory_gib(),
        "system": f"{platform.system()} {platform.machine()}",
        "python": platform.python_version(),
        "threads": torch.get_num_threads(),
        "load": [round(value, 2) for value in os.getloadavg()],
        "bf16": has_bf16(),
        "gpu": torch.cuda.get_device_name() if torch.cuda.is_available() else None,
        "packages": versions(_PACKAGES),
    }


def versions(names: Sequence[str]) -> dict[str, str]:
    """Versions of the packages that are installed."""
    found = {}
    for name in names:
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    return found


def has_bf16(device: str = "cpu") -> bool:
    """True where the device multiplies in bfloat16; other processors emulate it, slowly."""
    if device != "cpu":
        return torch.cuda.is_available() and torch.cuda.is_bf16_supported(including_emulation=False)
    return bool({"avx512_bf16", "amx_bf16", "bf16"} & cpu_flags())


def cpu_flags() -> set[str]:
    """Instruction sets that the processor names; empty where the system does not say."""
    return set((_cpu_field("flags") or _cpu_field("Features") or "").split())


def _cpu_field(name: str) -> str | None:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return None
    return next((line.partition(":")[2].strip() for line in lines if line.startswith(name)), None)


def _memory_gib() -> float | None:
    try:
        return round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30, 1)
    except (OSError, ValueError):
        return None
