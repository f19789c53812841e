"""Jobs and streams on planted activations, small enough for unit tests."""

import torch

from fovea.data.scale import InputScale
from fovea.data.shuffle import MixingBuffer
from fovea.methods.base import Method, Setting
from fovea.methods.direct import Direct
from fovea.sae.architectures import ArchitectureConfig
from fovea.sae.batch_topk import BatchTopKConfig
from fovea.sae.files import LoadedSAE
from fovea.sae.frozen import FrozenSAE
from fovea.train.job import Job, JobSpec, OptimiserConfig
from fovea.train.schedules import LearningRateConfig
from fovea.train.stream import Stream
from tests.train.planted import D_IN, Planted, PlantedChunks, planted

BATCH = 256


def make_stream(
    truth: Planted,
    *,
    is_domain: bool = True,
    frozen: FrozenSAE | None = None,
    n_general: int = 0,
    n_domain: int = BATCH,
) -> Stream:
    """Batches of planted activations; general rows beside them if asked for."""
    domain = MixingBuffer(PlantedChunks(truth, is_domain=is_domain), rows=8192, seed=0)
    general = MixingBuffer(PlantedChunks(truth, is_domain=False), rows=8192, seed=1) if n_general else None
    return Stream(domain, general, frozen, n_domain=n_domain, n_general=n_general)


def make_job(
    name: str = "job",
    *,
    method: Method | None = None,
    architecture: ArchitectureConfig | None = None,
    general: LoadedSAE | None = None,
    n_steps: int = 20,
    seed: int = 0,
    lr: float = 3e-3,
    scale_out: float | None = None,
) -> Job:
    """A job on planted activations, at its start."""
    method = method or Direct()
    architecture = architecture or BatchTopKConfig(d_sae=32, k=4)
    scale = InputScale.fit(PlantedChunks(planted(), is_domain=True).chunk(0).x)
    generator = torch.Generator().manual_seed(seed)
    sae = method.start(architecture, Setting(D_IN, general, scale.mean, scale.scale, generator))
    optimiser = OptimiserConfig(lr=LearningRateConfig(peak=lr, warmup_steps=5), dead_after_tokens=5000)
    spec = JobSpec(
        name=name,
        domain="planted",
        method=method,
        architecture=architecture.kind,
        label=architecture.label,
        seed=seed,
        optimiser=optimiser,
        scale_in=scale.scale,
        scale_out=scale.scale if scale_out is None else scale_out,
        n_steps=n_steps,
        batch_size=BATCH,
    )
    return Job(spec, sae)
