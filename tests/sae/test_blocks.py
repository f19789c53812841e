"""Stacks with a per-token TopK in them: each block keeps its own k, exactly, here and in sae_lens."""

import importlib
import itertools
import json
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from fovea.errors import SAEError
from fovea.sae.base import SAE, Block
from fovea.sae.blocks import BlocksSAE, fire
from fovea.sae.files import SAEMetadata, fingerprint, load_sae
from fovea.sae.formats.writers import write_stack
from fovea.sae.frozen import FrozenSAE
from fovea.sae.stack import MAX_RELATIVE_ERROR, ROUNDING, stack, verify_stack, within_rounding
from tests.sae.cases import BIASES, D_IN, D_SAE, build, loss, rows

PROBE = rows(500, seed=11)
PAIRS = [
    pair for pair in itertools.product(["topk", "relu", "jumprelu", "gated", "batch_topk"], repeat=2) if "topk" in pair
]
pairs = pytest.mark.parametrize(("first", "second"), PAIRS)
METADATA = SAEMetadata(hook_name="blocks.1.hook_resid_post", fovea={"job": "ssae-topk-k5-s0"})


def written(folder: Path, general: SAE, domain: SAE) -> Path:
    write_stack(general, domain, folder, probe_x=PROBE, metadata=METADATA)
    return folder


@pairs
@pytest.mark.parametrize("here", BIASES)
@pytest.mark.parametrize("there", BIASES)
def test_a_stack_with_topk_is_the_sum_of_both(first: str, second: str, here: str, there: str) -> None:
    general, domain = build(first, here), build(second, there, seed=3)
    one = stack(general, domain)
    assert isinstance(one, BlocksSAE)
    check = verify_stack(general, domain, one, probe_x=PROBE)
    assert check.max_relative_error < MAX_RELATIVE_ERROR
    assert (check.n_flips, check.n_ties <= 2) == (0, True)


def test_a_joint_topk_over_both_would_be_another_sae() -> None:
    general, domain = build("topk"), build("topk", seed=3)
    one = stack(general, domain)
    joint = BlocksSAE(one.weights, (Block(2 * D_SAE, 10),))
    joint.set_tensors({"b_enc": one.tensors()["b_enc"]})
    with pytest.raises(SAEError, match="the stack is not the sum of its blocks"):
        verify_stack(general, domain, joint, probe_x=PROBE)


def test_each_block_fires_by_its_own_rule() -> None:
    pre = torch.tensor([[3.0, 1.0, -2.0, 2.0, 0.5, 0.2]])
    threshold = torch.tensor([0.0, 0.0, 0.0, 2.5, 0.4, -1.0])
    found = fire(pre, threshold, (Block(3, 1), Block(3, None)))
    assert found.tolist() == [[3.0, 0.0, 0.0, 0.0, 0.5, pytest.approx(0.2)]]
    assert fire(-pre.abs(), threshold, (Block(6, 6),)).count_nonzero() == 0


@pairs
def test_a_written_stack_is_read_back_as_the_same_sae(first: str, second: str, tmp_path: Path) -> None:
    general, domain = build(first), build(second, "own", seed=3)
    loaded = load_sae(written(tmp_path / "out", general, domain))
    assert fingerprint(loaded.sae) == fingerprint(stack(general, domain))
    assert torch.equal(loaded.sae.encode(PROBE)[:, :D_SAE] > 0, general.encode(PROBE) > 0)
    assert [block["stop"] for block in loaded.metadata.fovea["blocks"]] == [D_SAE, 2 * D_SAE]
    torch.testing.assert_close(
        FrozenSAE(loaded.sae).reconstruct(PROBE), general(PROBE) + domain(PROBE), rtol=1e-4, atol=1e-4
    )


def test_a_stack_can_be_stacked_again() -> None:
    first, second, third = build("topk"), build("relu", "own", seed=3), build("topk", "none", seed=4)
    inner = stack(first, second)
    one = stack(inner, third)
    assert [block.k for block in one.block_rule().blocks] == [5, None, 5]
    verify_stack(inner, third, one, probe_x=PROBE)


def test_a_flip_is_a_tie_only_next_to_the_last_that_fires() -> None:
    one = stack(build("topk"), build("relu", seed=3))
    latents = one.encode(PROBE)
    differ = torch.zeros_like(latents, dtype=torch.bool)
    differ[torch.arange(len(PROBE)), latents[:, :D_SAE].argmax(dim=1)] = True
    assert not within_rounding(one, PROBE, differ).any()
    with torch.no_grad():
        for name in ("W_enc", "b_enc"):  # latent 1 is latent 0 but for rounding
            one.get_parameter(name)[..., 1] = one.get_parameter(name)[..., 0] * (1 + ROUNDING / 100)
    pre = (one.centred(PROBE) @ one.W_enc + one.b_enc)[:, :D_SAE]
    ranks = (pre[:, :1] < pre).sum(dim=1)
    at_the_edge = ((ranks == 4) | (ranks == 5)) & (pre[:, 0] > 0) & (pre[:, 0] != pre[:, 1])
    twins = torch.zeros_like(differ)
    twins[:, :2] = (((pre > pre[:, :1]) & (pre > pre[:, 1:2])).sum(dim=1) == 4)[:, None]
    assert at_the_edge.any()
    assert torch.equal(within_rounding(one, PROBE, twins), twins)


