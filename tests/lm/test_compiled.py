"""The lm as compiled code: the same numbers to rounding, the same bytes in every process, keys of their own."""

from collections.abc import Iterator

import pytest
import torch

from fovea.errors import ConfigError, ModelError
from fovea.experiment.config import LMConfig
from fovea.lm.compiled import CompiledLayers
from fovea.lm.hookpoint import SITES, HookPoint
from fovea.lm.model import LM
from lm import tiny


def compiled_lm(family: str = "llama") -> LM:
    return LM(tiny.seeded(tiny.FAMILIES[family]()), tiny.tokenizer(), name=f"tiny {family}", compiled=True)


@pytest.fixture
def forgetful() -> Iterator[None]:
    """Code compiled in a test is that test's alone, as in a process of its own."""
    torch.compiler.reset()
    yield
    torch.compiler.reset()


def test_it_is_off_unless_asked_for():
    assert LMConfig().compile is False
    assert tiny.lm("llama").computation == "torch.float32 on cpu"


def test_compiled_activations_have_keys_of_their_own():
    assert compiled_lm().computation == "torch.float32 on cpu, compiled"


def test_without_a_compiler_it_is_refused_before_anything_runs(monkeypatch):
    monkeypatch.setenv("CXX", "no-such-compiler")
    with pytest.raises(
        ConfigError, match=r"needs a C\+\+ compiler, but 'no-such-compiler' is not on the path; install"
    ):
        compiled_lm()


def test_a_layer_that_cannot_be_compiled_is_refused_with_the_way_out():
    lm = tiny.lm("llama")

    def fails(*_: object, **__: object) -> None:
        raise torch._dynamo.exc.Unsupported("no such operation")

    layers = CompiledLayers(lm._layers, name="tiny llama", device=lm.device)
    with pytest.raises(ModelError, match=r"cannot be compiled here \(no such operation\); set lm.compile = false"):  # noqa: SIM117
        with layers.stand_in():
            fails()


def test_outside_its_context_the_plain_layers_run():
    lm = compiled_lm()
    layer = lm._layers[0].layer
    assert lm._compiled is not None
    with lm._compiled.stand_in(but=[lm._layers[1].layer]):
        assert "forward" in vars(layer)
        assert "forward" not in vars(lm._layers[1].layer)
    assert "forward" not in vars(layer)


@pytest.mark.slow
@pytest.mark.usefixtures("forgetful")
@pytest.mark.filterwarnings("ignore")  # what torch's compiler warns of while it works is not about this code
@pytest.mark.parametrize("family", ["llama", "gpt_neox_parallel", "gemma2"])
def test_compiled_layers_give_the_same_numbers_to_rounding(family):
    plain, compiled, tokens = tiny.lm(family), compiled_lm(family), tiny.tokens()
    for site in SITES if family == "llama" else ("resid_post",):
        hook_point = HookPoint(1, site)
        prefix, expected = compiled.prefix(tokens, hook_point), plain.prefix(tokens, hook_point)
        torch.testing.assert_close(prefix.x, expected.x, rtol=1e-4, atol=1e-5)
        assert torch.equal(prefix.x, compiled.activations(tokens, hook_point))
        hidden, wanted = compiled.resume(prefix, 0.5 * prefix.x), plain.resume(expected, 0.5 * expected.x)
        torch.testing.assert_close(hidden, wanted, rtol=1e-3, atol=1e-4)


@pytest.mark.slow
@pytest.mark.usefixtures("forgetful")
@pytest.mark.filterwarnings("ignore")  # what torch's compiler warns of while it works is not about this code
def test_what_a_batch_gives_does_not_depend_on_the_batches_before_it():
    hook_point, shapes = HookPoint(1, "resid_post"), [(4, 11), (3, 11), (1, 11), (2, 7)]
    batches = [tiny.tokens(batch=batch, pos=pos) for batch, pos in shapes]
    lm = compiled_lm()
    first = [lm.activations(batch, hook_point) for batch in batches]
    torch.compiler.reset()  # as a run that goes on in another process, where the last batch comes first
    lm = compiled_lm()
    again = [lm.activations(batch, hook_point) for batch in reversed(batches)]
    for one, other in zip(first, reversed(again), strict=True):
        assert torch.equal(one, other)
