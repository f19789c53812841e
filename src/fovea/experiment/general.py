"""Train a general SAE: an experiment with no g yet, on general text."""

from pathlib import Path

from fovea.errors import ConfigError
from fovea.experiment.config import ExperimentConfig
from fovea.experiment.folder import RunFolder
from fovea.experiment.run import run_experiment


def train_general(config: ExperimentConfig, out: Path, *, resume: bool = False) -> RunFolder:
    """Train and measure the SAEs of an experiment that has no general SAE.

    Raises:
        ConfigError: the experiment has a general SAE, or jobs that need one.
    """
    if config.general is not None:
        raise ConfigError(
            f"experiment {config.name!r} has a general SAE ({config.general.sae}), but this command trains one; "
            "write general = false and put the general text under [[domain]], or use `fovea run`"
        )
    return run_experiment(config, out, resume=resume)
