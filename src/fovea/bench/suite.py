"""What runs beside what: each benchmark as groups of variants that alternate.

name --> [Group, ...]; a group is one table: its first variant is fovea, the base of all ratios
"""

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

from fovea.bench.config import BenchConfig
from fovea.bench.driver import OURS, Peer, Schedule, Variant
from fovea.bench.machine import has_bf16
from fovea.bench.material import activations, width_of
from fovea.bench.steps import MATMUL_SIZES, matmul_flops

PEAK = "matmul peak fp32"
PEAK_BF16 = "matmul peak bf16"
ENCODER = "limit: encoder product fp32"
ENCODER_BF16 = "limit: encoder product bf16"
_KINDS_OF = {
    "sae-lens": ("topk", "batch_topk", "jumprelu", "gated"),
    "dictionary-learning": ("topk", "batch_topk", "jumprelu", "gated"),
    "sparsify": ("topk",),
    "overcomplete": ("topk", "batch_topk", "jumprelu"),
}
"Architectures that each peer trains."


class Group(NamedTuple):
    """Variants that are compared with each other."""

    title: str
    about: Mapping[str, Any]
    "What the group fixes: architecture, width, allocator."
    variants: list[Variant]
    schedule: Schedule
    base: str = OURS
    peak: str | None = None
    limit: str | None = None
    "Variant whose speed is the most that a step could reach."


class Plan(NamedTuple):
    """What a benchmark is made from."""

    config: BenchConfig
    peers: Mapping[str, Peer]


def peak_variants(device: str = "cpu") -> list[Variant]:
    """The products whose speed fractions are of."""
    task: dict[str, Any] = {"kind": "matmul", "device": device, "size": MATMUL_SIZES[device]}
    flops = matmul_flops(task["size"])
    found = [Variant(PEAK, OURS, {**task, "dtype": "float32"}, flops)]
    if has_bf16(device):
        found.append(Variant(PEAK_BF16, OURS, {**task, "dtype": "bfloat16"}, flops))
    return found


def schedule_of(plan: Plan, allocator: str, **changes: Any) -> Schedule:
    """The plan's rounds under one allocator setting."""
    schedule = Schedule(plan.config.rounds, plan.config.round_seconds, tuned=allocator == "tuned")
    return schedule._replace(**changes)


def step_groups(plan: Plan) -> list[Group]:
    """B1: one TopK SAE, a training step on rows in memory, at each width under each allocator."""
    return [
        _step_group(plan, "topk", d_sae=d_sae, allocator=allocator)
        for d_sae in plan.config.step.d_sae
        for allocator in plan.config.allocators
    ]


def arch_groups(plan: Plan) -> list[Group]:
    """B2: the other architectures; gated twice: as it begins, half of its gates open, and as it ends."""
    kinds: list[tuple[str, dict[str, Any]]] = [("batch_topk", {}), ("jumprelu", {}), ("gated", {})]
    kinds.append(("gated", {"gate_l0": plan.config.step.k}))
    return [
        _step_group(plan, arch, d_sae=d_sae, allocator=allocator, more=more)
        for arch, more in kinds
        for d_sae in plan.config.step.d_sae_archs
        for allocator in plan.config.allocators
    ]


def auxk_groups(plan: Plan) -> list[Group]:
    """B1 with half of the latents dead, so that AuxK works; sparsify and overcomplete have none by default."""
    peers = {name: peer for name, peer in plan.peers.items() if name in ("sae-lens", "dictionary-learning")}
    return [
        _step_group(plan._replace(peers=peers), "topk", d_sae=d_sae, allocator="tuned", more={"dead_share": 0.5})
        for d_sae in plan.config.step.d_sae
    ]


def many_groups(plan: Plan) -> list[Group]:
    """B3: n SAEs on the same rows."""
    groups: list[Group] = []
    for n in plan.config.step.n_saes:
        d_sae = plan.config.step.d_sae_many
        group = _step_group(plan, "topk", d_sae=d_sae, allocator="tuned", more={"n": n})
        flops = {v.name: v.flops_per_token for v in group.variants}
        kept = [v._replace(flops_per_token=(flops[v.name] or 0) * n or None) for v in group.variants]
        limits = {ENCODER, *(v.name for v in peak_variants(plan.config.step.device))}
        kept = [v if v.name not in limits else v._replace(flops_per_token=flops[v.name]) for v in kept]
        groups.append(group._replace(title=f"{n} topk SAEs at once, d_sae {d_sae:,}", variants=kept))
    return groups


def _step_group(plan: Plan, arch: str, *, d_sae: int, allocator: str, more: Mapping[str, Any] | None = None) -> Group:
    more = more or {}
    step = plan.config.step
    path = activations(step, plan.config.lm)
    task: dict[str, Any] = {
        "kind": "step",
        "arch": arch,
        "d_sae": d_sae,
        "k": step.k,
        "batch_size": step.batch_size,
        "data": str(path),
        "device": step.device,
    }
    task |= more
    is_one = "n" not in more
    d_in = width_of(path)
    dense = 12.0 * d_in * d_sae
    "Six products of 2 d_in d_sae: encode, decode, both weight gradients, d latents, d x."
    variants = [Variant(OURS, OURS, task, dense)]
    bf16 = has_bf16(step.device)
    if bf16:
        variants.append(Variant(f"{OURS} bf16", OURS, task | {"dtype": "bfloat16"}, dense))
    for name in plan.peers:
        if arch in _KINDS_OF.get(name, ()):
            variants += _peer_variants(name, task, dense)
    if is_one and arch == "topk":
        variants.append(Variant("dense reference fp32", OURS, task | {"kind": "dense_step"}, dense))
    if is_one:
        product = {**task, "kind": "encoder"}
        variants.append(Variant(ENCODER, OURS, product, 2.0 * d_in * d_sae))
        if bf16:
            product = product | {"dtype": "bfloat16"}
            variants.append(Variant(ENCODER_BF16, OURS, product, 2.0 * d_in * d_sae))
    about = {"arch": arch, "d_sae": d_sae, "k": step.k, "batch_size": step.batch_size, "allocator": allocator, "n": 1}
    about |= more
    dead = ", half of the latents dead" if "dead_share" in more else ""
    gates = f", {more['gate_l0']} gates open" if "gate_l0" in more else ""
    title = f"one {arch} step, d_sae {d_sae:,}{dead}{gates}, {allocator} allocator"
    variants += peak_variants(step.device)
    limit = (ENCODER_BF16 if bf16 else ENCODER) if is_one else None
    return Group(title, about, variants, schedule_of(plan, allocator), peak=PEAK, limit=limit)


def _peer_variants(name: str, task: Mapping[str, Any], flops: float) -> list[Variant]:
    if name == "sparsify":
        both = (("signum", "sparsify signum (its default)"), ("adam", "sparsify Adam"))
        return [Variant(label, name, {**task, "optimizer": optimizer}, flops) for optimizer, label in both]
    found = [Variant(name, name, task, flops)]
    if name == "sae-lens" and has_bf16(task["device"]):
        found.append(Variant("sae-lens autocast", name, {**task, "dtype": "bfloat16"}, flops))
    return found


Groups = Callable[[Plan], list[Group]]
