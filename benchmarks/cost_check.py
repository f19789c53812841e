"""The cost model against this machine: measures the peaks, then each part, and prints predicted and measured time.

python benchmarks/cost_check.py [ROUNDS] [--out FILE.json]      a few minutes; other work on the machine falsifies it
"""

import argparse
import json
import os
import platform
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

ROOT = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(ROOT / "src")]

import torch  # noqa: E402

from fovea.bench.cost import SMOLLM2, Device, SAEShape  # noqa: E402
from fovea.lm.hookpoint import HookPoint  # noqa: E402
from fovea.lm.load import load_lm  # noqa: E402
from fovea.lm.model import LM  # noqa: E402
from fovea.methods.base import Batch, Setting  # noqa: E402
from fovea.methods.direct import Direct  # noqa: E402
from fovea.sae.topk import TopKConfig  # noqa: E402
from fovea.train.job import Job, JobSpec, OptimiserConfig  # noqa: E402

LAYER, CONTEXT, CONTEXTS, BATCH, K = 14, 128, 16, 4096, 32
WIDTHS = (1152, 9216)


class Part(NamedTuple):
    """One thing that is timed."""

    name: str
    n_tokens: int
    predict: Callable[[Device], float]
    "Seconds per token."
    run: Callable[[], object]


def main() -> None:
    """Measure in alternation and print."""
    parser = argparse.ArgumentParser()
    parser.add_argument("rounds", type=int, nargs="?", default=7)
    parser.add_argument("--out", type=Path)
    args = parser.parse_args()
    lm = load_lm("bundled:smollm2-135m-instruct", dtype="float32")
    parts = [*lm_parts(lm), *(step_part(width) for width in WIDTHS)]
    device = this_machine()
    times = {part.name: [seconds(part.run) / part.n_tokens for _ in range(1)] for part in parts}  # warm up
    for each in times.values():
        each.clear()
    for _ in range(args.rounds):
        for part in parts:
            times[part.name].append(seconds(part.run) / part.n_tokens)
    rows = [row(part, device, times[part.name]) for part in parts]
    print(f"{device.name}: {device.flops / 1e9:.0f} GFLOP/s fp32, {device.bandwidth / 1e9:.1f} GB/s")
    print(f"{'part':<36}{'predicted us':>14}{'measured us':>14}{'ratio':>8}   per token, median of {args.rounds}")
    for each in rows:
        print(f"{each['part']:<36}{each['predicted_us']:>14.1f}{each['measured_us']:>14.1f}{each['ratio']:>8.2f}")
    if args.out is not None:
        found = {"device": device._asdict(), "threads": torch.get_num_threads(), "rounds": args.rounds, "parts": rows}
        args.out.write_text(json.dumps(found, indent=1) + "\n")


def row(part: Part, device: Device, times: list[float]) -> dict[str, Any]:
    """Predicted and measured microseconds per token."""
    predicted, measured = 1e6 * part.predict(device), 1e6 * statistics.median(times)
    return {"part": part.name, "predicted_us": predicted, "measured_us": measured, "ratio": measured / predicted}


def this_machine() -> Device:
    """Peaks as measured: a 2048^3 product and a copy of 512 MB."""
    a, b = torch.randn(2, 2048, 2048)
    out = torch.empty(2048, 2048)
    product = min(seconds(lambda: torch.mm(a, b, out=out)) for _ in range(9))
    source, target = torch.ones(2, 1 << 26)
    copy = min(seconds(lambda: target.copy_(source)) for _ in range(9))
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    return Device(processor(), 2 * 2048**3 / product, 2 * source.nbytes / copy, memory, 0.0)


def processor() -> str:
    """Model name of the processor."""
    table = Path("/proc/cpuinfo")
    lines = table.read_text().splitlines() if table.exists() else []
    found = [line.split(":")[1].strip() for line in lines if line.startswith("model name")]
    return found[0] if found else platform.processor()


@torch.no_grad()
def lm_parts(lm: LM) -> list[Part]:
    """The forward up to the hook, and from it to the logits."""
    n_layers = LAYER + 1
    hook = HookPoint.parse(f"blocks.{LAYER}.hook_resid_post")
    generator = torch.Generator().manual_seed(0)
    tokens = torch.randint(1000, 40000, (CONTEXTS, CONTEXT), generator=generator)
    prefix = lm.prefix(tokens, hook)

    def after() -> object:
        hidden = lm.resume(prefix, prefix.x).flatten(0, 1)
        return [lm.logits(rows).logsumexp(-1) for rows in hidden.split(512)]

    rest = SMOLLM2.forward_flops(SMOLLM2.n_layers - n_layers, CONTEXT) + SMOLLM2.head_flops
    return [
        Part(
            f"lm to layer {LAYER} ({n_layers} of 30 layers)",
            tokens.numel(),
            lambda device: device.seconds(SMOLLM2.forward_flops(n_layers, CONTEXT)),
            torch.inference_mode()(lambda: lm.activations(tokens, hook)),
        ),
        Part(
            "lm after it, and the head",
            tokens.numel(),
            lambda device: device.seconds(rest),
            torch.inference_mode()(after),
        ),
    ]


def step_part(d_sae: int) -> Part:
    """One training step of a topk SAE."""
    d_in = SMOLLM2.d_model
    shape = SAEShape(d_in, d_sae, K, BATCH)
    generator = torch.Generator().manual_seed(0)
    config = TopKConfig(d_sae=d_sae, k=K)
    sae = Direct().start(config, Setting(d_in, None, torch.zeros(d_in), 1.0, generator))
    spec = JobSpec("job", "d", Direct(), "topk", f"k{K}", 0, OptimiserConfig(), 1.0, 1.0, 1_000_000, BATCH)
    job = Job(spec, sae)
    mixing = torch.randn(d_in, d_in, generator=generator) * torch.linspace(1, 0, d_in).pow(3)[:, None]
    x = torch.randn(BATCH, d_in, generator=generator) @ mixing
    batch = Batch(x * (d_in**0.5 / x.norm(dim=1).mean()), None, torch.ones(BATCH, dtype=torch.bool))

    def predict(device: Device) -> float:
        return device.seconds(shape.step_flops) + shape.step_bytes / device.bandwidth

    return Part(f"step, topk k {K}, {d_sae} latents", BATCH, predict, lambda: job.step(batch))


def seconds(run: Callable[[], object]) -> float:
    """Wall clock of one call."""
    began = time.perf_counter()
    run()
    return time.perf_counter() - began


if __name__ == "__main__":
    main()
