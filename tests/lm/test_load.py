"""load_lm: what it accepts, what it refuses and with which words; nothing here needs a network."""

import json
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from fovea.errors import ConfigError, ModelError, UnknownReferenceError
from fovea.lm import files
from fovea.lm.hookpoint import HookPoint
from fovea.lm.load import load_lm
from fovea.lm.model import LM
from lm import tiny


def save(folder: Path, *, family: str = "llama") -> Path:
    tiny.lm(family).model.save_pretrained(folder)
    tiny.tokenizer(adds_bos=True).save_pretrained(folder)
    return folder


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return save(tmp_path / "model")


def edit_config(folder: Path, **changes: object) -> None:
    path = folder / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


@pytest.mark.parametrize("family", ["llama", "gpt2", "gpt_neox_parallel", "gemma3"])
def test_a_saved_model_loads_frozen_and_gives_the_same_activations(family, tmp_path):
    loaded = load_lm(str(save(tmp_path, family=family)), dtype="float32")
    hook_point = HookPoint(2, "resid_post")
    assert torch.equal(
        loaded.activations(tiny.tokens(), hook_point), tiny.lm(family).activations(tiny.tokens(), hook_point)
    )
    assert loaded.adds_bos
    assert not loaded.model.training
    assert not any(parameter.requires_grad for parameter in loaded.model.parameters())


def test_the_dtype_is_the_one_asked_for(folder):
    assert load_lm(str(folder), dtype="bfloat16").dtype == torch.bfloat16
    assert load_lm(str(folder), dtype="float32").dtype == torch.float32


def test_auto_is_bfloat16_exactly_where_the_processor_is_fast_at_it(tmp_path):
    cpuinfo = tmp_path / "cpuinfo"
    cpuinfo.write_text("processor : 0\nflags\t\t: fpu avx2 avx512_bf16 sse\nbugs : none\n")
    assert "avx512_bf16" in files.cpu_flags(cpuinfo)
    assert files.cpu_flags(tmp_path / "nothing") == frozenset()
    fast = bool({"avx512_bf16", "amx_bf16"} & files.cpu_flags())
    cpu = torch.device("cpu")
    assert files.choose_dtype("auto", cpu) == (torch.bfloat16 if fast else torch.float32)
    assert files.choose_dtype("auto", torch.device("cuda")) == torch.bfloat16


@pytest.mark.parametrize("name", ["float16", "int8"])
def test_other_dtypes_are_refused(name):
    with pytest.raises(ConfigError, match="'auto', 'float32'.*'bfloat16'"):
        files.choose_dtype(name, torch.device("cpu"))


def test_a_device_that_is_not_there_is_refused(folder):
    with pytest.raises(ConfigError, match="use 'cpu' or"):
        load_lm(str(folder), device="warp")


@pytest.mark.parametrize("reference", ["no/such/folder", "./nothing", "two words", "owner/model-that-is-not-cached"])
def test_a_reference_that_is_nothing_says_what_was_tried(reference):
    with pytest.raises(UnknownReferenceError, match=r"(?s)folder.*Hub.*bundled:smollm2-135m-instruct"):
        load_lm(reference)


def test_an_unknown_bundled_model_is_refused_with_the_known_one():
    with pytest.raises(UnknownReferenceError, match="the bundled lm is 'bundled:smollm2-135m-instruct'"):
        load_lm("bundled:gpt5")


def test_a_folder_without_config_is_refused(tmp_path):
    with pytest.raises(UnknownReferenceError, match=r"without config\.json"):
        load_lm(str(tmp_path))


def test_pickled_weights_are_refused_unopened(folder):
    (folder / "model.safetensors").unlink()
    (folder / "pytorch_model.bin").write_bytes(b"never read")
    with pytest.raises(ModelError, match=r"pytorch_model\.bin, which can run code.*convert them"):
        load_lm(str(folder))


def test_a_model_that_needs_its_own_code_is_refused(folder):
    (folder / "modeling.py").write_text("raise SystemExit")
    edit_config(folder, model_type="novel", auto_map={"AutoModelForCausalLM": "modeling.Novel"})
    with pytest.raises(ModelError, match="without running code that comes with it, which fovea never does"):
        load_lm(str(folder))


def test_quantised_weights_are_refused(folder):
    edit_config(folder, quantization_config={"quant_method": "gptq"})
    with pytest.raises(ModelError, match="use the unquantised model"):
        load_lm(str(folder))


def test_a_missing_weight_is_refused_instead_of_drawn_at_random(folder):
    weights = load_file(folder / "model.safetensors")
    del weights["model.layers.1.mlp.down_proj.weight"]
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(ModelError, match=r"lacks 1 weights, among them 'model\.layers\.1\.mlp\.down_proj\.weight'"):
        load_lm(str(folder))


def test_damaged_weights_are_refused(folder):
    path = folder / "model.safetensors"
    path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(ModelError, match="cannot be read.*fetch the model again"):
        load_lm(str(folder))


def test_a_folder_without_tokenizer_is_refused(folder):
    for path in folder.glob("tokenizer*"):
        path.unlink()
    with pytest.raises(UnknownReferenceError, match="no tokenizer"):
        load_lm(str(folder))


def test_the_fingerprint_depends_on_weights_and_config_alone(folder, tmp_path):
    before = load_lm(str(folder), dtype="float32").fingerprint
    moved = tmp_path / "moved"
    shutil.copytree(folder, moved)
    edit_config(moved, transformers_version="0", _name_or_path="elsewhere")
    assert load_lm(str(moved), dtype="bfloat16").fingerprint == before
    edit_config(moved, rms_norm_eps=1e-3)
    assert load_lm(str(moved)).fingerprint != before
    weights = load_file(folder / "model.safetensors")
    weights["model.norm.weight"][0] += 1
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    assert load_lm(str(folder)).fingerprint != before


def test_the_fingerprint_does_not_depend_on_sharding(folder, tmp_path):
    tiny.lm("llama").model.save_pretrained(tmp_path / "shards", max_shard_size="20KB")
    tiny.tokenizer(adds_bos=True).save_pretrained(tmp_path / "shards")
    assert len(list((tmp_path / "shards").glob("*.safetensors"))) > 1
    assert load_lm(str(tmp_path / "shards")).fingerprint == load_lm(str(folder)).fingerprint


def test_the_fingerprint_of_a_model_in_memory_tells_weights_apart():
    models = [tiny.seeded(tiny.FAMILIES["llama"](), seed=seed) for seed in (0, 0, 1)]
    first, same, other = (LM(model, tiny.tokenizer(), name="tiny").fingerprint for model in models)
    assert first == same != other
    assert len(first) == 64
