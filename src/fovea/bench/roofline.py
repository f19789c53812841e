"""The roofline: what arithmetic and memory allow each stage, what it reaches, and which operations its time goes to.

    peak (matmul), bandwidth (copy), stages --alternated--> GFLOP/s --/ min(peak, FLOPs a byte x bandwidth)--> share
    one unit of a stage under torch's profiler --> share of its time by kind of operation

FLOPs are those of fovea.bench.cost and fovea.bench.passes. Bytes are the least that fp32 needs: each weight once a
batch, input and output of each product once; what stays in a cache between two products is counted all the same.
"""

from collections.abc import Callable
from typing import Any

import torch
from torch import nn
from torch.profiler import ProfilerActivity, profile

from fovea.bench.config import PassConfig
from fovea.bench.cost import SAEShape
from fovea.bench.driver import OURS, Measured, Variant
from fovea.bench.material import activations, load_subject, width_of
from fovea.bench.passes import lm_flops
from fovea.bench.protocol import Results, Unit
from fovea.bench.suite import PEAK, Group, Plan, peak_variants, schedule_of
from fovea.bench.summary import summarise
from fovea.data.activations import spread
from fovea.lm.hookpoint import HookPoint
from fovea.lm.model import LM

COPY = "memory: copy"
_COPY_NUMBERS = 1 << 26
_CONTEXTS = 16
_HEAD_ROWS = 512
_KINDS: tuple[tuple[str, tuple[str, ...]], ...] = (
    ("products", ("aten::mm", "aten::addmm", "aten::bmm", "aten::baddbmm", "mkl")),
    ("attention", ("scaled_dot_product", "flash_attention")),
    ("selection", ("topk", "sort", "kthvalue", "nonzero", "searchsorted", "bincount", "cumsum")),
    ("rows by index", ("index", "gather", "scatter", "embedding", "segment", "take", "sparse")),
    ("optimiser", ("adam",)),
    ("softmax", ("softmax", "logsumexp")),
)
REST = "element by element"


def roofline_groups(plan: Plan) -> list[Group]:
    """The two limits and, beside them, harvest, the rest of the lm, and training steps with their encoder products."""
    settings, step = plan.config.lm, plan.config.step
    subject = load_subject(settings, dtype="float32")
    n_tokens = _CONTEXTS * settings.context_size
    hook = subject.hook_point
    n_before = hook.layer + (hook.site != "resid_pre")
    lm_task = {"lm": settings.model_dump(), "dtype": "float32"}
    whole = HookPoint(subject.lm.n_layers - 1, "resid_post")
    to_hook, to_end = (lm_flops(subject.lm, point, settings.context_size) for point in (hook, whole))
    before = _lm_bytes(subject.lm, 0, n_before, n_tokens)
    output = subject.lm.model.get_output_embeddings()
    assert output is not None, "a causal lm has a head"
    head = output.weight
    after_flops = to_end - to_hook + 2.0 * head.numel()
    after_bytes = _lm_bytes(subject.lm, n_before, None, n_tokens) + _product_bytes(head, _HEAD_ROWS)
    stages = [
        _stage("lm to the hook point", {"kind": "harvest", **lm_task}, to_hook, before),
        _stage("lm after it, and the head", {"kind": "after", **lm_task}, after_flops, after_bytes),
    ]
    path = activations(step, settings)
    d_in = width_of(path)
    for d_sae in step.d_sae:
        shape = SAEShape(d_in, d_sae, step.k, step.batch_size)
        task = {"d_sae": d_sae, "k": step.k, "batch_size": step.batch_size, "data": str(path), "arch": "topk"}
        product_bytes = 4.0 * (d_in * d_sae / step.batch_size + d_in + d_sae)
        product, trained = task | {"kind": "encoder"}, task | {"kind": "step"}
        stages += [
            _stage(f"encoder product, d_sae {d_sae:,}", product, shape.encoder_flops, product_bytes),
            _stage(f"topk step, d_sae {d_sae:,}", trained, shape.step_flops, shape.step_bytes),
        ]
    copy = Variant(COPY, OURS, {"kind": "copy"})
    about = {"context_size": settings.context_size, "allocator": "tuned"}
    variants = [*stages, *peak_variants(), copy]
    schedule = schedule_of(plan, "tuned", warm_ups=1)
    return [Group("the stages of a run, fp32", about, variants, schedule, base=variants[0].name, peak=PEAK)]


