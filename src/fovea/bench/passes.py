"""Workloads that run the lm: harvest, the cost of one more SAE, whole runs; and a long stream without it.

Each has the shape of fovea.bench.protocol.Prepare: task --> (unit, results).
"""

import logging
import tempfile
import time
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import torch

from fovea.bench.config import PassConfig
from fovea.bench.material import load_subject
from fovea.bench.protocol import Results, Unit
from fovea.bench.steps import batch_of, make_job
from fovea.data.activations import ActivationChunks, Chunk
from fovea.data.shuffle import MixingBuffer
from fovea.experiment.config import ExperimentConfig
from fovea.experiment.fit import Sources, fit_domain
from fovea.experiment.folder import open_run
from fovea.experiment.prepare import calibrate, materials
from fovea.experiment.prepare import load_subject as load_parts
from fovea.experiment.sharing import settle
from fovea.lm.hookpoint import HookPoint
from fovea.lm.model import LM
from fovea.methods.base import Batch
from fovea.ranks import ALONE
from fovea.train.loop import train
from fovea.train.stream import Stream

_CHUNK_ROWS = 8192
_LINE_CONTEXTS = 32


def _chunks(task: dict[str, Any], *, contexts: int = 64) -> ActivationChunks:
    subject = load_subject(PassConfig(**task["lm"]), dtype=task["dtype"], compiled=task.get("compiled", False))
    return ActivationChunks(
        subject.lm,
        subject.hook_point,
        packed=subject.corpus.train,
        token_filter=subject.token_filter,
        contexts_per_chunk=contexts,
    )


def harvest(task: dict[str, Any]) -> tuple[Unit, Results]:
    """One chunk of activations after the other, as a run makes them: tokens read, the lm to the hook point, filter."""
    chunks = _chunks(task)
    index = 0

    def unit() -> int:
        nonlocal index
        chunks.chunk(index % (chunks.n_chunks - 1))
        index += 1
        return chunks.contexts_per_chunk * chunks.packed.context_size

    return unit, dict


def lm_flops(lm: LM, hook_point: HookPoint, context_size: int) -> float:
    """FLOPs a token of the lm up to the hook point: 2 a weight, and attention over the half of the context it sees."""
    layers = lm.model.get_submodule(lm.layers_path)
    n_layers = hook_point.layer + (hook_point.site != "resid_pre")
    weights = sum(
        p.numel() for index in range(n_layers) for p in layers.get_submodule(str(index)).parameters() if p.ndim == 2
    )
    config = lm.model.config.get_text_config()
    sizes = config.to_dict()
    width = sizes["num_attention_heads"] * (sizes.get("head_dim") or lm.d_model // sizes["num_attention_heads"])
    return 2.0 * weights + 2.0 * n_layers * context_size * width


class _Fresh(Stream):
    """Each batch from a chunk of its own: a step costs one harvest, whatever a buffer would have kept."""

    def __init__(self, chunks: ActivationChunks, batch_size: int) -> None:
        self._chunks, self._size, self._index = chunks, batch_size, 0

    def next(self) -> Batch:
        """The first batch_size rows of the next chunk."""
        x = self._chunks.chunk(self._index % (self._chunks.n_chunks - 1)).x[: self._size]
        self._index += 1
        return batch_of(x)


def line(task: dict[str, Any]) -> tuple[Unit, Results]:
    """One pass that trains `n` SAEs on the lm's activations: a unit is one step of all."""
    chunks = _chunks(task, contexts=_LINE_CONTEXTS)
    stream = _Fresh(chunks, task["batch_size"])
    mean = torch.zeros(chunks.d_in)
    jobs = [make_job(task, mean, seed=seed) for seed in range(task["n"])]

    def unit() -> int:
        if jobs:
            train(jobs, stream, n_steps=1)
        else:
            stream.next()
        return task["batch_size"]

    return unit, dict


def end_to_end(task: dict[str, Any]) -> tuple[Unit, Results]:
    """All of one experiment's training: load the lm, tokenise, measure filter and scales, train, save."""
    logging.getLogger("fovea").setLevel(logging.WARNING)
    given = ExperimentConfig.model_validate(task["experiment"])
    done: list[str] = []
    stages: dict[str, float] = {}

    def unit() -> int:
        clock = _Stages(stages)
        with ExitStack() as stack:
            out = Path(stack.enter_context(tempfile.TemporaryDirectory())) / "run"
            config = settle(given, out, ALONE)
            run = stack.enter_context(open_run(out, config, resume=False))
            subject = load_parts(config)
            clock.end("load lm and g")
            found = materials(config, run, subject)
            clock.end("tokenise, measure the filter")
            (domain,) = config.domain
            material = found[domain.name]
            sources = Sources(material, found.get("general"), calibrate(run, material.train))
            clock.end("measure the scales")
            fit_domain(config, run, subject, domain=domain, sources=sources)
            clock.end("train and save")
            done.extend(path.parent.name for path in run.saes.glob("*/job.json"))
        return given.train.n_tokens

    return unit, lambda: {"saes": sorted(set(done)), "seconds": stages}


class _Stages:
    """Seconds by stage, those of the latest unit."""

    def __init__(self, seconds: dict[str, float]) -> None:
        self._seconds, self._began = seconds, time.perf_counter()

    def end(self, name: str) -> None:
        """Say which stage has just ended."""
        now = time.perf_counter()
        self._seconds[name], self._began = now - self._began, now


class _Made:
    """Chunks that cost next to nothing: rows of one block, scaled by a number of the chunk's own."""

    def __init__(self, n_rows: int, d_in: int) -> None:
        self.n_chunks, self.d_in, self.dtype = -(-n_rows // _CHUNK_ROWS), d_in, torch.float32
        self._block = torch.randn(_CHUNK_ROWS, d_in, generator=torch.Generator().manual_seed(0))

    def chunk(self, index: int) -> Chunk:
        """Chunk number `index`."""
        numbers = torch.arange(_CHUNK_ROWS)
        return Chunk(self._block * (1.0 + index % 7), numbers, numbers, numbers)


def memory(task: dict[str, Any]) -> tuple[Unit, Results]:
    """Stream `n_rows` through the mixing buffer into a small SAE; the peak of resident memory is the result."""
    size = task["batch_size"]
    buffer = MixingBuffer(_Made(task["n_rows"], task["d_in"]), rows=65_536, seed=0)
    stream = Stream(buffer, None, None, n_domain=size, n_general=0)
    job = make_job(task, torch.zeros(task["d_in"]))

    def unit() -> int:
        n_steps = task["n_rows"] // size
        train([job], stream, n_steps=n_steps)
        return n_steps * size

    return unit, dict
