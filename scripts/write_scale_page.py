"""Writes docs/scale.md: the cost model's tables, and its check against measurement. Run it with `make docs`."""

import json
from pathlib import Path
from typing import Any

from fovea.bench.cost import GEMMA_2B, GEMMA_9B, H100, LLAMA_70B, SMOLLM2, LMShape, Mesh, Plan, SAEShape

ROOT = Path(__file__).resolve().parent.parent
PAGE = ROOT / "docs" / "scale.md"
TEMPLATE = ROOT / "scripts" / "scale.template.md"
CHECK = ROOT / "benchmarks" / "cost_check.json"
LMS = (GEMMA_2B, GEMMA_9B, LLAMA_70B)
GPUS = (1, 8, 64, 1024)
TOKENS = (10**9, 10**12)
BATCH, CONTEXT, WIDTH, K = 65_536, 1024, 16_384, 64


def plan(lm: LMShape, n_saes: int = 9) -> Plan:
    """Nine SAEs on the middle layer of an lm."""
    sae = SAEShape(lm.d_model, WIDTH, K, BATCH)
    return Plan(lm, lm.n_layers // 2, CONTEXT, sae, n_saes, 4 * WIDTH, K)


def page() -> str:
    """The page: the template with its tables filled in."""
    tables = {"check": check(), "flops": flops(), "time": times(), "memory": memory(), "disk": disk()}
    text = TEMPLATE.read_text()
    for name, table in tables.items():
        text = text.replace("{{" + name + "}}", table)
    return text


def table(head: str, rows: list[list[str]]) -> str:
    """A markdown table."""
    columns = head.split("|")
    lines = [columns, ["---"] * len(columns), *rows]
    return "\n".join("| " + " | ".join(cell.strip() for cell in line) + " |" for line in lines)


def check() -> str:
    """Predicted and measured time per token."""
    found: dict[str, Any] = json.loads(CHECK.read_text())
    device = found["device"]
    rows = [
        [part["part"], f"{part['predicted_us']:.0f}", f"{part['measured_us']:.0f}", f"{part['ratio']:.2f}"]
        for part in found["parts"]
    ]
    peaks = (
        f"{device['name']}, {found['threads']} threads: {device['flops'] / 1e9:.0f} GFLOP/s fp32 and "
        f"{device['bandwidth'] / 1e9:.1f} GB/s measured in the same run; medians of {found['rounds']} rounds.\n\n"
    )
    return peaks + table("part|predicted, us per token|measured|ratio", rows)


def flops() -> str:
    """GFLOPs per token by part."""
    rows = []
    for lm in (SMOLLM2, *LMS):
        each = plan(lm)
        sae = each.sae
        rows.append(
            [
                f"{lm.name}, layer {each.n_layers} of {lm.n_layers}",
                f"{each.harvest_flops / 1e9:.2f}",
                f"{each.general_flops / 1e9:.2f}",
                f"{sae.step_flops / 1e9:.3f}",
                f"{100 * sae.step_flops / each.harvest_flops:.1f}%",
                f"{each.train_flops / 1e9:.1f}",
                f"{9 * (each.harvest_flops + each.general_flops + sae.step_flops) / each.train_flops:.1f}x",
                f"{each.evaluate_flops / 1e9:.1f}",
            ]
        )
    return table(
        "lm|lm to the hook|g(x)|one SAE's step|of the lm|nine in one pass|nine separate runs|evaluation of nine", rows
    )


def times() -> str:
    """Wall clock by number of devices."""
    rows = []
    for lm in LMS:
        each = plan(lm)
        for n_gpus in GPUS:
            mesh = each.best_mesh(H100, n_gpus)
            step = each.step_time(H100, mesh)
            rows.append(
                [
                    lm.name,
                    str(n_gpus),
                    f"{mesh.data} x {mesh.latents}",
                    f"{1e3 * step.total:.1f}",
                    f"{100 * step.lm / step.total:.0f} / {100 * (step.general + step.saes) / step.total:.0f} / "
                    f"{100 * step.wire / step.total:.0f}",
                    *(duration(step.total * n_tokens / BATCH) for n_tokens in TOKENS),
                ]
            )
    head = "lm|GPUs|tokens x latents|ms per step|lm / SAEs / wire, %|10^9 tokens|10^12 tokens"
    return table(head, rows)


def memory() -> str:
    """GB on one device."""
    rows = []
    for lm in LMS:
        each = plan(lm)
        saes = 9 * each.sae.state_bytes
        rows.append(
            [
                lm.name,
                f"{lm.weight_bytes(each.n_layers, head=False) / 1e9:.1f}",
                f"{lm.weight_bytes(lm.n_layers, head=True) / 1e9:.1f}",
                f"{4 * lm.d_model * each.d_general / 1e9:.1f}",
                f"{saes / 1e9:.1f}",
                f"{each.memory(Mesh(1, 1)) / 1e9:.1f}",
                f"{each.memory(Mesh(1, 8)) / 1e9:.1f}",
            ]
        )
    head = "lm|lm to the hook, bf16|whole lm (evaluation)|g, bf16|nine SAEs with Adam|all on one device|latents over 8"
    return table(head, rows)


def disk() -> str:
    """Disk for kept activations."""
    rows = []
    for lm in (SMOLLM2, *LMS):
        each = plan(lm)
        sizes = [volume(each.cache_bytes(width) * n) for n in (10**6, *TOKENS) for width in (2.0, 1.0)]
        rows.append([lm.name, *sizes])
    head = "lm|10^6, bf16|int8|10^9, bf16|int8|10^12, bf16|int8"
    return table(head, rows)


def duration(seconds: float) -> str:
    """Seconds in words that people read."""
    for unit, size in (("years", 365 * 86400), ("days", 86400), ("h", 3600), ("min", 60)):
        if seconds >= size:
            return f"{seconds / size:,.1f} {unit}"
    return f"{seconds:.0f} s"


def volume(n_bytes: float) -> str:
    """Bytes in decimal units."""
    for unit, size in (("PB", 1e15), ("TB", 1e12), ("GB", 1e9)):
        if n_bytes >= size:
            return f"{n_bytes / size:.1f} {unit}"
    return f"{n_bytes / 1e6:.0f} MB"


if __name__ == "__main__":
    PAGE.write_text(page())
