"""How a run is shared out: its shards, fixed when it starts, what the ranks may be, and on which device each works.

train.shards = "auto" --new run--> one for each rank        --run folder--> as many as it began with
"""

import os
from pathlib import Path

import torch

from fovea.errors import ConfigError
from fovea.experiment.config import ExperimentConfig, JobConfig
from fovea.experiment.folder import RunFolder
from fovea.lm.files import choose_device
from fovea.ranks import Ranks


def settle(config: ExperimentConfig, out: Path, ranks: Ranks) -> ExperimentConfig:
    """The experiment with its number of shards, checked against itself and the ranks.

    Raises:
        ConfigError: the ranks, the batch or a job's share of general text cannot be shared out equally.
    """
    shards = config.train.shards
    if shards == "auto":
        before = RunFolder(out)
        found = before.config().train.shards if before.experiment.exists() else ranks.size
        shards = 1 if found == "auto" else found  # a folder that names no number is of one process
    settled = config.model_copy(update={"train": config.train.model_copy(update={"shards": shards})})
    _check(settled, int(shards), ranks)
    return settled


def local_device(name: str) -> str:
    """Where this process computes: "cuda" is the GPU of its number among the ranks of its machine."""
    local = os.environ.get("LOCAL_RANK")
    return f"cuda:{local}" if name == "cuda" and local is not None else name


def sae_device(config: ExperimentConfig) -> torch.device:
    """Where this process trains and measures SAEs.

    Sums over tokens are float64, which MPS lacks: beside an lm there, SAEs stay on the CPU.

    Raises:
        ConfigError: a device that the experiment names is not there, or not one for SAEs.
    """
    of_lm = choose_device(local_device(config.lm.device))
    name = config.train.device
    if name == "auto":
        return torch.device("cpu") if of_lm.type == "mps" else of_lm
    device = choose_device(local_device(name), setting="train.device")
    if device.type == "mps":
        raise ConfigError(f"train.device = {name!r} has no float64, in which sums are taken; use 'cpu'")
    return device


def _check(config: ExperimentConfig, n_shards: int, ranks: Ranks) -> None:
    size, n_latents = config.train.batch_size, config.train.latent_shards
    if n_shards % ranks.size:
        raise ConfigError(
            f"train.shards = {n_shards} cannot be shared out to {ranks.size} ranks; start a number of ranks that "
            "divides it, or give a new run train.shards that they divide"
        )
    if ranks.size % n_latents:
        raise ConfigError(
            f"train.latent_shards = {n_latents}, but there are {ranks.size} ranks; start a multiple of it, or lower it"
        )
    if size % n_shards or config.train.buffer_rows < 2 * n_shards:
        raise ConfigError(
            f"train.batch_size = {size} and train.buffer_rows = {config.train.buffer_rows} cannot be cut into "
            f"train.shards = {n_shards} equal parts; give multiples of it"
        )
    for job in config.job:
        _check_job(job, config, n_shards)


def _check_job(job: JobConfig, config: ExperimentConfig, n_shards: int) -> None:
    n_general = round(job.method.general_share * config.train.batch_size)
    if n_general % n_shards:
        raise ConfigError(
            f"job {job.name!r} takes {n_general} general rows of a batch of {config.train.batch_size}, which "
            f"{n_shards} shards cannot give in equal parts; change its share, train.batch_size or train.shards"
        )
