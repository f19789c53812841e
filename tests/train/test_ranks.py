"""Several ranks train what one process trains: the same weights, from the same tokens, through the same checkpoints."""

import os
import signal
import time
from pathlib import Path

import numpy as np
import pytest
import torch

from fovea.data.shuffle import MixingBuffer
from fovea.methods.direct import Direct
from fovea.methods.finetune import Finetune
from fovea.methods.mix import Mix
from fovea.methods.ssae import SSAE
from fovea.ranks import ALONE, Mesh, Ranks
from fovea.sae.base import PreBias
from fovea.sae.batch_topk import BatchTopKConfig
from fovea.sae.files import LoadedSAE, SAEMetadata
from fovea.sae.frozen import FrozenSAE
from fovea.sae.gated import GatedConfig
from fovea.sae.jumprelu import JumpReLUConfig
from fovea.sae.relu import ReLUConfig
from fovea.sae.topk import TopKConfig
from fovea.train.checkpoint import save_checkpoint
from fovea.train.job import Job
from fovea.train.loop import train
from fovea.train.stream import Shards, Stream, readings
from tests.ranked import fork_ranks, on_ranks
from tests.train.made_jobs import BATCH, make_job
from tests.train.planted import D_IN, PlantedChunks, planted

N_STEPS, N_SHARDS = 12, 4
ARCHITECTURES = [
    BatchTopKConfig(d_sae=32, k=4),
    TopKConfig(d_sae=32, k=4),
    GatedConfig(d_sae=32, l1=0.5),
    ReLUConfig(d_sae=32, l1=0.5),
    JumpReLUConfig(d_sae=32, target_l0=4),
]
METHODS = [Direct(), Finetune(), SSAE(silence=0.5), Mix(domain_share=0.25)]


def made_general(pre_bias: PreBias = "tied") -> LoadedSAE:
    """An untrained g."""
    generator = torch.Generator().manual_seed(7)
    sae = BatchTopKConfig(d_sae=48, k=4).build(D_IN, generator=generator, pre_bias=pre_bias)
    sae.set_output_bias(planted().mean)
    with torch.no_grad():
        sae.threshold_sum.fill_(0.4)
        sae.threshold_weight.fill_(1.0)
    return LoadedSAE(sae.inference_form(), SAEMetadata(), "g")


class OneIn(PlantedChunks):
    """Every n-th chunk of planted activations: a shard."""

    def __init__(self, shard: int, *, is_domain: bool) -> None:
        super().__init__(planted(), is_domain=is_domain, n_chunks=4, rows=256)
        self.shard = shard

    def chunk(self, index: int):
        return super().chunk(index * N_SHARDS + self.shard)


def make_shards(ranks: Ranks, *, general: LoadedSAE | None = None, latent_shards: int = 1) -> Shards:
    """This rank's part of four shards."""
    n_own = N_SHARDS // ranks.size
    n_each = BATCH // N_SHARDS
    own = {
        shard: Stream(
            MixingBuffer(OneIn(shard, is_domain=True), rows=512, seed=2 * shard),
            MixingBuffer(OneIn(shard, is_domain=False), rows=512, seed=2 * shard + 1) if general else None,
            FrozenSAE(general.sae) if general else None,
            n_domain=n_each,
            n_general=n_each if general else 0,
        )
        for shard in range(ranks.rank * n_own, (ranks.rank + 1) * n_own)
    }
    latents = Mesh.of(ranks, latent_shards=latent_shards).latents
    return Shards(own, n_shards=N_SHARDS, ranks=ranks, latents=latents)


def make_jobs(ranks: Ranks, cases, general: LoadedSAE | None, *, latent_shards: int = 1) -> list[Job]:
    """A job for each (architecture, method); a latent dies quickly, so that auxiliary terms take part."""
    mesh = Mesh.of(ranks, latent_shards=latent_shards)
    jobs = []
    for number, (architecture, method) in enumerate(cases):
        start = architecture.model_copy(update={"d_sae": None}) if isinstance(method, Finetune) else architecture
        made = make_job(f"{number}-{architecture.kind}", method=method, architecture=start, general=general)
        optimiser = made.spec.optimiser.model_copy(update={"dead_after_tokens": 2 * BATCH})
        if architecture.kind == "batch_topk" and not isinstance(method, Finetune):
            with torch.no_grad():
                made.sae.b_enc[::3] = -50.0  # a third of the latents never fires
        jobs.append(Job(made.spec._replace(optimiser=optimiser), made.sae, mesh))
    return jobs


def trained(ranks: Ranks, cases, *, with_general: bool = False, latent_shards: int = 1) -> dict[str, np.ndarray]:
    """Train the cases and give the whole state of all jobs."""
    general = made_general() if with_general else None
    jobs = make_jobs(ranks, cases, general, latent_shards=latent_shards)
    train(jobs, make_shards(ranks, general=general, latent_shards=latent_shards), n_steps=N_STEPS)
    return state_of(jobs)


