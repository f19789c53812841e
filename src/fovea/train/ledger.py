"""What a job cost: tokens, epochs, FLOPs, seconds, parameters."""

from fovea.config import Config
from fovea.sae.spread import latent_axis
from fovea.train.job import Job


class Ledger(Config):
    """Cost of one job; the lm's share is what the whole pass cost and is shared by all jobs of a domain."""

    n_tokens: int
    "Activations learnt from, repeats included."
    epochs: float
    "Passes over the domain's training tokens; below 1 if some were never seen."
    n_steps: int
    batch_size: int
    flops: float
    "Training FLOPs of the SAE counted as if dense: six products of 2 d_in d_sae per token (forward 2, backward 4)."
    flops_lm_shared: float
    "FLOPs of the lm's forward up to the hook point for the tokens harvested: 2 per weight and token."
    seconds: float
    "Wall clock of the job's own steps."
    n_parameters: int
    d_sae: int
    n_dead: int
    "Latents that had not fired for dead_after_tokens when training ended."
    l0_train: float
    "Mean latents per token over the whole of training."


def ledger_of(job: Job, *, epochs: float, flops_lm: float) -> Ledger:
    """The job's cost so far, over all ranks but for the seconds, which are this one's; every rank must ask."""
    latents = job.mesh.latents
    d_sae = latents.total(job.sae.d_sae)
    n_own = sum(p.numel() for name, p in job.sae.named_parameters() if latent_axis(name) is not None)
    n_shared = sum(p.numel() for name, p in job.sae.named_parameters() if latent_axis(name) is None)
    return Ledger(
        n_tokens=job.n_tokens,
        epochs=epochs,
        n_steps=job.step_index,
        batch_size=job.spec.batch_size,
        flops=12.0 * job.sae.d_in * d_sae * job.n_tokens,
        flops_lm_shared=flops_lm,
        seconds=round(job.seconds, 3),
        n_parameters=latents.total(n_own) + n_shared,
        d_sae=d_sae,
        n_dead=job.n_dead,
        l0_train=job.n_active / job.n_tokens if job.n_tokens else 0.0,
    )
