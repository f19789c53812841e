"""The settings of one experiment: one toml file, every default written here once.

A list where one value belongs (a job's `seed`, or the sparsity of its `sae`) is a sweep: the job is repeated for each.
"""

import itertools
import re
from decimal import Decimal
from pathlib import Path
from typing import Any, Literal

from pydantic import Field, NonNegativeInt, PositiveFloat, PositiveInt

from fovea.config import Config, dump_toml, load_toml, parse
from fovea.data.precision import Precision
from fovea.errors import ConfigError
from fovea.features.config import FeaturesConfig
from fovea.methods.registry import MethodConfig
from fovea.sae.architectures import ArchitectureConfig
from fovea.train.job import OptimiserConfig

_SWITCHES = ("general", "controls", "features")
"Tables that `NAME = false` leaves out."


class LMConfig(Config):
    """The frozen language model and where its activations are read."""

    model: str = "bundled:smollm2-135m-instruct"
    "Hub id, local folder or bundled:NAME."
    hook_point: str = "blocks.14.hook_resid_post"
    "TransformerLens or Hugging Face spelling."
    dtype: Literal["auto", "float32", "bfloat16"] = "auto"
    "Precision of the lm's forward; auto takes bfloat16 where the processor has it."
    compile: bool = False
    "Run the lm's layers as compiled code: faster after the time that compiling takes; needs a C++ compiler."
    device: str = "cpu"
    "Device of the lm: cpu, cuda (each rank's own GPU) or cuda:N; SAEs follow it (train.device)."


class TextConfig(Config):
    """From documents to activations."""

    context_size: PositiveInt = 128
    "Tokens per context."
    heldout_fraction: float = Field(default=0.1, gt=0.0, lt=1.0)
    "Share of the documents kept from training."
    prepend_bos: bool | Literal["auto"] = "auto"
    "BOS first in each context; auto does what the tokenizer does."
    skip_first: NonNegativeInt = 1
    "Positions at the start of a context that are dropped."
    max_norm_ratio: PositiveFloat = 10.0
    "Tokens whose norm exceeds so many median norms are dropped (attention sinks)."
    contexts_per_batch: PositiveInt | Literal["auto"] = 16
    "Contexts per forward of the lm; auto takes the fastest of a short trial and writes it into the run folder."
    contexts_per_chunk: PositiveInt = 64
    "Contexts harvested, cached and shuffled as one piece."


class CleanConfig(Config):
    """Perplexity cleaning: keep pieces of a document that the scorer predicts well enough."""

    max_loss: PositiveFloat
    "Largest mean loss of a kept piece, nats per token."
    piece_tokens: PositiveInt = 1024
    scorer: str = "bundled:smollm2-135m-instruct"
    "The lm that scores: Hub id, folder or bundled:NAME."


class DomainConfig(Config):
    """A small corpus D."""

    name: str = Field(pattern=r"^[a-z0-9][a-z0-9_]*$", max_length=40)
    corpus: str | tuple[str, ...]
    "Path, glob, hf:NAME[:CONFIG]#SPLIT or bundled:NAME; several are read one after the other."
    text_field: str = "text"
    max_train_tokens: PositiveInt | None = None
    max_heldout_tokens: PositiveInt | None = None
    clean: CleanConfig | None = None


class GeneralConfig(Config):
    """General text and the general SAE g."""

    corpus: str | tuple[str, ...] = "bundled:general"
    text_field: str = "text"
    sae: str = "bundled:smollm2-135m-l14"
    "Folder, saelens:RELEASE/ID, hf:REPO/PATH or bundled:NAME."
    max_train_tokens: PositiveInt | None = None
    max_heldout_tokens: PositiveInt | None = None