@pytest.mark.parametrize(
    ("blocks", "message"),
    [
        (None, "needs blocks, a list of 1 to 64"),
        ([], "needs blocks"),
        ([{"size": 1, "k": None}] * 65, "needs blocks"),
        (["x"], "needs a size above 0"),
        ([{"size": True, "k": None}], "needs a size above 0"),
        ([{"size": 80, "k": 0}], "k null or above 0"),
        ([{"size": 80, "k": 2.5}], "k null or above 0"),
        ([{"size": 10**30, "k": 3}], "but its weights 80"),
        ([{"size": 40, "k": 5}], "its blocks have 40 latents, but its weights 80"),
        ([{"size": 40, "k": 41}, {"size": 40, "k": None}], "k = 41 is more than the 40 latents"),
    ],
)
def test_blocks_that_do_not_fit_are_refused(blocks: Any, message: str, tmp_path: Path) -> None:
    folder = written(tmp_path / "out", build("topk"), build("relu", seed=3))
    cfg = json.loads((folder / "cfg.json").read_text())
    (folder / "cfg.json").write_text(json.dumps({**cfg, "blocks": blocks}))
    with pytest.raises(SAEError, match=message):
        load_sae(folder)


def test_what_a_stack_cannot_do_is_said(tmp_path: Path) -> None:
    one = stack(build("topk"), build("relu", seed=3))
    with pytest.raises(SAEError, match="a stack of several encoders has no objective"):
        loss(one)
    with pytest.raises(SAEError, match="topk with k = 5 per token"):
        one.elementwise()
    for layout in ("sparsify", "dictionary_learning"):
        with pytest.raises(SAEError, match="holds topk SAEs|blocks of latents that compete"):
            write_stack(
                build("topk"), build("relu"), tmp_path / layout, probe_x=PROBE, metadata=METADATA, layout=layout
            )
    assert list(tmp_path.iterdir()) == []


def lens(folder: Path) -> Any:
    importlib.import_module("fovea.saelens")
    return importlib.import_module("sae_lens").SAE.load_from_disk(str(folder))


def same(theirs: Any, x_hat: Tensor, latents: Tensor) -> None:
    with torch.no_grad():
        torch.testing.assert_close(theirs(PROBE), x_hat, rtol=1e-5, atol=1e-5)
        assert torch.equal(theirs.encode(PROBE) > 0, latents > 0)


@pytest.mark.saelens
@pytest.mark.filterwarnings("ignore")
@pairs
def test_sae_lens_computes_the_same(first: str, second: str, tmp_path: Path) -> None:
    general, domain = build(first, "none"), build(second, "own", seed=3)
    both = torch.cat([general.encode(PROBE), domain.encode(PROBE)], dim=1)
    theirs = lens(written(tmp_path / "out", general, domain))
    same(theirs, general(PROBE) + domain(PROBE), both)
    theirs.save_model(str(tmp_path / "theirs"))
    again = load_sae(tmp_path / "theirs")
    assert torch.equal(again.sae.encode(PROBE) > 0, both > 0)


@pytest.mark.saelens
@pytest.mark.filterwarnings("ignore")
def test_sae_lens_folds_decoder_lengths_only_where_nothing_changes(tmp_path: Path) -> None:
    general, domain = build("topk"), build("relu", seed=3)
    theirs = lens(written(tmp_path / "a", general, domain))
    theirs.fold_W_dec_norm()
    torch.testing.assert_close(theirs.W_dec.norm(dim=1), torch.ones(2 * D_SAE))
    same(theirs, general(PROBE) + domain(PROBE), torch.cat([general.encode(PROBE), domain.encode(PROBE)], dim=1))
    general.set_tensors({"W_dec": general.W_dec * torch.linspace(1, 2, D_SAE)[:, None]})
    with pytest.raises(SAEError, match="would let other latents win"):
        lens(written(tmp_path / "b", general, domain)).fold_W_dec_norm()


@pytest.mark.saelens
@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("name", ["topk", "gated", "jumprelu", "relu", "batch_topk"])
@pytest.mark.parametrize("bias", BIASES)
def test_any_sae_becomes_one_of_sae_lens(name: str, bias: str, tmp_path: Path) -> None:
    sae = build(name, bias)
    write_stack(sae, build("topk", seed=3), tmp_path / "out", probe_x=PROBE, metadata=METADATA)
    theirs = importlib.import_module("fovea.saelens").to_saelens(tmp_path / "out")
    assert theirs.cfg.metadata.hook_name == "blocks.1.hook_resid_post"
    assert theirs.cfg.d_in == D_IN
    ours = load_sae(tmp_path / "out").sae
    same(theirs, ours(PROBE), ours.encode(PROBE))
