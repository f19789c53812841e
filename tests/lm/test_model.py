"""LM on tiny random models of every family: stop and resume equal the full forward, and skipped layers do not run."""

import gc
import weakref
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager

import pytest
import torch
from torch import nn

from fovea.errors import ModelError
from fovea.lm.hookpoint import SITES, HookPoint
from fovea.lm.model import LM
from lm import tiny

CASES = [
    (family, site) for family in tiny.FAMILIES for site in SITES if family not in tiny.PARALLEL or site != "resid_mid"
]
LAYERS = range(tiny.N_LAYERS)


def full(lm: LM, tokens: torch.Tensor) -> torch.Tensor:
    """Logits of the untouched Hugging Face model, float32."""
    with torch.no_grad():
        return lm.model(tokens, use_cache=False).logits.float()


def resumed(lm: LM, hook_point: HookPoint, tokens: torch.Tensor) -> torch.Tensor:
    prefix = lm.prefix(tokens, hook_point)
    return logits(lm, lm.resume(prefix, prefix.x))


def logits(lm: LM, hidden: torch.Tensor) -> torch.Tensor:
    return lm.logits(hidden.flatten(0, 1)).unflatten(0, hidden.shape[:2])


def noise_like(x: torch.Tensor) -> torch.Tensor:
    return torch.randn(x.shape, generator=torch.Generator().manual_seed(5))


@contextmanager
def counted(modules: dict[str, nn.Module]) -> Iterator[dict[str, int]]:
    """Calls of each module's class forward, which overrides on the instance do not reach."""
    calls = dict.fromkeys(modules, 0)
    with ExitStack() as stack:
        for name, module in modules.items():
            forward = module.forward

            def count(*args, name=name, forward=forward, **kwargs):
                calls[name] += 1
                return forward(*args, **kwargs)

            module.forward = count
            stack.callback(delattr, module, "forward")
        yield calls


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize(("family", "site"), CASES)
def test_stopping_and_resuming_equals_the_full_forward_to_the_bit(family, site, dtype):
    lm, tokens = tiny.lm(family, dtype=dtype), tiny.tokens()
    expected = full(lm, tokens)
    for layer in LAYERS:
        assert torch.equal(resumed(lm, HookPoint(layer, site), tokens), expected), layer


@pytest.mark.parametrize(("family", "site"), CASES)
def test_patching_equals_resuming_with_the_replacement(family, site):
    lm, tokens = tiny.lm(family), tiny.tokens()
    for layer in LAYERS:
        hook_point = HookPoint(layer, site)
        prefix = lm.prefix(tokens, hook_point)
        hidden = lm.resume(prefix, prefix.x + noise_like(prefix.x))
        with lm.patched(hook_point, lambda x: x + noise_like(x)):
            patched = full(lm, tokens)
        assert torch.equal(logits(lm, hidden), patched)
        assert not torch.allclose(patched, full(lm, tokens))


@pytest.mark.parametrize(("family", "site"), CASES)
def test_a_patch_with_the_identity_changes_no_bit_in_bfloat16(family, site):
    lm, tokens = tiny.lm(family, dtype=torch.bfloat16), tiny.tokens()
    expected = full(lm, tokens)
    with lm.patched(HookPoint(1, site), lambda x: x):
        assert torch.equal(full(lm, tokens), expected)


@pytest.mark.parametrize("family", tiny.FAMILIES)
def test_activations_are_what_transformers_calls_hidden_states(family):
    lm, tokens = tiny.lm(family), tiny.tokens()
    with torch.no_grad():
        hidden_states = lm.model(tokens, output_hidden_states=True, use_cache=False).hidden_states
    for layer in LAYERS:
        assert torch.equal(lm.activations(tokens, HookPoint(layer, "resid_pre")), hidden_states[layer])
    for layer in LAYERS[:-1]:  # the last of hidden_states is after the final norm
        assert torch.equal(lm.activations(tokens, HookPoint(layer, "resid_post")), hidden_states[layer + 1])


