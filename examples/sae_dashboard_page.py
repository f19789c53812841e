"""SAEDashboard's page of the features of an SAE that fovea trained.

    python examples/sae_dashboard_page.py RUN JOB OUT

Shows SaeVisRunner on held-out text with the run's lm, OUT/features.html (its page, which fetches its scripts from the
net when opened) and OUT/features.json, and that the activations in them are ours.
Tested with sae-dashboard 0.8.0 and sae-lens 6.54.12.

To read its page: densities are of all positions and rounded to 3 decimals of a percent.
"""

import sys

from sae_dashboard.data_writing_fns import save_feature_centric_vis
from sae_dashboard.sae_vis_data import SaeVisConfig
from sae_dashboard.sae_vis_runner import SaeVisRunner
from sae_lens import SAE, HookedSAETransformer

from handover import arguments
from hooked import hooked

N_FEATURES = 8
BEFORE, AFTER = 5, 5
"Its default: firings with fewer tokens before (and one more) or after them in the context are counted, but not shown."
MAX_DIFFERENCE = 1e-3
"Relative: its activations come from the lm in TransformerLens, ours from the lm in transformers."

job, out = arguments(__doc__)
sae = SAE.load_from_disk(job.export(out / "sae"))
tokens = job.tokens(16)
latents = job.code(job.activations(job.lm(), tokens)).latents
latents[:, 0] = 0  # the attention sink, which the page leaves out as well
features = latents.flatten(0, 1).count_nonzero(0).topk(N_FEATURES).indices.tolist()

lm = hooked(job, HookedSAETransformer)
lengths = sae.W_dec.norm(dim=-1)  # the runner folds them into the activations
settings = SaeVisConfig(
    hook_point=str(job.hook_point),
    features=features,
    minibatch_size_features=N_FEATURES,
    minibatch_size_tokens=8,
    ignore_positions=[0],
    device="cpu",
)
page = SaeVisRunner(settings).run(encoder=sae, model=lm, tokens=tokens)
save_feature_centric_vis(page, out / "features.html")
page.save_json(out / "features.json")

worst = 0.0
for index in features:
    shown = page.feature_data_dict[index].sequence_data[0].seq_data[0].feat_acts[BEFORE]
    ours = float(latents[:, BEFORE + 1 : -AFTER, index].max() * lengths[index])
    worst = max(worst, abs(shown / ours - 1))
    density = float((latents[..., index] > 0).float().mean())
    title = page.feature_data_dict[index].acts_histogram_data.title.partition("<br>")[2]
    print(f"feature {index:5d}: largest activation {shown:.4f}, ours {ours:.4f}; {title.lower()}, ours {density:.3%}")
print(f"{out / 'features.html'}: {N_FEATURES} features; largest relative difference of an activation {worst:.1e}")
if worst > MAX_DIFFERENCE:
    sys.exit(f"SAEDashboard shows other activations: allowed is {MAX_DIFFERENCE}")
