"""What a candidate gives: the reconstruction, and latents above zero counted by block."""

import torch
from torch import Tensor

from fovea.eval.candidates import (
    Ablation,
    Alone,
    Candidate,
    EvalBatch,
    GeneralAlone,
    Trained,
    general_reconstruction,
    n_active,
)

X = torch.tensor([[1.0, -2.0], [0.0, 0.0]])


class Doubling:
    """Latents relu(x), x_hat twice that."""

    def encode(self, x: Tensor) -> Tensor:
        return x.relu()

    def decode(self, latents: Tensor) -> Tensor:
        return 2 * latents


class Plain:
    adds_general = False

    def combine(self, x_general: Tensor | None, x_hat: Tensor) -> Tensor:
        assert x_general is None
        return x_hat


def batch() -> EvalBatch:
    return EvalBatch(X, general_reconstruction(Doubling()))


def test_exact_zeros_and_negative_values_are_not_active():
    assert n_active(torch.tensor([[0.0, 1e-30, -1.0], [-0.0, 0.0, 0.0]])).tolist() == [1, 0]


def test_g_counts_as_the_general_block_and_an_sae_as_the_domain_block():
    general, alone = GeneralAlone().reconstruct(batch()), Alone("a", Doubling()).reconstruct(batch())
    assert (general.l0_general.tolist(), general.l0_domain.tolist()) == ([1, 0], [0, 0])
    assert (alone.l0_general.tolist(), alone.l0_domain.tolist()) == ([0, 0], [1, 0])
    torch.testing.assert_close(alone.x_hat, torch.tensor([[2.0, 0.0], [0.0, 0.0]]))


def test_a_method_that_does_not_add_g_never_asks_for_it():
    made = Trained("a", Doubling(), Plain()).reconstruct(EvalBatch(X, None))
    assert made.l0_domain.tolist() == [1, 0]


def test_an_ablation_puts_one_vector_everywhere_and_uses_no_latent():
    made = Ablation("mean", torch.tensor([3.0, 4.0])).reconstruct(batch())
    assert made.x_hat.tolist() == [[3.0, 4.0], [3.0, 4.0]]
    assert not made.l0_general.any()


def test_all_of_them_are_candidates():
    for candidate in (
        GeneralAlone(),
        Ablation("zero", torch.zeros(2)),
        Alone("a", Doubling()),
        Trained("b", Doubling(), Plain()),
    ):
        assert isinstance(candidate, Candidate)
