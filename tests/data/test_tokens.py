"""Tokenised corpora: nothing lost or doubled by packing, complete or absent, and refused when they differ."""

import json
import logging
import resource
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from builders import EOS, text, texts, tiny_lm, tokenised, tokenizer, write_jsonl
from fovea.data.pack import Packer, SplitFiles
from fovea.data.split import split_of
from fovea.data.tokenizer import PlainTokenizer, pieces_of
from fovea.data.tokens import (
    CorpusConfig,
    PackingConfig,
    build_tokens,
    check_distinct,
    open_tokens,
)
from fovea.errors import ConfigError, CorpusError, ModelError, RunError

LM = tiny_lm()
PACKING = PackingConfig(context_size=16)
SEPARATOR = LM.separator_id


def _unpacked(packed) -> dict[int, list[int]]:
    """The tokens of each document, from the packed contexts."""
    batch = packed.batch(range(packed.n_contexts))
    found: dict[int, list[int]] = {}
    for token, document in zip(batch.tokens.flatten().tolist(), batch.documents.flatten().tolist(), strict=True):
        if document >= 0:
            found.setdefault(document, []).append(token)
    return found


@settings(max_examples=30, deadline=None)
@given(
    lengths=st.lists(st.integers(1, 40), min_size=1, max_size=12),
    width=st.integers(2, 9),
    bos=st.booleans(),
    limit=st.none() | st.integers(1, 20),
    cut=st.integers(0, 40),
)
def test_packing_loses_and_doubles_no_token(tmp_path_factory, lengths, width, bos, limit, cut):
    folder = tmp_path_factory.mktemp("packed")
    packer = Packer(
        SplitFiles.of(folder, "train"),
        context_size=width,
        separator_id=0,
        bos_id=1 if bos else None,
        max_contexts=limit,
    )
    stream: list[tuple[int, int]] = []
    for index, length in enumerate(lengths):
        ids = [2 + 100 * index + place for place in range(length)]
        stream += ([(0, -1)] if index else []) + [(token, index) for token in ids]
        for piece in (ids[:cut], ids[cut:]):
            packer.add(f"document {index}", piece)
    packer.finish()
    body = width - bos
    n_contexts = len(stream) // body if limit is None else min(limit, len(stream) // body)
    written = np.fromfile(folder / "train.tokens.u32", dtype="<u4").reshape(-1, width)
    documents = np.fromfile(folder / "train.documents.i32", dtype="<i4").reshape(-1, width)
    assert packer.n_contexts == len(written) == n_contexts
    if bos:
        assert (written[:, 0] == 1).all()
        assert (documents[:, 0] == -1).all()
    pairs = list(zip(written[:, bos:].flatten().tolist(), documents[:, bos:].flatten().tolist(), strict=True))
    assert pairs == stream[: n_contexts * body]
    counts = packer.counts()
    assert counts["n_document_tokens"] == sum(document >= 0 for _, document in pairs)
    assert counts["n_documents"] == len({document for _, document in pairs} - {-1})
    assert counts["n_tail_tokens"] == (0 if packer.full else len(stream) - n_contexts * body)
    names = (folder / "train.documents.txt").read_text().splitlines()
    assert names == [f"document {index}" for index in range(counts["n_documents"])]


def test_the_tokens_of_each_document_are_those_of_its_text(tmp_path: Path):
    documents = texts(40)
    corpus = tokenised(tmp_path / "biology", LM, documents=documents)
    plain = PlainTokenizer(LM.tokenizer)
    n_whole = 0
    for packed in (corpus.train, corpus.heldout):
        found, names = _unpacked(packed), packed.document_ids()
        assert len(found) == len(names) == packed.n_documents
        for index, ids in found.items():
            (whole,) = [ids_of for ids_of in plain.encode(documents) if ids_of[: len(ids)] == ids]
            n_whole += len(whole) == len(ids)
            assert split_of(names[index], heldout_fraction=0.25) == packed.split
    assert n_whole >= 38
    assert corpus.manifest["n_documents_read"] == 40
    assert corpus.name == "biology"


