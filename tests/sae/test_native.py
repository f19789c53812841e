"""The C kernels against the torch path and the dense reference; and what happens where they cannot be had."""

import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from fovea.sae import native, native_build, select
from fovea.sae.base import SAEConfig, StepResult, StepState
from fovea.sae.batch_topk import BatchTopKConfig
from fovea.sae.encoder import Encoder
from fovea.sae.gated import GatedConfig
from fovea.sae.jumprelu import JumpReLUConfig
from fovea.sae.relu import ReLUConfig
from fovea.sae.select import dense_reference, select_batch_topk, select_topk
from fovea.sae.sparse import ByLatent, SparseCode, code_of, decode
from fovea.sae.topk import TopKConfig
from tests.sae.cases import generator

needs_kernels = pytest.mark.skipif(native_build.library() is None, reason="no C compiler `cc`: `apt install gcc`")

CONFIGS = {
    "topk": TopKConfig(d_sae=56, k=5),
    "batch_topk": BatchTopKConfig(d_sae=56, k=5),
    "jumprelu": JumpReLUConfig(d_sae=56, target_l0=3, threshold_init=1.5, bandwidth=0.3),
    "gated": GatedConfig(d_sae=56, l1=0.5),
    "gated, half open": GatedConfig(d_sae=137, l1=0.5, decoder_norm="free"),
    "relu": ReLUConfig(d_sae=56, l1=0.5),
}


@pytest.fixture(params=[1, 2])
def n_threads(request: pytest.FixtureRequest) -> Iterator[int]:
    before = torch.get_num_threads()
    torch.set_num_threads(request.param)
    yield request.param
    torch.set_num_threads(before)


def identity_code(pre: Tensor, k: int) -> SparseCode:
    return select_topk(torch.eye(len(pre)), Encoder(pre, torch.zeros(pre.shape[1]), "float32"), k).code


def random_code(seed: int, *, n: int, d_sae: int, share: float) -> SparseCode:
    tokens, latents = (torch.rand(n, d_sae, generator=generator(seed)) < share).nonzero(as_tuple=True)
    return code_of(tokens, latents, torch.rand(len(tokens), generator=generator(seed)), n_tokens=n, d_sae=d_sae)


def first_largest(pre: Tensor, k: int) -> Tensor:
    """The k largest positive values of each row; of equal ones the first column's."""
    order = torch.sort(-pre.double(), dim=1, stable=True).indices[:, :k]
    return torch.zeros_like(pre).scatter(1, order, pre.gather(1, order).relu())


@needs_kernels
@given(seed=st.integers(0, 2**31), n=st.integers(1, 30), d_sae=st.integers(1, 150), levels=st.integers(1, 300))
@settings(max_examples=80, deadline=None)
def test_topk_keeps_the_first_of_equal_values_and_only_positive_ones(
    seed: int, n: int, d_sae: int, levels: int
) -> None:
    pre = torch.randint(-levels, levels, (n, d_sae), generator=generator(seed)).float()
    k = 1 + seed % d_sae
    code = identity_code(pre, k)
    assert torch.equal(code.dense(), first_largest(pre, k))
    assert torch.equal(code.counts(), (code.dense() > 0).sum(dim=0))
    assert torch.equal(code.offsets.diff(), torch.bincount(code.tokens, minlength=n))


@needs_kernels
def test_topk_is_right_where_rows_differ_in_scale_and_candidates_overflow(n_threads: int) -> None:
    del n_threads
    pre = (
        torch.randn(64, 3000, generator=generator())
        * torch.logspace(-3, 3, 64)[torch.randperm(64, generator=generator()), None]
    )
    pre[7] = torch.arange(3000.0)  # every value displaces one before
    pre[8] = -1.0
    pre[9] = 1.0
    pre[10, 5] = float("nan")
    for k in (1, 31, 2999):
        slots = native.TopSlots(len(pre), k)
        slots.take(pre)
        found = SparseCode(*slots.entries(), pre.shape[1])
        assert torch.equal(found.dense(), first_largest(pre.nan_to_num(-1.0), k))


@needs_kernels
@given(seed=st.integers(0, 2**31), n=st.integers(1, 20), d_sae=st.integers(1, 150), is_per_column=st.booleans())
@settings(max_examples=60, deadline=None)
def test_a_bias_is_added_before_the_choice(seed: int, n: int, d_sae: int, is_per_column: bool) -> None:
    product = torch.randint(-50, 50, (n, d_sae), generator=generator(seed)).float()
    bias = torch.randint(-50, 50, (d_sae,), generator=generator(seed + 1)).float()
    floor = torch.randint(-50, 50, (d_sae,) if is_per_column else (), generator=generator(seed + 2)).float()
    pre, k = product + bias, 1 + seed % d_sae
    slots = native.TopSlots(n, k)
    slots.take(product, bias)
    assert torch.equal(SparseCode(*slots.entries(), d_sae).dense(), first_largest(pre, k))
    found, expected = (
        native.above(product, floor, first_token=3, bias=bias),
        native.above(pre, floor, first_token=3),
    )
    assert all(torch.equal(a, b) for a, b in zip(found, expected, strict=True))
    assert torch.equal(found.values, pre[pre > floor])


