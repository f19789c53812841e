"""eai-sparsify: the forward hook's body and the optimiser part of Trainer.fit, with its defaults.

Its trainer reads text only, so the two parts are called here on given activations, in its order. n_tokens is what its
bookkeeping counts; wandb, printing and saving are off.
"""

from typing import Any

import torch
from rows import Rows
from schedulefree import ScheduleFreeWrapper
from sparsify.config import SparseCoderConfig, TrainConfig
from sparsify.sign_sgd import SignSGD
from sparsify.sparse_coder import SparseCoder
from transformers import get_linear_schedule_with_warmup


def prepare(task: dict[str, Any]) -> tuple[Any, Any]:
    """Steps of `n` sparse coders with one optimiser, as Trainer.fit has it."""
    torch.set_float32_matmul_precision("high")
    rows = Rows(task["data"], task["batch_size"], task.get("device", "cpu"))
    config = TrainConfig(sae=SparseCoderConfig(num_latents=task["d_sae"], k=task["k"]), optimizer=task["optimizer"])
    coders = [SparseCoder(rows.d_in, config.sae, rows.x.device, dtype=torch.float32) for _ in range(task.get("n", 1))]
    optimiser, schedule = _optimiser(config, coders)
    since = [torch.zeros(task["d_sae"], dtype=torch.long, device=rows.x.device) for _ in coders]
    fired = [torch.zeros(task["d_sae"], dtype=torch.bool, device=rows.x.device) for _ in coders]
    is_first = True

    def unit() -> int:
        nonlocal is_first
        x = rows.batch()
        outputs = x.detach().clone()
        for coder, did_fire in zip(coders, fired, strict=True):
            if is_first:
                coder.b_dec.data = outputs.mean(0)
            coder.set_decoder_norm_to_unit_norm()
            total_variance = (outputs - outputs.mean(0)).pow(2).sum()
            out = coder(x=outputs, y=outputs, dead_mask=None, total_variance=total_variance)
            did_fire[out.latent_indices.flatten()] = True
            float(out.fvu.detach())
            (out.fvu + config.auxk_alpha * out.auxk_loss + out.multi_topk_fvu / 8).backward()
        is_first = False
        for coder in coders:
            coder.remove_gradient_parallel_to_decoder_directions()
        optimiser.step()
        optimiser.zero_grad()
        if schedule is not None:
            schedule.step()
        with torch.no_grad():
            for counts, did_fire in zip(since, fired, strict=True):
                counts += len(x)
                counts[did_fire] = 0
                did_fire.zero_()
        return len(x)

    return unit, lambda: {"threads": torch.get_num_threads()}


def _optimiser(config: TrainConfig, coders: list[SparseCoder]) -> tuple[Any, Any]:
    if config.optimizer == "signum":
        rate = 5e-3 / (coders[0].num_latents / 2**14) ** 0.5
        made = ScheduleFreeWrapper(SignSGD([{"params": c.parameters(), "lr": rate} for c in coders]), momentum=0.95)
        made.train()
        return made, None
    rate = 2e-4 / (coders[0].num_latents / 2**14) ** 0.5
    adam = torch.optim.Adam([{"params": c.parameters(), "lr": rate} for c in coders])
    return adam, get_linear_schedule_with_warmup(adam, config.lr_warmup_steps, 1_000_000)
