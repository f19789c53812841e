"""The words by which latents are found; and long tokens, which must not take long."""

from pathlib import Path

import pytest

from fovea.features.read import Features
from fovea.features.text import pieces
from fovea.features.words import latent_words
from tests.features.made import make


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make(tmp_path_factory.mktemp("made") / "run", jobs={"g": 40})


def test_the_words_are_those_around_the_peaks_and_the_promoted_tokens(run: Path) -> None:
    features = Features(run)
    words = list(latent_words(run, "g"))
    assert len(words) == 40
    for latent in (0, 17, 39):
        card = features.card("g", latent)
        for evidence in card.evidence:
            for example in evidence.groups[0].examples:
                around = example.pieces[example.peak - 1 : example.peak + 3]
                assert "".join(piece.text for piece in around).strip("\U0001f9ec") in words[latent]
        assert all(token.text in words[latent] for token in card.promoted)


def test_a_latent_that_never_fired_is_found_by_its_tokens_alone(run: Path) -> None:
    table = Features(run).table("g")
    dead = int(((table["n_fired_domain"] == 0) & (table["n_fired_general"] == 0)).nonzero()[0][0])
    assert "\n" not in list(latent_words(run, "g"))[dead]


def test_a_token_of_a_megabyte_beside_a_split_character_is_read_once() -> None:
    """In quadratic time the test would meet its time limit."""
    emoji = "\U0001f9ec".encode()
    found = pieces([b"A" * 1_000_000, emoji[:2], b"", emoji[2:], b"\xff", b"\xffb", b"end"])
    assert found[1:] == ["\U0001f9ec", "", "", "\ufffd", "b", "end"]
