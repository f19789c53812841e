"""Patching a tiny real lm: against the definition, computed token by token in float64, and against itself."""

import json
from contextlib import ExitStack
from pathlib import Path

import pytest
import torch
from torch import Tensor

from eval.made_sums import at_random
from fovea.data.activations import TokenFilter, spread
from fovea.data.tokens import CorpusConfig, PackedTokens, PackingConfig, build_tokens
from fovea.errors import ConfigError, CorpusError
from fovea.eval.bootstrap import resample
from fovea.eval.candidates import EvalBatch, Reconstruction, Trained, general_reconstruction
from fovea.eval.downstream import Bench, evaluate, positions
from fovea.eval.metrics import METRICS, point_totals
from fovea.eval.sums import Sums, merge
from fovea.lm.hookpoint import HookPoint
from fovea.lm.model import LM
from lm import tiny

HOOK = HookPoint(1, "resid_post")


class Constant:
    """Rebuilds x as `scale` * x, with a given L0."""

    def __init__(self, name: str, scale: float) -> None:
        self.name, self.scale = name, scale

    def reconstruct(self, batch: EvalBatch) -> Reconstruction:
        l0 = torch.full((len(batch.x),), 2)
        return Reconstruction(batch.x * self.scale, torch.zeros_like(l0), l0)


class Ridge:
    """A little dictionary with real latents: relu of x, and a scaled copy back."""

    def encode(self, x: Tensor) -> Tensor:
        return torch.cat([x, -x], dim=-1).relu()

    def decode(self, latents: Tensor) -> Tensor:
        positive, negative = latents.chunk(2, dim=-1)
        return 0.8 * (positive - negative)


class Adds:
    """The method that adds g's reconstruction."""

    adds_general = True

    def combine(self, x_general: Tensor | None, x_hat: Tensor) -> Tensor:
        assert x_general is not None
        return x_general + x_hat


@pytest.fixture(scope="module")
def lm() -> LM:
    return tiny.lm("llama")


@pytest.fixture(scope="module")
def packed(lm: LM, tmp_path_factory: pytest.TempPathFactory) -> PackedTokens:
    folder = tmp_path_factory.mktemp("corpus")
    generator = torch.Generator().manual_seed(0)
    lines = []
    for size in (5, 9, 14, 3, 30, 7, 12, 25, 6, 8):
        words = torch.randint(3, tiny.D_VOCAB, (size,), generator=generator).tolist()
        lines.append(json.dumps({"text": " ".join(f"w{word}" for word in words)}))
    (folder / "text.jsonl").write_text("\n".join(lines))
    config = CorpusConfig(reference=str(folder / "text.jsonl"), heldout_fraction=0)
    packing = PackingConfig(context_size=12, prepend_bos=True)
    return build_tokens(config, lm, folder=folder / "tokens", packing=packing).train


def bench(lm: LM, *, max_norm: float | None = None, rows_per_chunk: int = 5) -> Bench:
    token_filter = TokenFilter.of(lm, skip_first=2, max_norm=max_norm)
    mean = torch.linspace(-1, 1, tiny.D_MODEL)
    return Bench(lm, HOOK, token_filter, general_reconstruction(Ridge()), mean, rows_per_chunk)


def measure(lm: LM, packed: PackedTokens, *, contexts_per_batch: int = 3, **settings: float | int | None) -> Sums:
    candidates = [
        Constant("identity", 1.0),
        Constant("nothing", 0.0),
        Constant("half", 0.5),
        Trained("both", Ridge(), Adds()),
    ]
    made = bench(lm, **settings)  # pyright: ignore[reportArgumentType]
    return evaluate(made, packed, candidates=candidates, n_contexts=99, contexts_per_batch=contexts_per_batch)


def test_the_identity_costs_nothing_to_the_last_bit(lm: LM, packed: PackedTokens):
    sums = measure(lm, packed)
    torch.testing.assert_close(sums.candidates["identity"].ce, sums.corpus.ce_clean, rtol=0, atol=0)
    assert not sums.candidates["identity"].kl.any()
    assert not sums.candidates["identity"].error_sq.any()


def test_patching_in_zeros_is_zero_ablation(lm: LM, packed: PackedTokens):
    sums = measure(lm, packed)
    torch.testing.assert_close(sums.candidates["nothing"].ce, sums.candidates["zero"].ce, rtol=0, atol=0)
    torch.testing.assert_close(sums.candidates["nothing"].error_sq, sums.corpus.sum_x_sq)
    assert (sums.candidates["mean"].ce != sums.candidates["zero"].ce).any()