@needs_kernels
@given(
    seed=st.integers(0, 2**31),
    n=st.integers(1, 40),
    d_in=st.integers(1, 200),
    d_sae=st.integers(1, 30),
    share=st.sampled_from([0.0, 0.05, 0.5, 1.0]),
)
@settings(max_examples=60, deadline=None)
def test_products_equal_those_of_the_torch_path(seed: int, n: int, d_in: int, d_sae: int, share: float) -> None:
    code = random_code(seed, n=n, d_sae=d_sae, share=share)
    W_dec = torch.randn(d_sae, d_in, generator=generator(seed + 1))
    rows = torch.randn(n, d_in, generator=generator(seed + 2))
    latents = code.dense().double()
    for ours, truth in (
        (decode(code, W_dec), latents @ W_dec.double()),
        (ByLatent(code).gather(code.values, rows), latents.T @ rows.double()),
        (ByLatent(code).sums(code.values), latents.sum(dim=0)),
        (
            native.sampled_product(code.offsets, code.latents, left=rows, rows=W_dec),
            (rows.double() @ W_dec.double().T)[code.tokens, code.latents],
        ),
    ):
        torch.testing.assert_close(ours.double(), truth, rtol=1e-5, atol=1e-4)


def one_step(config: SAEConfig, *, d_in: int, n_dead: int, seed: int = 3) -> tuple[StepResult, list[Tensor]]:
    sae = config.build(d_in, generator=generator(seed))
    x, target = (torch.randn(90, d_in, generator=generator(seed + each)) * 2 for each in (1, 2))
    sae.set_output_bias(torch.linspace(-1, 1, d_in))
    own = dict(sae.named_parameters())
    if "b_enc" in own:
        sae.set_tensors({"b_enc": torch.linspace(-1.4, -1.0, sae.d_sae)})
    if "b_gate" in own:
        height = -3.0 if sae.d_sae == 56 else 0.0
        steps = torch.linspace(-0.4, 0.4, sae.d_sae)
        sae.set_tensors({"b_gate": height + steps, "b_mag": -steps, "r_mag": steps / 2})
    dead = torch.arange(sae.d_sae) < n_dead
    result = sae.loss(x, target, StepState(1.0, dead))
    return result, list(torch.autograd.grad(result.terms.total, list(sae.parameters())))


@needs_kernels
@pytest.mark.parametrize("n_dead", [0, 5, 40])
@pytest.mark.parametrize("d_in", [6, 40, 101])
@pytest.mark.parametrize("name", CONFIGS)
def test_a_step_has_the_terms_and_gradients_of_both_references(name: str, d_in: int, n_dead: int) -> None:
    result, gradients = one_step(CONFIGS[name], d_in=d_in, n_dead=n_dead)
    for reference in (native.torch_path, dense_reference):
        with reference():
            other, others = one_step(CONFIGS[name], d_in=d_in, n_dead=n_dead)
        assert result.terms.terms.keys() == other.terms.terms.keys()
        assert torch.equal(result.fired, other.fired)
        assert result.l0 == other.l0
        for term, value in result.terms.terms.items():
            torch.testing.assert_close(value, other.terms.terms[term], rtol=1e-5, atol=1e-6)
        for ours, theirs in zip([result.x_hat, *gradients], [other.x_hat, *others], strict=True):
            torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-5 * max(1.0, theirs.abs().max().item()))


@needs_kernels
@pytest.mark.parametrize("name", ["topk", "batch_topk"])
def test_one_and_two_threads_give_the_same_bytes(name: str) -> None:
    """Of all that the kernels compute; the encoder product is made once, as torch splits it by threads."""
    pre = torch.randn(700, 56, generator=generator())
    W_dec, target = torch.randn(56, 70, generator=generator(1)), torch.randn(700, 70, generator=generator(2))
    choose = select_topk if name == "topk" else select_batch_topk
    found: list[list[Tensor]] = []
    for threads in (1, 2):
        before = torch.get_num_threads()
        torch.set_num_threads(threads)
        code = choose(torch.eye(700), Encoder(pre, torch.zeros(56), "float32"), 5).code
        errors = native.rebuild(native.Entries(*code[:4]), rows=W_dec, bias=W_dec[0], target=target)
        by_latent = ByLatent(code)
        sums = [by_latent.gather(errors.inner, errors.error), by_latent.sums(errors.inner)]
        found.append([*code[:4], *errors, *sums])
        torch.set_num_threads(before)
    for one, two in zip(*found, strict=True):
        assert torch.equal(one, two)


