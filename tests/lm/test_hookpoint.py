"""HookPoint: every spelling is read, and what is written is read back."""

from contextlib import suppress

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fovea.errors import ModelError
from fovea.lm.hookpoint import SITES, HookPoint

hook_points = st.builds(HookPoint, st.integers(0, 999), st.sampled_from(SITES))


@given(hook_points)
def test_the_transformer_lens_spelling_round_trips(hook_point):
    assert HookPoint.parse(str(hook_point)) == hook_point
    assert str(hook_point) == hook_point.transformer_lens


@given(hook_points)
def test_the_short_spelling_round_trips(hook_point):
    assert HookPoint.parse(f"{hook_point.layer}.{hook_point.site}") == hook_point


@given(
    st.builds(HookPoint, st.integers(0, 999), st.sampled_from(["resid_post", "attn_out", "mlp_out"])),
    st.sampled_from(["model.layers", "gpt_neox.layers", "transformer.h"]),
)
def test_the_hugging_face_spelling_round_trips(hook_point, prefix):
    assert HookPoint.parse(hook_point.hugging_face(prefix)) == hook_point


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("blocks.12.hook_resid_post", HookPoint(12, "resid_post")),
        ("blocks.0.hook_resid_pre", HookPoint(0, "resid_pre")),
        ("blocks.3.hook_resid_mid", HookPoint(3, "resid_mid")),
        ("model.layers.12", HookPoint(12, "resid_post")),
        ("model.layers.12.self_attn", HookPoint(12, "attn_out")),
        ("model.layers.12.mlp", HookPoint(12, "mlp_out")),
        ("gpt_neox.layers.3", HookPoint(3, "resid_post")),
        ("gpt_neox.layers.3.attention", HookPoint(3, "attn_out")),
        ("transformer.h.3", HookPoint(3, "resid_post")),
        ("transformer.h.3.attn", HookPoint(3, "attn_out")),
        ("12-res", HookPoint(12, "resid_post")),
        ("12-att", HookPoint(12, "attn_out")),
        ("12-mlp", HookPoint(12, "mlp_out")),
        (" 12.resid_post ", HookPoint(12, "resid_post")),
    ],
)
def test_known_spellings_are_read(text, expected):
    assert HookPoint.parse(text) == expected


@pytest.mark.parametrize(
    "text",
    [
        "",
        "12",
        "blocks.12",
        "blocks.-1.hook_resid_post",
        "blocks.12.attn.hook_z",
        "blocks.12.hook_resid_post.hook_sae",
        "model.layers.12.self_attn.o_proj",
        "model.layers.12.attention",
        "encoder.layer.3",
        "6-res-jb",
        "12.resid",
        "\u0661.resid_post",
    ],
)
def test_other_spellings_are_refused_with_the_accepted_ones(text):
    with pytest.raises(ModelError, match=r"12-res.*gpt_neox\.layers\.12"):
        HookPoint.parse(text)


@given(st.text(max_size=30))
def test_any_text_is_either_read_or_refused_in_words(text):
    with suppress(ModelError):
        hook_point = HookPoint.parse(text)
        assert HookPoint.parse(str(hook_point)) == hook_point


def test_impossible_hook_points_cannot_be_made():
    with pytest.raises(ModelError, match="layers count from 0"):
        HookPoint(-1, "resid_post")


@pytest.mark.parametrize("site", ["resid_pre", "resid_mid"])
def test_a_site_that_is_no_modules_output_has_no_hugging_face_path(site):
    with pytest.raises(ModelError, match="not the output of a module"):
        HookPoint(1, site).hugging_face("model.layers")


def test_an_unknown_module_prefix_is_refused():
    with pytest.raises(ModelError, match=r"allowed: model\.layers"):
        HookPoint(1, "resid_post").hugging_face("encoder.layer")
