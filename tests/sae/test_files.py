"""SAEs on disk: what is written, what is read back, and what is refused."""

import json
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from fovea.errors import SAEError, UnknownReferenceError
from fovea.sae.base import SAE
from fovea.sae.files import LoadedSAE, SAEMetadata, check_fits, fingerprint, load_sae, read_sae, save_sae
from fovea.sae.gated import GatedSAE
from fovea.sae.jumprelu import JumpReLUSAE
from fovea.sae.relu import ReLUSAE
from fovea.sae.topk import TopKSAE
from tests.sae.cases import BIASES, CONFIGS, D_IN, D_SAE, build, rows

METADATA = SAEMetadata(
    model_name="EleutherAI/pythia-70m",
    hook_name="blocks.3.hook_resid_post",
    hf_hook_name="gpt_neox.layers.3",
    prepend_bos=True,
    context_size=128,
    training_architecture="batch_topk",
    fovea={"job": "ssae-batch_topk-k16-s0", "ledger": {"n_tokens": 3}},
)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A written jumprelu SAE with a tied pre-bias."""
    save_sae(build("jumprelu"), tmp_path / "sae", metadata=METADATA)
    return tmp_path / "sae"


def edit_cfg(folder: Path, **changes: object) -> None:
    cfg = json.loads((folder / "cfg.json").read_text())
    cfg = {key: value for key, value in {**cfg, **changes}.items() if value is not ...}
    (folder / "cfg.json").write_text(json.dumps(cfg))


def edit_tensors(folder: Path, change: Callable[[dict[str, Tensor]], object]) -> None:
    tensors = load_file(folder / "sae_weights.safetensors")
    change(tensors)
    save_file(tensors, folder / "sae_weights.safetensors")


def test_cfg_json_is_what_sae_lens_6_reads(folder: Path) -> None:
    assert json.loads((folder / "cfg.json").read_text()) == {
        "architecture": "jumprelu",
        "d_in": D_IN,
        "d_sae": D_SAE,
        "dtype": "float32",
        "device": "cpu",
        "apply_b_dec_to_input": True,
        "normalize_activations": "none",
        "reshape_activations": "none",
        "metadata": {
            "sae_lens_version": "6.54.12",
            "model_name": "EleutherAI/pythia-70m",
            "hook_name": "blocks.3.hook_resid_post",
            "hf_hook_name": "gpt_neox.layers.3",
            "prepend_bos": True,
            "context_size": 128,
            "training_architecture": "batch_topk",
            "fovea": {"job": "ssae-batch_topk-k16-s0", "ledger": {"n_tokens": 3}},
        },
    }


@pytest.mark.parametrize(
    ("name", "architecture", "own", "kind"),
    [
        ("relu", "standard", {"b_enc"}, ReLUSAE),
        ("jumprelu", "jumprelu", {"b_enc", "threshold"}, JumpReLUSAE),
        ("batch_topk", "jumprelu", {"b_enc", "threshold"}, JumpReLUSAE),
        ("topk", "topk", {"b_enc"}, TopKSAE),
        ("gated", "gated", {"b_gate", "b_mag", "r_mag"}, GatedSAE),
    ],
)
def test_each_architecture_writes_the_tensors_of_its_sae_lens_class(
    name: str, architecture: str, own: set[str], kind: type[SAE], tmp_path: Path
) -> None:
    save_sae(build(name), tmp_path, metadata=METADATA)
    tensors = load_file(tmp_path / "sae_weights.safetensors")
    assert tensors.keys() == {"W_enc", "W_dec", "b_dec"} | own
    assert all(tensor.dtype == torch.float32 for tensor in tensors.values())
    assert tensors["W_enc"].shape == (D_IN, D_SAE)
    cfg = json.loads((tmp_path / "cfg.json").read_text())
    assert cfg["architecture"] == architecture
    assert cfg.get("k") == (5 if name == "topk" else None)
    assert isinstance(read_sae(tmp_path).sae, kind)


def test_metadata_survives_with_the_keys_of_other_writers(folder: Path, tmp_path: Path) -> None:
    cfg = json.loads((folder / "cfg.json").read_text())
    edit_cfg(folder, metadata={**cfg["metadata"], "neuronpedia_id": "x/3"})
    loaded = read_sae(folder)
    assert loaded.metadata == METADATA.model_copy(update={"other": {"neuronpedia_id": "x/3"}})
    save_sae(loaded.sae, tmp_path / "again", metadata=loaded.metadata)
    assert json.loads((tmp_path / "again" / "cfg.json").read_text()) == json.loads((folder / "cfg.json").read_text())


@pytest.mark.parametrize("name", CONFIGS)
@pytest.mark.parametrize("bias", ["own", "own_with_output"])
def test_a_pre_bias_of_its_own_is_folded_for_others_and_kept_for_us(name: str, bias: str, tmp_path: Path) -> None:
    sae = build(name, bias)
    save_sae(sae, tmp_path, metadata=METADATA)
    ours = read_sae(tmp_path).sae
    assert torch.equal(ours.input_bias(), sae.input_bias())
    assert ours.has_output_bias == BIASES[bias].output_bias
    assert not json.loads((tmp_path / "cfg.json").read_text())["apply_b_dec_to_input"]
    (tmp_path / "fovea.safetensors").unlink()
    others, x = read_sae(tmp_path).sae, rows(seed=21)
    assert others.pre_bias is None
    torch.testing.assert_close(others.encode(x), sae.encode(x), rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(others(x), sae(x), rtol=1e-5, atol=1e-5)


def test_an_sae_written_over_another_leaves_nothing_of_it(tmp_path: Path) -> None:
    save_sae(build("relu", "own"), tmp_path, metadata=METADATA)
    sae = build("relu", "none", seed=4)
    save_sae(sae, tmp_path, metadata=METADATA)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["cfg.json", "sae_weights.safetensors"]
    assert fingerprint(read_sae(tmp_path).sae) == fingerprint(sae)


@pytest.mark.parametrize("bias", ["tied", "own"])
@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_matrices_may_be_stored_in_half_precision_and_load_as_float32(dtype: str, bias: str, tmp_path: Path) -> None:
    sae = build("batch_topk", bias)
    save_sae(sae, tmp_path / "half", metadata=METADATA, storage_dtype=dtype)  # pyright: ignore[reportArgumentType]
    stored = load_file(tmp_path / "half" / "sae_weights.safetensors")
    assert {name for name, tensor in stored.items() if tensor.dtype != torch.float32} == {"W_enc", "W_dec"}
    loaded = read_sae(tmp_path / "half").sae
    assert all(tensor.dtype == torch.float32 for tensor in loaded.tensors().values())
    torch.testing.assert_close(loaded.W_enc, sae.W_enc, rtol=0.01, atol=0.01)
    save_sae(loaded, tmp_path / "again", metadata=METADATA, storage_dtype=dtype)  # pyright: ignore[reportArgumentType]
    assert fingerprint(read_sae(tmp_path / "again").sae) == fingerprint(loaded)
    torch.testing.assert_close(dict(sae.state_dict()), dict(build("batch_topk", bias).state_dict()), rtol=0, atol=0)


def test_every_weight_is_in_the_fingerprint() -> None:
    for name in CONFIGS:
        for bias in BIASES:
            sae = build(name, bias)
            seen = {fingerprint(sae)}
            for key, tensor in sae.inference_form().tensors().items():
                other = sae.inference_form()
                if key == "pre_bias" or (key == "b_dec" and not other.has_output_bias):
                    other.get_buffer("frozen_pre_bias" if key == "pre_bias" else key)[0] += 1.0
                else:
                    other.set_tensors({key: tensor + 1.0})
                seen.add(fingerprint(other))
            assert len(seen) == 1 + len(sae.inference_form().tensors()), (name, bias)


@pytest.mark.parametrize("name", ["W_enc", "threshold"])
@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_a_weight_that_is_not_a_number_is_refused_on_the_way_in_and_out(folder: Path, name: str, value: float) -> None:
    sae = build("jumprelu")
    sae.set_tensors({name: sae.tensors()[name].clone().index_fill(0, torch.tensor([1]), value)})
    with pytest.raises(SAEError, match=rf"{name!r} holds \d+ values that are NaN or infinite"):
        save_sae(sae, folder, metadata=METADATA)
    assert fingerprint(read_sae(folder).sae) == fingerprint(build("jumprelu")), "the SAE that was there is gone"
    edit_tensors(folder, lambda tensors: tensors[name].index_fill_(0, torch.tensor([1]), value))
    with pytest.raises(SAEError, match=rf"{name!r} holds \d+ values that are NaN or infinite"):
        read_sae(folder)


def test_a_full_disk_leaves_no_sae_behind(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object, **__: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("fovea.tensorfile.save_file", full)
    with pytest.raises(OSError, match="No space left"):
        save_sae(build("relu"), tmp_path / "sae", metadata=METADATA)
    assert list((tmp_path / "sae").iterdir()) == []


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"architecture": "matryoshka"}, r"architecture = 'matryoshka' is not supported, only 'standard', 'gated'"),
        ({"architecture": ...}, r"no 'architecture'"),
        ({"d_in": ...}, r"no 'd_in'"),
        ({"apply_b_dec_to_input": ...}, r"no 'apply_b_dec_to_input'"),
        ({"normalize_activations": "expected_average_only_in"}, r"= 'expected_average_only_in' is not supported"),
        ({"normalize_activations": ["none"]}, r"normalize_activations = \['none'\] is not supported"),
        ({"d_in": 0, "d_sae": 0}, r"d_in = 0 and d_sae = 0 reads or finds nothing"),
        ({"architecture": "topk", "k": 0}, r"k above 0, but cfg.json has 0"),
        ({"architecture": "topk", "k": True}, r"k above 0, but cfg.json has True"),
        ({"metadata": [1]}, r"metadata of the wrong type: list"),
        ({"reshape_activations": "hook_z"}, r"reshape_activations = 'hook_z' is not supported"),
        ({"d_sae": D_SAE + 1}, r"'W_enc' has shape \(12, 40\), but cfg.json makes it \(12, 41\)"),
        ({"architecture": "topk"}, r"topk needs a whole number k"),
        ({"architecture": "gated"}, r"tensor 'b_gate' is missing"),
        ({"metadata": {"sae_lens_version": "5.1.0"}}, r"sae_lens_version '5.1.0'"),
        ({"metadata": {}}, r"sae_lens_version 'none'"),
        ({"metadata": {"sae_lens_version": "6.1.0", "context_size": "long"}}, r"metadata of the wrong type"),
    ],
)
def test_a_cfg_that_cannot_be_used_says_why(folder: Path, changes: dict[str, object], message: str) -> None:
    edit_cfg(folder, **changes)
    with pytest.raises(SAEError, match=message):
        read_sae(folder)


def test_missing_and_damaged_files_are_named(folder: Path) -> None:
    weights = folder / "sae_weights.safetensors"
    whole = weights.read_bytes()
    weights.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(SAEError, match="damaged"):
        read_sae(folder)
    weights.unlink()
    with pytest.raises(SAEError, match="missing beside cfg.json"):
        read_sae(folder)
    (folder / "cfg.json").write_text("{")
    with pytest.raises(SAEError, match="not valid json"):
        read_sae(folder)
    (folder / "cfg.json").write_text("[1]")
    with pytest.raises(SAEError, match="holds a list"):
        read_sae(folder)
    (folder / "cfg.json").unlink()
    with pytest.raises(UnknownReferenceError, match="holds no cfg.json"):
        load_sae(folder)


def test_a_missing_tensor_is_named(folder: Path) -> None:
    edit_tensors(folder, lambda tensors: tensors.pop("threshold"))
    with pytest.raises(SAEError, match="'threshold' is missing, found W_dec, W_enc, b_dec, b_enc"):
        read_sae(folder)


@pytest.mark.parametrize(
    ("reference", "message"),
    [
        ("/nowhere/sae", "is not a folder; give a folder, bundled:NAME"),
        ("nonsense:x", "is not a folder"),
        ("hf:only-owner", "does not name a repository"),
        ("saelens:release", "does not name an SAE; write saelens:RELEASE/ID"),
    ],
)
def test_a_reference_that_names_nothing_says_what_to_write(reference: str, message: str) -> None:
    with pytest.raises(UnknownReferenceError, match=message):
        load_sae(reference)


def test_a_hub_that_cannot_be_reached_is_named() -> None:
    with pytest.raises(UnknownReferenceError, match=r"'hf:nobody/nothing/sae' cannot be fetched"):
        load_sae("hf:nobody/nothing/sae")


def test_without_sae_lens_the_registry_reference_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "sae_lens", None)
    with pytest.raises(UnknownReferenceError, match=r"install fovea-sae\[saelens\]"):
        load_sae("saelens:gemma-scope/layer_1/width_16k")


def loaded(**said: str) -> LoadedSAE:
    return LoadedSAE(build("relu"), SAEMetadata(**said), "bundled:x")  # pyright: ignore[reportArgumentType]


@pytest.mark.parametrize(
    "said",
    [
        {"hook_name": "blocks.3.hook_resid_post"},
        {"hf_hook_name": "gpt_neox.layers.3"},
        {"hf_hook_name": "model.layers.3"},
        {},
    ],
)
def test_an_sae_fits_its_hook_point_in_any_spelling(said: dict[str, str]) -> None:
    check_fits(loaded(**said), lm_name="m", d_model=D_IN, hook_point="blocks.3.hook_resid_post")


def test_another_width_is_refused() -> None:
    with pytest.raises(SAEError, match="reads vectors of width 12, but 'm' has width 576"):
        check_fits(loaded(), lm_name="m", d_model=576, hook_point="blocks.3.hook_resid_post")


@pytest.mark.parametrize("named", ["blocks.4.hook_resid_post", "blocks.3.hook_resid_pre", "blocks.3.attn.hook_z"])
def test_another_hook_point_is_refused(named: str) -> None:
    with pytest.raises(
        SAEError, match=f"is for hook point '{named}', but the experiment reads 'blocks.3.hook_resid_post'"
    ):
        check_fits(loaded(hook_name=named), lm_name="m", d_model=D_IN, hook_point="blocks.3.hook_resid_post")
