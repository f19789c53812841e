"""Exact text: the bytes of the tokens are the bytes of the text, whatever characters they split."""

import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from fovea.data.tokenizer import PlainTokenizer
from fovea.features import text as text_module
from fovea.features.spelling import token_bytes
from fovea.features.text import pieces, read_vocabulary, write_vocabulary
from tests import builders
from tests.lm import tiny

HARD = [
    "em dash — and “quotes”",
    "emoji 🧬👩‍🔬 and flags 🇩🇪",
    "数学は楽しい",
    "&mdash; &amp; <b>",
    "a\0b",
    "\u202eright to left\u2066",
    "naïve café \u0301",
    "  two  spaces\n\n\tand tabs",
    "<|im_end|> as text",
    "\ufffd is a character too",
]


def test_texts_that_others_break_come_out_as_they_went_in():
    tokenizer = builders.tokenizer()
    vocabulary = token_bytes(tokenizer)
    for text in HARD:
        (ids,) = PlainTokenizer(tokenizer).encode([text])
        shown = pieces([vocabulary.tokens[index] for index in ids])
        assert "".join(shown) == text
        assert len(shown) == len(ids)


@settings(max_examples=200, deadline=None)
@given(text=st.text(st.characters(exclude_categories=["Cs"])))
def test_byte_level_text_is_exact(text):
    tokenizer = builders.tokenizer()
    vocabulary = token_bytes(tokenizer)
    (ids,) = PlainTokenizer(tokenizer).encode([text])
    assert b"".join(vocabulary.tokens[index] for index in ids) == text.encode()
    assert "".join(pieces([vocabulary.tokens[index] for index in ids])) == text


@pytest.mark.slow
@settings(max_examples=300, deadline=None)
@given(text=st.text(st.characters(exclude_categories=["Cs"])) | st.sampled_from(HARD))
def test_the_bundled_tokenizer_is_exact(text):
    tokenizer, vocabulary = _bundled()
    # This tokenizer has no token for a few bytes, F1 for one; it leaves them out itself.
    assume(all(bytes([byte]) in vocabulary.tokens for byte in text.encode()))
    (ids,) = tokenizer.encode([text])
    assert "".join(pieces([vocabulary.tokens[index] for index in ids])) == text


_CACHE = {}


def _bundled():
    if not _CACHE:
        from fovea.lm.load import load_lm

        lm = load_lm("bundled:smollm2-135m-instruct")
        _CACHE["it"] = PlainTokenizer(lm.tokenizer), token_bytes(lm.tokenizer)
    return _CACHE["it"]


@given(data=st.lists(st.binary(max_size=5), max_size=12))
def test_any_bytes_give_one_string_per_token_and_never_a_lone_surrogate(data):
    shown = pieces(data)
    assert len(shown) == len(data)
    "".join(shown).encode()
    if b"".join(data).decode("utf-8", "ignore").encode() == b"".join(data):
        assert "".join(shown).encode() == b"".join(data)
    assert all(not text for text, token in zip(shown, data, strict=True) if not token)


def test_a_split_character_belongs_to_its_first_token():
    dna = "🧬".encode()
    assert pieces([b"a", dna[:1], dna[1:3], dna[3:] + b"b"]) == ["a", "🧬", "", "b"]
    assert pieces([dna[2:], b"a", dna[:2]]) == ["\ufffd", "a", "\ufffd"], "cut off by the ends of the context"


def test_sentencepiece_with_byte_fallback():
    words = {"<unk>": 0, "\u2581the": 1, "\u2581": 2, "c": 3, **{f"<0x{byte:02X}>": 4 + byte for byte in range(256)}}
    raw = Tokenizer(models.BPE(vocab=words, merges=[], unk_token="<unk>", byte_fallback=True))
    raw.normalizer = normalizers.Sequence([normalizers.Prepend("\u2581"), normalizers.Replace(" ", "\u2581")])
    steps = [decoders.Replace("\u2581", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    raw.decoder = decoders.Sequence(steps)
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=raw, eos_token="<unk>")
    vocabulary = token_bytes(tokenizer)
    assert vocabulary.added_space
    for text in ["c 数c", "— c", "a\0b 🧬"]:
        ids = raw.encode(text, add_special_tokens=False).ids
        shown = "".join(pieces([vocabulary.tokens[index] for index in ids]))
        assert shown == " " + text, "the first space is the tokenizer's own; the reader takes it off"


def test_wordpiece_and_words():
    raw = Tokenizer(models.WordPiece({"[UNK]": 0, "play": 1, "##ing": 2, "now": 3}, unk_token="[UNK]"))
    raw.pre_tokenizer, raw.decoder = pre_tokenizers.Whitespace(), decoders.WordPiece()
    vocabulary = token_bytes(PreTrainedTokenizerFast(tokenizer_object=raw, unk_token="[UNK]"))
    assert [vocabulary.tokens[index] for index in raw.encode("playing now").ids] == [b" play", b"ing", b" now"]
    assert token_bytes(tiny.tokenizer()).tokens[5] == b" w5"


def test_a_vocabulary_is_read_back(tmp_path):
    vocabulary = token_bytes(builders.tokenizer())
    write_vocabulary(tmp_path / "tokens.parquet", vocabulary)
    assert read_vocabulary(tmp_path / "tokens.parquet") == vocabulary


def test_whole_tokens_are_not_taken_apart(monkeypatch):
    """Nearly all tokens are whole characters; splitting is slow, so it is for those that need it."""
    asked: list[int] = []
    split = text_module._split_pieces
    monkeypatch.setattr(text_module, "_split_pieces", lambda tokens: asked.append(len(tokens)) or split(tokens))
    tokens = [b"a", b" caf\xc3", b"\xa9", b" b"] + [b" word"] * 50
    assert pieces(tokens) == ["a", " caf\u00e9", "", " b"] + [" word"] * 50
    assert sum(asked) == 2
    assert len(asked) <= 2
