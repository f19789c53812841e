"""An SAE in a model, with torch's own hooks, in five lines.

    python examples/plain_hooks.py RUN JOB

Shows the loss on held-out text with x_hat in place of x, and that the logits are those of `run.patched(lm, job)`.
Tested with torch 2.13.0 and transformers 5.23.0.
"""

import sys

import torch

import fovea
from fovea.lm.load import load_lm
from handover import MAX_DIFFERENCE, arguments

job, out = arguments(__doc__)
sae = fovea.load_sae(job.export(out / "sae")).sae
lm = job.lm()
tokens = job.tokens(8)
plain = lm(tokens, labels=tokens)


# The five lines. Activations over ten times as long as the others, like the first of most texts, stay as they are.
def patch(_module, _inputs, x):
    norm = x.norm(dim=-1, keepdim=True)
    return torch.where(norm > 10 * norm.median(), x, sae(x))


handle = lm.get_submodule(job.hook_point.hugging_face()).register_forward_hook(patch)

patched = lm(tokens, labels=tokens)
handle.remove()

reference = load_lm(str(job.lm_folder), dtype="float32")
with job.run.patched(reference, job.name):
    expected = reference.model(tokens).logits
difference = float((patched.logits - expected).abs().max() / expected.abs().max())
print(f"loss on {tokens.numel():,} held-out tokens: {plain.loss:.4f} nats, patched {patched.loss:.4f}")
print(f"logits against run.patched: largest difference {difference:.1e} of the largest logit")
if difference > MAX_DIFFERENCE:
    sys.exit(f"the patches differ: allowed is {MAX_DIFFERENCE:.0e}")
