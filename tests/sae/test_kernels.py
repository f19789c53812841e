"""The Triton kernels in Triton's interpreter, in a process of their own: values and gradients of the torch path."""

import importlib.util
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from fovea.sae import kernels

ROOT = Path(__file__).resolve().parents[2]

CHECK = """
import torch
from fovea.sae import kernels, native
from fovea.sae.sparse import Parts, SparseCode, code_of, dense_reconstruct, reconstruct

assert kernels.usable(torch.zeros(1))
off = native.torch_path()
off.__enter__()  # else the processor's own kernels come first
source = torch.Generator().manual_seed(0)
calls = []
for name in ("gather", "sampled_product"):
    def counted(*arguments, _name=name, _kernel=getattr(kernels, name), **named):
        calls.append(_name)
        return _kernel(*arguments, **named)
    setattr(kernels, name, counted)
for n, d_sae, d_in, share in ((9, 21, 7, 0.2), (5, 17, 40, 0.0), (33, 12, 600, 0.3)):
    tokens, latents = (torch.rand(n, d_sae, generator=source) < share).nonzero(as_tuple=True)
    shapes = ((d_in, d_sae), (d_sae,), (d_sae, d_in), (d_in,))
    leaves = [torch.randn(shape, generator=source, requires_grad=True) for shape in shapes]
    parts, x = Parts(*leaves), torch.randn(n, d_in, generator=source)
    pre = ((x @ parts.W_enc + parts.b_enc)[tokens, latents]).detach()
    firing = pre > 0
    code = code_of(tokens[firing], latents[firing], pre[firing], n_tokens=n, d_sae=d_sae)
    weight = torch.randn(n, d_in, generator=source)
    fast, slow = (function(code, x, parts) for function in (reconstruct, dense_reconstruct))
    torch.testing.assert_close(fast, slow, rtol=1e-5, atol=1e-5 * (1 + slow.abs().max().item()))
    both = [torch.autograd.grad((x_hat * weight).sum(), leaves) for x_hat in (fast, slow)]
    for ours, truth in zip(*both, strict=True):
        torch.testing.assert_close(ours, truth, rtol=1e-5, atol=1e-5 * (1 + truth.abs().max().item()))
assert calls.count("gather") == 9 and calls.count("sampled_product") == 3, calls
"""


@pytest.mark.skipif(
    importlib.util.find_spec("triton") is None,
    reason="triton is not installed: `.venv/bin/pip install -e .[gpu]`",
)
@pytest.mark.slow
def test_kernels_equal_the_torch_path() -> None:
    path = os.pathsep.join([str(ROOT / "src"), os.environ.get("PYTHONPATH", "")])
    environment = {**os.environ, "TRITON_INTERPRET": "1", "PYTHONPATH": path}
    done = subprocess.run([sys.executable, "-c", CHECK], env=environment, capture_output=True, text=True, timeout=250)
    assert done.returncode == 0, done.stderr


def test_the_torch_path_stands_where_triton_cannot_run() -> None:
    assert kernels.interpreted() or not kernels.usable(torch.zeros(1))
