"""The SAEs that the evaluation benchmark measures: trained for some steps, once, and kept in the cache folder."""

from pathlib import Path

from fovea.bench.config import BenchConfig
from fovea.bench.material import Rows, activations, bench_folder
from fovea.bench.steps import batch_of, make_job
from fovea.lm.hookpoint import HookPoint
from fovea.sae.files import SAEMetadata, save_sae
from fovea.sae.folding import fold_scale

_STEPS = 24
_SPARSITIES = (8, 16, 24, 32, 40, 48, 56, 64, 72)


def evaluated_saes(config: BenchConfig) -> list[Path]:
    """Folders of `n_evaluated` batch_topk SAEs of different sparsity, in raw units."""
    data = activations(config.step, config.lm)
    root = bench_folder() / f"evaluated-{data.stem}-{config.step.d_sae_many}"
    rows = Rows(str(data), min(config.step.batch_size, 2048))
    found: list[Path] = []
    for index in range(config.lm.n_evaluated):
        k = _SPARSITIES[index % len(_SPARSITIES)]
        folder = root / f"k{k}-{index}"
        found.append(folder)
        if (folder / "cfg.json").exists():
            continue
        task = {"arch": "batch_topk", "d_sae": config.step.d_sae_many, "k": k, "batch_size": rows.batch_size}
        job = make_job(task, rows.mean, seed=index, n_steps=_STEPS)
        for _ in range(_STEPS):
            job.step(batch_of(rows.batch()))
        hook = HookPoint.parse(config.lm.hook_point)
        metadata = SAEMetadata(
            model_name=config.lm.model,
            hook_name=hook.transformer_lens,
            hf_hook_name=hook.hugging_face(),
            prepend_bos=False,
            context_size=config.lm.context_size,
        )
        save_sae(fold_scale(job.sae, scale_in=rows.scale, scale_out=rows.scale), folder, metadata=metadata)
    return found