def test_batches_are_in_the_order_asked_for_and_positions_are_columns(tmp_path: Path):
    packed = tokenised(tmp_path / "a", LM, documents=texts(20)).train
    whole, batch = packed.batch(range(packed.n_contexts)), packed.batch([3, 0, 3])
    for all_of, some in zip(whole, batch, strict=True):
        assert torch.equal(all_of[[3, 0, 3]], some)
    assert batch.positions.tolist() == [list(range(16))] * 3
    assert (whole.documents[whole.tokens == SEPARATOR] == -1).all()
    assert packed.n_tokens == whole.tokens.numel()
    assert packed.n_document_tokens == int((whole.documents >= 0).sum())


def test_bos_is_what_the_tokenizer_does_unless_said_otherwise(tmp_path: Path):
    source = write_jsonl(tmp_path / "a.jsonl", texts(20))
    config = CorpusConfig(reference=str(source), heldout_fraction=0.25)
    for n, (adds, asked, expected) in enumerate([(True, "auto", True), (False, "auto", False), (False, True, True)]):
        packing = PackingConfig(context_size=16, prepend_bos=asked)
        packed = build_tokens(config, tiny_lm(adds_bos=adds), folder=tmp_path / str(n), packing=packing).train
        batch = packed.batch(range(packed.n_contexts))
        assert bool((batch.tokens[:, 0] == 1).all()) is expected
        assert bool((batch.documents[:, 0] == -1).all()) is expected
        assert not (batch.tokens[:, 1:] == 1).any()


def test_special_token_spellings_in_a_text_are_plain_text(tmp_path: Path):
    marked = [f"{line} {EOS} and <|im_start|>user {line}" for line in texts(12)]
    packed = tokenised(tmp_path / "a", LM, documents=marked).train
    for ids in _unpacked(packed).values():
        assert not LM.special_ids & set(ids)
    plain = PlainTokenizer(LM.tokenizer)
    assert LM.tokenizer.decode(plain.encode([marked[0]])[0]) == marked[0]
    assert LM.tokenizer(EOS, add_special_tokens=False)["input_ids"] == [SEPARATOR], (
        "the lm's own tokenizer is unchanged"
    )


def test_reordering_and_adding_files_changes_no_documents_split(tmp_path: Path):
    first = tokenised(tmp_path / "a", LM, documents=texts(30))
    second = tokenised(tmp_path / "b", LM, documents=[*texts(15, seed=9), *reversed(texts(30))])
    for before, after in ((first.train, second.train), (first.heldout, second.heldout)):
        assert set(before.document_ids()) <= set(after.document_ids()) | {before.document_ids()[-1]}


def test_the_fingerprint_says_whether_the_content_is_equal_wherever_it_lies(tmp_path: Path):
    one, same = (tokenised(tmp_path / name / "c", LM, documents=texts(20)) for name in ("a", "b"))
    other = tokenised(tmp_path / "d", LM, documents=texts(21))
    assert one.train.fingerprint == same.train.fingerprint
    assert one.manifest["key"] == same.manifest["key"]
    assert one.train.fingerprint not in (other.train.fingerprint, one.heldout.fingerprint)


def test_limits_stop_each_split_and_reading_ends_when_both_are_full(tmp_path: Path):
    source = write_jsonl(tmp_path / "a.jsonl", texts(1500, n_words=20))
    config = CorpusConfig(reference=str(source), heldout_fraction=0.25)
    whole = build_tokens(config, LM, folder=tmp_path / "whole", packing=PACKING)
    limited = config.model_copy(update={"max_train_tokens": 330, "max_heldout_tokens": 100})
    seen: list[tuple[int, int]] = []
    part = build_tokens(
        limited, LM, folder=tmp_path / "part", packing=PACKING, on_progress=lambda *counts: seen.append(counts)
    )
    assert (part.train.n_tokens, part.heldout.n_tokens) == (320, 96)
    assert part.manifest["n_documents_read"] < 1500
    assert seen[-1][1] == 320 + 96
    for all_of, some in ((whole.train, part.train), (whole.heldout, part.heldout)):
        assert torch.equal(all_of.batch(range(some.n_contexts)).tokens, some.batch(range(some.n_contexts)).tokens)


