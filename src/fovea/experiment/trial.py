"""Does an SAE fit this lm and text? The figure that shows a misread convention, before a run is built on it.

SAE, lm, text --(fits? width, hook point)--> activations of 2,048 tokens --> FVU as read, FVU under other conventions
"""

import tempfile
from pathlib import Path
from typing import NamedTuple

from jaxtyping import Float
from torch import Tensor

from fovea.data.activations import TokenFilter, median_norm, sample_rows
from fovea.data.tokens import CorpusConfig, PackedTokens, PackingConfig, build_tokens
from fovea.errors import ConfigError, SAEError
from fovea.experiment.config import TextConfig
from fovea.experiment.prepare import SANITY_ROWS, names_another_lm
from fovea.lm.hookpoint import HookPoint
from fovea.lm.load import load_lm
from fovea.lm.model import LM
from fovea.sae.files import LoadedSAE, check_fits, load_sae
from fovea.sae.sanity import Sanity, sanity
from fovea.sae.show import described

CONTEXT_SIZE = 128
"Tokens of a context, or fewer where the SAE's file or the lm says so."


class Trial(NamedTuple):
    """What trying an SAE on text found."""

    sae: LoadedSAE
    lm_name: str
    hook_point: str
    n_tokens: int
    l0: float
    "Latents that fire per token."
    found: Sanity

    def __str__(self) -> str:
        """A few lines for people."""
        figure = f"FVU {self.found.fvu:.3f} on {self.n_tokens} tokens at {self.hook_point}, L0 {self.l0:.1f}"
        lines = {
            "tried on": f"{self.lm_name}: {figure}",
            "other convention": f"best FVU {self.found.other_fvu:.3f} if {self.found.other}",
        }
        named = self.sae.metadata.model_name
        if names_another_lm(self.sae, self.lm_name):
            lines["warning: lm"] = f"the SAE's file says it was trained on {named}"
        if self.found.warning is not None:
            lines["warning"] = self.found.warning
        return described(lines)


def try_sae(reference: str, *, lm: str, text: str, hook_point: str | None = None) -> Trial:
    """Run `lm` on `text` and let the SAE rebuild what it reads.

    Args:
        hook_point: Where it reads; what its file names unless given.

    Raises:
        ConfigError: neither file nor caller names a hook point.
        UnknownReferenceError, ModelError, CorpusError: a reference does not resolve or cannot be used.
        SAEError: the SAE has another width than the lm, or belongs to another hook point.
    """
    loaded = load_sae(reference)
    named = hook_point or loaded.metadata.hook_name
    if named is None:
        raise ConfigError(f"SAE {reference!r} names no hook point; say it with --hook-point blocks.L.hook_resid_post")
    subject, place = load_lm(lm), HookPoint.parse(named)
    subject.check(place)
    check_fits(loaded, lm_name=subject.name, d_model=subject.d_model, hook_point=str(place))
    rows = _rows(subject, place, loaded, text=text)
    if len(rows) < 2:
        raise SAEError(f"text {text!r} has {len(rows)} tokens that count; give a longer one")
    latents = loaded.sae.encode(rows)
    l0 = float((latents > 0).sum() / len(rows))
    return Trial(loaded, subject.name, str(place), len(rows), l0, sanity(loaded.sae, rows))


def trial_text(reference: str, *, lm: str | None, text: str | None, hook_point: str | None) -> str:
    """`try_sae` for the command line.

    Raises:
        ConfigError: lm or text is missing. The rest as `try_sae`.
    """
    if lm is None or text is None:
        missing = "--lm" if lm is None else "--text"
        raise ConfigError(f"an SAE is tried with an lm on text, and {missing} is missing; give both --lm and --text")
    return str(try_sae(reference, lm=lm, text=text, hook_point=hook_point))


def _rows(lm: LM, hook_point: HookPoint, loaded: LoadedSAE, *, text: str) -> Float[Tensor, "tokens d_in"]:
    """Up to SANITY_ROWS activations, special and massive tokens left out, in contexts like those of training."""
    said = loaded.metadata
    sizes = [size for size in (said.context_size, CONTEXT_SIZE, lm.context_size) if size is not None]
    packing = PackingConfig(
        context_size=max(2, min(sizes)),
        prepend_bos="auto" if said.prepend_bos is None else said.prepend_bos,
    )
    source = CorpusConfig(reference=text, heldout_fraction=0.0, max_train_tokens=2 * SANITY_ROWS)
    with tempfile.TemporaryDirectory() as folder:
        packed: PackedTokens = build_tokens(source, lm, folder=Path(folder) / "text", packing=packing).train
        rows = sample_rows(
            lm, hook_point, packed, token_filter=TokenFilter.of(lm), n_contexts=2 * SANITY_ROWS // packing.context_size
        ).float()
    norms = rows.norm(dim=-1)
    return rows[norms <= TextConfig().max_norm_ratio * median_norm(rows, corpus=text)][:SANITY_ROWS]
