"""What benchmarks read, made once and kept in the cache folder: tokens, activations, trained SAEs to evaluate.

corpus --lm--> rows at the hook point, massive norms dropped --> scaled, shuffled --> activations-KEY.safetensors
"""

import hashlib
import json
from pathlib import Path
from typing import Any, NamedTuple

import torch
from safetensors import safe_open
from torch import Tensor

from fovea.atomic import write_text
from fovea.bench.config import PassConfig, StepConfig
from fovea.bundled.cache import cache_folder
from fovea.data.activations import ActivationChunks, TokenFilter, median_norm, sample_rows
from fovea.data.corpus import documents
from fovea.data.scale import InputScale
from fovea.data.tokens import CorpusConfig, PackingConfig, TokenisedCorpus, build_tokens
from fovea.lm.hookpoint import HookPoint
from fovea.lm.load import load_lm
from fovea.lm.memory import keep_freed_memory
from fovea.lm.model import LM
from fovea.tensorfile import write_tensors

MAX_NORM_RATIO = 10.0
"Rows whose norm exceeds so many median norms are dropped, as in a run."
_RANK, _TAIL_DEGREES = 96, 3.0


class Loaded(NamedTuple):
    """The lm on the corpus."""

    lm: LM
    hook_point: HookPoint
    corpus: TokenisedCorpus
    token_filter: TokenFilter


def bench_folder() -> Path:
    """Where benchmarks keep what they made."""
    return cache_folder() / "bench"


def load_subject(settings: PassConfig, *, dtype: str, compiled: bool = False) -> Loaded:
    """The lm, the tokenised corpus, and the filter with its massive-norm threshold measured."""
    keep_freed_memory()  # as every run does
    lm = load_lm(settings.model, dtype="bfloat16" if dtype == "bfloat16" else "float32", compiled=compiled)
    hook_point = HookPoint.parse(settings.hook_point)
    corpus = _tokens(lm, settings)
    plain = TokenFilter.of(lm)
    path = bench_folder() / f"filter-{_key(settings.model, settings.hook_point, settings.corpus, dtype)}.json"
    if not path.exists():
        path.parent.mkdir(parents=True, exist_ok=True)
        rows = sample_rows(lm, hook_point, corpus.train, token_filter=plain, n_contexts=32)
        median = median_norm(rows, corpus=settings.corpus)
        path.write_text(json.dumps({"median_norm": median}))
    max_norm = MAX_NORM_RATIO * json.loads(path.read_text())["median_norm"]
    return Loaded(lm, hook_point, corpus, TokenFilter.of(lm, max_norm=max_norm))


def activations(step: StepConfig, settings: PassConfig) -> Path:
    """File of scaled, shuffled rows x [n_rows d_in] with their mean; made on the first call."""
    if step.synthetic:
        key = _key("synthetic", str(step.d_in), str(step.n_rows))
        path = bench_folder() / f"activations-{key}.safetensors"
        if not path.exists():
            _write(path, synthetic_rows(step.n_rows, step.d_in))
        return path
    key = _key(settings.model, settings.hook_point, settings.corpus, str(step.n_rows))
    path = bench_folder() / f"activations-{key}.safetensors"
    if not path.exists():
        _write(path, _harvested(load_subject(settings, dtype="float32"), step.n_rows))
    return path


def synthetic_rows(n_rows: int, d_in: int) -> Tensor:
    """Rows of low rank with heavy tails and a common mean [n_rows d_in]."""
    generator = torch.Generator().manual_seed(0)
    rank = min(_RANK, d_in)
    basis = torch.randn(rank, d_in, generator=generator)
    rows = torch.empty(n_rows, d_in)
    for part in rows.split(65_536):
        normal = torch.randn(len(part), rank, generator=generator)
        chi = torch.randn(len(part), int(_TAIL_DEGREES), generator=generator).square().sum(dim=1, keepdim=True)
        heavy = normal / (chi / _TAIL_DEGREES).sqrt()
        part.copy_(heavy @ basis + 0.3 * torch.randn(len(part), d_in, generator=generator) + 1.0)
    return rows


def width_of(path: Path) -> int:
    """d_in of a file of activations."""
    with safe_open(path, framework="pt") as file:
        return file.get_slice("x").get_shape()[1]


def text_file(reference: str) -> Path:
    """The corpus as one json object with a "text" a line, for tools that read no compressed files."""
    path = bench_folder() / f"texts-{_key(reference)}.jsonl"
    if not path.exists():
        path.parent.mkdir(parents=True, exist_ok=True)
        lines = (json.dumps({"text": document.text}) for document in documents(reference))
        write_text(path, "\n".join(lines))
    return path


class Rows:
    """The rows of a file of activations, mapped or on a GPU, in batches over and over, in one order for every tool."""

    def __init__(self, path: str, batch_size: int, device: str = "cpu") -> None:
        with safe_open(path, framework="pt", device=device) as file:
            self.x: Tensor = file.get_tensor("x")
            self.mean: Tensor = file.get_tensor("mean")
            self.scale = float(file.get_tensor("scale"))
        self.batch_size = batch_size
        self._next = 0

    @property
    def d_in(self) -> int:
        """Width of a row."""
        return self.x.shape[1]

    def batch(self) -> Tensor:
        """The next batch_size rows [batch_size d_in]; after the last whole batch, the first again."""
        start = self._next
        self._next = start + self.batch_size
        if self._next + self.batch_size > len(self.x):
            self._next = 0
        return self.x[start : start + self.batch_size]


def _harvested(subject: Loaded, n_rows: int) -> Tensor:
    chunks = ActivationChunks(
        subject.lm, subject.hook_point, packed=subject.corpus.train, token_filter=subject.token_filter
    )
    found: list[Tensor] = []
    for index in range(chunks.n_chunks):
        found.append(chunks.chunk(index).x)
        if sum(len(part) for part in found) >= n_rows:
            break
    return torch.cat(found)[:n_rows]


def _write(path: Path, rows: Tensor) -> None:
    fitted = InputScale.fit(rows)
    order = torch.randperm(len(rows), generator=torch.Generator().manual_seed(0))
    x = rows[order] * fitted.scale
    write_tensors(path, {"x": x, "mean": fitted.mean * fitted.scale, "scale": torch.tensor([fitted.scale])}, {})


def _tokens(lm: LM, settings: PassConfig) -> TokenisedCorpus:
    name = settings.corpus.rpartition(":")[2].rpartition("/")[2].partition(".")[0]
    folder = bench_folder() / "corpora" / _key(settings.model, settings.corpus, str(settings.context_size)) / name
    corpus = CorpusConfig(reference=settings.corpus)
    return build_tokens(corpus, lm, folder=folder, packing=PackingConfig(context_size=settings.context_size))


def _key(*parts: Any) -> str:
    return hashlib.sha256(json.dumps(parts).encode()).hexdigest()[:12]