def test_sums_follow_the_definition_token_by_token(lm: LM, packed: PackedTokens):
    sums = measure(lm, packed, max_norm=1.3)
    batch = packed.batch(range(packed.n_contexts))
    x = lm.activations(batch.tokens, HOOK)
    kept = bench(lm, max_norm=1.3).token_filter.keep(batch.tokens, x)
    assert 0 < (x.norm(dim=-1) > 1.3).sum() < x[..., 0].numel()
    patched = torch.where(kept[..., None], 0.5 * x, x)
    with torch.no_grad():
        clean = lm.model(batch.tokens).logits.double().log_softmax(dim=-1)
        with lm.patched(HOOK, lambda _: patched):
            new = lm.model(batch.tokens).logits.double().log_softmax(dim=-1)
    expected = {
        name: torch.zeros(packed.n_documents, dtype=torch.float64) for name in ("n", "ce", "kl", "error", "scored")
    }
    for b in range(packed.n_contexts):
        for p in range(packed.context_size):
            document = batch.documents[b, p]
            if not kept[b, p]:
                continue
            expected["n"][document] += 1
            expected["error"][document] += (0.5 * x[b, p].double()).square().sum()
            if p + 1 == packed.context_size or batch.tokens[b, p + 1].item() in (1, 2):
                continue
            expected["scored"][document] += 1
            expected["ce"][document] -= new[b, p, batch.tokens[b, p + 1]]
            expected["kl"][document] += (clean[b, p].exp() * (clean[b, p] - new[b, p])).sum()
    half = sums.candidates["half"]
    found = {
        "n": sums.corpus.n_tokens,
        "scored": sums.corpus.n_scored,
        "ce": half.ce,
        "kl": half.kl,
        "error": half.error_sq,
    }
    for name, values in found.items():
        torch.testing.assert_close(values, expected[name][sums.documents], rtol=1e-5, atol=1e-5, msg=name)
    torch.testing.assert_close(half.l0_domain, 2 * sums.corpus.n_tokens)


def test_a_special_token_is_never_a_target_and_a_last_position_never_scored(lm: LM, packed: PackedTokens):
    batch = packed.batch(range(packed.n_contexts))
    x = torch.zeros(*batch.tokens.shape, 1)
    where = positions(TokenFilter.of(lm, skip_first=1), batch, x=x)
    assert not where.scored[:, -1].any()
    assert where.kept[:, -1].any()
    separators = (batch.tokens == lm.separator_id).nonzero()
    assert len(separators) > 3
    for b, p in separators.tolist():
        assert not where.kept[b, p]
        assert not where.scored[b, p - 1]
    assert not (where.scored & ~where.kept).any()


def test_masked_sums_hold_the_tokens_that_g_hurts(lm: LM, packed: PackedTokens):
    sums = measure(lm, packed)
    assert 0 < sums.corpus.n_masked.sum() < sums.corpus.n_scored.sum()
    gap = sums.candidates["g"].ce - sums.corpus.ce_clean
    assert (sums.corpus.gap_masked >= gap).all()
    totals = point_totals(sums)
    assert METRICS["loss_recovered_gap_masked"](totals["identity"])[0] == pytest.approx(1.0)
    assert METRICS["loss_recovered_gap_masked"](totals["g"])[0] == 0.0


def test_a_method_that_adds_g_scores_the_sum_and_counts_both_blocks(lm: LM, packed: PackedTokens):
    sums = measure(lm, packed)
    both, general = sums.candidates["both"], sums.candidates["g"]
    torch.testing.assert_close(both.error_sq, 0.36 * sums.corpus.sum_x_sq)
    torch.testing.assert_close(both.l0_general, general.l0_general, rtol=0, atol=0)
    torch.testing.assert_close(both.l0_domain, general.l0_general, rtol=0, atol=0)
    assert not general.l0_domain.any()


@pytest.mark.parametrize(("contexts_per_batch", "rows_per_chunk"), [(1, 1), (2, 7), (50, 512)])
def test_sums_do_not_depend_on_the_batch_size(
    lm: LM, packed: PackedTokens, contexts_per_batch: int, rows_per_chunk: int
):
    one = measure(lm, packed)
    other = measure(lm, packed, contexts_per_batch=contexts_per_batch, rows_per_chunk=rows_per_chunk)
    torch.testing.assert_close(other.corpus._asdict(), one.corpus._asdict(), rtol=1e-5, atol=1e-5)
    for name, sums in one.candidates.items():
        torch.testing.assert_close(other.candidates[name]._asdict(), sums._asdict(), rtol=1e-5, atol=1e-5)


def test_the_same_evaluation_gives_the_same_bits(lm: LM, packed: PackedTokens):
    one, two = measure(lm, packed), measure(lm, packed)
    for name, sums in one.candidates.items():
        torch.testing.assert_close(sums._asdict(), two.candidates[name]._asdict(), rtol=0, atol=0)


def test_a_candidate_is_measured_the_same_alone_and_in_company(lm: LM, packed: PackedTokens):
    many = [Constant(f"c{i}", i / 20) for i in range(20)]
    together = evaluate(bench(lm), packed, candidates=many, n_contexts=4, contexts_per_batch=2)
    alone = evaluate(bench(lm), packed, candidates=many[17:18], n_contexts=4, contexts_per_batch=2)
    torch.testing.assert_close(together.candidates["c17"]._asdict(), alone.candidates["c17"]._asdict(), rtol=0, atol=0)


