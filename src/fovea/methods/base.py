"""The seam between a method and everything else: which rows it sees, what it rebuilds, what evaluation scores.

x, g(x), is_domain  -->  rows  -->  SAE(x)  -->  against target(batch)      training
                                    SAE(x)  -->  combine(x, g(x), x_hat)    evaluation
"""

from abc import abstractmethod
from typing import NamedTuple

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from fovea.config import Config
from fovea.errors import ConfigError
from fovea.sae.architectures import ArchitectureConfig
from fovea.sae.base import SAE
from fovea.sae.files import LoadedSAE


class Batch(NamedTuple):
    """Activation vectors with what every job needs to know about them. Row order has no meaning but for the shards."""

    x: Float[Tensor, "tokens d_in"]
    x_general: Float[Tensor, "tokens d_in"] | None
    "g(x), the general SAE's reconstruction in fp32, computed once for all jobs; None when no job reads it."
    is_domain: Bool[Tensor, " tokens"]
    "True where the token comes from the domain corpus; on the CPU, where rows are chosen without waiting for x."
    n_shards: int = 1
    "The rows are so many equal parts, one after the other, each from its own shard of the stream."


class Setting(NamedTuple):
    """What a method may start from."""

    d_in: int
    general: LoadedSAE | None
    "g as loaded, or None when the run has no general SAE."
    mean: Float[Tensor, " d_in"]
    "Mean of x over calibration rows of the domain's training split."
    scale_in: float
    "The SAE is trained on scale_in * x."
    generator: torch.Generator


class Method(Config):
    """Base of the method settings; each variant has a `kind` and answers the questions below."""

    @property
    def kind_name(self) -> str:
        """The variant's `kind`."""
        return str(type(self).model_fields["kind"].default)

    @property
    def label(self) -> str:
        """The method's part of a job name; differs whenever a setting differs from its default."""
        return self.kind_name

    @property
    def family(self) -> str:
        """What records and figures group the method under."""
        return self.kind_name

    @property
    def reads_general(self) -> bool:
        """True if g(x) enters the target, the start or the reconstruction."""
        return False

    @property
    def adds_general(self) -> bool:
        """True if g's latents are active next to the SAE's own at inference, so that L0 is their sum."""
        return False

    @property
    def general_share(self) -> float:
        """Share of the rows of a step that come from general text, 0 to 1."""
        return 0.0

    @property
    def frozen(self) -> frozenset[str]:
        """Names of SAE parameters that training must not move."""
        return frozenset()

    @abstractmethod
    def start(self, architecture: ArchitectureConfig, setting: Setting) -> SAE:
        """The SAE before its first step, in the scaled units of training."""

    def target(self, batch: Batch) -> Float[Tensor, "tokens d_in"]:
        """What the SAE must rebuild, in raw units."""
        return batch.x

    def combine(
        self, x_general: Float[Tensor, "*batch d_in"] | None, x_hat: Float[Tensor, "*batch d_in"]
    ) -> Float[Tensor, "*batch d_in"]:
        """The reconstruction of x that evaluation scores."""
        del x_general
        return x_hat


def choose_rows(
    is_domain: Bool[Tensor, " tokens"], n_rows: int, general_share: float, *, n_shards: int = 1
) -> Int[Tensor, " rows"]:
    """Indices of `n_rows` rows of a batch, `general_share` of them (rounded) from general text, the rest from D.

    Every job of a run takes equally many rows from each step, so equal steps mean equal tokens; and equally many of
    each shard, so that its rows do not depend on which shards are in the same process.
    """
    n_each = n_rows // n_shards
    n_general = round(general_share * n_each)
    parts: list[Tensor] = []
    for shard, is_own in enumerate(is_domain.chunk(n_shards)):
        domain = is_own.nonzero().squeeze(1)[: n_each - n_general]
        general = (~is_own).nonzero().squeeze(1)[:n_general]
        assert len(domain) + len(general) == n_each, "the stream gave fewer rows than the method asked for"
        parts += [domain + shard * len(is_own), general + shard * len(is_own)]
    return torch.cat(parts)


def need_general(setting: Setting, kind: str) -> LoadedSAE:
    """g, for a method that cannot do without it.

    Raises:
        ConfigError: the experiment names no general SAE.
    """
    if setting.general is None:
        raise ConfigError(f"method {kind!r} needs a general SAE, and the experiment has none; set general.sae")
    return setting.general
