"""The cost model against what torch counts."""

import torch
from torch.utils.flop_counter import FlopCounterMode
from transformers import LlamaConfig, LlamaForCausalLM

from fovea.bench.cost import H100, SMOLLM2, LMShape, Mesh, Plan, SAEShape

TINY = LMShape("tiny", 3, 32, 4, 2, 8, 64, 50)


def llama() -> LlamaForCausalLM:
    config = LlamaConfig(
        vocab_size=TINY.d_vocab,
        hidden_size=TINY.d_model,
        intermediate_size=TINY.d_mlp,
        num_hidden_layers=TINY.n_layers,
        num_attention_heads=TINY.n_heads,
        num_key_value_heads=TINY.n_kv_heads,
        attn_implementation="eager",
    )
    return LlamaForCausalLM(config).eval()


def plan(**changes: int) -> Plan:
    sae = SAEShape(2304, 16384, 64, 65536)
    return Plan(LMShape("lm", 26, 2304, 8, 4, 256, 9216, 256000), 13, 1024, sae, 9, 65536, 64)._replace(**changes)


def test_a_layers_weights_are_those_of_the_model():
    layer = llama().model.layers[0]
    assert sum(p.numel() for p in layer.parameters() if p.ndim == 2) == TINY.layer_weights


def test_flops_of_a_forward_are_what_torch_counts():
    context = 16
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        llama()(torch.randint(0, 50, (2, context)), use_cache=False)
    whole_attention = TINY.n_layers * 4.0 * TINY.n_heads * TINY.d_head * (context - 1) / 2  # eager skips no masked half
    predicted = TINY.forward_flops(TINY.n_layers, context) + TINY.head_flops + whole_attention
    rotary = 2 * TINY.d_head / 2 * context  # one outer product of positions and frequencies
    assert abs(counter.get_total_flops() - (2 * context * predicted + rotary)) <= 2 * rotary


def test_flops_of_a_dense_step_are_what_torch_counts():
    shape = SAEShape(d_in=24, d_sae=96, k=4, batch=8)
    W_enc, W_dec = torch.randn(24, 96, requires_grad=True), torch.randn(96, 24, requires_grad=True)
    with FlopCounterMode(display=False) as counter:
        (torch.randn(8, 24) @ W_enc).relu().matmul(W_dec).square().sum().backward()
    assert counter.get_total_flops() == 8 * shape.dense_step_flops


def test_smollm2_has_the_sizes_of_the_bundled_model():
    assert SMOLLM2.n_layers * SMOLLM2.layer_weights + SMOLLM2.d_vocab * SMOLLM2.d_model == 134_479_872


def test_one_device_sends_nothing():
    assert plan().step_time(H100, Mesh(1, 1)).wire == 0.0
    assert plan().step_time(H100, Mesh(2, 1)).wire > 0.0


def test_one_more_sae_adds_its_own_cost_alone():
    one, two = (plan(n_saes=n).step_time(H100, Mesh(1, 1)) for n in (1, 2))
    assert two.lm == one.lm
    assert two.saes == 2 * one.saes


def test_the_best_mesh_is_no_slower_than_any():
    best = plan().step_time(H100, plan().best_mesh(H100, 8)).total
    assert all(best <= plan().step_time(H100, Mesh(8 // n, n)).total for n in (1, 2, 4, 8))


def test_sharing_latents_divides_the_memory_of_saes():
    alone, shared = plan().memory(Mesh(1, 1)), plan().memory(Mesh(1, 8))
    assert alone - shared == 7 / 8 * 9 * plan().sae.state_bytes


def test_arithmetic_or_memory_decides():
    device = H100
    assert device.seconds(device.flops, 1.0) == 1.0
    assert device.seconds(1.0, 2 * device.bandwidth) == 2.0
