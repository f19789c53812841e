"""A known dictionary: g knows the general directions, D has more; does each method find what it should?"""

from pathlib import Path

import pytest
import torch

from fovea.eval.novelty import max_cosine, novelty
from fovea.methods.direct import Direct
from fovea.methods.finetune import Finetune
from fovea.methods.ssae import SSAE
from fovea.sae.base import SAE
from fovea.sae.batch_topk import BatchTopKConfig
from fovea.sae.files import LoadedSAE, SAEMetadata, load_sae, save_sae
from fovea.sae.folding import fold_scale
from fovea.sae.frozen import FrozenSAE
from fovea.train.loop import train
from tests.train.made_jobs import make_job, make_stream
from tests.train.planted import N_DOMAIN, N_GENERAL, PlantedChunks, planted

pytestmark = pytest.mark.slow

STEPS = 450
WIDTH = 2 * N_DOMAIN


@pytest.fixture(scope="module")
def general(tmp_path_factory) -> LoadedSAE:
    """g, trained on general activations alone."""
    folder: Path = tmp_path_factory.mktemp("planted") / "g"
    job = make_job("g", architecture=BatchTopKConfig(d_sae=N_GENERAL, k=4), n_steps=STEPS)
    train([job], make_stream(planted(), is_domain=False), n_steps=STEPS)
    save_sae(
        fold_scale(job.sae, scale_in=job.spec.scale_in, scale_out=job.spec.scale_out), folder, metadata=SAEMetadata()
    )
    return load_sae(str(folder))


@pytest.fixture(scope="module")
def trained(general: LoadedSAE) -> dict[str, SAE]:
    """The three methods in one pass over D, in raw units."""
    frozen = FrozenSAE(general.sae)
    x = PlantedChunks(planted(), is_domain=True).chunk(0).x
    residual_scale = float(x.shape[1] ** 0.5 / (x - frozen.reconstruct(x)).norm(dim=-1).mean())
    jobs = [
        make_job("direct", method=Direct(), architecture=BatchTopKConfig(d_sae=WIDTH, k=1), n_steps=STEPS),
        make_job(
            "finetune", method=Finetune(), general=general, architecture=BatchTopKConfig(k=5), n_steps=STEPS, lr=1e-4
        ),
        make_job(
            "ssae",
            method=SSAE(),
            general=general,
            architecture=BatchTopKConfig(d_sae=WIDTH, k=1),
            n_steps=STEPS,
            lr=1e-2,
            scale_out=residual_scale,
        ),
    ]
    train(jobs, make_stream(planted(), frozen=frozen), n_steps=STEPS)
    return {
        job.spec.name: fold_scale(job.sae, scale_in=job.spec.scale_in, scale_out=job.spec.scale_out).inference_form()
        for job in jobs
    }


def recovery(sae: SAE, directions: torch.Tensor) -> float:
    """Mean over the planted directions of the largest cosine with a decoder row."""
    return float(max_cosine(directions, sae.W_dec.detach()).value.mean())


def test_g_has_learnt_the_general_directions(general):
    assert recovery(general.sae, planted().general) > 0.9


def test_ssae_recovers_the_directions_that_only_the_domain_has(trained):
    assert recovery(trained["ssae"], planted().domain) >= 0.9


def test_ssae_recovers_them_better_than_direct_of_equal_width(trained):
    assert recovery(trained["ssae"], planted().domain) > recovery(trained["direct"], planted().domain) + 0.3


def test_finetune_moves_the_encoders_little_and_novelty_says_so(trained, general):
    def found(name: str):
        sae, g = trained[name], general.sae
        return novelty(
            sae.W_enc.detach(), sae.W_dec.detach(), general_W_enc=g.W_enc.detach(), general_W_dec=g.W_dec.detach()
        )

    finetune, ssae = found("finetune"), found("ssae")
    assert finetune.encoder.value.median() > 0.95
    assert (finetune.encoder.nearest == torch.arange(N_GENERAL)).float().mean() > 0.95
    assert ssae.decoder.value.median() < 0.6


def test_the_sum_of_g_and_ssae_explains_more_of_the_domain_than_g(trained, general):
    x = PlantedChunks(planted(), is_domain=True).chunk(31).x
    g = FrozenSAE(general.sae).reconstruct(x)
    both = g + trained["ssae"](x)
    variance = (x - x.mean(dim=0)).square().sum()
    assert (x - both).square().sum() / variance < 0.5 * (x - g).square().sum() / variance