def test_a_second_call_reuses_the_folder_and_a_changed_setting_or_file_is_refused(tmp_path: Path, caplog):
    source = write_jsonl(tmp_path / "a.jsonl", texts(20))
    config = CorpusConfig(reference=str(source), heldout_fraction=0.25)
    folder = tmp_path / "corpus"
    first = build_tokens(config, LM, folder=folder, packing=PACKING)
    with caplog.at_level(logging.INFO, "fovea"):
        again = build_tokens(config, LM, folder=folder, packing=PACKING)
    assert again.manifest == first.manifest
    assert "reused" in caplog.text
    with pytest.raises(RunError, match="context_size: 16 -> 8"):
        build_tokens(config, LM, folder=folder, packing=PackingConfig(context_size=8))
    with pytest.raises(RunError, match="salt: '' -> 'b'"):
        build_tokens(config.model_copy(update={"salt": "b"}), LM, folder=folder, packing=PACKING)
    write_jsonl(source, texts(21))
    with pytest.raises(RunError, match="content of a.jsonl: "):
        build_tokens(config, LM, folder=folder, packing=PACKING)


def test_damage_is_noticed(tmp_path: Path):
    corpus = tokenised(tmp_path / "a", LM, documents=texts(20))
    path = tmp_path / "a" / "heldout.tokens.u32"
    data = bytearray(path.read_bytes())
    data[5] ^= 1
    path.write_bytes(data)
    with pytest.raises(RunError, match=r"heldout\.tokens\.u32 is damaged"):
        open_tokens(tmp_path / "a")
    path.unlink()
    with pytest.raises(RunError, match="is missing"):
        open_tokens(tmp_path / "a")
    (tmp_path / "a" / "manifest.json").write_text(json.dumps({**corpus.manifest, "format": 0}))
    with pytest.raises(RunError, match="format 0"):
        open_tokens(tmp_path / "a")
    with pytest.raises(RunError, match="can not be read"):
        open_tokens(tmp_path / "b")


def test_a_failed_build_leaves_nothing(tmp_path: Path):
    source = tmp_path / "a.jsonl"
    write_jsonl(source, texts(1200, n_words=20))
    with source.open("a") as file:
        file.write("not json\n")
    with pytest.raises(CorpusError, match="line 1201"):
        build_tokens(CorpusConfig(reference=str(source)), LM, folder=tmp_path / "run" / "a", packing=PACKING)
    assert list((tmp_path / "run").iterdir()) == []


def test_a_full_disk_leaves_nothing(tmp_path: Path):
    source = write_jsonl(tmp_path / "a.jsonl", texts(200))
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (4096, before[1]))
    try:
        with pytest.raises(OSError, match="File too large"):
            build_tokens(CorpusConfig(reference=str(source)), LM, folder=tmp_path / "run" / "a", packing=PACKING)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert list((tmp_path / "run").iterdir()) == []


def test_a_corpus_of_less_than_one_context_is_refused(tmp_path: Path):
    with pytest.raises(CorpusError, match="less than one context of 16 tokens"):
        tokenised(tmp_path / "a", LM, documents=["A cell."])
    source = write_jsonl(tmp_path / "b.jsonl", [text(1)])
    with pytest.raises(CorpusError, match="0 documents"):
        build_tokens(CorpusConfig(reference=str(source)), LM, folder=tmp_path / "b", packing=PACKING)
    whole = CorpusConfig(reference=str(source), heldout_fraction=0.0)
    corpus = build_tokens(whole, LM, folder=tmp_path / "c", packing=PACKING)
    assert corpus.train.n_contexts > 0
    assert corpus.heldout.n_contexts == 0
    assert corpus.heldout.batch([]).tokens.shape == (0, 16)


