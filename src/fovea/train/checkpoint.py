"""A checkpoint: all jobs and the stream at one step. Complete or absent, and not tied to a number of processes.

checkpoints/step-00000120/  state.json  tensors.safetensors (the jobs, once)  shard-0000.safetensors (waiting rows) ...

Written as a temporary folder, then renamed. Each rank writes the shards that it holds, beside the folder; the first
rank, when all have, moves them in.
"""

import json
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file
from torch import Tensor

from fovea.atomic import new_folder, write_json
from fovea.errors import RunError
from fovea.foreign import Refusal, damage, read_object, regular
from fovea.tensorfile import write_tensors
from fovea.train.job import Job, Stopped
from fovea.train.stream import Source, Stream

_DELETE = Refusal(RunError, "delete it to train from the start")


def save_checkpoint(folder: Path, step: int, *, jobs: Sequence[Job], stream: Source) -> Path:
    """Write the state after `step` steps; older checkpoints are removed once the new one is complete."""
    final = folder / f"step-{step:08d}"
    plain: dict[str, Any] = {"step": step, "jobs": [job.spec.name for job in jobs], "n_shards": stream.n_shards}
    plain["stopped"] = {job.spec.name: job.stopped._asdict() for job in jobs if job.stopped is not None}
    tensors: dict[str, Tensor] = {}
    for job in jobs:
        tensors |= {f"{job.spec.name}/{name}": tensor for name, tensor in job.state_dict().items()}
    folder.mkdir(parents=True, exist_ok=True)
    for number, shard in stream.own.items():
        _write_shard(_waiting(folder, number), shard)
    stream.ranks.barrier()
    if stream.ranks.is_first:
        # Tensors that share memory (generator states, views) are not allowed in one safetensors file.
        with new_folder(final) as temporary:
            write_tensors(temporary / "tensors.safetensors", {name: tensor.clone() for name, tensor in tensors.items()})
            write_json(temporary / "state.json", plain)
            for number in range(stream.n_shards):
                _waiting(folder, number).rename(_shard(temporary, number))
            shutil.rmtree(final, ignore_errors=True)
        for other in folder.glob("*step-*"):
            if other != final:
                shutil.rmtree(other)
    stream.ranks.barrier()
    return final


def latest_checkpoint(folder: Path) -> Path | None:
    """The complete checkpoint with the most steps, or None."""
    found = sorted(folder.glob("step-*"))
    return found[-1] if found else None


def load_checkpoint(path: Path, jobs: Sequence[Job], stream: Source) -> int:
    """Put `jobs` and the shards of this process into the state of the checkpoint; returns the steps done.

    Raises:
        RunError: the checkpoint is damaged or belongs to other jobs or another number of shards.
    """
    with damage(path, _DELETE, SafetensorError):
        plain = _checked(read_object(path / "state.json", path, _DELETE))
        tensors = load_file(regular(path / "tensors.safetensors", path, _DELETE))
        shards = {number: _read_shard(_shard(path, number)) for number in stream.own if number < plain["n_shards"]}
    names = [job.spec.name for job in jobs]
    if plain["jobs"] != names:
        raise RunError(f"checkpoint {path.name} holds jobs {plain['jobs']}, not {names}; use another folder")
    if plain["n_shards"] != stream.n_shards:
        raise RunError(
            f"checkpoint {path.name} was written with train.shards = {plain['n_shards']}, not {stream.n_shards}; "
            "restore that setting, or delete the checkpoint to train from the start"
        )
    with damage(path, _DELETE):
        for job in jobs:
            job.load_state_dict(_under(f"{job.spec.name}/", tensors))
            stopped = plain.get("stopped", {}).get(job.spec.name)
            job.stopped = None if stopped is None else Stopped(**stopped)
        for number, shard in stream.own.items():
            shard.load_state_dict(shards[number])
    return plain["step"]


def _checked(plain: dict[str, Any]) -> dict[str, Any]:
    """`plain`, if its numbers are such."""
    if not isinstance(plain["jobs"], list) or not isinstance(plain.get("stopped", {}), dict):
        raise TypeError("jobs are no list")
    for name in ("step", "n_shards"):
        if not isinstance(plain[name], int) or isinstance(plain[name], bool) or plain[name] < 0:
            raise ValueError(f"{name} = {plain[name]!r:.100}")
    return plain


def _waiting(folder: Path, number: int) -> Path:
    """Where a shard is written before the folder that it belongs to is complete."""
    return folder / f".shard-{number:04d}.safetensors.partial"


def _shard(folder: Path, number: int) -> Path:
    return folder / f"shard-{number:04d}.safetensors"


def _write_shard(path: Path, shard: Stream) -> None:
    state = shard.state_dict()
    tensors = {name: value.clone() for name, value in state.items() if isinstance(value, Tensor)}
    counts = {name: value for name, value in state.items() if name not in tensors}
    write_tensors(path, tensors, {"counts": json.dumps(counts)})


def _read_shard(path: Path) -> dict[str, Any]:
    with safe_open(regular(path, path.parent, _DELETE), framework="pt") as file:
        counts: dict[str, Any] = json.loads((file.metadata() or {})["counts"])
        return counts | {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118


def _under(prefix: str, values: dict[str, Any]) -> dict[str, Any]:
    return {name.removeprefix(prefix): value for name, value in values.items() if name.startswith(prefix)}