class TrainConfig(Config):
    """The one pass that all jobs share."""

    n_tokens: PositiveInt = 400_000
    "Activations that each job learns from, repeats included."
    batch_size: PositiveInt = 2048
    "Activations per step."
    buffer_rows: PositiveInt = 65_536
    "Rows of the mixing buffer."
    checkpoint_seconds: PositiveFloat = 120.0
    cache_gigabytes: float = Field(default=8.0, ge=0.0)
    "Disk that harvested activations may take, so that later epochs do not run the lm; 0 harvests every epoch anew."
    cache_folder: str | None = None
    "Keep them here for other runs too, all of them within cache_gigabytes; left out: in the run, until it ends."
    cache_precision: Precision = "exact"
    "exact, or training activations rounded to bfloat16 or int8 for less disk; what that loses is measured and said."
    read_ahead: NonNegativeInt | Literal["auto"] = "auto"
    "Chunks harvested in the background while SAEs train; auto: 2 where the lm has a device of its own, else 0."
    shards: PositiveInt | Literal["auto"] = "auto"
    "Parts of a corpus, shared out to the ranks; they decide the batches. auto: one for each rank at the start."
    latent_shards: PositiveInt = 1
    "Ranks over which the latents of each SAE are spread, for SAEs wider than one device; 1 holds them whole."
    device: str = "auto"
    "Where SAEs and g lie, train and are measured, and the mixing buffer with them; auto: where the lm is."
    rank_timeout_seconds: PositiveFloat = 600.0
    "With several ranks: an exchange that takes longer ends the run, resumably."


class JobConfig(Config):
    """One SAE to train."""

    method: MethodConfig
    sae: ArchitectureConfig
    seed: NonNegativeInt = 0
    optimiser: OptimiserConfig = OptimiserConfig()

    @property
    def name(self) -> str:
        """Readable and stable, like ssae-batch_topk-k16-s0; jobs of one experiment may share it (`job_name`)."""
        return self.name_as(self.method.label)

    def name_as(self, label: str) -> str:
        """The name under another label of the method."""
        return f"{label}-{self.sae.kind}-{self.sae.label}-s{self.seed}"


class ControlsConfig(Config):
    """Dictionaries that every comparison carries."""

    k: PositiveInt = 40
    "Mean latents per token, on the calibration rows."
    expansion: PositiveFloat = 2.0
    frozen_decoder: bool = True
    "Also train an SAE whose random decoder may not move."


class EvaluateConfig(Config):
    """How much is measured."""

    heldout_tokens: PositiveInt = 16_384
    train_tokens: PositiveInt = 8_192
    general_tokens: PositiveInt = 16_384
    density_tokens: PositiveInt = 100_000
    "Tokens, of D and of general text each, on which firing is counted."
    n_resamples: PositiveInt = 1000
    "Bootstrap resamples of the documents."
    contexts_per_batch: PositiveInt = 8


class ExperimentConfig(Config):
    """One experiment."""

    name: str = Field(min_length=1)
    seed: NonNegativeInt = 0
    lm: LMConfig = LMConfig()
    text: TextConfig = TextConfig()
    general: GeneralConfig | None = GeneralConfig()
    domain: tuple[DomainConfig, ...] = Field(min_length=1)
    train: TrainConfig = TrainConfig()
    job: tuple[JobConfig, ...] = Field(min_length=1)
    controls: ControlsConfig | None = ControlsConfig()
    evaluate: EvaluateConfig = EvaluateConfig()
    features: FeaturesConfig | None = FeaturesConfig()

    @property
    def n_steps(self) -> int:
        return self.train.n_tokens // self.train.batch_size

    def to_toml(self) -> str:
        """The experiment as a file that `load_experiment` reads back to the same value."""
        absent = {name: False for name in _SWITCHES if getattr(self, name) is None}
        return dump_toml(self, **absent)

    def job_name(self, domain: DomainConfig, job: JobConfig) -> str:
        """The job's folder: carries the domain when there are several, and what tells jobs apart that share a name."""
        name = job.name_as(self.label(job))
        return name if len(self.domain) == 1 else f"{domain.name}-{name}"

    def label(self, job: JobConfig) -> str:
        """The method as names and figures spell it: ssae; ssae_d2304 where jobs differ in the width alone."""
        alike = [other.flat() for other in self.job if other.name == job.name]
        own = job.flat()
        differing = [key for key in own if any(other.get(key) != own[key] for other in alike)]
        parts = [_spelt(key, own[key]) for key in differing if own[key] is not None]
        return "_".join([job.method.label, *parts])


def load_experiment(path: Path, overrides: tuple[str, ...] = ()) -> ExperimentConfig:
    """The experiment in a toml file, with KEY=VALUE overrides (dotted keys, values as in toml).

    Raises:
        ConfigError: a setting is unknown, wrong or contradicts another.
    """
    table = load_toml(path)
    for setting in overrides:
        override(table, setting)
    return resolve(table, where=str(path))


