"""Golden numbers of SAELens's own evaluation code on a tiny fixed lm and SAE -> tests/golden/saelens_eval.json.

Run in an environment with sae-lens 6.54 and transformers 5:  python tests/golden/make_saelens_eval.py
tests/eval/test_saelens.py builds the same case with `case()` and compares. Where SAELens differs on purpose:
its KL counts the last position of a context, which predicts nothing that is known; here it is left out of the mean.
"""

import importlib.metadata
import json
from pathlib import Path
from typing import NamedTuple

import torch
import transformers as hf

OUTPUT = Path(__file__).with_name("saelens_eval.json")
SEED, D_MODEL, D_SAE, D_VOCAB, LAYER = 0, 24, 60, 97, 1
TOLERANCE = 2e-5
"Relative. Both are fp32; SAELens sums in fp32 over tokens, fovea in float64."


class Case(NamedTuple):
    """Everything that is measured, from one seed."""

    model: hf.PreTrainedModel
    tokens: torch.Tensor
    W_enc: torch.Tensor
    b_enc: torch.Tensor
    W_dec: torch.Tensor
    b_dec: torch.Tensor


def case() -> Case:
    """A Llama of 3 layers with seeded weights, 8 contexts of 16 tokens, and a ReLU SAE that is far from perfect."""
    generator = torch.Generator().manual_seed(SEED)
    config = hf.LlamaConfig(
        vocab_size=D_VOCAB,
        hidden_size=D_MODEL,
        num_hidden_layers=3,
        num_attention_heads=4,
        num_key_value_heads=2,
        head_dim=6,
        intermediate_size=40,
        max_position_embeddings=64,
    )
    model = hf.LlamaForCausalLM(config).eval().requires_grad_(False)
    for parameter in model.parameters():
        parameter.copy_(torch.randn(parameter.shape, generator=generator) * 0.5)
    tokens = _continued(model, torch.randint(3, D_VOCAB, (8, 1), generator=generator), generator)
    W_dec = torch.nn.functional.normalize(torch.randn(D_SAE, D_MODEL, generator=generator), dim=1)
    b_enc = 0.3 * torch.randn(D_SAE, generator=generator) - 1.0
    b_dec = 0.1 * torch.randn(D_MODEL, generator=generator)
    return Case(model, tokens, W_dec.T.contiguous(), b_enc, 0.4 * W_dec, b_dec)


def _continued(model: hf.PreTrainedModel, tokens: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
    """Contexts of 16 tokens drawn from the lm itself, so that it has something to lose."""
    for _ in range(15):
        likely = model(tokens).logits[:, -1].softmax(dim=-1)
        tokens = torch.cat([tokens, torch.multinomial(likely, 1, generator=generator)], dim=1)
    return tokens


def main() -> None:
    """Write the numbers that SAELens gives for the case."""
    from sae_lens import StandardSAE, StandardSAEConfig
    from sae_lens.evals import ExplainedVarianceCalculator, get_recons_loss
    from sae_lens.load_model import HookedProxyLM
    from sae_lens.saes.sae import SAEMetadata
    from sae_lens.training.activation_scaler import ActivationScaler

    made = case()
    hook_name = f"model.layers.{LAYER}"
    metadata = SAEMetadata(hook_name=hook_name, hook_head_index=None)
    sae = StandardSAE(StandardSAEConfig(d_in=D_MODEL, d_sae=D_SAE, apply_b_dec_to_input=True, metadata=metadata))
    sae.load_state_dict({name: getattr(made, name) for name in ("W_enc", "b_enc", "W_dec", "b_dec")})
    lm = HookedProxyLM(made.model, tokenizer=None)
    with torch.no_grad():
        per_token = get_recons_loss(
            sae, lm, ActivationScaler(), made.tokens, compute_kl=True, compute_ce_loss=True, hook_name=hook_name
        )
        _, cache = lm.run_with_cache(made.tokens, names_filter=[hook_name])
        x = cache[hook_name].flatten(0, 1)
        latents = sae.encode(x)
        variance = ExplainedVarianceCalculator()
        for part, part_hat in zip(x.split(50), sae.decode(latents).split(50), strict=True):
            variance.add_batch(part_hat, part)
    mean = {name: values[:, : made.tokens.shape[1] - 1].mean().item() for name, values in per_token.items()}
    ablated, clean = mean["ce_loss_with_ablation"], mean["ce_loss_without_sae"]
    numbers = mean | {
        "ce_loss_score": (ablated - mean["ce_loss_with_sae"]) / (ablated - clean),
        "kl_div_score": 1 - mean["kl_div_with_sae"] / mean["kl_div_with_ablation"],
        "explained_variance": variance.compute(),
        "l0": (latents != 0).sum(dim=-1).float().mean().item(),
        "feature_density": (latents != 0).float().mean(dim=0).tolist(),
    }
    about = {
        "made_by": "tests/golden/make_saelens_eval.py",
        "versions": {name: importlib.metadata.version(name) for name in ("sae-lens", "torch", "transformers")},
        "seed": SEED,
        "relative_tolerance": TOLERANCE,
    }
    OUTPUT.write_text(json.dumps(about | {"numbers": numbers}, indent=2) + "\n")


if __name__ == "__main__":
    main()
