"""A checkpoint: all jobs and the stream at one step. Complete or absent.

checkpoints/step-00000120/  state.json  tensors.safetensors     written as a temporary folder, then renamed
"""

import json
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from fovea.atomic import new_folder, write_json
from fovea.errors import RunError
from fovea.tensorfile import write_tensors
from fovea.train.job import Job
from fovea.train.stream import Stream


def save_checkpoint(folder: Path, step: int, *, jobs: Sequence[Job], stream: Stream) -> Path:
    """Write the state after `step` steps; older checkpoints are removed once the new one is complete."""
    final = folder / f"step-{step:08d}"
    plain: dict[str, Any] = {"step": step, "jobs": [job.spec.name for job in jobs]}
    tensors: dict[str, Tensor] = {}
    for job in jobs:
        tensors |= {f"{job.spec.name}/{name}": tensor for name, tensor in job.state_dict().items()}
    for name, value in stream.state_dict().items():
        if isinstance(value, Tensor):
            tensors[f"stream/{name}"] = value
        else:
            plain[f"stream/{name}"] = value
    # Tensors that share memory (generator states, views) are not allowed in one safetensors file.
    with new_folder(final) as temporary:
        write_tensors(temporary / "tensors.safetensors", {name: tensor.clone() for name, tensor in tensors.items()})
        write_json(temporary / "state.json", plain)
        shutil.rmtree(final, ignore_errors=True)
    for other in folder.glob("*step-*"):
        if other != final:
            shutil.rmtree(other)
    return final


def latest_checkpoint(folder: Path) -> Path | None:
    """The complete checkpoint with the most steps, or None."""
    found = sorted(folder.glob("step-*"))
    return found[-1] if found else None


def load_checkpoint(path: Path, jobs: Sequence[Job], stream: Stream) -> int:
    """Put `jobs` and `stream` into the state of the checkpoint; returns the steps done.

    Raises:
        RunError: the checkpoint is damaged or belongs to other jobs.
    """
    try:
        plain = json.loads((path / "state.json").read_text())
        tensors = load_file(path / "tensors.safetensors")
    except (OSError, ValueError, SafetensorError) as error:
        raise RunError(f"checkpoint {path.name} is damaged ({error}); delete it to train from the start") from None
    names = [job.spec.name for job in jobs]
    if plain["jobs"] != names:
        raise RunError(f"checkpoint {path.name} holds jobs {plain['jobs']}, not {names}; use another folder")
    for job in jobs:
        job.load_state_dict(_under(f"{job.spec.name}/", tensors))
    stream.load_state_dict(_under("stream/", {**plain, **tensors}))
    return int(plain["step"])


def _under(prefix: str, values: dict[str, Any]) -> dict[str, Any]:
    return {name.removeprefix(prefix): value for name, value in values.items() if name.startswith(prefix)}