@pytest.mark.parametrize("family", tiny.FAMILIES)
def test_the_sites_of_a_layer_add_up(family):
    lm, tokens = tiny.lm(family), tiny.tokens()
    x = {site: lm.activations(tokens, HookPoint(1, site)) for site in SITES if (family, site) in CASES}
    torch.testing.assert_close(x["resid_pre"] + x["attn_out"] + x["mlp_out"], x["resid_post"])
    if "resid_mid" in x:
        torch.testing.assert_close(x["resid_pre"] + x["attn_out"], x["resid_mid"])


@pytest.mark.parametrize(("path", "family", "site"), [
    ("model.layers.1.self_attn", "llama", "attn_out"),
    ("model.layers.1.mlp", "qwen3", "mlp_out"),
    ("transformer.h.1.attn", "gpt2", "attn_out"),
    ("gpt_neox.layers.1.attention", "gpt_neox_parallel", "attn_out"),
    ("model.layers.1.post_attention_layernorm", "gemma2", "attn_out"),
    ("model.layers.1.post_feedforward_layernorm", "gemma3", "mlp_out"),
])  # fmt: skip
def test_activations_are_what_a_plain_forward_hook_sees(path, family, site):
    lm, tokens = tiny.lm(family), tiny.tokens()
    seen = []
    handle = lm.model.get_submodule(path).register_forward_hook(lambda *call: seen.append(call[-1]))
    full(lm, tokens)
    handle.remove()
    expected = seen[0][0] if isinstance(seen[0], tuple) else seen[0]
    assert torch.equal(lm.activations(tokens, HookPoint(1, site)), expected)


@pytest.mark.parametrize(("family", "site"), CASES)
def test_layers_after_the_hook_do_not_run_in_activations(family, site):
    lm, tokens = tiny.lm(family), tiny.tokens()
    layers = lm.model.get_submodule(lm.layers_path)
    modules = {str(i): layer for i, layer in enumerate(layers)} | {"head": lm.model.get_output_embeddings()}
    with counted(modules) as calls:
        lm.activations(tokens, HookPoint(1, site))
    assert calls == {"0": 1, "1": int(site != "resid_pre"), "2": 0, "head": 0}


@pytest.mark.parametrize(("family", "site"), CASES)
def test_layers_before_the_hook_and_the_head_do_not_run_in_resume(family, site):
    lm, tokens = tiny.lm(family), tiny.tokens()
    prefix = lm.prefix(tokens, HookPoint(1, site))
    layers = lm.model.get_submodule(lm.layers_path)
    modules = {str(i): layer for i, layer in enumerate(layers)} | {"head": lm.model.get_output_embeddings()}
    attention = {name: child for name, child in layers[1].named_children() if "attn" in name or name == "attention"}
    with counted(modules | attention) as calls:
        lm.resume(prefix, prefix.x)
    runs_layer, runs_attention = int(site != "resid_post"), int(site == "resid_pre")
    assert calls == {"0": 0, "1": runs_layer, "2": 1, "head": 0} | dict.fromkeys(attention, runs_attention)


def test_resuming_after_the_last_layer_is_the_final_norm_alone():
    lm, tokens = tiny.lm("llama"), tiny.tokens()
    prefix = lm.prefix(tokens, HookPoint(2, "resid_post"))
    layers = {str(i): layer for i, layer in enumerate(lm.model.model.layers)}
    with counted(layers) as calls:
        hidden = lm.resume(prefix, prefix.x)
    assert not any(calls.values())
    assert torch.equal(hidden, lm.model.model.norm(prefix.x))


def test_a_prefix_holds_only_what_its_site_needs():
    lm, tokens = tiny.lm("llama"), tiny.tokens()
    held = {site: lm.prefix(tokens, HookPoint(1, site)) for site in SITES}
    assert {site for site in SITES if held[site].resid_pre is not None} == {"attn_out", "mlp_out"}
    assert {site for site in SITES if held[site].attn_out is not None} == {"mlp_out"}


