"""Perplexity cleaning: what is kept, what is counted, and the loss itself."""

from pathlib import Path

import pytest
import torch

from builders import text, texts, tiny_lm, write_jsonl
from fovea.data.clean import Cleaner, LMScorer, ScoredPiece, mean_loss
from fovea.data.corpus import Document
from fovea.data.tokens import CorpusConfig, PackingConfig, build_tokens
from fovea.errors import ConfigError

LM = tiny_lm()


class ByLine:
    """A line's loss is the number before its colon; none where there is no number."""

    key = "by line"

    def __call__(self, text: str) -> list[ScoredPiece]:
        lines = text.splitlines(keepends=True)
        return [ScoredPiece(line, float(line.partition(":")[0]) if ":" in line else None) for line in lines]


def _document(text: str, id: str = "0" * 16) -> Document:
    return Document(id, text, "here")


def test_hard_pieces_are_dropped_neighbours_stay_together_and_all_is_counted():
    cleaner = Cleaner(ByLine(), max_loss=4.0)
    kept = list(cleaner([_document("1: a\n4.0: b\n5: c\n2: d\nno number\n3: e"), _document("9: f", "1" * 16)]))
    assert [document.text for document in kept] == ["1: a\n4.0: b\n\n2: d\n\n3: e"]
    assert kept[0].id == "0" * 16
    assert (cleaner.n_kept, cleaner.n_dropped, cleaner.n_documents_dropped) == (4, 3, 1)


def test_the_loss_is_that_of_the_plain_model():
    tokens = torch.randint(5, 300, (3, 20), generator=torch.Generator().manual_seed(0))
    for row, loss in zip(tokens, mean_loss(LM, tokens), strict=True):
        expected = LM.model(input_ids=row[None], labels=row[None]).loss
        assert loss.item() == pytest.approx(expected.item(), rel=1e-4)


def test_an_lm_scores_pieces_of_n_tokens_that_join_to_the_text():
    scorer = LMScorer(LM, n_tokens=16)
    body = "\u4e2d caf\u00e9 " + text(0, n_words=40)
    pieces = scorer(body)
    assert "".join(piece.text for piece in pieces) == body
    ids = LM.tokenizer(body, add_special_tokens=False)["input_ids"]
    assert len(pieces) == -(-len(ids) // 16)
    expected = mean_loss(LM, torch.tensor([ids[16:32]])).item()
    assert pieces[1].loss == pytest.approx(expected, rel=1e-5)
    assert LMScorer(LM, n_tokens=16)("a")[-1].loss is None


def test_cleaning_changes_no_documents_split_and_is_part_of_the_key(tmp_path: Path):
    source = write_jsonl(tmp_path / "a.jsonl", texts(12, n_words=30))
    config = CorpusConfig(reference=str(source), heldout_fraction=0.25)
    packing = PackingConfig(context_size=16)
    scorer = LMScorer(LM, n_tokens=16)
    losses = sorted(piece.loss for line in texts(12, n_words=30) for piece in scorer(line) if piece.loss)
    cleaner = Cleaner(scorer, max_loss=losses[len(losses) // 2])
    plain = build_tokens(config, LM, folder=tmp_path / "plain", packing=packing)
    clean = build_tokens(config, LM, folder=tmp_path / "clean", packing=packing, cleaner=cleaner)
    assert plain.manifest["key"] != clean.manifest["key"]
    assert plain.manifest["cleaning"] is None
    counts = clean.manifest["cleaning"]
    assert counts["n_pieces_kept"] > 0
    assert counts["n_pieces_dropped"] > 0
    for one, other in ((plain.train, clean.heldout), (plain.heldout, clean.train)):
        assert not set(one.document_ids()) & set(other.document_ids())


def test_settings_that_can_not_work_are_refused():
    with pytest.raises(ConfigError, match=r"clean\.n_tokens = 1"):
        LMScorer(LM, n_tokens=1)
    with pytest.raises(ConfigError, match=r"clean\.max_loss = 0"):
        Cleaner(ByLine(), max_loss=0.0)