def state_of(jobs: list[Job]) -> dict[str, np.ndarray]:
    """All of the jobs' state but the seconds."""
    states = {(job.spec.name, name): tensor for job in jobs for name, tensor in job.state_dict().items()}
    return {
        f"{job} {name}": (tensor[:3] if name == "counters" else tensor).numpy()
        for (job, name), tensor in states.items()
    }


def assert_close(found: dict[str, np.ndarray], wanted: dict[str, np.ndarray]) -> None:
    assert isinstance(found, dict), found
    assert found.keys() == wanted.keys()
    for name in wanted:
        np.testing.assert_allclose(found[name], wanted[name], rtol=1e-4, atol=2e-5, err_msg=name)


def assert_equal(found: dict[str, np.ndarray], wanted: dict[str, np.ndarray]) -> None:
    assert isinstance(found, dict), found
    assert found.keys() == wanted.keys()
    for name in wanted:
        np.testing.assert_array_equal(found[name], wanted[name], err_msg=name)


def test_two_ranks_train_every_architecture_as_one_does():
    rare = TopKConfig(d_sae=256, k=1)  # most latents fire on one rank's tokens at most
    cases = [(architecture, Direct()) for architecture in [*ARCHITECTURES, rare]]
    one = trained(ALONE, cases)
    assert one["0-batch_topk firing.tokens_since_fired"].max() >= 2 * BATCH, "no latent died: AuxK is not tested"
    first, second = on_ranks(2, trained, cases)
    assert_equal(second, first)
    assert_close(first, one)


def test_two_ranks_train_every_method_as_one_does():
    cases = [(BatchTopKConfig(d_sae=32, k=4), method) for method in METHODS]
    first, second = on_ranks(2, lambda ranks: trained(ranks, cases, with_general=True))
    assert_equal(second, first)
    assert_close(first, trained(ALONE, cases, with_general=True))


def test_latents_spread_over_two_ranks_train_as_on_one():
    cases = [(architecture, Direct()) for architecture in ARCHITECTURES]
    first, second = on_ranks(2, lambda ranks: trained(ranks, cases, latent_shards=2))
    assert_equal(second, first)
    assert_close(first, trained(ALONE, cases))


@pytest.mark.parametrize("latent_shards", [1, 2])
def test_two_ranks_on_the_active_latents_alone_train_as_one_does(monkeypatch, latent_shards):
    monkeypatch.setattr("fovea.sae.select.SPARSE_UP_TO", 1.0)  # every architecture takes its sparse path
    cases = [(architecture, Direct()) for architecture in ARCHITECTURES[2:]]
    first, second = on_ranks(2, lambda ranks: trained(ranks, cases, latent_shards=latent_shards))
    assert_equal(second, first)
    assert_close(first, trained(ALONE, cases))


def finetuned_without_pre_bias(ranks: Ranks, latent_shards: int) -> dict[str, np.ndarray]:
    """Fine-tune a g whose b_dec is an output bias alone: of the ranks with its latents, only the first learns it."""
    jobs = make_jobs(ranks, [(TopKConfig(k=4), Finetune())], made_general("none"), latent_shards=latent_shards)
    train(jobs, make_shards(ranks, latent_shards=latent_shards), n_steps=N_STEPS)
    return state_of(jobs)


def test_an_output_bias_of_its_own_is_trained_with_latents_spread():
    first, second = on_ranks(2, finetuned_without_pre_bias, 2)
    assert_equal(second, first)
    assert_close(first, finetuned_without_pre_bias(ALONE, 1))


def test_four_ranks_share_tokens_and_latents():
    cases = [(architecture, Direct()) for architecture in ARCHITECTURES]
    one = trained(ALONE, cases)
    assert one["0-batch_topk firing.tokens_since_fired"].max() >= 2 * BATCH, "no latent died: AuxK is not tested"
    for found in on_ranks(4, lambda ranks: trained(ranks, cases, latent_shards=2)):
        assert_close(found, one)


def test_four_ranks_share_tokens_and_latents_in_every_method():
    cases = [(BatchTopKConfig(d_sae=32, k=4), method) for method in METHODS]
    one = trained(ALONE, cases, with_general=True)
    for found in on_ranks(4, lambda ranks: trained(ranks, cases, with_general=True, latent_shards=2)):
        assert_close(found, one)


