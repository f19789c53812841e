"""Golden numbers of SAELens's training classes on fixed weights -> tests/golden/saelens.json.

Run in an environment with sae-lens 6.54:  python tests/golden/make_saelens.py
tests/sae/test_saelens.py gives our SAEs the same weights from `tensors()` and compares losses and gradients. The cases
are those where both follow one formula: free decoder norms, no detaching, every chosen dead pre-activation positive.
"""

import importlib
import importlib.metadata
import json
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

OUTPUT = Path(__file__).with_name("saelens.json")
SEED, D_IN, D_SAE, N_TOKENS, N_DEAD = 0, 8, 24, 64, 12
K, L1, AUX, BANDWIDTH, DEAD_WEIGHT = 3, 0.7, 1 / 32, 0.5, 0.01
TOLERANCE = 2e-5
"Relative to the largest entry; both are float32."

KINDS = ("standard", "gated", "topk", "batchtopk", "jumprelu")
OWN = {"gated": ("b_gate", "b_mag", "r_mag"), "jumprelu": ("b_enc", "threshold")}


def tensors(kind: str) -> dict[str, Tensor]:
    """Weights by SAELens name; decoder rows of length 1 where latents compete, so that ranking is the same in both."""
    generator = torch.Generator().manual_seed(SEED)
    weights = {
        "W_enc": torch.randn(D_IN, D_SAE, generator=generator) * 0.4,
        "W_dec": torch.randn(D_SAE, D_IN, generator=generator) * 0.5,
        "b_dec": torch.randn(D_IN, generator=generator),
    }
    weights |= {name: torch.randn(D_SAE, generator=generator) * 0.2 for name in OWN.get(kind, ("b_enc",))}
    if kind in ("topk", "batchtopk"):
        weights["W_dec"] = torch.nn.functional.normalize(weights["W_dec"], dim=1)
        weights["b_enc"][-N_DEAD:] += 4.0
    if kind == "jumprelu":
        weights["threshold"] = weights["threshold"].abs() + 0.2
    return weights


def rows() -> Tensor:
    """Activation vectors."""
    return torch.randn(N_TOKENS, D_IN, generator=torch.Generator().manual_seed(SEED + 1)) + 0.5


def dead() -> Tensor:
    """The last N_DEAD latents are called dead."""
    return torch.arange(D_SAE) >= D_SAE - N_DEAD


def _sae(kind: str) -> Any:
    """The SAELens training class with these weights."""
    module = importlib.import_module("sae_lens")
    shared = {"d_in": D_IN, "d_sae": D_SAE, "apply_b_dec_to_input": True, "normalize_activations": "none"}
    own = {
        "standard": {"l1_coefficient": L1},
        "gated": {"l1_coefficient": L1},
        "topk": {"k": K, "aux_loss_coefficient": AUX, "rescale_acts_by_decoder_norm": False},
        "batchtopk": {"k": K, "aux_loss_coefficient": AUX, "rescale_acts_by_decoder_norm": False},
        "jumprelu": {"jumprelu_bandwidth": BANDWIDTH, "pre_act_loss_coefficient": DEAD_WEIGHT, "l0_coefficient": 1.0},
    }[kind]
    name = {"standard": "Standard", "gated": "Gated", "topk": "TopK", "batchtopk": "BatchTopK", "jumprelu": "JumpReLU"}
    config = getattr(module, f"{name[kind]}TrainingSAEConfig")(**shared, **own)
    sae = getattr(module, f"{name[kind]}TrainingSAE")(config)
    with torch.no_grad():
        for key, tensor in tensors(kind).items():
            getattr(sae, key).copy_(tensor)
    return sae


def _measure(kind: str) -> dict[str, Any]:
    saes = importlib.import_module("sae_lens.saes.sae")
    sae = _sae(kind)
    step = saes.TrainStepInput(
        sae_in=rows(),
        coefficients={"l1": L1, "l0": 1.0},
        dead_neuron_mask=dead(),
        n_training_steps=0,
        is_logging_step=False,
    )
    out = sae.training_forward_pass(step)
    if kind in ("topk", "batchtopk"):
        assert (out.hidden_pre[:, dead()].topk(D_IN // 2, dim=1).values > 0).all(), "AuxK would differ: ours has a ReLU"
    numbers: dict[str, Any] = {
        "l0": (out.feature_acts > 0).sum().item() / N_TOKENS,
        "x_hat_sum_sq": out.sae_out.double().square().sum().item(),
        "terms": {},
    }
    for name, term in out.losses.items():
        leaves = dict(sae.named_parameters())
        gradients = torch.autograd.grad(term, list(leaves.values()), retain_graph=True, allow_unused=True)
        found = {key: g for key, g in zip(leaves, gradients, strict=True) if g is not None}
        numbers["terms"][name] = {
            "value": term.item(),
            "gradients": {key: [float(f"{v:.8g}") for v in g.flatten().tolist()] for key, g in found.items()},
        }
    return numbers


def main() -> None:
    """Write the numbers."""
    golden = {
        "sae_lens": importlib.metadata.version("sae-lens"),
        "torch": importlib.metadata.version("torch"),
        "seed": SEED,
        "tolerance": TOLERANCE,
        "cases": {kind: _measure(kind) for kind in KINDS},
    }
    OUTPUT.write_text(json.dumps(golden) + "\n")


if __name__ == "__main__":
    main()
