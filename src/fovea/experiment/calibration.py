"""What a run measured before its first step, read back: the token filter, the batch size, mean and scale of x.

calibration/filter.json, batch.json, CORPUS.safetensors --checked--> TokenFilter, contexts per forward, Calibration
"""

from pathlib import Path
from typing import Any, NamedTuple

from jaxtyping import Float
from torch import Tensor

from fovea.atomic import read_checked_json
from fovea.data.activations import ANEW, TokenFilter
from fovea.data.scale import InputScale
from fovea.errors import DamagedError
from fovea.experiment.folder import RunFolder
from fovea.foreign import Refusal, damage
from fovea.tensorfile import read_checked

_TRIAL = Refusal(DamagedError, "delete it for a new trial, and start in a new folder")
_MAX_CONTEXTS = 2**20


class Calibration(NamedTuple):
    """Statistics of x on the training split of a corpus, fixed before the first step."""

    rows: Float[Tensor, "tokens d_in"]
    input: InputScale


def read_filter(run: RunFolder) -> TokenFilter:
    """The filter that the run measured.

    Raises:
        DamagedError: it is missing or damaged.
    """
    return TokenFilter.read(run.calibration / "filter.json", run.path)


def read_batch_size(path: Path) -> dict[str, Any]:
    """What a trial of batch sizes found; never tried anew under a run, for another one may round differently.

    Raises:
        DamagedError: it is missing or damaged.
    """
    with damage(path, _TRIAL):
        found = read_checked_json(path, _TRIAL.again)
        n_contexts = found["contexts_per_batch"]
        if not isinstance(n_contexts, int) or isinstance(n_contexts, bool) or not 0 < n_contexts <= _MAX_CONTEXTS:
            raise ValueError(f"contexts_per_batch = {n_contexts!r:.100}, from 1 to {_MAX_CONTEXTS} are allowed")
        return found


def calibration_file(run: RunFolder, name: str) -> Path:
    """Where the statistics of the corpus `name` are."""
    return run.calibration / f"{name}.safetensors"


def read_calibration(run: RunFolder, name: str) -> Calibration:
    """What was measured of the activations on the corpus `name`.

    Raises:
        DamagedError: it is missing or damaged.
    """
    path = calibration_file(run, name)
    with damage(path, ANEW):
        stored = read_checked(path, ANEW.again, within=run.path).tensors
        rows, mean, scale = stored["rows"], stored["mean"], stored["scale"].item()
        if rows.ndim != 2 or mean.shape != rows.shape[1:] or not 0 < scale < float("inf"):
            raise ValueError(f"rows {tuple(rows.shape)}, mean {tuple(mean.shape)} and scale {scale:g} do not fit")
        if not (rows.is_floating_point() and mean.is_floating_point()):
            raise ValueError(f"rows of type {rows.dtype}")
        if not (rows.float().isfinite().all() and mean.isfinite().all()):
            raise ValueError("it holds values that are NaN or infinite")
        return Calibration(rows, InputScale(mean, scale))
