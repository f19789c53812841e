"""dictionary-learning: Trainer.update, as its trainSAE calls it; its defaults, no logging."""

from typing import Any

import torch
from dictionary_learning.trainers.batch_top_k import BatchTopKTrainer
from dictionary_learning.trainers.gdm import GatedSAETrainer
from dictionary_learning.trainers.jumprelu import JumpReluTrainer
from dictionary_learning.trainers.top_k import TopKTrainer
from rows import Rows

STEPS = 1_000_000


def prepare(task: dict[str, Any]) -> tuple[Any, Any]:
    """`n` trainers, one after the other on each batch, as in trainSAE."""
    rows = Rows(task["data"], task["batch_size"], task.get("device", "cpu"))
    trainers = [_trainer(task, rows.d_in) for _ in range(task.get("n", 1))]
    for trainer in trainers:
        if "gate_l0" in task:
            close_gates(trainer.ae, rows.x[:256], task["gate_l0"])
    n_dead = round(task.get("dead_share", 0.0) * task["d_sae"])
    step = 0

    def unit() -> int:
        nonlocal step
        x = rows.batch().to(dtype=torch.float32)
        for trainer in trainers:
            if n_dead:
                trainer.num_tokens_since_fired[:n_dead] = trainer.dead_feature_threshold
            trainer.update(step, x)
        step += 1
        return len(x)

    return unit, lambda: {"threads": torch.get_num_threads()}


def _trainer(task: dict[str, Any], d_in: int) -> Any:
    sizes = {"steps": STEPS, "activation_dim": d_in, "dict_size": task["d_sae"], "device": task.get("device", "cpu")}
    sizes |= {"layer": 14, "lm_name": "lm"}
    match task["arch"]:
        case "topk":
            return TopKTrainer(k=task["k"], **sizes)
        case "batch_topk":
            return BatchTopKTrainer(k=task["k"], **sizes)
        case "jumprelu":
            return JumpReluTrainer(target_l0=float(task["k"]), **sizes)
        case "gated":
            return GatedSAETrainer(**sizes)
    raise ValueError(task["arch"])


@torch.no_grad()
def close_gates(ae: Any, x: torch.Tensor, l0: int) -> None:
    """Shift the gates so that about `l0` are open on each row of x."""
    gate = ae.encoder(x - ae.decoder_bias)
    ae.gate_bias.copy_(-gate.flatten().kthvalue(gate.numel() - l0 * len(x)).values)
