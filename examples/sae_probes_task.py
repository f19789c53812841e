"""A k-sparse probing task of sae-probes on an SAE that fovea trained.

    python examples/sae_probes_task.py RUN JOB OUT

Shows `run_sae_evals` on a data set that the package ships (any other: change DATASET), with the run's lm in place of a
download: test AUC of probes on the 1, 4 and 16 best latents, their json in OUT/results, and that the latents that are
probed are ours. Tested with sae-probes 0.4.2 and sae-lens 6.54.12.
"""

import json

import torch
from sae_lens import SAE
from sae_probes import run_sae_evals
from sae_probes.generate_model_activations import ensure_dataset_activations
from transformer_lens import HookedTransformer

from handover import Coded, arguments, compare
from hooked import hooked

DATASET, KS = "119_us_state_TX", [1, 4, 16]
"Is a place in Texas: one of its smallest data sets. 72_gene-expression is nearer to biology, and longer."

job, out = arguments(__doc__)
sae = SAE.load_from_disk(job.export(out / "sae"))
hook_name, lm_name, cache = str(job.hook_point), job.lm_folder.name, out / "activations"

# With the activations in its cache, sae-probes never asks for the lm by name.
lm = hooked(job, HookedTransformer)
ensure_dataset_activations(
    lm_name, [DATASET], [hook_name], model_cache_path=cache, device="cpu", max_seq_len=lm.cfg.n_ctx, model=lm
)
with torch.enable_grad():
    run_sae_evals(
        sae=sae,
        model_name=lm_name,
        hook_name=hook_name,
        reg_type="l2",
        setting="normal",
        ks=KS,
        datasets=[DATASET],
        results_path=out / "results",
        model_cache_path=cache,
        device="cpu",
    )

x = torch.load(cache / f"model_activations_{lm_name}" / f"{DATASET}_{hook_name}.pt", weights_only=True)
compare("sae-lens, on sae-probes' activations,", Coded(sae.encode(x), sae(x)), job.code(x))
(path,) = (out / "results").rglob(f"{DATASET}*.json")
for result in json.loads(path.read_text()):
    print(f"{DATASET}: probe on {result['k']:2d} latents: test AUC {result['test_auc']:.3f}")