def rows_given(ranks: Ranks) -> np.ndarray:
    """The rows of as many batches as make an epoch."""
    shards = make_shards(ranks)
    rows = torch.cat([shards.next().x for _ in range(4 * 256 // (BATCH // N_SHARDS))])
    assert readings(shards)["domain"].epochs == 1.0
    return rows.numpy()


def test_in_an_epoch_every_token_is_seen_once_whatever_the_ranks():
    corpus = torch.cat([OneIn(shard, is_domain=True).chunk(index).x for shard in range(N_SHARDS) for index in range(4)])
    wanted = np.unique(corpus.numpy(), axis=0)
    assert len(wanted) == len(corpus)
    for n in (1, 2, 4):
        found = np.concatenate([rows_given(ALONE)] if n == 1 else on_ranks(n, rows_given))
        np.testing.assert_array_equal(found[np.lexsort(found.T[::-1])], wanted)


def part(ranks: Ranks, folder: Path, n_steps: int, latent_shards: int = 1) -> dict[str, np.ndarray]:
    """Go on from the checkpoint in `folder`, if there is one, to `n_steps`, and save."""
    cases = [(ARCHITECTURES[0], Direct()), (ARCHITECTURES[4], Direct())]
    jobs = make_jobs(ranks, cases, None, latent_shards=latent_shards)
    stream = make_shards(ranks, latent_shards=latent_shards)
    train(jobs, stream, n_steps=n_steps, checkpoints=folder)
    save_checkpoint(folder, n_steps, jobs=jobs, stream=stream)
    return state_of(jobs)


@pytest.mark.parametrize("latent_shards", [1, 2])
def test_a_checkpoint_goes_on_with_other_numbers_of_ranks(tmp_path, latent_shards):
    straight = part(ALONE, tmp_path / "straight", N_STEPS)
    part(ALONE, tmp_path / "a", 5)
    on_ranks(2, lambda ranks: part(ranks, tmp_path / "a", 9, latent_shards))
    assert_close(part(ALONE, tmp_path / "a", N_STEPS), straight)
    on_ranks(4, lambda ranks: part(ranks, tmp_path / "b", 6, latent_shards))
    assert_close(on_ranks(2, lambda ranks: part(ranks, tmp_path / "b", N_STEPS))[1], straight)


def with_one_bad_row(ranks: Ranks) -> tuple[str, bool]:
    (job,) = make_jobs(ranks, [(ARCHITECTURES[3], Direct())], None)
    batch = make_shards(ranks).next()
    if ranks.rank == 1:
        batch.x[3] = torch.nan
    before = job.sae.W_enc.detach().clone()
    with pytest.raises(Exception, match="lower its learning") as caught:
        job.step(batch)
    return type(caught.value).__name__, torch.equal(before, job.sae.W_enc)


def test_a_bad_loss_on_one_rank_stops_all_with_the_weights_before():
    assert on_ranks(2, with_one_bad_row) == [("DivergedError", True)] * 2


def endless(ranks: Ranks, number: int, steps: int) -> None:
    """Train on; rank 1 gets a signal of its own."""
    jobs = make_jobs(ranks, [(ARCHITECTURES[0], Direct())], None)

    def observe(step: int, logs) -> None:
        del logs
        if step == steps and ranks.rank == 1:
            os.kill(os.getpid(), number)

    train(jobs, make_shards(ranks), n_steps=10_000, observe=observe)


def test_when_a_rank_is_killed_the_others_end_and_say_so():
    said, nothing = on_ranks(2, endless, signal.SIGKILL, 3)
    assert nothing is None
    assert "RankError: rank 0 of 2 lost another rank during" in said
    assert "--resume" in said


def test_when_a_rank_hangs_the_others_end_after_the_timeout():
    def hang(ranks: Ranks) -> None:
        if ranks.rank == 1:
            time.sleep(8)
        ranks.barrier()

    began = time.monotonic()
    said = on_ranks(2, hang, timeout_seconds=1.0)[0]
    assert "it was killed or hangs" in said
    assert time.monotonic() - began < 60


def test_what_one_rank_says_the_others_repeat():
    def fail(ranks: Ranks) -> None:
        if ranks.rank == 1:
            raise ValueError("no such corpus")
        ranks.barrier()

    first, second = on_ranks(2, fail)
    assert "RankError: rank 1 of 2 stopped: no such corpus (rank 0 ends with it)" in first
    assert "ValueError: no such corpus" in second


def test_a_signal_to_one_rank_stops_all_after_the_same_step():
    first, second = on_ranks(2, endless, signal.SIGTERM, 3)
    assert "Interrupted: stopped after step 4 of 10000" in first
    assert "Interrupted: stopped after step 4 of 10000" in second


def test_work_by_turns(tmp_path):
    def take_turns(ranks: Ranks) -> list[str]:
        def note() -> list[str]:
            before = sorted(path.name for path in tmp_path.iterdir())
            (tmp_path / str(ranks.rank)).touch()
            return before

        ranks.by_first(lambda: (tmp_path / "first").touch())
        return ranks.after_first(note)

    first, second, _ = on_ranks(3, take_turns)
    assert first == ["first"]
    assert second[0] == "0"


def test_processes_without_torchrun_are_alone():
    (process, pipe), *_ = fork_ranks(1, trained, ALONE, [(ARCHITECTURES[1], Direct())])
    assert_equal(pipe.recv(), trained(ALONE, [(ARCHITECTURES[1], Direct())]))
    process.join()
