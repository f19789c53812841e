"""SAEBench's core evaluation of an SAE that fovea trained.

    python examples/saebench_core.py RUN JOB OUT

Shows `multiple_evals` with the run's lm and held-out tokens in place of its downloads, its json in OUT/core, and that
its losses and L0 are what we count on the same tokens. Tested with sae-bench 0.6.0 and sae-lens 6.54.12.

To read its numbers: the SAE is applied at position 0 too, where most lms have an attention sink that no SAE is trained
on, and the 0 of its scores is the lm with zeros in place of x. fovea's own loss recovered does neither.
"""

import sys

import torch
from datasets import Dataset
from sae_bench.evals.core.main import multiple_evals
from sae_lens import SAE
from transformers import AutoModelForCausalLM, AutoTokenizer

from handover import arguments

BATCH, N_BATCHES = 8, 2
MAX_DIFFERENCE = 1e-3
"Relative: SAEBench computes the lm with TransformerLens, we with transformers."

job, out = arguments(__doc__)
tokens = job.tokens(BATCH * N_BATCHES)
tokens = tokens[: len(tokens) // BATCH * BATCH]
n_batches = len(tokens) // BATCH
text = out / "text"
text.mkdir(parents=True)
Dataset.from_dict({"tokens": tokens.tolist()}).to_parquet(str(text / "train.parquet"))

sae = SAE.load_from_disk(job.export(out / "sae"))
sae.cfg.metadata.model_name = str(job.lm_folder)
results = multiple_evals(
    selected_saes=[(job.name, sae)],
    n_eval_reconstruction_batches=n_batches,
    n_eval_sparsity_variance_batches=n_batches,
    eval_batch_size_prompts=BATCH,
    compute_featurewise_density_statistics=True,
    compute_featurewise_weight_based_metrics=True,
    dataset=str(text),
    context_size=tokens.shape[1],
    output_folder=str(out / "core"),
    device="cpu",
)
if not results:
    sys.exit("SAEBench caught an error and went on without a result; its log above says which")
found = {name: value for group in results[0]["metrics"].values() for name, value in group.items()}

lm = AutoModelForCausalLM.from_pretrained(job.lm_folder, dtype=torch.float32)
ids = AutoTokenizer.from_pretrained(job.lm_folder)
special = torch.tensor([i for i in (ids.pad_token_id, ids.eos_token_id, ids.bos_token_id) if i is not None])
counted = ~torch.isin(tokens, special)
latents = job.code(job.activations(lm, tokens)).latents
ours = {
    "ce_loss_without_sae": job.losses(lm, tokens, patched=False)[counted[:, :-1]].mean(),
    "ce_loss_with_sae": job.losses(lm, tokens, patched=True)[counted[:, :-1]].mean(),
    "l0": (latents[counted] != 0).float().sum(-1).mean(),
}
worst = 0.0
print(f"SAEBench core on {tokens.numel():,} held-out tokens, {out / 'core'}:")
for name, value in found.items():
    beside = f"   ours {float(ours[name]):.4f}" if name in ours else ""
    print(f"  {name:32s}{value:12.4f}{beside}")
    worst = max(worst, abs(value / float(ours[name]) - 1)) if name in ours else worst
print(f"largest relative difference between SAEBench's count and ours: {worst:.1e}")
if worst > MAX_DIFFERENCE:
    sys.exit(f"SAEBench does not count the same: allowed is {MAX_DIFFERENCE}")