def test_settings_that_can_not_work_are_refused_with_what_to_do(tmp_path: Path):
    source = write_jsonl(tmp_path / "a.jsonl", texts(20))
    with pytest.raises(ConfigError, match="max_train_tokens = 5"):
        build_tokens(
            CorpusConfig(reference=str(source), max_train_tokens=5), LM, folder=tmp_path / "a", packing=PACKING
        )
    with pytest.raises(ConfigError, match="context_size = 1000, but 'tiny-0' reads at most 256"):
        build_tokens(
            CorpusConfig(reference=str(source)), LM, folder=tmp_path / "a", packing=PackingConfig(context_size=1000)
        )
    without = tiny_lm()
    without.tokenizer.bos_token = None
    packing = PackingConfig(context_size=16, prepend_bos=True)
    with pytest.raises(ConfigError, match="no BOS token"):
        build_tokens(CorpusConfig(reference=str(source)), without, folder=tmp_path / "a", packing=packing)
    with pytest.raises(ModelError, match="no fast form"):
        PlainTokenizer(object())


def test_a_domain_identical_to_general_is_refused_and_an_overlap_is_counted(tmp_path: Path, caplog):
    domain = tokenised(tmp_path / "domain", LM, documents=texts(20))
    same = tokenised(tmp_path / "same", LM, documents=texts(20))
    with pytest.raises(CorpusError, match="domain 'domain' is identical to general 'same'"):
        check_distinct(domain, same)
    wider = tokenised(tmp_path / "wider", LM, documents=[*texts(20), *texts(60, seed=3)])
    with pytest.raises(CorpusError, match="are also in general 'wider'"):
        check_distinct(domain, wider)
    ids = domain.train.document_ids() + domain.heldout.document_ids()
    partly = tokenised(tmp_path / "partly", LM, documents=[*texts(20)[:5], *texts(20, seed=3)])
    with caplog.at_level(logging.WARNING, "fovea"):
        overlap = check_distinct(domain, partly)
    assert overlap.n_shared in (4, 5)
    assert overlap.share == overlap.n_shared / len(ids)
    assert "are also in general" in caplog.text
    caplog.clear()
    assert check_distinct(domain, tokenised(tmp_path / "apart", LM, documents=texts(20, seed=4))).share == 0
    assert not caplog.text


@settings(max_examples=30, deadline=None)
@given(body=st.text(alphabet="ab1 \n.\u00e9\u4e2d", max_size=400), size=st.integers(1, 60))
def test_pieces_joined_are_the_text_and_bounded(body, size):
    pieces = list(pieces_of(body, size=size))
    assert "".join(pieces) == body
    assert all(0 < len(piece) <= size for piece in pieces)


def test_cutting_at_a_lone_space_changes_no_token():
    body = "\n\n".join(texts(40))
    plain = PlainTokenizer(tokenizer())
    pieces = list(pieces_of(body, size=500))
    assert len(pieces) > 20
    assert [id for ids in plain.encode(pieces) for id in ids] == plain.encode([body])[0]


@pytest.mark.parametrize(
    ("spaces", "limit", "n_bytes"),
    [(True, 500_000, 50_000_000), pytest.param(False, None, 20_000_000, marks=pytest.mark.slow)],
    ids=["start of 50 MB", "whole of 20 MB"],
)
def test_a_long_document_on_one_line_takes_bounded_memory(
    tmp_path: Path, spaces: bool, limit: int | None, n_bytes: int
):
    line = " ".join(text(n, n_words=400) for n in range(40))
    line = line if spaces else line.replace(" ", "")
    path = tmp_path / "a.jsonl"
    with path.open("w") as file:
        file.write('{"text": "')
        for _ in range(-(-n_bytes // len(line))):
            file.write(line)
        file.write('"}\n')
    config = CorpusConfig(reference=str(path), heldout_fraction=0.0, max_train_tokens=limit)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    packed = build_tokens(config, LM, folder=tmp_path / "b", packing=PackingConfig(context_size=128)).train
    grown = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) * 1024
    assert packed.n_documents == 1
    assert packed.n_tokens > (limit - 128 if limit else n_bytes / 10)
    assert grown < 8 * n_bytes
