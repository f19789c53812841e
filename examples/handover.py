"""What the examples share: a job's SAE in the layout of a library, text to try it on, and the comparison.

    run folder --export--> folder --the library--> latents, x_hat --+
    held-out text --lm--> x ------fovea----------> latents, x_hat --+--> flipped latents, largest difference

An SAE on what g leaves over (ssae) is handed over with g, as one SAE. What that is compared with is still computed
by the two apart.
"""

import argparse
import json
import sys
import tempfile
from pathlib import Path
from typing import NamedTuple

import torch
import transformers
from torch import Tensor
from transformers import AutoModelForCausalLM, PreTrainedModel, PreTrainedTokenizerFast

import fovea
from fovea.data.tokens import PackedTokens
from fovea.experiment.export import export_job
from fovea.experiment.fit import jobs_of
from fovea.lm.files import locate
from fovea.lm.hookpoint import HookPoint

MAX_DIFFERENCE = 1e-5
"Relative. Sums of float32 in another order differ by about 1e-7."


class Coded(NamedTuple):
    """What an SAE makes of activations."""

    latents: Tensor
    x_hat: Tensor


class Job:
    """A job of a run: its SAE, where that reads the lm, and held-out text of its domain."""

    def __init__(self, folder: Path, name: str) -> None:
        self.folder, self.name, self.run = folder, name, fovea.load_run(folder)
        self.sae = self.run.sae(name).sae
        config = self.run.config
        self.domain, self.settings = next(
            (domain.name, found[name]) for domain in config.domain if name in (found := jobs_of(config, domain))
        )
        self.hook_point = HookPoint.parse(config.lm.hook_point)
        self.lm_folder = locate(config.lm.model).folder
        self.lm_settings = json.loads((self.lm_folder / "config.json").read_text())
        self.rotary_base = self.lm_settings.get("rope_parameters", self.lm_settings).get("rope_theta", 10_000)

    def lm(self) -> PreTrainedModel:
        """The lm in float32. transformers 4 would miss the rotary base of a folder that 5 wrote, and say nothing."""
        is_old = int(transformers.__version__.partition(".")[0]) < 5
        missed = {"rope_theta": self.rotary_base} if is_old and "rope_parameters" in self.lm_settings else {}
        return AutoModelForCausalLM.from_pretrained(self.lm_folder, dtype=torch.float32, **missed)

    def tokenizer(self) -> PreTrainedTokenizerFast:
        """The lm's tokenizer, in any version of transformers."""
        named = json.loads((self.lm_folder / "tokenizer_config.json").read_text())
        special = {name: named[name] for name in ("bos_token", "eos_token", "pad_token") if named.get(name)}
        return PreTrainedTokenizerFast(tokenizer_file=str(self.lm_folder / "tokenizer.json"), **special)

    def tokens(self, n_contexts: int) -> Tensor:
        """Held-out contexts of the job's domain, [contexts positions]."""
        packed = PackedTokens(self.folder / "corpora" / self.domain, "heldout")
        return packed.batch(range(min(n_contexts, packed.n_contexts))).tokens

    def activations(self, lm: torch.nn.Module, tokens: Tensor) -> Tensor:
        """x at the hook point, [contexts positions d_in]."""
        found = []
        layer = lm.get_submodule(self.hook_point.hugging_face())
        handle = layer.register_forward_hook(lambda _module, _inputs, x: found.append(x))
        lm(tokens)
        handle.remove()
        return found[0]

    def losses(self, lm: torch.nn.Module, tokens: Tensor, *, patched: bool) -> Tensor:
        """Loss of every token but the first, nats, [contexts positions-1]; patched: x_hat in place of x, everywhere."""
        layer = lm.get_submodule(self.hook_point.hugging_face())
        handle = layer.register_forward_hook(lambda _module, _inputs, x: self.code(x).x_hat if patched else x)
        logits = lm(tokens).logits[:, :-1]
        handle.remove()
        return torch.nn.functional.cross_entropy(logits.transpose(1, 2), tokens[:, 1:], reduction="none")

    def code(self, x: Tensor) -> Coded:
        """What fovea makes of x; g and the job's SAE one after the other where the job adds to g."""
        saes = [self.run.general().sae] if self.settings.method.adds_general else []
        saes.append(self.sae)
        return Coded(torch.cat([sae.encode(x) for sae in saes], -1), torch.stack([sae(x) for sae in saes]).sum(0))

    def export(self, folder: Path, *, layout: str = "saelens") -> Path:
        """`folder`, now with the job's SAE (and g, where the job adds to g) in the layout of a library."""
        told = export_job(self.folder, self.name, folder, layout=layout, stack=self.settings.method.adds_general)
        print(f"exported: {told}")
        return folder


def arguments(doc: str | None) -> tuple[Job, Path]:
    """The job that the command line names, and the folder to write to."""
    parser = argparse.ArgumentParser(description=doc, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", type=Path, help="folder of a finished run")
    parser.add_argument("job", help="one of its jobs: a folder in RUN/saes")
    parser.add_argument("out", type=Path, nargs="?", help="where to write; a temporary folder if left out")
    given = parser.parse_args()
    torch.set_grad_enabled(False)
    return Job(given.run, given.job), given.out or Path(tempfile.mkdtemp(prefix="fovea-example-"))


def compare(library: str, theirs: Coded, ours: Coded) -> None:
    """Print how two codings of the same activations differ; end with status 1 when they do."""
    n_tokens, d_sae = ours.latents.flatten(0, -2).shape
    n_flips = int(((theirs.latents != 0) != (ours.latents != 0)).sum())
    latent = float((theirs.latents - ours.latents).abs().max() / ours.latents.abs().max())
    x_hat = float(((theirs.x_hat - ours.x_hat).norm(dim=-1) / ours.x_hat.norm(dim=-1).clamp_min(1e-30)).max())
    print(f"{library} against fovea, {n_tokens:,} tokens x {d_sae:,} latents:")
    print(f"  flipped latents                 {n_flips}")
    print(f"  largest difference of a latent  {latent:.1e} of the largest latent")
    print(f"  largest difference of x_hat     {x_hat:.1e} of its length")
    if n_flips or not (latent <= MAX_DIFFERENCE and x_hat <= MAX_DIFFERENCE):
        sys.exit(f"{library} does not compute the same: allowed are 0 flipped latents and {MAX_DIFFERENCE:.0e}")
