"""sparsify loads what fovea writes and computes the same.

    python examples/sparsify_load.py RUN JOB

Shows SparseCoder.load_from_disk of an exported job. sparsify holds topk SAEs whose pre-bias is their decoder bias, and
no stacks: give such a job. Tested with eai-sparsify 1.3.3.
"""

import torch
from sparsify import SparseCoder

from handover import Coded, arguments, compare

job, out = arguments(__doc__)
coder = SparseCoder.load_from_disk(job.export(out / "sae", layout="sparsify"))
lm = job.lm()
x = job.activations(lm, job.tokens(16)).flatten(0, 1)
values, indices, _ = coder.encode(x)
latents = torch.zeros(len(x), coder.num_latents).scatter(-1, indices, values)
compare("sparsify", Coded(latents, coder(x).sae_out), job.code(x))