@needs_kernels
def test_the_torch_path_is_taken_on_request_and_for_other_dtypes() -> None:
    assert native.usable(torch.zeros(1))
    assert not native.usable(torch.zeros(1, dtype=torch.float64))
    assert not native.usable(torch.zeros(1, device="meta"))
    with native.torch_path():
        assert not native.usable(torch.zeros(1))
        assert isinstance(
            select._tops(torch.zeros(2, 3), Encoder(torch.zeros(3, 4), torch.zeros(4), "float32"), 2), select._Tops
        )


STEP = """
import logging, torch
logging.basicConfig(level=logging.INFO)
from fovea.sae import native
from fovea.sae.base import StepState
from fovea.sae.topk import TopKConfig
source = torch.Generator().manual_seed(0)
sae = TopKConfig(d_sae=40, k=3).build(12, generator=source)
x = torch.randn(50, 12, generator=source)
loss = sae.loss(x, x, StepState(1.0, torch.zeros(40, dtype=torch.bool))).terms.total
loss.backward()
print(native.usable(x), round(float(loss), 3))
"""


def step_in_a_process(**environment: str) -> subprocess.CompletedProcess[str]:
    whole = {**os.environ, "PYTHONPATH": str(native_build.SOURCE.parents[2]), **environment}
    return subprocess.run(
        [sys.executable, "-c", STEP], env=whole, capture_output=True, text=True, check=True, timeout=200
    )


@needs_kernels
@pytest.mark.slow
def test_without_a_compiler_or_a_cache_or_by_wish_the_torch_path_stands(tmp_path: Path) -> None:
    usual = step_in_a_process(FOVEA_CACHE=str(tmp_path / "cache"))
    usable, loss = usual.stdout.split()
    assert usable == "True"
    (tmp_path / "file").write_text("not a folder")
    broken = tmp_path / "cc"
    broken.write_text("#!/bin/sh\nexit 1\n")
    broken.chmod(0o755)
    for environment, said in (
        ({"PATH": str(tmp_path / "nothing")}, "no C compiler"),
        ({"CC": str(broken)}, "returned non-zero exit status 1"),
        ({"FOVEA_CACHE": str(tmp_path / "file")}, "Not a directory"),
        ({"FOVEA_NATIVE": "0"}, ""),
    ):
        done = step_in_a_process(**{"FOVEA_CACHE": str(tmp_path / "other"), **environment})
        assert done.stdout.split() == ["False", loss]
        assert said in done.stderr


@needs_kernels
@pytest.mark.slow
def test_a_damaged_library_is_replaced_and_not_loaded(tmp_path: Path) -> None:
    native_build.build(tmp_path)
    (path,) = tmp_path.glob("*.so")
    whole = path.read_bytes()
    damaged = tmp_path / "damaged"
    damaged.mkdir()
    for data in (whole[: len(whole) // 2], b"", whole[:-1] + bytes([whole[-1] ^ 1])):
        (damaged / path.name).write_bytes(data)
        assert not native_build._is_sound(damaged / path.name)
        native_build.build(damaged)
        assert any(native_build._is_sound(each) for each in damaged.glob("*.so"))


@needs_kernels
@pytest.mark.slow
def test_processes_may_build_side_by_side(tmp_path: Path) -> None:
    whole = {**os.environ, "PYTHONPATH": str(native_build.SOURCE.parents[2]), "FOVEA_CACHE": str(tmp_path)}
    started = [
        subprocess.Popen([sys.executable, "-c", STEP], env=whole, stdout=subprocess.PIPE, text=True) for _ in range(3)
    ]
    outputs = [process.communicate(timeout=200)[0] for process in started]
    assert {output.split()[0] for output in outputs} == {"True"}
    assert len({output for output in outputs}) == 1
    left = list((tmp_path / "native").iterdir())
    assert left
    assert all(path.suffix == ".so" and native_build._is_sound(path) for path in left)


@needs_kernels
def test_the_kernels_share_the_openmp_of_torch() -> None:
    """Two pools of threads in one process would fight over the processor."""
    mapped = {line.split()[-1] for line in native_build._maps() if "libgomp" in line or "libomp" in line}
    assert len({os.path.realpath(path) for path in mapped}) == 1
    assert shutil.which("cc")