def test_g_is_computed_once_per_batch_and_only_if_asked_for(lm: LM, packed: PackedTokens):
    calls: list[int] = []
    reconstruct = general_reconstruction(Ridge())

    def counted(x: Tensor) -> Reconstruction:
        calls.append(len(x))
        return reconstruct(x)

    many = [Trained(name, Ridge(), Adds()) for name in ("a", "b", "c")]
    evaluate(bench(lm)._replace(general=counted), packed, candidates=many, n_contexts=6, contexts_per_batch=2)
    assert len(calls) == 3


@pytest.mark.parametrize("n_candidates", [1, 9, 20])
def test_layers_before_the_hook_run_once_a_batch_those_after_once_a_candidate_and_the_clean_head_is_shared(
    lm: LM, packed: PackedTokens, n_candidates: int, monkeypatch: pytest.MonkeyPatch
):
    runs = [0] * tiny.N_LAYERS
    n_head_rows = 0
    logits = LM.logits

    def counted(self: LM, hidden: Tensor) -> Tensor:
        nonlocal n_head_rows
        n_head_rows += len(hidden)
        return logits(self, hidden)

    monkeypatch.setattr(LM, "logits", counted)
    with ExitStack() as stack:
        for index in range(tiny.N_LAYERS):
            part = lm.model.get_submodule(f"{lm.layers_path}.{index}.mlp")  # a layer that is skipped has no mlp call

            def count(*_: object, index: int = index) -> None:
                runs[index] += 1

            stack.callback(part.register_forward_hook(count).remove)
        many = [Constant(f"c{i}", i / 20) for i in range(n_candidates)]
        sums = evaluate(bench(lm), packed, candidates=many, n_contexts=6, contexts_per_batch=2)
    passes = n_candidates + len(("clean", "g", "zero", "mean"))
    assert runs[: HOOK.layer + 1] == [3] * (HOOK.layer + 1)
    assert runs[HOOK.layer + 1 :] == [3 * passes] * (tiny.N_LAYERS - HOOK.layer - 1)
    n_groups = -(-(passes - 1) // 16)
    assert n_head_rows == (passes - 1 + n_groups) * int(sums.corpus.n_scored.sum())


def test_without_g_everything_else_is_measured(lm: LM, packed: PackedTokens):
    sums = evaluate(
        bench(lm)._replace(general=None), packed, candidates=[Constant("half", 0.5)], n_contexts=6, contexts_per_batch=2
    )
    assert sorted(sums.candidates) == ["half", "mean", "zero"]
    assert not sums.corpus.n_masked.any()


def test_progress_counts_contexts(lm: LM, packed: PackedTokens):
    told: list[tuple[int, int]] = []
    evaluate(
        bench(lm), packed, candidates=[], n_contexts=5, contexts_per_batch=2, observe=lambda *done: told.append(done)
    )
    assert told == [(2, 5), (4, 5), (5, 5)]


def test_contexts_are_spread_over_the_corpus():
    assert spread(100, 4) == [0, 25, 50, 75]
    assert spread(3, 10) == [0, 1, 2]


def test_two_candidates_of_one_name_are_refused(lm: LM, packed: PackedTokens):
    with pytest.raises(ConfigError, match=r"share the names \['zero'\]"):
        evaluate(bench(lm), packed, candidates=[Constant("zero", 1.0)], n_contexts=1, contexts_per_batch=1)


def test_a_corpus_without_a_kept_token_is_refused(lm: LM, packed: PackedTokens):
    with pytest.raises(CorpusError, match="no token of its 2 contexts is kept"):
        evaluate(bench(lm, max_norm=1e-9), packed, candidates=[], n_contexts=2, contexts_per_batch=1)


def test_sums_of_two_halves_merge_to_those_of_the_whole(lm: LM, packed: PackedTokens, tmp_path: Path):
    del tmp_path
    whole = evaluate(bench(lm), packed, candidates=[Constant("half", 0.5)], n_contexts=4, contexts_per_batch=1)
    merged = merge(whole, at_random(0, names=["half"], d_in=tiny.D_MODEL))
    assert merged.corpus.n_tokens.sum() > whole.corpus.n_tokens.sum()
    assert resample(whole, corpus="c", split="train", n_resamples=10).n_documents == whole.n_documents


def test_ce_alone_gives_the_same_losses_and_says_that_kl_was_not_measured(lm: LM, packed: PackedTokens):
    candidates = [Constant("half", 0.5)]
    full = evaluate(bench(lm), packed, candidates=candidates, n_contexts=99, contexts_per_batch=3)
    alone = bench(lm)._replace(ce_alone=True)
    short = evaluate(alone, packed, candidates=candidates, n_contexts=99, contexts_per_batch=3)
    assert sorted(short.candidates) == ["g", "half"]
    assert torch.equal(short.candidates["half"].ce, full.candidates["half"].ce)
    assert torch.equal(short.candidates["half"].error_sq, full.candidates["half"].error_sq)
    assert short.candidates["half"].kl.isnan().any()
    assert not full.candidates["half"].kl.isnan().any()
