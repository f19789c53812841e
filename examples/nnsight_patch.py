"""An SAE in a model with nnsight, in five lines.

    python examples/nnsight_patch.py RUN JOB

Shows the loss on held-out text with x_hat in place of x, and that the logits are those of `run.patched(lm, job)`.
Tested with nnsight 0.8.1 and transformers 5.23.0.
"""

import sys

import torch
from nnsight import TransformersModel

import fovea
from fovea.lm.load import load_lm
from handover import MAX_DIFFERENCE, arguments

job, out = arguments(__doc__)
sae = fovea.load_sae(job.export(out / "sae")).sae
reference = load_lm(str(job.lm_folder), dtype="float32")
lm = TransformersModel(reference.model, task="text-generation", tokenizer=reference.tokenizer)
tokens = job.tokens(8)

# The five lines. Activations over ten times as long as the others, like the first of most texts, stay as they are.
with lm.trace(tokens):
    layer = lm.model.layers[job.hook_point.layer]
    norm = layer.output.norm(dim=-1, keepdim=True)
    layer.output = torch.where(norm > 10 * norm.median(), layer.output, sae(layer.output))
    logits = lm.output.logits.save()

with job.run.patched(reference, job.name):
    expected = reference.model(tokens).logits
difference = float((logits - expected).abs().max() / expected.abs().max())
print(f"logits against run.patched: largest difference {difference:.1e} of the largest logit")
if difference > MAX_DIFFERENCE:
    sys.exit(f"the patches differ: allowed is {MAX_DIFFERENCE:.0e}")
