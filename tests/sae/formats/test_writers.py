"""SAEs in the layouts of other libraries: what is written is what was meant, or nothing is."""

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from fovea.errors import ConfigError, SAEError
from fovea.sae.base import SAE
from fovea.sae.files import SAEMetadata, load_sae
from fovea.sae.formats import writers
from fovea.sae.formats.pickled import read_pickled
from fovea.sae.formats.writers import WRITERS, WriteCheck, write_sae
from fovea.sae.stack import stack
from tests.sae.cases import BIASES, CONFIGS, ELEMENTWISE, build, rows

METADATA = SAEMetadata(
    model_name="EleutherAI/pythia-70m",
    hook_name="blocks.3.hook_resid_post",
    hf_hook_name="gpt_neox.layers.3",
    prepend_bos=True,
    context_size=128,
    fovea={"job": "ssae-topk-k16-s0"},
)
X = rows(seed=21)

HOLDS = {
    "saelens": sorted(CONFIGS),
    "dictionary_learning": sorted(CONFIGS),
    "sparsify": ["topk"],
}
"Layout -> architectures that it can hold; sparsify only with a tied pre-bias."

STACKS = ["topk + topk", "topk + batch_topk", "relu + topk", "jumprelu + batch_topk", "gated + gated"]
"g and an SAE on its residual as one; the bias is that of the second."

WRITTEN = [
    (layout, name, bias)
    for layout, names in {**HOLDS, "saelens": [*HOLDS["saelens"], *STACKS]}.items()
    for name in names
    for bias in BIASES
    if layout != "sparsify" or bias == "tied"
]
written_cases = pytest.mark.parametrize(("layout", "name", "bias"), WRITTEN)


def write(sae: SAE, folder: Path, layout: str) -> WriteCheck:
    return write_sae(sae, folder, layout=layout, metadata=METADATA, probe_x=X)


def made(name: str, bias: str) -> SAE:
    """An SAE by its architecture, or a stack of two."""
    first, plus, second = name.partition(" + ")
    return stack(build(first), build(second, bias, seed=3)) if plus else build(name, bias)


@written_cases
def test_what_is_written_is_read_back_as_the_same_sae(layout: str, name: str, bias: str, tmp_path: Path) -> None:
    sae = made(name, bias)
    check = write(sae, tmp_path / "out", layout)
    assert (check.n_tokens, check.n_flips) == (len(X), 0)
    assert check.max_relative_error < 1e-5
    loaded = load_sae(tmp_path / "out")
    torch.testing.assert_close(loaded.sae(X), sae(X), rtol=1e-5, atol=1e-5)
    expected = METADATA.model_dump(exclude={"fovea"})
    assert loaded.metadata.model_dump(exclude={"fovea"}) == expected
    assert loaded.metadata.fovea["job"] == "ssae-topk-k16-s0"


@pytest.mark.parametrize("layout", WRITERS)
def test_a_probe_stays_in_the_folder(layout: str, tmp_path: Path) -> None:
    sae = build("topk")
    write(sae, tmp_path / "out", layout)
    probe = load_file(tmp_path / "out" / "probe.safetensors")
    assert torch.equal(probe["x"], X[:64])
    assert torch.equal(probe["x_hat"], sae.inference_form()(X[:64]))


@pytest.mark.parametrize("name", ELEMENTWISE)
def test_a_stack_goes_into_dictionary_learning(name: str, tmp_path: Path) -> None:
    one = stack(build("batch_topk"), build(name, "own", seed=3))
    assert write(one, tmp_path / "out", "dictionary_learning").n_flips == 0
    state = read_pickled(tmp_path / "out" / "ae.pt")
    assert state["threshold"].shape == (one.d_sae,)


def test_the_files_are_those_of_the_library(tmp_path: Path) -> None:
    sae = build("topk")
    write(sae, tmp_path / "s", "sparsify")
    weights = load_file(tmp_path / "s" / "sae.safetensors")
    assert weights.keys() == {"encoder.weight", "encoder.bias", "W_dec", "b_dec"}
    assert torch.equal(weights["encoder.weight"], sae.W_enc.T)
    assert torch.equal(weights["W_dec"], sae.W_dec)
    cfg = json.loads((tmp_path / "s" / "cfg.json").read_text())
    assert (cfg["k"], cfg["num_latents"], cfg["d_in"], cfg["transcode"]) == (5, 40, 12, False)
    write(sae, tmp_path / "d", "dictionary_learning")
    state = torch.load(tmp_path / "d" / "ae.pt", weights_only=True)
    assert torch.equal(state["decoder.weight"], sae.W_dec.T)
    assert int(state["k"]) == 5
    trainer = json.loads((tmp_path / "d" / "config.json").read_text())["trainer"]
    assert (trainer["dict_class"], trainer["k"], trainer["layer"]) == ("AutoEncoderTopK", 5, 3)


@pytest.mark.parametrize(
    ("layout", "name", "bias", "message"),
    [
        ("sparsify", "batch_topk", "tied", "is jumprelu, but sparsify holds topk SAEs"),
        ("sparsify", "relu", "tied", "is standard, but sparsify holds topk SAEs"),
        ("sparsify", "topk", "none", "subtracts something else than its output bias"),
        ("sparsify", "topk", "own", "subtracts something else than its output bias"),
    ],
)
def test_what_a_layout_cannot_hold_is_refused(layout: str, name: str, bias: str, message: str, tmp_path: Path) -> None:
    with pytest.raises(SAEError, match=message):
        write(build(name, bias), tmp_path / "out", layout)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("layout", ["sparsify", "dictionary_learning"])
def test_an_sae_that_normalises_tokens_is_refused_where_there_is_no_word_for_it(layout: str, tmp_path: Path) -> None:
    sae = build("topk")
    sae.token_norm = "layer_norm"
    with pytest.raises(SAEError, match="raw activations only|normalises every token"):
        write(sae, tmp_path / "out", layout)
    write(sae, tmp_path / "ours", "saelens")
    assert load_sae(tmp_path / "ours").sae.token_norm == "layer_norm"


def test_an_unknown_layout_is_refused(tmp_path: Path) -> None:
    with pytest.raises(
        ConfigError, match="layout 'pickle' is unknown; allowed: saelens, sparsify, dictionary_learning"
    ):
        write(build("topk"), tmp_path / "out", "pickle")


def test_a_file_that_computes_something_else_gets_no_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real = writers.sparsify.contents

    def wrong(sae: SAE, metadata: SAEMetadata, *, where: str) -> object:
        tensors, cfg = real(sae, metadata, where=where)
        return tensors, {**cfg, "k": 4}

    monkeypatch.setattr(writers.sparsify, "contents", wrong)
    with pytest.raises(SAEError, match=r"read back, differs from the SAE: .* flipped latents \(allowed 0\)"):
        write(build("topk"), tmp_path / "out", "sparsify")
    assert list(tmp_path.iterdir()) == []


def test_an_existing_folder_is_never_replaced(tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "mine").write_text("x")
    with pytest.raises(OSError, match="out"):
        write(build("topk"), tmp_path / "out", "sparsify")
    assert (tmp_path / "out" / "mine").read_text() == "x"


in_library = [pytest.param(layout, name, bias, marks=getattr(pytest.mark, layout)) for layout, name, bias in WRITTEN]


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize(("layout", "name", "bias"), in_library)
def test_the_library_computes_the_same(layout: str, name: str, bias: str, tmp_path: Path) -> None:
    check = write(made(name, bias), tmp_path / "out", layout)
    assert check.library == WRITERS[layout].module
    assert (check.n_flips, check.max_relative_error < 1e-5) == (0, True)