def test_x_is_an_exact_float32_copy_of_the_compute_dtype():
    lm, tokens = tiny.lm("llama", dtype=torch.bfloat16), tiny.tokens()
    x = lm.activations(tokens, HookPoint(1, "resid_post"))
    assert x.dtype == torch.float32
    assert torch.equal(x, x.bfloat16().float())
    assert not x.requires_grad
    assert not x.is_inference()


def test_results_do_not_depend_on_what_ran_before():
    lm, tokens = tiny.lm("gemma2"), tiny.tokens()
    before = lm.model.state_dict(), full(lm, tokens)
    for site in SITES:
        prefix = lm.prefix(tokens, HookPoint(1, site))
        lm.resume(prefix, torch.zeros_like(prefix.x))
        with lm.patched(HookPoint(1, site), torch.zeros_like):
            full(lm, tokens)
    assert torch.equal(full(lm, tokens), before[1])
    assert not any("forward" in vars(module) for module in lm.model.modules())


def test_a_patch_that_fails_leaves_the_model_as_it_was():
    lm, tokens = tiny.lm("llama"), tiny.tokens()
    expected = full(lm, tokens)
    for site in SITES:
        with pytest.raises(ZeroDivisionError), lm.patched(HookPoint(1, site), lambda _: 1 / 0):
            full(lm, tokens)
    assert torch.equal(full(lm, tokens), expected)


@pytest.mark.parametrize("site", SITES)
def test_activations_inside_a_patch_are_the_patched_ones(site):
    lm, tokens = tiny.lm("llama"), tiny.tokens()
    with lm.patched(HookPoint(1, site), torch.ones_like):
        x = lm.activations(tokens, HookPoint(1, site))
        later = lm.activations(tokens, HookPoint(2, "resid_post"))
    assert torch.equal(x, torch.ones_like(x))
    assert not torch.equal(later, lm.activations(tokens, HookPoint(2, "resid_post")))


@pytest.mark.parametrize("site", SITES)
@pytest.mark.parametrize("family", ["llama", "gemma2", "gpt2"])
def test_generation_is_patched_with_and_without_a_cache(family, site):
    lm, tokens = tiny.lm(family), tiny.tokens(batch=1, pos=6)
    settings = {"max_new_tokens": 5, "do_sample": False, "pad_token_id": 0, "attention_mask": torch.ones_like(tokens)}
    with lm.patched(HookPoint(1, site), lambda x: x.roll(1, dims=-1) * 3):
        cached = lm.model.generate(tokens, use_cache=True, **settings)
        fresh = lm.model.generate(tokens, use_cache=False, **settings)
    assert torch.equal(cached, fresh)


def test_logits_have_the_soft_cap_and_the_scale_of_the_model():
    for family in ("gemma2", "cohere"):
        lm, tokens = tiny.lm(family), tiny.tokens()
        hidden = lm.model.base_model(tokens, use_cache=False).last_hidden_state
        raw = lm.model.get_output_embeddings()(hidden)
        expected = torch.tanh(raw / 0.5) * 0.5 if family == "gemma2" else raw * 0.25
        torch.testing.assert_close(logits(lm, hidden), expected)


def test_a_sliding_window_hides_tokens_before_it():
    lm, tokens = tiny.lm("mistral"), tiny.tokens(batch=1)
    other = tokens.clone()
    other[0, 0] = 3 if tokens[0, 0] != 3 else 4
    differs = lm.activations(tokens, HookPoint(0, "resid_post")) != lm.activations(other, HookPoint(0, "resid_post"))
    assert differs.any(dim=-1)[0].tolist() == [True] * 4 + [False] * 7