def resolve(table: dict[str, Any], *, where: str) -> ExperimentConfig:
    """A checked experiment from raw tables, sweeps expanded."""
    jobs = table.get("job", [])
    if isinstance(jobs, list):
        table = {**table, "job": [single for job in jobs for single in _sweep(job)]}
    table = {name: None if name in _SWITCHES and value is False else value for name, value in table.items()}
    config = parse(ExperimentConfig, table, where=where)
    _check(config, where)
    return config


def _check(config: ExperimentConfig, where: str) -> None:
    names = [config.job_name(config.domain[0], job) for job in config.job]
    for name in names:
        if names.count(name) > 1:
            raise ConfigError(
                f"{where}: two jobs are named {name!r} and differ in nothing; remove one, or change its seed, "
                "sparsity, width, optimiser or method"
            )
    domains = [domain.name for domain in config.domain]
    for name in domains:
        if domains.count(name) > 1 or name == "general":
            raise ConfigError(
                f"{where}: domain name {name!r} is taken; give each domain a name of its own, not 'general'"
            )
    if config.n_steps < 1:
        raise ConfigError(
            f"{where}: train.n_tokens = {config.train.n_tokens} is less than one batch of {config.train.batch_size}; "
            "raise train.n_tokens or lower train.batch_size"
        )
    if config.train.buffer_rows < config.train.batch_size:
        raise ConfigError(
            f"{where}: train.buffer_rows = {config.train.buffer_rows} is less than one batch of "
            f"{config.train.batch_size}; raise train.buffer_rows or lower train.batch_size"
        )
    if config.train.cache_folder is not None and config.train.cache_gigabytes == 0:
        raise ConfigError(
            f"{where}: train.cache_folder = {config.train.cache_folder!r}, but train.cache_gigabytes = 0 keeps "
            "nothing; raise it or leave the folder out"
        )
    if config.general is None:
        for job in config.job:
            if job.method.reads_general or job.method.general_share:
                raise ConfigError(f"{where}: job {job.name!r} needs general text and a general SAE; set [general]")


_SHORT = {"sae.d_sae": "d", "sae.expansion": "x", "optimiser.lr.peak": "lr"}
"How names spell settings that jobs often differ in; others by their own name."


def _spelt(key: str, value: Any) -> str:
    """One setting in a job's name; a name's parts are joined by -, so no number may hold one."""
    number = isinstance(value, int | float) and not isinstance(value, bool)
    text = format(Decimal(repr(value)), "f") if number else str(value).lower()
    return _SHORT.get(key, key.rpartition(".")[2]) + re.sub(r"[^a-z0-9.]", "_", text)


def _sweep(job: Any) -> list[Any]:
    """The jobs that a table with lists in place of scalars stands for."""
    if not isinstance(job, dict):
        return [job]
    sae = job.get("sae", {})
    axes = (
        [("sae", key, values) for key, values in sae.items() if isinstance(values, list)]
        if isinstance(sae, dict)
        else []
    )
    if isinstance(job.get("seed"), list):
        axes.append(("job", "seed", job["seed"]))
    for _, key, values in axes:
        if not values:
            raise ConfigError(f"job: {key} = [] names no value; a sweep needs at least one")
    jobs: list[Any] = []
    for chosen in itertools.product(*(values for _, _, values in axes)):
        single = {**job, "sae": dict(sae)} if isinstance(sae, dict) else dict(job)
        for (where, key, _), value in zip(axes, chosen, strict=True):
            (single["sae"] if where == "sae" else single)[key] = value
        jobs.append(single)
    return jobs


def override(table: dict[str, Any], setting: str) -> None:
    """Put one KEY=VALUE (dotted keys, values as in toml) into raw tables, in place.

    Raises:
        ConfigError: it is not KEY=VALUE, or the key leads nowhere.
    """
    import tomllib

    key, equals, text = setting.partition("=")
    if not equals:
        raise ConfigError(f"--set {setting!r} is not KEY=VALUE; write for example --set train.n_tokens=100000")
    try:
        value = tomllib.loads(f"value = {text}")["value"]
    except tomllib.TOMLDecodeError:
        value = text
    place: Any = table
    *parents, last = key.strip().split(".")
    try:
        for parent in parents:
            place = place[int(parent)] if isinstance(place, list) else place.setdefault(parent, {})
        place[int(last) if isinstance(place, list) else last] = value
    except (ValueError, IndexError, AttributeError, TypeError):
        raise ConfigError(
            f"--set {setting!r} names no setting; write dotted names, with a number from 0 for each entry of "
            "a list, as in --set domain.0.name=mine"
        ) from None
