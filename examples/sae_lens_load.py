"""sae-lens loads what fovea writes and computes the same.

    python examples/sae_lens_load.py RUN JOB

Shows SAE.load_from_disk of the exported job (of g and the job as one SAE, if it adds to g), and the loss of a
HookedSAETransformer with it against that of a plain hook. Tested with sae-lens 6.54.12.
"""

import sys

from sae_lens import SAE, HookedSAETransformer

from handover import Coded, arguments, compare
from hooked import hooked

MAX_LOSS_DIFFERENCE = 1e-3
"Nats: TransformerLens computes the lm in another order than transformers."

job, out = arguments(__doc__)
sae = SAE.load_from_disk(job.export(out / "sae"))
lm = job.lm()
tokens = job.tokens(8)
x = job.activations(lm, tokens)
compare("sae-lens", Coded(sae.encode(x), sae(x)), job.code(x))

model = hooked(job, HookedSAETransformer)
theirs = float(model.run_with_saes(tokens, saes=[sae], return_type="loss"))
ours = float(job.losses(lm, tokens, patched=True).mean())
print(f"loss with x_hat at every position: HookedSAETransformer {theirs:.4f}, a plain hook {ours:.4f} nats")
if abs(theirs - ours) > MAX_LOSS_DIFFERENCE:
    sys.exit(f"the losses differ: allowed is {MAX_LOSS_DIFFERENCE} nats")
