"""Put the SAE of a `fovea general` run into the package, and print what storing it in 16 bits costs.

    RUN (experiments/general-smollm2.toml) --> src/fovea/bundled/saes/NAME/: weights, cfg, experiment, ledger, metrics

Usage: python scripts/bundle_general.py RUN NAME
"""

import shutil
import sys
from pathlib import Path

from safetensors.torch import load_file
from torch import Tensor

from fovea.atomic import write_json
from fovea.experiment.folder import RunFolder
from fovea.sae.base import SAE
from fovea.sae.files import read_sae, save_sae

SAES = Path(__file__).resolve().parents[1] / "src" / "fovea" / "bundled" / "saes"


def fvu(sae: SAE, x: Tensor) -> float:
    """Share of the variance of x that the SAE leaves unexplained, sums in float64."""
    x, x_hat = x.double(), sae(x).double()
    return float((x - x_hat).square().sum() / (x - x.mean(dim=0)).square().sum())


def l0(sae: SAE, x: Tensor) -> float:
    """Mean latents per token."""
    return float((sae.encode(x) > 0).sum(dim=1).double().mean())


def main(run: RunFolder, name: str) -> None:
    """Copy, compare, print."""
    (job,) = (path.parent for path in run.saes.glob("*/job.json") if not path.parent.name.startswith("control"))
    trained = read_sae(job)
    target = SAES / name
    save_sae(trained.sae, target, metadata=trained.metadata, storage_dtype="float16")
    for source in (job / "job.json", run.experiment, run.metrics, run.provenance):
        shutil.copy(source, target / source.name)
    stored = read_sae(target)
    (rows,) = run.calibration.glob("*.safetensors")
    x = load_file(rows)["rows"]
    flips = int(((trained.sae.encode(x) > 0) != (stored.sae.encode(x) > 0)).sum())
    cost = {
        "n_tokens": len(x),
        "fvu_float32": fvu(trained.sae, x),
        "fvu_float16": fvu(stored.sae, x),
        "l0_float32": l0(trained.sae, x),
        "l0_float16": l0(stored.sae, x),
        "share_of_firings_changed": flips / float((trained.sae.encode(x) > 0).sum()),
        "bytes": sum(path.stat().st_size for path in target.iterdir()),
    }
    write_json(target / "storage.json", cost)
    for key, value in cost.items():
        print(f"{key}: {value}")


if __name__ == "__main__":
    main(RunFolder(Path(sys.argv[1])), sys.argv[2])
