"""sae-lens: SAETrainer.step for steps, its runners for whole runs, run_evals for evaluation; its own defaults."""

from typing import Any

import torch
from rows import Rows
from sae_lens import (
    BatchTopKTrainingSAE,
    BatchTopKTrainingSAEConfig,
    GatedTrainingSAE,
    GatedTrainingSAEConfig,
    JumpReLUTrainingSAE,
    JumpReLUTrainingSAEConfig,
    TopKTrainingSAE,
    TopKTrainingSAEConfig,
)
from sae_lens.config import SAETrainerConfig
from sae_lens.training.sae_trainer import SAETrainer

ENDLESS = 10**9


def sae_config(arch: str, d_in: int, d_sae: int, k: int, device: str = "cpu") -> Any:
    """Its settings for an architecture, all defaults but the sizes."""
    sizes: dict[str, Any] = {"d_in": d_in, "d_sae": d_sae, "device": device}
    match arch:
        case "topk":
            return TopKTrainingSAEConfig(k=k, **sizes)
        case "batch_topk":
            return BatchTopKTrainingSAEConfig(k=k, **sizes)
        case "jumprelu":
            return JumpReLUTrainingSAEConfig(**sizes)
        case "gated":
            return GatedTrainingSAEConfig(**sizes)
    raise ValueError(arch)


CLASSES = {
    "topk": TopKTrainingSAE,
    "batch_topk": BatchTopKTrainingSAE,
    "jumprelu": JumpReLUTrainingSAE,
    "gated": GatedTrainingSAE,
}


def prepare(task: dict[str, Any]) -> tuple[Any, Any]:
    """The workload that `task["kind"]` names."""
    if task["kind"] == "step":
        return step(task)
    import sae_lens_passes

    return sae_lens_passes.prepare(task)


def step(task: dict[str, Any]) -> tuple[Any, Any]:
    """The body of SAETrainer.fit; for n > 1 that of MultiSAETrainer.fit, which steps one trainer after the other."""
    device = task.get("device", "cpu")
    rows = Rows(task["data"], task["batch_size"], device)
    cfg = SAETrainerConfig(
        total_training_samples=ENDLESS,
        train_batch_size_samples=task["batch_size"],
        lr_end=3e-5,
        device=device,
        autocast=task.get("dtype") == "bfloat16",
    )
    made = sae_config(task["arch"], rows.d_in, task["d_sae"], task["k"], device)
    trainers = [SAETrainer(cfg, CLASSES[task["arch"]](made), iter(())) for _ in range(task.get("n", 1))]
    for trainer in trainers:
        if "gate_l0" in task:
            close_gates(trainer.sae, rows.x[:256], task["gate_l0"])
    n_dead = round(task.get("dead_share", 0.0) * task["d_sae"])

    def unit() -> int:
        x = rows.batch()
        for trainer in trainers:
            trainer.n_forward_passes_since_fired[:n_dead] = ENDLESS
            trainer.maybe_reset_sparsity()
            trainer.step(x)
            trainer.n_training_steps += 1
        return len(x)

    return unit, lambda: {"n_dead": int(trainers[0].dead_neurons.sum()), "threads": torch.get_num_threads()}


@torch.no_grad()
def close_gates(sae: Any, x: torch.Tensor, l0: int) -> None:
    """Shift the gates so that about `l0` are open on each row of x."""
    gate = (x - sae.b_dec) @ sae.W_enc
    sae.b_gate.copy_(-gate.flatten().kthvalue(gate.numel() - l0 * len(x)).values)