def roofline_numbers(measured: list[list[Measured]]) -> dict[str, Any]:
    """Peak, bandwidth, and of each stage the limit, what it reaches and where its time goes."""
    by_name = {each.variant.name: each for each in measured[0] if each.rounds}
    if PEAK not in by_name or COPY not in by_name:
        return {}
    peak = _gflops(by_name[PEAK])
    bandwidth = summarise(by_name[COPY].rounds).tokens_per_second * 8.0 * _COPY_NUMBERS / 1e9
    stages: dict[str, Any] = {}
    for name, each in by_name.items():
        if "bytes_per_token" not in each.variant.task:
            continue
        intensity = (each.variant.flops_per_token or 0.0) / each.variant.task["bytes_per_token"]
        limit, reached = min(peak, intensity * bandwidth), _gflops(each)
        stages[name] = {
            "flops_per_byte": intensity,
            "limit_gflops": limit,
            "gflops": reached,
            "share_of_limit": reached / limit,
            "share_of_time": each.results.get("share of time", {}),
        }
    return {"matmul peak fp32, GFLOP/s": peak, "memory bandwidth, GB/s": bandwidth, "stages": stages}


def copy(task: dict[str, Any]) -> tuple[Unit, Results]:
    """A copy of memory far larger than any cache: a unit reads and writes 4 bytes a number, and is one "token"."""
    source, target = torch.ones(2, task.get("numbers", _COPY_NUMBERS))

    def unit() -> int:
        target.copy_(source)
        return 1

    return unit, dict


def after(task: dict[str, Any]) -> tuple[Unit, Results]:
    """The layers after the hook point, the head and CE, on one batch whose layers before it have run."""
    settings = PassConfig(**task["lm"])
    subject = load_subject(settings, dtype=task["dtype"])
    packed = subject.corpus.heldout
    with torch.inference_mode():
        tokens = packed.batch(spread(packed.n_contexts, _CONTEXTS)).tokens
        prefix = subject.lm.prefix(tokens, subject.hook_point)

    @torch.inference_mode()
    def unit() -> int:
        hidden = subject.lm.resume(prefix, prefix.x).flatten(0, 1)
        for rows in hidden.split(_HEAD_ROWS):
            subject.lm.logits(rows).log_softmax(dim=-1)
        return tokens.numel()

    return unit, dict


def shares(unit: Callable[[], int]) -> dict[str, float]:
    """Share of the processor time of one unit by kind of operation, largest first."""
    with profile(activities=[ProfilerActivity.CPU]) as profiled:
        unit()
    sums: dict[str, float] = {}
    for event in profiled.key_averages():
        kind = next((kind for kind, words in _KINDS if any(word in event.key.lower() for word in words)), REST)
        sums[kind] = sums.get(kind, 0.0) + event.self_cpu_time_total
    total = sum(sums.values())
    return {kind: value / total for kind, value in sorted(sums.items(), key=lambda item: -item[1])}


def _stage(name: str, task: dict[str, Any], flops: float, n_bytes: float) -> Variant:
    return Variant(name, OURS, {"kind": "profiled", "of": task, "bytes_per_token": n_bytes}, flops)


def _lm_bytes(lm: LM, first: int, stop: int | None, n_tokens: int) -> float:
    """Bytes per token of the products of layers `first` to `stop`."""
    layers = list(lm.model.get_submodule(lm.layers_path).children())[first:stop]
    return sum(_product_bytes(p, n_tokens) for layer in layers for p in layer.parameters() if p.ndim == 2)


def _product_bytes(weight: nn.Parameter | torch.Tensor, n_rows: int) -> float:
    """Bytes per row of one product: the weight shared by all rows, its input, its output."""
    return 4.0 * (weight.numel() / n_rows + sum(weight.shape))


def _gflops(each: Measured) -> float:
    return (each.variant.flops_per_token or 0.0) * summarise(each.rounds).tokens_per_second / 1e9
