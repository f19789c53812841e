"""SAEBench's core evaluation of an SAE that fovea trained.

    python examples/saebench_core.py RUN JOB OUT

Shows its `run_evals` with the run's lm and held-out tokens in place of downloads, its json in OUT/core.json, and that
its losses and L0 are what we count on the same tokens. Tested with sae-bench 0.6.0 and sae-lens 6.54.12.

To read its numbers: the SAE is applied at position 0 too, where most lms have an attention sink that no SAE is trained
on, and the 0 of its scores is the lm with zeros in place of x. fovea's own loss recovered does neither.
"""

import sys

import torch
from datasets import Dataset
from sae_bench.evals.core.eval_config import CoreEvalConfig
from sae_bench.evals.core.main import calculate_misc_metrics, run_evals, save_single_eval_result
from sae_bench.sae_bench_utils import get_eval_uuid, get_sae_bench_version, get_sae_lens_version
from sae_bench.sae_bench_utils.general_utils import load_and_format_sae
from sae_lens import SAE
from sae_lens.training.activations_store import ActivationsStore
from transformer_lens import HookedTransformer

from handover import arguments
from hooked import hooked

BATCH, N_BATCHES = 8, 2
MAX_DIFFERENCE = 1e-3
"Relative: SAEBench computes the lm with TransformerLens, we with transformers."

job, out = arguments(__doc__)
tokens = job.tokens(BATCH * N_BATCHES)
tokens = tokens[: len(tokens) // BATCH * BATCH]
n_batches = len(tokens) // BATCH

model = hooked(job, HookedTransformer)
sae = SAE.load_from_disk(job.export(out / "sae"))
_, sae, _ = load_and_format_sae(job.name, sae, "cpu")
store = ActivationsStore.from_sae(
    model,
    sae,
    dataset=Dataset.from_dict({"tokens": tokens.tolist()}),
    context_size=tokens.shape[1],
    store_batch_size_prompts=BATCH,
    total_tokens=1,
)
settings = CoreEvalConfig(
    model_name=job.lm_folder.name,
    batch_size_prompts=BATCH,
    n_eval_reconstruction_batches=n_batches,
    n_eval_sparsity_variance_batches=n_batches,
    dataset="held-out text of the run",
    context_size=tokens.shape[1],
    compute_kl=True,
    compute_ce_loss=True,
    compute_l2_norms=True,
    compute_sparsity_metrics=True,
    compute_variance_metrics=True,
    compute_featurewise_density_statistics=True,
    compute_featurewise_weight_based_metrics=True,
)
ids = model.tokenizer
special = {ids.pad_token_id, ids.eos_token_id, ids.bos_token_id} - {None}
metrics, features = run_evals(sae, store, model, settings, ignore_tokens=special)
metrics["misc_metrics"] = calculate_misc_metrics(features)
result = {"metrics": metrics, "feature_metrics": features, "eval_cfg": settings, "sae_set": "fovea", "sae_id": job.name}
where = str(out / "core.json")
save_single_eval_result(result, get_eval_uuid(), get_sae_lens_version(), get_sae_bench_version(), where, sae)

found = {name: value for group in metrics.values() for name, value in group.items()}

lm = job.lm()
counted = ~torch.isin(tokens, torch.tensor(sorted(special)))
latents = job.code(job.activations(lm, tokens)).latents
ours = {
    "ce_loss_without_sae": job.losses(lm, tokens, patched=False)[counted[:, :-1]].mean(),
    "ce_loss_with_sae": job.losses(lm, tokens, patched=True)[counted[:, :-1]].mean(),
    "l0": (latents[counted] != 0).float().sum(-1).mean(),
}
worst = 0.0
print(f"SAEBench core on {tokens.numel():,} held-out tokens, {out / 'core.json'}:")
for name, value in found.items():
    beside = f"   ours {float(ours[name]):.4f}" if name in ours else ""
    print(f"  {name:32s}{value:12.4f}{beside}")
    worst = max(worst, abs(value / float(ours[name]) - 1)) if name in ours else worst
print(f"largest relative difference between SAEBench's count and ours: {worst:.1e}")
if worst > MAX_DIFFERENCE:
    sys.exit(f"SAEBench does not count the same: allowed is {MAX_DIFFERENCE}")
