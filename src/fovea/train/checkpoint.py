"""A checkpoint: all jobs and the stream at one step. Complete or absent, and not tied to a number of processes.

checkpoints/step-00000120/  state.json  tensors.safetensors (the jobs, once)  shard-0000.safetensors (waiting rows) ...

Written as a temporary folder, then renamed. Each rank writes the shards that it holds, beside the folder; the first
rank, when all have, moves them in. Every file holds its checksum: one that a disk has harmed is refused.
"""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from torch import Tensor

from fovea.atomic import new_folder, read_checked_json, remove_folder, write_checked_json
from fovea.errors import DamagedError, RunError
from fovea.foreign import Refusal, damage
from fovea.tensorfile import read_checked, write_checked
from fovea.train.job import Job, Stopped
from fovea.train.stream import Source, Stream

_OTHER = Refusal(
    RunError,
    "another version of fovea wrote it: go on with that version, or delete the checkpoint to train from the start",
)


def save_checkpoint(folder: Path, step: int, *, jobs: Sequence[Job], stream: Source) -> Path:
    """Write the state after `step` steps; older checkpoints are removed once the new one is complete."""
    final = folder / f"step-{step:08d}"
    plain: dict[str, Any] = {"step": step, "jobs": [job.spec.name for job in jobs], "n_shards": stream.n_shards}
    plain["stopped"] = {job.spec.name: job.stopped._asdict() for job in jobs if job.stopped is not None}
    tensors: dict[str, Tensor] = {}
    for job in jobs:
        tensors |= {f"{job.spec.name}/{name}": tensor for name, tensor in job.state_dict().items()}
    folder.mkdir(parents=True, exist_ok=True)
    try:
        for number, shard in stream.own.items():
            _write_shard(_waiting(folder, number), shard)
        stream.ranks.barrier()
        if stream.ranks.is_first:
            _assemble(final, tensors, plain)
        stream.ranks.barrier()
    finally:
        for number in stream.own:  # all are in their folder, unless something failed
            _waiting(folder, number).unlink(missing_ok=True)
    return final


def _assemble(final: Path, tensors: dict[str, Tensor], plain: dict[str, Any]) -> None:
    """Make the folder of a checkpoint, with the shards of all ranks, and remove the older ones."""
    # Tensors that share memory (generator states, views) are not allowed in one safetensors file.
    with new_folder(final) as temporary:
        copies = {name: tensor.to("cpu", copy=True) for name, tensor in tensors.items()}
        write_checked(temporary / "tensors.safetensors", copies)
        write_checked_json(temporary / "state.json", plain)
        for number in range(plain["n_shards"]):
            _waiting(final.parent, number).rename(_shard(temporary, number))
        remove_folder(final)
    for other in final.parent.glob("step-*"):
        if other != final:
            remove_folder(other)


def latest_checkpoint(folder: Path) -> Path | None:
    """The complete checkpoint with the most steps, or None."""
    found = sorted(folder.glob("step-*"))
    return found[-1] if found else None


def load_checkpoint(path: Path, jobs: Sequence[Job], stream: Source) -> int:
    """Put `jobs` and the shards of this process into the state of the checkpoint; returns the steps done.

    Raises:
        RunError: the checkpoint is damaged or belongs to other jobs or another number of shards.
    """
    delete = Refusal(DamagedError, f"delete the checkpoint {path} to train from the start")
    with damage(path, delete):
        plain = _checked(read_checked_json(path / "state.json", delete.again))
        tensors = read_checked(path / "tensors.safetensors", delete.again).tensors
        own = [number for number in stream.own if number < plain["n_shards"]]
        shards = {number: _read_shard(_shard(path, number), delete.again) for number in own}
    names = [job.spec.name for job in jobs]
    if plain["jobs"] != names:
        raise RunError(f"checkpoint {path.name} holds jobs {plain['jobs']}, not {names}; use another folder")
    if plain["n_shards"] != stream.n_shards:
        raise RunError(
            f"checkpoint {path.name} was written with train.shards = {plain['n_shards']}, not {stream.n_shards}; "
            "restore that setting, or delete the checkpoint to train from the start"
        )
    with damage(path, _OTHER, what="whole, but does not fit these jobs"):
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
    write_checked(path, tensors, {"counts": json.dumps(counts)})


def _read_shard(path: Path, again: str) -> dict[str, Any]:
    tensors, metadata = read_checked(path, again)
    counts: dict[str, Any] = json.loads(metadata["counts"])
    return counts | tensors


def _under(prefix: str, values: dict[str, Any]) -> dict[str, Any]:
    return {name.removeprefix(prefix): value for name, value in values.items() if name.startswith(prefix)}