@pytest.mark.parametrize("family", sorted(tiny.PARALLEL))
def test_resid_mid_of_a_parallel_layer_is_refused(family):
    lm = tiny.lm(family)
    for use in (lm.check, lambda h: lm.activations(tiny.tokens(), h), lambda h: lm.patched(h, torch.zeros_like)):
        with pytest.raises(ModelError, match=r"in parallel.*use resid_pre, resid_post"):
            use(HookPoint(0, "resid_mid"))


def test_a_layer_out_of_range_is_refused_with_the_range():
    with pytest.raises(ModelError, match="layer from 0 to 2"):
        tiny.lm("llama").check(HookPoint(3, "resid_post"))


@pytest.mark.parametrize(
    ("tokens", "message"),
    [
        (torch.zeros(1, 65, dtype=torch.long), "65 long, but .* at most 64"),
        (torch.tensor([[3, 97]]), "token id 97 is not in the vocabulary"),
        (torch.tensor([[-1, 97]]), "token id -1 is not in the vocabulary"),
        (torch.zeros(0, 5, dtype=torch.long), "at least one token"),
    ],
)
def test_tokens_that_do_not_fit_the_model_are_refused(tokens, message):
    for family in ("llama", "gpt2"):
        with pytest.raises(ModelError, match=message):
            tiny.lm(family).activations(tokens, HookPoint(0, "resid_post"))


def test_values_that_are_not_finite_are_refused_by_layer_and_dtype():
    lm = LM(tiny.seeded(tiny.FAMILIES["llama"]()), tiny.tokenizer(), name="damaged")
    lm.model.model.layers[1].mlp.down_proj.weight[0, 0] = float("nan")
    lm.activations(tiny.tokens(), HookPoint(0, "resid_post"))
    with pytest.raises(ModelError, match=r"layer 1 .*float32"):
        lm.activations(tiny.tokens(), HookPoint(1, "resid_post"))
    with pytest.raises(ModelError, match=r"layer 2 .*float32"):
        lm.prefix(tiny.tokens(), HookPoint(2, "attn_out"))


def test_facts_about_the_model_and_its_tokenizer():
    lm = tiny.lm("gpt2")
    assert (lm.d_model, lm.n_layers, lm.d_vocab, lm.context_size) == (tiny.D_MODEL, tiny.N_LAYERS, tiny.D_VOCAB, 64)
    assert (lm.bos_id, lm.separator_id, lm.special_ids) == (1, 2, frozenset({0, 1, 2}))
    assert (lm.dtype, lm.device.type, lm.layers_path) == (torch.float32, "cpu", "transformer.h")
    assert not any(parameter.requires_grad for parameter in lm.model.parameters())
    assert not lm.model.training


@pytest.mark.parametrize("adds_bos", [False, True])
def test_whether_the_tokenizer_adds_bos_is_found_by_asking_it(adds_bos):
    model = tiny.seeded(tiny.FAMILIES["llama"]())
    assert LM(model, tiny.tokenizer(adds_bos=adds_bos), name="tiny").adds_bos is adds_bos


def test_a_tokenizer_without_end_of_text_is_refused():
    tokenizer = tiny.tokenizer()
    tokenizer.eos_token = None
    with pytest.raises(ModelError, match="set its eos_token"):
        LM(tiny.seeded(tiny.FAMILIES["llama"]()), tokenizer, name="tiny")


def test_a_forward_that_stopped_leaves_nothing_to_the_garbage_collector():
    lm = tiny.lm("llama")
    gc.disable()
    try:
        x = weakref.ref(lm.activations(tiny.tokens(), HookPoint(1, "resid_post")))
        assert x() is None
        prefix = lm.prefix(tiny.tokens(), HookPoint(1, "mlp_out"))
        kept = [weakref.ref(tensor) for tensor in (prefix.x, prefix.resid_pre, prefix.attn_out)]
        del prefix
        assert [tensor() for tensor in kept] == [None] * 3
    finally:
        gc.enable()
