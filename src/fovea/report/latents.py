"""What features/JOB/latents.parquet says about one SAE: how rare its latents are on general text, and how new.

density = n_fired_general / n_tokens_general, an integer ratio. A latent that never fired in N tokens has no density: it
is "silent", and its density lies below 3/N (95%). Silent on D as well: "dead".
novelty = largest cosine with any latent of g, for decoder rows and for encoder columns; low is new.
"""

from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from fovea.errors import RunError
from fovea.features.tables import read_table
from fovea.foreign import Refusal, is_plain_name, is_there

NOT_NEW = 0.9
_AGAIN = Refusal(RunError, "compute the features again")
_COLUMNS = (
    "n_fired_general",
    "n_tokens_general",
    "n_fired_domain",
    "n_tokens_domain",
    "novelty_decoder",
    "novelty_encoder",
)
Floats = NDArray[np.float64]


class Latents(NamedTuple):
    """One SAE's latents, one entry each; None where the column is absent or all null."""

    n_fired_general: Floats | None
    n_tokens_general: int | None
    n_fired_domain: Floats | None
    n_tokens_domain: int | None
    novelty_decoder: Floats | None
    novelty_encoder: Floats | None
    n_latents: int

    @property
    def densities(self) -> Floats | None:
        """Densities on general text of the latents that fired there."""
        if self.n_fired_general is None or not self.n_tokens_general:
            return None
        return self.n_fired_general[self.n_fired_general > 0] / self.n_tokens_general

    @property
    def median_density(self) -> float | None:
        """Median of `densities`; None where no latent fired."""
        densities = self.densities
        return None if densities is None or not densities.size else float(np.median(densities))

    @property
    def n_silent(self) -> int | None:
        """Latents that never fired on general text."""
        return None if self.n_fired_general is None else int((self.n_fired_general == 0).sum())

    @property
    def n_dead(self) -> int | None:
        """Latents that fired neither on general text nor on D."""
        if self.n_fired_general is None or self.n_fired_domain is None:
            return None
        return int(((self.n_fired_general == 0) & (self.n_fired_domain == 0)).sum())

    def novelty(self, side: str) -> Floats | None:
        """Largest cosines with g of the `decoder` or `encoder` side."""
        return self.novelty_decoder if side == "decoder" else self.novelty_encoder


def read_latents(run: Path, job: str) -> Latents | None:
    """The latents of a job, None where the run folder has no table of them.

    Raises:
        RunError: the table is there but cannot be read.
    """
    path = run / "features" / job / "latents.parquet"
    if not is_plain_name(job) or not is_there(path, run, _AGAIN):
        return None
    table = read_table(path, run, _AGAIN, columns=_COLUMNS)

    def column(name: str) -> Floats | None:
        if name not in table.column_names:
            return None
        values = table.column(name).to_numpy().astype(np.float64)
        return None if np.isnan(values).all() else values

    def total(name: str) -> int | None:
        values = column(name)
        return None if values is None or not values.size else int(np.nanmax(values))

    return Latents(
        n_fired_general=column("n_fired_general"),
        n_tokens_general=total("n_tokens_general"),
        n_fired_domain=column("n_fired_domain"),
        n_tokens_domain=total("n_tokens_domain"),
        novelty_decoder=_known(column("novelty_decoder")),
        novelty_encoder=_known(column("novelty_encoder")),
        n_latents=table.num_rows,
    )


def _known(values: Floats | None) -> Floats | None:
    """Without NaN: a latent whose direction is the zero vector has no cosine."""
    return None if values is None else values[~np.isnan(values)]
